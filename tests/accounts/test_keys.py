"""Keys as their owners change them, on both engines: each change with its audit row, races included."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.accounts import keys as module
from bluesminds.accounts.audit import Actor
from bluesminds.accounts.key_policy import LATEST_EXPIRY, KeyPolicy
from bluesminds.accounts.keys import Keys
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import key_digest
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.values import LimitSet
from storage import Store
from storage.audit import AuditQuery, select_audit
from storage.keys import insert_key, select_key_by_digest
from storage.usage import DAY, insert_batch
from storage.users import insert_user
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import NOON, usage
from tests.storage.samples import key as key_row
from tests.storage.samples import user as user_row

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]

ADA = Actor(name="ada", address="192.0.2.1")
ONE, OTHER = user_row(1), user_row(2)


class Clock:
    now = NOON

    def now_ms(self) -> int:
        return self.now


class Office:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.changes: list[tuple[bytes, ...]] = []
        self.keys = Keys(store, pepper=b"p", clock=self.clock, changed=self.changed)

    def changed(self, *digests: bytes) -> None:
        self.changes.append(digests)

    async def audited(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Action, subject and detail of what the audit log holds, oldest first."""
        entries = await self.store.read(select_audit, AuditQuery(before=2**62, limit=100))
        acts = [entry.row for entry in reversed(entries)]
        assert {act.actor for act in acts} <= {"ada"}
        return [(act.action, act.subject, json.loads(act.detail)) for act in acts]


@pytest.fixture
async def office(store: Store) -> AsyncIterator[Office]:
    for row in (ONE, OTHER):
        await store.write(insert_user, row)
    yield Office(store)


def adding(**fields: Any) -> Callable[[KeyPolicy], KeyPolicy]:
    return lambda rules: structs.replace(rules, **fields)


async def test_key_change_is_stored_notified_and_audited(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a", scopes=("models",)))
    changed = await office.keys.change(
        ADA,
        ONE.id,
        row.id,
        adding(name="b", scopes=None, limits=LimitSet(rpm=5), allowed_ips=("10.0.0.0/8",)),
    )
    assert office.changes == [(row.digest,)]
    assert await office.keys.get(ONE.id, row.id) == changed
    assert changed == replace(row, name="b", scopes=None, limits='{"rpm":5}', allowed_ips=("10.0.0.0/8",))
    action, subject, detail = (await office.audited())[-1]
    assert (action, subject) == ("key.update", row.id)
    assert detail == {
        "before": {"name": "a", "scopes": ["models"], "allowed_ips": None, "limits": {}},
        "after": {"name": "b", "scopes": None, "allowed_ips": ["10.0.0.0/8"], "limits": {"rpm": 5}},
    }


async def test_key_change_without_effect_is_not_audited(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a", limits=LimitSet(rpm=5)))
    before = await office.audited()
    assert await office.keys.change(ADA, ONE.id, row.id, adding(name="a", limits=LimitSet(rpm=5))) == row
    assert await office.audited() == before


@pytest.mark.parametrize("act", ["change", "rotate", "end_previous", "revoke"])
async def test_key_change_of_cancelled_caller_is_notified(office: Office, act: str) -> None:
    first, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    row, _ = await office.keys.rotate(ADA, ONE.id, first.id, overlap=60)
    office.changes.clear()
    acts: dict[str, Callable[[], Awaitable[object]]] = {
        "change": lambda: office.keys.change(ADA, ONE.id, row.id, adding(allowed_ips=("10.0.0.0/8",))),
        "rotate": lambda: office.keys.rotate(ADA, ONE.id, row.id, overlap=0),
        "end_previous": lambda: office.keys.end_previous(ADA, ONE.id, row.id),
        "revoke": lambda: office.keys.revoke(ADA, ONE.id, row.id),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(acts[act])
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert await office.keys.get(ONE.id, row.id) != row, "a started change is completed"
    assert [set(digests) for digests in office.changes] == [{first.digest, row.digest}]


async def test_keys_of_another_user_are_not_found(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    before = await office.audited()
    for act in (
        lambda: office.keys.get(OTHER.id, row.id),
        lambda: office.keys.change(ADA, OTHER.id, row.id, adding(name="b")),
        lambda: office.keys.rotate(ADA, OTHER.id, row.id, overlap=0),
        lambda: office.keys.end_previous(ADA, OTHER.id, row.id),
        lambda: office.keys.revoke(ADA, OTHER.id, row.id),
        lambda: office.keys.usage(OTHER.id, row.id, days=1),
    ):
        with pytest.raises(NotFound) as caught:
            await act()
        assert caught.value.code == "key_not_found"
    assert await office.keys.list(OTHER.id) == []
    assert await office.audited() == before
    assert await office.keys.get(None, row.id) == row, "an administrator sees it unchanged"


async def ends(office: Office, *keys: str) -> list[int | None]:
    """When each of these ends, in milliseconds from now; 0 for at once, None for not by itself."""
    holders = [await office.store.read(select_key_by_digest, key_digest(b"p", key)) for key in keys]
    found = [holder for holder in holders if holder is not None]
    assert len(found) == len(keys) and len({holder.key.id for holder in found}) == 1
    return [holder.ends_at - office.clock.now if holder.ends_at else holder.ends_at for holder in found]


@pytest.mark.parametrize("overlap", [0, 60])
async def test_key_rotated_keeps_id_and_policy(office: Office, overlap: int) -> None:
    rules = KeyPolicy(
        name="a", allowed_models=("m",), limits=LimitSet(usd_total=5), metadata={"team": "blues"}
    )
    old, old_key = await office.keys.create(ADA, ONE.id, rules)
    new, new_key = await office.keys.rotate(ADA, ONE.id, old.id, overlap=overlap)
    until = NOON + overlap * 1000 if overlap else None
    assert new_key != old_key and (new.prefix, new.last4) == (new_key[:7], new_key[-4:])
    secret = {"digest": old.digest, "prefix": old.prefix, "last4": old.last4, "previous_digest": None}
    assert replace(new, **secret) == replace(old, rotated_at=NOON, previous_until=until)
    assert new.previous_digest == old.digest
    assert await office.keys.get(ONE.id, old.id) == new
    assert await office.keys.list(ONE.id) == [new]
    assert await ends(office, old_key, new_key) == [overlap * 1000, None]
    assert office.changes == [(old.digest,)]
    action, subject, detail = (await office.audited())[-1]
    assert (action, subject) == ("key.rotate", old.id)
    ended = {"previous_until": format_time(until)} if overlap else {}
    assert detail["after"] == {"rotated_at": format_time(NOON)} | ended
    assert not {old_key, new_key} & {json.dumps(row) for row in await office.audited()}


async def test_second_rotation_ends_the_previous_secret_at_once(office: Office) -> None:
    row, first = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    _, second = await office.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    office.clock.now += 10_000
    office.changes.clear()
    renewed, third = await office.keys.rotate(ADA, ONE.id, row.id, overlap=20)
    assert await ends(office, second, third) == [20_000, None]
    assert renewed.previous_until == office.clock.now + 20_000
    assert await office.store.read(select_key_by_digest, key_digest(b"p", first)) is None
    assert {key_digest(b"p", key) for key in (first, second)} == set(*office.changes), "caches drop both"
    office.changes.clear()
    changed = await office.keys.change(ADA, ONE.id, row.id, adding(name="b"))
    assert {key_digest(b"p", key) for key in (second, third)} == set(*office.changes)
    assert changed == replace(renewed, name="b")
    _, fourth = await office.keys.rotate(ADA, ONE.id, row.id, overlap=0)
    assert await ends(office, third, fourth) == [0, None]


async def test_end_previous_ends_the_overlap(office: Office) -> None:
    row, first = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    for _ in range(2):
        before = await office.audited()
        await office.keys.end_previous(ADA, ONE.id, row.id)
        assert await office.audited() == before, "there is no overlap"
        renewed, second = await office.keys.rotate(ADA, ONE.id, row.id, overlap=60)
        office.changes.clear()
        await office.keys.end_previous(ADA, ONE.id, row.id)
        assert key_digest(b"p", first) in office.changes[0]
        assert await ends(office, first, second) == [0, None]
        assert await office.keys.get(ONE.id, row.id) == replace(renewed, previous_until=None)
        action, _, detail = (await office.audited())[-1]
        assert (action, detail["after"]) == ("key.end_previous", {"previous_until": None})
        first = second
    await office.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    office.clock.now += 60_000
    before = await office.audited()
    await office.keys.end_previous(ADA, ONE.id, row.id)
    assert await office.audited() == before, "the overlap has expired"


async def test_new_guest_key_ends_the_earlier_secrets(office: Office) -> None:
    first = await office.keys.guest(ADA, user_id=ONE.id, expires_at=NOON + 1000)
    (row,) = await office.keys.list(ONE.id)
    _, second = await office.keys.rotate(ADA, ONE.id, row.id, overlap=600)
    await office.keys.change(ADA, ONE.id, row.id, adding(name="b", scopes=("models",)))
    office.clock.now += 5000
    await office.keys.guest(ADA, user_id=ONE.id, expires_at=NOON + 9000)
    again = await office.keys.get(ONE.id, row.id)
    assert (again.previous_until, again.name, again.scopes) == (None, "guest", None)
    for key in (first, second):
        assert await office.store.read(select_key_by_digest, key_digest(b"p", key)) is None


async def test_rotation_of_expired_key_is_rejected(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a", expires_at=NOON + 1000))
    new, _ = await office.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    assert new.expires_at == NOON + 1000
    office.clock.now = NOON + 1000
    with pytest.raises(Conflict) as caught:
        await office.keys.rotate(ADA, ONE.id, new.id, overlap=60)
    assert caught.value.code == "api_key_expired"
    changed = await office.keys.change(ADA, ONE.id, new.id, adding(name="b"))
    assert changed.expires_at == NOON + 1000, "the end that was there does not hinder another change"
    with pytest.raises(InvalidRequest):
        await office.keys.change(ADA, ONE.id, new.id, adding(expires_at=NOON + 999))


async def test_key_changes_concurrent_are_all_applied(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))

    async def tag(n: int) -> None:
        def change(rules: KeyPolicy) -> KeyPolicy:
            return structs.replace(rules, metadata={**rules.metadata, str(n): "x"})

        await office.keys.change(ADA, ONE.id, row.id, change)

    async with trio.open_nursery() as nursery:
        for n in range(12):
            nursery.start_soon(tag, n)
    assert (await office.keys.get(ONE.id, row.id)).metadata.keys() == {str(n) for n in range(12)}
    steps = [detail for action, _, detail in await office.audited() if action == "key.update"]
    found = [len(step["after"]["metadata"]) for step in steps]
    assert found == list(range(1, 13)), "each audit row begins where the one before it ended"


async def test_rotations_concurrent_leave_one_secret(office: Office) -> None:
    row, first = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    made: list[str] = []

    async def rotate() -> None:
        made.append((await office.keys.rotate(ADA, ONE.id, row.id, overlap=0))[1])

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(rotate)
    digests = [key_digest(b"p", key) for key in (first, *made)]
    holders = [await office.store.read(select_key_by_digest, digest) for digest in digests]
    assert sorted(str(holder.ends_at) for holder in holders if holder is not None) == ["0", "None"]
    assert [key.id for key in await office.keys.list(ONE.id)] == [row.id]


async def test_create_above_max_active_keys_is_rejected(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ACTIVE", 5)
    for serial in range(3):
        await office.store.write(insert_key, key_row(ONE, serial))
    made: list[bool] = []

    async def create() -> None:
        try:
            await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
            made.append(True)
        except Conflict as exc:
            assert exc.code == "too_many_keys"
            made.append(False)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(create)
    assert sorted(made) == [False] * 8 + [True] * 2
    active = await office.keys.list(ONE.id, active=True)
    assert len(active) == 5
    await office.keys.rotate(ADA, ONE.id, active[0].id, overlap=60)
    assert len(await office.keys.list(ONE.id, active=True)) == 5, "a rotation makes no more of them"
    await office.keys.create(ADA, OTHER.id, KeyPolicy(name="a"))


async def test_expired_key_renewed_above_max_active_is_rejected(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ACTIVE", 1)
    old, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a", expires_at=NOON + 1000))
    office.clock.now = NOON + 1000
    new, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="b"))
    with pytest.raises(Conflict) as caught:
        await office.keys.change(ADA, ONE.id, old.id, adding(expires_at=None))
    assert caught.value.code == "too_many_keys"
    assert await office.keys.get(ONE.id, old.id) == old
    await office.keys.revoke(ADA, ONE.id, new.id)
    await office.keys.change(ADA, ONE.id, old.id, adding(expires_at=None))


async def test_usage_of_one_key_is_reported_by_day(office: Office) -> None:
    row, _ = await office.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    mine = {"key_id": row.id, "user_id": ONE.id}
    rows = [
        usage(1, **mine),
        usage(2, **mine, outcome="cut"),
        usage(3, at=NOON - DAY, **mine),
        usage(4, at=NOON - 2 * DAY, **mine),
        usage(5, key_id="other", user_id=ONE.id),
    ]
    await office.store.write(insert_batch, rows)
    found = await office.keys.usage(ONE.id, row.id, days=2)
    assert [(day.requests, day.errors, day.input_tokens) for day in found.days] == [(1, 0, 10), (2, 1, 20)]
    assert found.key == row


# The one form of rules


def checked(**fields: Any) -> KeyPolicy:
    return KeyPolicy(name="a", **fields).checked(NOON)


def test_policy_checked_returns_canonical_form() -> None:
    rules = checked(
        allowed_ips=("10.0.0.0/8", "2001:DB8::1", "::ffff:192.0.2.1", "10.0.0.0/8"),
        allowed_origins=(
            "HTTPS://App.Example.com:443/",
            "http://localhost:80",
            "http://[2001:DB8::0:1]:8080",
        ),
        allowed_models=("b", "a*", "*", "b"),
        scopes=("models", "models"),
    )
    assert rules.allowed_ips == ("10.0.0.0/8", "2001:db8::1/128", "192.0.2.1/32")
    assert rules.allowed_origins == (
        "https://app.example.com",
        "http://localhost",
        "http://[2001:db8::1]:8080",
    )
    assert rules.allowed_models == ("b", "a*", "*")
    assert rules.scopes == ("models",)
    assert rules.checked(NOON) == rules


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowed_ips", ("10.0.0.1/8",)),
        ("allowed_ips", ("example.com",)),
        ("allowed_origins", ("app.example.com",)),
        ("allowed_origins", ("https://app.example.com/path",)),
        ("allowed_origins", ("https://user@app.example.com",)),
        ("allowed_origins", ("https://bücher.example",)),
        ("allowed_origins", ("https://*.example.com",)),
        ("allowed_origins", ("https://a.example:0",)),
        ("allowed_origins", ("https://a.example:70000",)),
        ("allowed_origins", ("https://[1.2.3.4]",)),
        ("allowed_origins", ("https://[::1",)),
        ("allowed_origins", ("null",)),
        ("allowed_origins", ("ftp://a.example",)),
        ("allowed_models", ("a*b",)),
        ("scopes", ("admin",)),
        ("expires_at", NOON),
        ("expires_at", -5),
        ("expires_at", LATEST_EXPIRY),
    ],
)
def test_policy_checked_of_invalid_value_raises(field: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(**{field: value})
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert caught.value.message.startswith(field)


@given(st.lists(st.text(max_size=60), max_size=3), st.sampled_from(["allowed_ips", "allowed_origins"]))
def test_policy_checked_of_any_text_is_idempotent_or_raises(words: list[str], field: str) -> None:
    try:
        rules = checked(**{field: tuple(words)})
    except InvalidRequest:
        return
    assert rules.checked(NOON) == rules
