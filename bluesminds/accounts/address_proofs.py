"""Proof that a user who signs in at a provider gets the mail of an address.

Some providers have verified an address once, but do not run the mailbox: it may belong to another person by
now. Such an address opens or creates an account only after a code that was mailed to it. The browser keeps
the started sign-in, encrypted.
"""

import hmac
import secrets
from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.context import AccountContext
from bluesminds.common.errors import RateLimited, Unauthenticated
from bluesminds.identity.external import ExternalIdentity
from bluesminds.notify.mail import Mail
from storage.base import Connection

SECONDS: Final = 600.0  # for which a code is valid
_DIGITS: Final = 8
_RETRY: Final = 1200.0  # seconds; a mailbox gets three codes in a row


class PendingProof(Struct, frozen=True, kw_only=True, tag="address proof"):
    """A sign-in that waits for the mailed code. It works once, as `state` says."""

    external: ExternalIdentity
    code: str
    provider: str
    state: str
    started_at: int

    def __repr__(self) -> str:
        return f"PendingProof({self.provider!r})"


class AddressProofs(Struct, frozen=True):
    context: AccountContext

    async def begin(self, external: ExternalIdentity, provider: str, title: str, now: int) -> PendingProof:
        """Mail a code. `title` is the name of the provider for users. Raises RateLimited."""
        email = external.email or ""
        if not self.context.throttle.allow_mail("verify_email", email):
            message = (
                "Too many codes were mailed to this address. Wait for the time in the Retry-After header."
            )
            raise RateLimited("too_many_attempts", message, retry_after=_RETRY)
        code = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
        mail = self.context.templates.render("sign_in_code", email, {"code": code, "provider": title})
        await self.context.store.write(self._insert, mail)
        self.context.outbox.wake()
        return PendingProof(
            external=external, code=code, provider=provider, state=secrets.token_urlsafe(32), started_at=now
        )

    def check(self, actor: Actor, pending: PendingProof, code: str) -> None:
        """Raises Unauthenticated for a wrong code, RateLimited."""
        account = f"mail {(pending.external.email or '').lower()}"
        self.context.throttle.count_code_attempt(account, actor.address)
        if not hmac.compare_digest(pending.code.encode(), code.replace(" ", "").encode()):
            raise Unauthenticated("invalid_code", "Wrong code. Enter the code from the latest mail.")
        self.context.throttle.release_code_attempt(account, actor.address)

    async def _insert(self, connection: Connection, mail: Mail) -> None:
        await self.context.outbox.insert(connection, mail, lifetime=SECONDS)
