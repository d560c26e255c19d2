"""Addresses that get no mail: a list that Resend's events fill, and administrators read and shorten."""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.emails import read_email
from bluesminds.common.errors import InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.notify.resend_events import read_resend_event
from bluesminds.notify.webhook_format import BadSignature
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.mail_suppressions import (
    SuppressionReason,
    SuppressionRow,
    delete_suppression,
    insert_suppression,
    select_suppressions,
)


class MailSuppressions(Struct, frozen=True, kw_only=True):
    """`secret` is that of Resend's webhook, or None without one."""

    store: Store
    clock: Clock
    log: Log
    secret: Callable[[], str] | None

    async def receive(self, headers: Mapping[str, str], body: bytes) -> None:
        """Store the addresses of an event of Resend. Events can be repeated. Raises InvalidRequest."""
        secret = "" if self.secret is None else self.secret()
        try:
            found = read_resend_event(secret, headers, body, now=self.clock.now_ms() // 1000)
        except BadSignature as exc:
            raise InvalidRequest("invalid_signature", f"The event is not accepted: {exc}.") from exc
        for email in () if found is None else found.emails:
            if found is not None and (address := read_email(email)) is not None:
                await self._add(address, found.reason)

    async def list(self, *, email: str | None, after: str, limit: int) -> Sequence[SuppressionRow]:
        """Oldest first, after the id `after`."""
        return await self.store.read(select_suppressions, email, after, limit)

    async def remove(self, actor: Actor, suppression_id: str) -> None:
        """Mail is sent to the address again. Raises NotFound."""
        await self.store.write(self._remove, actor, suppression_id)

    async def _add(self, email: str, reason: SuppressionReason) -> None:
        now = self.clock.now_ms()
        if await self.store.write(insert_suppression, SuppressionRow(uuid7(now), email, reason, now)):
            self.log.warning("mail_address_suppressed", domain=email.rpartition("@")[2], reason=reason)

    async def _remove(self, connection: Connection, actor: Actor, suppression_id: str) -> None:
        await lock_audit_head(connection)
        row = await delete_suppression(connection, suppression_id)
        if row is None:
            raise NotFound("suppression_not_found", "There is no suppressed address with this id.")
        audit = entry(self.clock, actor, "mail.unsuppress", row.email, before={"reason": row.reason})
        await insert_audit(connection, audit)
