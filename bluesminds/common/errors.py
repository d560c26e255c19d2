"""The errors that a client receives. Every module raises a GatewayError; web/errors.py writes the response.

Codes are stable, because clients branch on them. Messages say what to do.
"""

import math
from collections.abc import Mapping
from typing import Self


class GatewayError(Exception):
    """An error response.

    `status` is the HTTP status, `code` the stable `error.code`, `message` the text for people, `param` the
    request field that is wrong, `headers` additional response headers (lower-case names).
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
        self.headers: Mapping[str, str] = dict(headers or {})

    def with_headers(self, headers: Mapping[str, str]) -> Self:
        """The same error with more headers; those that it has already stay."""
        error = type(self).__new__(type(self), *self.args)
        error.__dict__.update(self.__dict__)
        error.headers = {**headers, **self.headers}
        return error


class InvalidRequest(GatewayError):
    """400, or another `status`: the request is not valid."""

    def __init__(self, code: str, message: str, *, param: str | None = None, status: int = 400) -> None:
        super().__init__(status, code, message, param=param)


class Unauthenticated(GatewayError):
    """401: no valid credential. The message never contains the credential."""

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


class InsufficientCredit(GatewayError):
    """402: the prepaid credit does not cover the request."""

    kind = "insufficient_quota"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(402, code, message, headers={"x-should-retry": "false"})


class RateLimited(GatewayError):
    """429: a limit is reached. `retry_after`: seconds until the same request fits; None if it never does.

    `retry=False` tells OpenAI's SDKs not to retry automatically.
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
        own = {} if retry_after is None else retry_headers(retry_after)
        if not retry:
            own["x-should-retry"] = "false"
        super().__init__(429, code, message, headers={**(headers or {}), **own})


class Unavailable(GatewayError):
    """503: the gateway cannot take the request now. `retry=False` tells OpenAI's SDKs not to retry."""

    kind = "service_unavailable_error"

    def __init__(self, code: str, message: str, *, retry_after: float = 1.0, retry: bool = True) -> None:
        headers = retry_headers(retry_after) if retry else {"x-should-retry": "false"}
        super().__init__(503, code, message, headers=headers)


class UpstreamFailed(GatewayError):
    """502, 503 or 504: no server gave a usable response. 429: every server answered 429."""

    kind = "server_error"

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, code, message, headers=headers)
        if status == 429:
            self.kind = "rate_limit_error"


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, rounded up, and `retry-after-ms`, which OpenAI's SDKs prefer."""
    milliseconds = max(1, math.ceil(seconds * 1000))
    return {"retry-after": str(-(-milliseconds // 1000)), "retry-after-ms": str(milliseconds)}
