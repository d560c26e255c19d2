"""Events that Resend sends about mails (https://resend.com/docs/webhooks), with signatures of Svix, which are
those of Standard Webhooks with other names of the headers.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct

from bluesminds.notify.webhook_format import BadSignature, verify

_COMPLAINED: Final = "email.complained"
_BOUNCED: Final = ("email.bounced", "email.suppressed")


class _Bounce(Struct, frozen=True):
    type: str = ""


class _MailData(Struct, frozen=True):
    to: Sequence[str] | str = ()
    bounce: _Bounce | None = None


class _MailEvent(Struct, frozen=True):
    type: str
    data: _MailData


class UndeliverableMail(Struct, frozen=True):
    """Addresses that must get no more mail."""

    reason: Literal["bounced", "complained"]
    emails: tuple[str, ...]


def read_resend_event(
    secret: str, headers: Mapping[str, str], body: bytes, *, now: int
) -> UndeliverableMail | None:
    """None for an event that changes nothing. `now` is in seconds. Raises BadSignature, also for a body that
    cannot be read; ValueError for an invalid secret.
    """
    verify(
        secret,
        headers.get("svix-id", ""),
        headers.get("svix-timestamp", ""),
        headers.get("svix-signature", ""),
        body,
        now=now,
    )
    try:
        event = msgspec.json.decode(body, type=_MailEvent)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadSignature("the body is not an event of Resend") from None
    to = event.data.to
    emails = (to,) if isinstance(to, str) else tuple(to)
    if event.type == _COMPLAINED:
        return UndeliverableMail("complained", emails)
    # A transient bounce, such as a full mailbox, is no reason to stop.
    bounce = event.data.bounce
    if event.type in _BOUNCED and (bounce is None or bounce.type in ("", "Permanent")):
        return UndeliverableMail("bounced", emails)
    return None
