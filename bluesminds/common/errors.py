"""What a caller can be told. A refusal anywhere in the product is a GatewayError; web/ writes it once.

Every code is stable: clients branch on it, so a code is never reused for another meaning. Messages say what
to do.
"""

import math
from collections.abc import Mapping


class GatewayError(Exception):
    """A refusal with the answer it deserves.

    `status` is the HTTP status, `code` the stable `error.code`, `message` the sentence for a person,
    `param` the offending request field, `headers` what the answer must also carry (lower-case names).
    """

    kind = "invalid_request_error"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})


class InvalidRequest(GatewayError):
    """The request cannot be understood: 400 unless said otherwise."""

    def __init__(self, code: str, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(status, code, message, param=param)


class Unauthenticated(GatewayError):
    """401: no usable key. The message never contains the key."""

    kind = "authentication_error"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(401, code, message, headers={"www-authenticate": "Bearer"})


class Forbidden(GatewayError):
    kind = "permission_error"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(403, code, message)


class NotFound(GatewayError):
    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(404, code, message, param=param)


class Conflict(GatewayError):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(409, code, message)


class RateLimited(GatewayError):
    """429: `retry_after` seconds from now the same request is admitted; None is never, as things are.

    Without `retry` OpenAI's SDKs do not repeat it by themselves.
    """

    kind = "rate_limit_error"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after: float | None,
        retry: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        told = {} if retry_after is None else retry_headers(retry_after)
        if not retry:
            told["x-should-retry"] = "false"
        super().__init__(429, code, message, headers={**(headers or {}), **told})


class Unavailable(GatewayError):
    """503: the gateway itself cannot take the work now. Without `retry` OpenAI's SDKs do not repeat it."""

    kind = "service_unavailable_error"

    def __init__(self, code: str, message: str, *, retry_after: float = 1.0, retry: bool = True) -> None:
        headers = retry_headers(retry_after) if retry else {"x-should-retry": "false"}
        super().__init__(503, code, message, headers=headers)


class UpstreamFailed(GatewayError):
    """No server gave an answer: 502, 503, 504, or 429 when every server asked for patience."""

    kind = "server_error"

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, message, headers=headers)
        if status == 429:
            self.kind = "rate_limit_error"


def retry_headers(seconds: float) -> dict[str, str]:
    """Retry-After in whole seconds, rounded up, and the millisecond form OpenAI's SDKs read first."""
    milliseconds = max(1, math.ceil(seconds * 1000))
    return {"retry-after": str(-(-milliseconds // 1000)), "retry-after-ms": str(milliseconds)}
