"""The outbox: order, retries, drops, decoys, crashes and shutdown."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from bluesminds.common.crypto import Vault, new_master_key
from bluesminds.common.log import Log
from bluesminds.notify import outbox as outbox_module
from bluesminds.notify.mail import Mail, MailFailed, MailRefused
from bluesminds.notify.outbox import LIFETIME, PAUSES, MailOutbox
from storage import Connection, Store
from storage.base import StorageUnavailable
from storage.mail_outbox import count_mails
from storage.store import open_store
from tests.databases import create_sqlite
from tests.gateways import eventually

LONG = 600.0  # seconds; no test waits for it


class SetClock:
    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now


class Script:
    """A mailer that raises the given failures and records the attempts. It waits for `released`."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.attempts: list[tuple[str, str]] = []
        self.sent: list[str] = []
        self.released = trio.Event()
        self.released.set()

    async def send(self, mail_id: str, mail: Mail) -> None:
        self.attempts.append((mail_id, mail.subject))
        await self.released.wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.sent.append(mail.subject)


class Site:
    """Outboxes on one real database; another outbox is what a restarted process has."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.vault = Vault([new_master_key()])
        self.clock = SetClock()
        self.lines: list[bytes] = []

    def outbox(self, mailer: Script) -> MailOutbox:
        log = Log(self.clock, json=True, write=self.lines.append)
        return MailOutbox(self.store, vault=self.vault, mailer=mailer, clock=self.clock, log=log)

    async def put(self, outbox: MailOutbox, *numbers: int, decoy: bool = False) -> None:
        async def unit(connection: Connection) -> None:
            for number in numbers:
                await outbox.insert(connection, mail(number), decoy=decoy)

        await self.store.write(unit)
        outbox.wake()

    async def deliver(self, outbox: MailOutbox, after: float = 0.0) -> None:
        """Deliver what is due after so many seconds."""
        self.clock.now += int(after * 1000)
        outbox.wake()
        await outbox.flush(LONG)

    async def waiting(self) -> int:
        return (await self.store.read(count_mails))[0]

    def events(self) -> list[tuple[str, str]]:
        return [(line["event"], line["reason"]) for line in map(msgspec.json.decode, self.lines)]


@pytest.fixture
async def site(home: Path) -> AsyncIterator[Site]:
    create_sqlite(home / "gateway.db")
    async with open_store(f"sqlite://{home}/gateway.db") as store:
        yield Site(store)


def mail(number: int) -> Mail:
    return Mail("invite", f"person{number}@example.com", f"subject {number}", "text")


async def test_outbox_several_mails_are_sent_in_order(site: Site, nursery: trio.Nursery) -> None:
    script = Script()
    outbox = site.outbox(script)
    nursery.start_soon(outbox.run)
    await site.put(outbox, 0, 1, 2)
    await eventually(lambda: len(script.sent) == 3)
    await site.put(outbox, 3)
    await eventually(lambda: len(script.sent) == 4)
    assert script.sent == [f"subject {number}" for number in range(4)]
    await eventually(lambda: outbox.waiting == 0)
    assert site.lines == []


async def test_outbox_temporary_failure_is_retried_after_a_restart_with_the_same_id(site: Site) -> None:
    script = Script(MailFailed("down"), None, MailFailed("down"))
    outbox = site.outbox(script)
    await site.put(outbox, 0, 1)
    await site.deliver(outbox)
    assert script.sent == ["subject 1"]
    await site.deliver(outbox, PAUSES[0] - 0.001)
    assert len(script.attempts) == 2
    outbox = site.outbox(script)
    await site.deliver(outbox, 0.001)
    await site.deliver(outbox, PAUSES[1])
    assert script.sent == ["subject 1", "subject 0"]
    ids = [mail_id for mail_id, subject in script.attempts if subject == "subject 0"]
    assert len(ids) == 3 and len(set(ids)) == 1
    assert site.events() == [("mail_delayed", "down")] * 2
    assert b"person" not in b"".join(site.lines)


async def test_outbox_undeliverable_mail_is_dropped_and_logged(site: Site) -> None:
    script = Script(MailRefused("answered 550"), *[MailFailed("down")] * 9)
    outbox = site.outbox(script)
    await site.put(outbox, 0, 1)
    await site.deliver(outbox)
    for pause in PAUSES:
        await site.deliver(outbox, pause)
    assert len(script.attempts) == 1 + 1 + len(PAUSES)
    assert site.events() == [
        ("mail_dropped", "answered 550"),
        *[("mail_delayed", "down")] * len(PAUSES),
        ("mail_dropped", "down"),
    ]
    assert await site.waiting() == 0


async def test_outbox_server_that_asks_for_a_pause_gets_it(site: Site) -> None:
    script = Script(MailFailed("busy", retry_after=100.0))
    outbox = site.outbox(script)
    await site.put(outbox, 0)
    await site.deliver(outbox)
    await site.deliver(outbox, 99)
    assert len(script.attempts) == 1
    await site.deliver(outbox, 1)
    assert script.sent == ["subject 0"]


async def test_outbox_mail_that_is_too_old_is_not_sent(site: Site) -> None:
    script = Script()
    outbox = site.outbox(script)
    await site.put(outbox, 0)
    await site.deliver(outbox, LIFETIME)
    assert script.attempts == []
    assert site.events() == [("mail_dropped", "it expired before it could be sent")]


async def test_outbox_full_drops_new_mails(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_WAITING", 2)
    outbox = site.outbox(Script())
    await site.put(outbox, 0, 1, 2)
    await site.put(outbox, 3, decoy=True)
    assert site.events() == [("mail_dropped", "2 mails are already waiting")]


async def test_outbox_decoy_is_deleted_and_never_sent(site: Site) -> None:
    script = Script()
    outbox = site.outbox(script)
    await site.put(outbox, 0, decoy=True)
    assert await site.waiting() == 0, "a decoy is no mail"
    await site.deliver(outbox)
    assert script.attempts == [] and site.lines == []
    assert (await site.store.read(count_mails)) == (0, None)


async def test_outbox_rolled_back_transaction_sends_nothing(site: Site) -> None:
    outbox = site.outbox(script := Script())

    async def unit(connection: Connection) -> None:
        await outbox.insert(connection, mail(0))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await site.store.write(unit)
    await site.deliver(outbox)
    assert script.attempts == []


async def test_outbox_process_killed_while_sending_sends_again_after_the_pause(site: Site) -> None:
    stuck = Script()
    stuck.released = trio.Event()
    async with trio.open_nursery() as nursery:
        outbox = site.outbox(stuck)
        nursery.start_soon(outbox.run)
        await site.put(outbox, 0)
        await eventually(lambda: len(stuck.attempts) == 1)
        # What a killed process leaves: the row as it is now.
        after = site.outbox(script := Script())
        await site.deliver(after)
        assert script.sent == []
        await site.deliver(after, PAUSES[0])
        assert script.sent == ["subject 0"]
        assert script.attempts == stuck.attempts
        stuck.released.set()
        nursery.cancel_scope.cancel()


async def test_outbox_stopped_while_sending_does_not_send_twice(site: Site) -> None:
    script = Script()
    script.released = trio.Event()
    async with trio.open_nursery() as nursery:
        outbox = site.outbox(script)
        nursery.start_soon(outbox.run)
        await site.put(outbox, 0)
        await eventually(lambda: len(script.attempts) == 1)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            script.released.set()
    assert script.sent == ["subject 0"]
    assert await site.waiting() == 0


async def test_outbox_stopped_while_a_server_hangs_stops_and_keeps_the_mail(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "GRACE", 0.0)
    stuck = Script()
    stuck.released = trio.Event()
    async with trio.open_nursery() as nursery:
        outbox = site.outbox(stuck)
        nursery.start_soon(outbox.run)
        await site.put(outbox, 0)
        await eventually(lambda: len(stuck.attempts) == 1)
        nursery.cancel_scope.cancel()
    assert await site.waiting() == 1


async def test_outbox_store_that_fails_after_sending_does_not_send_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(connection: Connection, mail_id: str) -> None:
        raise StorageUnavailable

    script = Script()
    outbox = site.outbox(script)
    await site.put(outbox, 0)
    with monkeypatch.context() as patched:
        patched.setattr(outbox_module, "delete_mail", unavailable)
        await site.deliver(outbox)
    assert await site.waiting() == 1
    await site.deliver(outbox, LONG)
    assert script.sent == ["subject 0"]
    assert await site.waiting() == 0


async def test_outbox_mail_waits_while_the_store_is_unavailable(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(connection: Connection, address: str) -> bool:
        raise StorageUnavailable

    script = Script()
    outbox = site.outbox(script)
    await site.put(outbox, 0)
    with monkeypatch.context() as patched:
        patched.setattr(outbox_module, "is_suppressed", unavailable)
        await site.deliver(outbox)
    await site.deliver(outbox, LONG)
    assert (script.sent, site.events()) == (["subject 0"], [])


async def test_outbox_internal_error_drops_one_mail(site: Site) -> None:
    script = Script(ZeroDivisionError())
    outbox = site.outbox(script)
    await site.put(outbox, 0, 1)
    with pytest.raises(ZeroDivisionError):
        await site.deliver(outbox)
    assert site.events() == [("mail_dropped", "internal error")]
    await site.deliver(outbox)
    assert script.sent == ["subject 1"]


async def test_outbox_mail_of_another_master_key_is_dropped(site: Site) -> None:
    await site.put(site.outbox(Script()), 0)
    site.vault = Vault([new_master_key()])
    outbox = site.outbox(script := Script())
    await site.deliver(outbox)
    assert script.attempts == []
    ((event, reason),) = site.events()
    assert event == "mail_dropped" and "master keys" in reason
