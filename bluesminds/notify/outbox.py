"""Sends mail from a table of the store, with retries.

A mail is inserted in the transaction of its cause, so a crash loses neither of them. Each mail is delivered
at least once: the attempt is counted before it starts, and the mail is deleted after success. A crash in
between sends the mail again after the pause, with the same Message-ID.

The response time of a request must not reveal whether it sends mail. A request that sends no mail therefore
inserts a decoy, which is rendered, encrypted, stored and deleted like a mail.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec
import trio
from msgspec import structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, uuid7
from bluesminds.common.log import Log
from bluesminds.notify.mail import Mail, Mailer, MailFailed, MailFile, MailRefused
from storage.base import Connection, StorageBroken, StorageUnavailable, Store
from storage.mail_outbox import OutboxRow, claim_mail, count_mails, delay_mail, delete_mail, insert_mail
from storage.mail_suppressions import is_suppressed

MAX_WAITING: Final = 10_000
PAUSES: Final = (5, 30, 120, 600, 3600, 14_400, 43_200)  # seconds before each retry
LIFETIME: Final = 3 * 86_400.0  # seconds after which a mail is not sent any more
POLL: Final = 60.0  # the longest wait; it covers changes of the wall clock and storage errors
GRACE: Final = 3.0  # seconds that a shutdown waits for the mail that is being sent

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Mail)


ReadFile = Callable[[str], Awaitable[MailFile | None]]
"""Called with the attachment of a mail when it is sent. None: there is no such file any more."""


class MailOutbox:
    def __init__(
        self,
        store: Store,
        *,
        vault: Vault,
        mailer: Mailer,
        clock: Clock,
        log: Log,
        read_file: ReadFile | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._mailer = mailer
        self._clock = clock
        self._log = log
        self._read_file = read_file
        self._inserted = trio.Event()
        self._undeleted: list[str] = []
        self.waiting = 0
        """Mails in the table when it was last read."""

    async def insert(
        self, connection: Connection, mail: Mail, *, lifetime: float = LIFETIME, decoy: bool = False
    ) -> None:
        """Part of a transaction. Call `wake` after it. The mail is not sent after `lifetime` seconds. A mail
        that does not fit in the table is dropped and logged.
        """
        now = self._clock.now_ms()
        row = OutboxRow(
            id=uuid7(now),
            kind=mail.kind,
            sealed=self._vault.seal_bytes(_encoder.encode(mail)),
            decoy=decoy,
            priority=1 if mail.opt_out else 0,  # a token of a link expires
            attempts=0,
            due_at=now,
            expires_at=now + int(lifetime * 1000),
            created_at=now,
        )
        if not await insert_mail(connection, row, MAX_WAITING) and not decoy:
            self._log_dropped(mail, f"{MAX_WAITING} mails are already waiting")

    def wake(self) -> None:
        """Send what is due. Call it after the transaction."""
        self._inserted.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._inserted = trio.Event()
            pause = POLL
            try:
                pause = await self._deliver_due()
            except (StorageUnavailable, StorageBroken) as exc:
                self._log.warning("mail_outbox_unavailable", reason=type(exc).__name__)
            with trio.move_on_after(pause):
                await self._inserted.wait()

    async def flush(self, seconds: float) -> None:
        """Call it when `run` has ended or was never started. Send what is due, for at most `seconds`, if mail
        was inserted since.
        """
        if not self._inserted.is_set():
            return
        with trio.move_on_after(seconds):
            try:
                await self._deliver_due()
            except (StorageUnavailable, StorageBroken):
                pass  # the mails stay in the table

    async def _deliver_due(self) -> float:
        """Seconds until the next mail is due."""
        while True:
            await self._delete_sent()
            self.waiting, due_at = await self._store.read(count_mails)
            now = self._clock.now_ms()
            if due_at is None or due_at > now:
                return POLL if due_at is None else min((due_at - now) / 1000, POLL)
            await _with_grace(partial(self._deliver_next, now))

    async def _deliver_next(self, now: int) -> None:
        row = await self._store.write(claim_mail, now, [pause * 1000 for pause in PAUSES])
        if row is not None:
            await self._deliver(row, now)

    async def _deliver(self, row: OutboxRow, now: int) -> None:
        if not row.decoy and (mail := self._open(row)) is not None:
            try:
                if not await self._send(row, mail, now):
                    return
            except (StorageUnavailable, StorageBroken):
                raise  # it was not sent, and is tried again
            except Exception:
                self._log_dropped(mail, "internal error")
                await self._delete(row.id)
                raise
        await self._delete(row.id)

    async def _send(self, row: OutboxRow, mail: Mail, now: int) -> bool:
        """False if the mail will be retried."""
        if await self._store.read(is_suppressed, mail.to):
            self._log_dropped(mail, "the address bounced or complained")
        elif row.expires_at <= now:
            self._log_dropped(mail, "it expired before it could be sent")
        elif row.attempts > len(PAUSES):
            self._log_dropped(mail, "the last attempt was interrupted")
        else:
            try:
                await self._mailer.send(row.id, await self._with_file(mail))
            except MailRefused as exc:
                self._log_dropped(mail, str(exc))
            except MailFailed as exc:
                if row.attempts < len(PAUSES):
                    self._log.warning("mail_delayed", kind=mail.kind, domain=mail.domain, reason=str(exc))
                    if exc.retry_after is not None:
                        await self._store.write(delay_mail, row.id, now + int(exc.retry_after * 1000))
                    return False
                self._log_dropped(mail, str(exc))
        return True

    async def _with_file(self, mail: Mail) -> Mail:
        if not mail.attachment or self._read_file is None:
            return mail
        file = await self._read_file(mail.attachment)
        return mail if file is None else structs.replace(mail, files=(file,))

    def _open(self, row: OutboxRow) -> Mail | None:
        try:
            return _decoder.decode(self._vault.open_bytes(row.sealed))
        except (ValueError, msgspec.MsgspecError):
            reason = "it cannot be decrypted with the configured master keys"
            self._log.error("mail_dropped", kind=row.kind, domain="", reason=reason)
            return None

    async def _delete(self, mail_id: str) -> None:
        self._undeleted.append(mail_id)
        await self._delete_sent()

    async def _delete_sent(self) -> None:
        """A mail that was sent is not sent again because the store was unavailable for a moment."""
        while self._undeleted:
            await self._store.write(delete_mail, self._undeleted[0])
            self._undeleted.pop(0)

    def _log_dropped(self, mail: Mail, reason: str) -> None:
        self._log.error("mail_dropped", kind=mail.kind, domain=mail.domain, reason=reason)


async def _with_grace(work: Callable[[], Awaitable[None]]) -> None:
    """Delays a cancellation for at most GRACE seconds: a mail is not sent twice because the gateway stopped
    between sending and deleting it.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as shield:
            nursery.start_soon(_limit_grace, shield)
            try:
                await work()
            except Exception as exc:
                failure = exc
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _limit_grace(shield: trio.CancelScope) -> None:
    try:
        await trio.sleep_forever()
    finally:
        shield.deadline = trio.current_time() + GRACE
