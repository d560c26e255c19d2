"""Events on both engines: written with the change, dispatched once and in order."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.accounts.keys import Keys
from bluesminds.accounts.users import Users
from bluesminds.common.crypto import first_uuid7
from bluesminds.common.log import Log
from bluesminds.notify import events as module
from bluesminds.notify.events import EVENT_KINDS, MAX_DATA, EventDispatcher, new_event
from storage import Connection, Store
from storage.events import EventRow, delete_events, insert_event, insert_events, select_new_events
from storage.users import delete_user, insert_user
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import NOON, user

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]


class Noon:
    def now_ms(self) -> int:
        return NOON


class Dispatching:
    """A dispatcher with a consumer that keeps what it gets. `lines` is the log."""

    def __init__(self, store: Store) -> None:
        self.lines: list[bytes] = []
        self.dispatcher = EventDispatcher(store, clock=Noon(), log=Log(Noon(), write=self.lines.append))
        self.got: list[EventRow] = []
        self.more = trio.Event()
        self.dispatcher.subscribe(self.consume, dispatched=self.announce)

    def announce(self) -> None:
        self.more.set()
        self.more = trio.Event()

    async def consume(self, _: Connection, event: EventRow) -> None:
        if event.data == '{"fails":true}':
            raise ValueError("a bug")
        self.got.append(event)


@pytest.fixture
async def dispatching(store: Store) -> AsyncIterator[Dispatching]:
    yield Dispatching(store)


def event(**data: object) -> EventRow:
    return new_event(NOON, "key.created", None, data)


async def test_events_are_dispatched_once_and_in_order(store: Store, dispatching: Dispatching) -> None:
    rows = [event(number=number) for number in range(5)]
    await store.write(insert_events, rows[3:])
    await store.write(insert_events, rows[:3])
    assert await dispatching.dispatcher.dispatch() == 5
    assert dispatching.got == rows
    assert await dispatching.dispatcher.dispatch() == 0
    await store.write(insert_events, rows)  # an id that exists is left out
    await store.write(insert_events, [])
    assert await dispatching.dispatcher.dispatch() == 0
    assert dispatching.got == rows


async def test_event_of_a_unit_that_fails_does_not_exist(store: Store, dispatching: Dispatching) -> None:
    async def fail(connection: Connection) -> None:
        await insert_event(connection, event())
        raise LookupError

    with pytest.raises(LookupError):
        await store.write(fail)
    assert await dispatching.dispatcher.dispatch() == 0


async def test_event_at_which_a_consumer_fails_blocks_no_other(
    store: Store, dispatching: Dispatching
) -> None:
    bad, good = event(fails=True), event(fails=False)
    await store.write(insert_events, [bad, good])
    assert await dispatching.dispatcher.dispatch() == 2
    assert dispatching.got == [good]
    (line,) = dispatching.lines
    assert msgspec.json.decode(line)["event_id"] == bad.id
    assert await dispatching.dispatcher.dispatch() == 0


async def test_consumer_that_fails_leaves_nothing_of_the_consumers_before(store: Store) -> None:
    follow_up = event(follows=True)

    async def write(connection: Connection, got: EventRow) -> None:
        if got != follow_up:
            await insert_event(connection, follow_up)

    dispatching = Dispatching(store)
    dispatcher = EventDispatcher(store, clock=Noon(), log=Log(Noon(), write=lambda _: None))
    dispatcher.subscribe(write)
    dispatcher.subscribe(dispatching.consume)
    await store.write(insert_event, event(fails=True))
    await dispatcher.dispatch()
    assert await dispatcher.dispatch() == 0
    await store.write(insert_event, event())
    await dispatcher.dispatch()
    assert await dispatcher.dispatch() == 1
    assert dispatching.got[1:] == [follow_up]


async def test_running_dispatcher_is_woken_by_a_commit(store: Store, dispatching: Dispatching) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatching.dispatcher.run)
            for number in range(3):
                more, row = dispatching.more, event(number=number)
                await store.write(insert_event, row)
                await more.wait()
                assert dispatching.got[-1] == row
            nursery.cancel_scope.cancel()


async def test_many_events_are_dispatched_in_batches(
    store: Store, dispatching: Dispatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    rows = [event(number=number) for number in range(5)]
    await store.write(insert_events, rows)
    assert [await dispatching.dispatcher.dispatch() for _ in range(3)] == [2, 2, 1]
    assert dispatching.got == rows


async def test_old_events_are_deleted_in_batches(store: Store) -> None:
    rows = [new_event(NOON + number, "user.created", None, {}) for number in range(3)]
    await store.write(insert_events, rows)
    before = first_uuid7(NOON + 2)
    assert await store.write(delete_events, before, 1) == 1
    assert await store.write(delete_events, before, 5) == 1
    assert list(await store.read(select_new_events, 10)) == rows[2:]


async def test_events_of_an_account_are_deleted_with_it(store: Store) -> None:
    ada = user(1)
    await store.write(insert_user, ada)
    other = event()
    await store.write(insert_events, [new_event(NOON, "key.created", ada.id, {}), other])
    await store.write(delete_user, ada.id)
    assert list(await store.read(select_new_events, 10)) == [other]


async def test_keys_and_users_write_events(store: Store) -> None:
    users = Users(store, clock=Noon())
    keys = Keys(store, pepper=b"p", clock=Noon(), changed=lambda *_: None)
    ada = await users.create(OPERATOR, role="user", email="ada@example.org", password_hash="h")
    key, _ = await keys.create(OPERATOR, ada.id, KeyPolicy(name="laptop"))
    await keys.change(OPERATOR, ada.id, key.id, lambda policy: policy)
    await keys.revoke(OPERATOR, ada.id, key.id)
    found = await store.read(select_new_events, 10)
    assert [(row.kind, row.account_id) for row in found] == [
        ("user.created", ada.id),
        ("key.created", ada.id),
        ("key.revoked", ada.id),
    ]
    assert msgspec.json.decode(found[0].data)["email"] == "ada@example.org"
    assert msgspec.json.decode(found[1].data) == {
        "key_id": key.id,
        "name": "laptop",
        "prefix": key.prefix,
        "last4": key.last4,
        "expires_at": None,
    }


def test_new_event_with_too_much_data_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"key\.created"):
        event(text="x" * MAX_DATA)


def test_event_kinds_are_subject_and_change() -> None:
    assert len(set(EVENT_KINDS)) == len(EVENT_KINDS)
    assert all(kind.count(".") == 1 for kind in EVENT_KINDS)


def test_event_kinds_are_those_of_the_documentation() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text()
    assert tuple(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE)) == EVENT_KINDS
