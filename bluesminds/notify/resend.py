"""Sends mail through Resend's API (https://resend.com/docs/api-reference/emails/send-email)."""

from base64 import b64encode
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds import __version__
from bluesminds.http.client.pool import Pool, Response, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.notify.mail import NAME, Mail, MailFailed, MailRefused, opt_out_headers

LIMIT: Final = 65_536  # bytes of an answer
MAX_WAIT: Final = 3600.0  # seconds that an answer may ask to wait
# Errors for which a retry cannot succeed. All others depend on the account, the key, the domain
# or the load, and are tried again.
_PERMANENT: Final = frozenset(
    ("validation_error", "missing_required_field", "missing_required_fields", "invalid_parameter")
)
_KNOWN: Final = _PERMANENT | frozenset(
    (
        *("invalid_idempotency_key", "missing_api_key", "restricted_api_key", "invalid_api_key", "not_found"),
        *("method_not_allowed", "invalid_idempotent_request", "concurrent_idempotent_requests"),
        *("invalid_attachment", "invalid_from_address", "invalid_access", "invalid_region"),
        *("monthly_quota_exceeded", "daily_quota_exceeded", "rate_limit_exceeded", "security_error"),
        *("application_error", "internal_server_error"),
    )
)


class ResendAccount(Struct, frozen=True):
    """`sender` is a plain address. `api_key` is called for each request and may raise MailFailed. `timeout`,
    in seconds, bounds each step.
    """

    origin: UpstreamOrigin
    path: str
    sender: str
    api_key: Callable[[], str]
    timeout: float

    def __repr__(self) -> str:
        return f"ResendAccount({self.origin.host!r})"


class _ErrorAnswer(Struct, frozen=True):
    name: str = ""


class _Domain(Struct, frozen=True):
    name: str
    status: str = ""


class _Domains(Struct, frozen=True):
    data: list[_Domain]


class ResendMailer:
    """The id of a mail is its idempotency key: Resend keeps it for 24 hours and does not send it again."""

    def __init__(self, account: ResendAccount, pool: Pool) -> None:
        self._account = account
        self._pool = pool

    async def send(self, mail_id: str, mail: Mail) -> None:
        body = _body(mail, self._account.sender)
        status, _, failure = await self._request(b"POST", "/emails", body, mail_id)
        # The same key with another body: an earlier attempt was accepted, before `sender` was changed.
        if status == 409 and failure.name == "invalid_idempotent_request":
            return
        self._raise(failure)

    async def check(self) -> None:
        """Ask for the domains, and send nothing. Raises MailFailed, MailRefused."""
        status, content, failure = await self._request(b"GET", "/domains", b"", "")
        if failure.name == "restricted_api_key":
            return  # the key is valid, and may only send
        self._raise(failure)
        domain = self._account.sender.rpartition("@")[2].lower()
        try:
            found = msgspec.json.decode(content, type=_Domains).data
        except msgspec.MsgspecError:
            raise MailFailed(f"invalid response of Resend (status {status})") from None
        if not any(domain == one.name.lower() and one.status == "verified" for one in found):
            raise MailFailed(f"the domain {domain} of the sender is not verified at Resend")

    async def _request(
        self, method: bytes, path: str, body: bytes, mail_id: str
    ) -> tuple[int, bytes, "_Failure"]:
        """Status, content and failure. Raises MailFailed without an answer."""
        account, seconds = self._account, self._account.timeout
        headers = [
            (b"authorization", f"Bearer {account.api_key()}".encode()),
            (b"user-agent", f"BluesMinds/{__version__}".encode()),
        ]
        if body:
            headers += [(b"content-type", b"application/json"), (b"idempotency-key", mail_id.encode())]
        timeouts = Timeouts(
            connect=seconds, pool=seconds, write=seconds, first_byte=seconds, between_chunks=seconds
        )
        target = f"{account.path}{path}".encode()
        try:
            response = await self._pool.request(
                method, account.origin, target, headers, body, timeouts=timeouts
            )
            try:
                content = await response.read(LIMIT)
            finally:
                response.close()
        except ValueError:
            raise MailFailed("api_key in [mail] is not a valid key") from None
        except UpstreamError as exc:
            raise MailFailed(f"the connection to Resend failed: {type(exc).__name__}") from None
        return response.status, content, _Failure.of(response, content)

    def _raise(self, failure: "_Failure") -> None:
        if not failure.reason:
            return
        if failure.permanent:
            raise MailRefused(failure.reason)
        raise MailFailed(failure.reason, retry_after=failure.retry_after)


class _Failure(Struct, frozen=True):
    """`reason` is empty for a success. It contains no text of the answer, which may repeat addresses."""

    name: str = ""
    reason: str = ""
    permanent: bool = False
    retry_after: float | None = None

    @classmethod
    def of(cls, response: Response, content: bytes) -> "_Failure":
        status = response.status
        if 200 <= status < 300:
            return cls()
        try:
            name = msgspec.json.decode(content, type=_ErrorAnswer).name
        except msgspec.MsgspecError:
            name = ""
        name = name if name in _KNOWN else ""
        # 403 validation_error: the domain of the sender is not verified yet.
        permanent = status in (400, 422) and name in _PERMANENT
        reason = f"Resend responded with status {status}" + (f" {name}" if name else "")
        return cls(name, reason, permanent, _seconds(response))


def _seconds(response: Response) -> float | None:
    text = (response.header(b"retry-after") or response.header(b"ratelimit-reset") or b"").decode("latin-1")
    return min(float(text), MAX_WAIT) if text.isascii() and text.isdigit() else None


def _body(mail: Mail, sender: str) -> bytes:
    body: dict[str, object] = {
        "from": f"{NAME} <{sender}>",
        "to": [mail.to],
        "subject": mail.subject,
        "text": mail.text,
        "headers": {"Auto-Submitted": "auto-generated", **opt_out_headers(mail)},
        "tags": [{"name": "kind", "value": mail.kind}],
    }
    if mail.html:
        body["html"] = mail.html
    if mail.files:
        body["attachments"] = [
            {"filename": one.name, "content": b64encode(one.content).decode(), "content_type": one.media}
            for one in mail.files
        ]
    return msgspec.json.encode(body)
