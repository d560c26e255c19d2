"""Changes of API keys on both engines: audit rows, notifications and races."""

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


class KeyService:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.clock = Clock()
        self.changes: list[tuple[bytes, ...]] = []
        self.keys = Keys(store, pepper=b"p", clock=self.clock, changed=self.changed)

    def changed(self, *digests: bytes) -> None:
        self.changes.append(digests)

    async def audited(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Action, subject and detail of every audit row, oldest first."""
        entries = await self.store.read(select_audit, AuditQuery(before=2**62, limit=100))
        rows = [entry.row for entry in reversed(entries)]
        assert {row.actor for row in rows} <= {"ada"}
        return [(row.action, row.subject, json.loads(row.detail)) for row in rows]


@pytest.fixture
async def service(store: Store) -> AsyncIterator[KeyService]:
    for row in (ONE, OTHER):
        await store.write(insert_user, row)
    yield KeyService(store)


def adding(**fields: Any) -> Callable[[KeyPolicy], KeyPolicy]:
    return lambda policy: structs.replace(policy, **fields)


async def test_key_change_is_stored_notified_and_audited(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a", scopes=("models",)))
    changed = await service.keys.change(
        ADA,
        ONE.id,
        row.id,
        adding(name="b", scopes=None, limits=LimitSet(rpm=5), allowed_ips=("10.0.0.0/8",)),
    )
    assert service.changes == [(row.digest,)]
    assert await service.keys.get(ONE.id, row.id) == changed
    assert changed == replace(row, name="b", scopes=None, limits='{"rpm":5}', allowed_ips=("10.0.0.0/8",))
    action, subject, detail = (await service.audited())[-1]
    assert (action, subject) == ("key.update", row.id)
    assert detail == {
        "before": {"name": "a", "scopes": ["models"], "allowed_ips": None, "limits": {}},
        "after": {"name": "b", "scopes": None, "allowed_ips": ["10.0.0.0/8"], "limits": {"rpm": 5}},
    }


async def test_new_key_with_origins_drops_the_caches(service: KeyService) -> None:
    await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    listing = KeyPolicy(name="b", allowed_origins=("https://app.example.com",))
    row, _ = await service.keys.create(ADA, ONE.id, listing)
    assert service.changes == [(row.digest,)]


async def test_key_change_without_effect_is_not_audited(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a", limits=LimitSet(rpm=5)))
    before = await service.audited()
    assert await service.keys.change(ADA, ONE.id, row.id, adding(name="a", limits=LimitSet(rpm=5))) == row
    assert await service.audited() == before


@pytest.mark.parametrize("change", ["change", "rotate", "end_previous", "revoke"])
async def test_key_change_of_cancelled_caller_is_notified(service: KeyService, change: str) -> None:
    first, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    row, _ = await service.keys.rotate(ADA, ONE.id, first.id, overlap=60)
    service.changes.clear()
    changes: dict[str, Callable[[], Awaitable[object]]] = {
        "change": lambda: service.keys.change(ADA, ONE.id, row.id, adding(allowed_ips=("10.0.0.0/8",))),
        "rotate": lambda: service.keys.rotate(ADA, ONE.id, row.id, overlap=0),
        "end_previous": lambda: service.keys.end_previous(ADA, ONE.id, row.id),
        "revoke": lambda: service.keys.revoke(ADA, ONE.id, row.id),
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(changes[change])
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert await service.keys.get(ONE.id, row.id) != row, "a started change is completed"
    assert [set(digests) for digests in service.changes] == [{first.digest, row.digest}]


async def test_keys_of_another_user_are_not_found(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    before = await service.audited()
    for call in (
        lambda: service.keys.get(OTHER.id, row.id),
        lambda: service.keys.change(ADA, OTHER.id, row.id, adding(name="b")),
        lambda: service.keys.rotate(ADA, OTHER.id, row.id, overlap=0),
        lambda: service.keys.end_previous(ADA, OTHER.id, row.id),
        lambda: service.keys.revoke(ADA, OTHER.id, row.id),
        lambda: service.keys.usage(OTHER.id, row.id, days=1),
    ):
        with pytest.raises(NotFound) as caught:
            await call()
        assert caught.value.code == "key_not_found"
    assert await service.keys.list(OTHER.id) == []
    assert await service.audited() == before
    assert await service.keys.get(None, row.id) == row, "an administrator sees it unchanged"


async def end_times(service: KeyService, *keys: str) -> list[int | None]:
    """The milliseconds from now until each secret ends; 0: it has ended, None: it has no end."""
    holders = [await service.store.read(select_key_by_digest, key_digest(b"p", key)) for key in keys]
    found = [holder for holder in holders if holder is not None]
    assert len(found) == len(keys) and len({holder.key.id for holder in found}) == 1
    return [holder.ends_at - service.clock.now if holder.ends_at else holder.ends_at for holder in found]


@pytest.mark.parametrize("overlap", [0, 60])
async def test_key_rotated_keeps_id_and_policy(service: KeyService, overlap: int) -> None:
    policy = KeyPolicy(
        name="a", allowed_models=("m",), limits=LimitSet(usd_total=5), metadata={"team": "blues"}
    )
    old, old_key = await service.keys.create(ADA, ONE.id, policy)
    new, new_key = await service.keys.rotate(ADA, ONE.id, old.id, overlap=overlap)
    until = NOON + overlap * 1000 if overlap else None
    assert new_key != old_key and (new.prefix, new.last4) == (new_key[:7], new_key[-4:])
    secret = {"digest": old.digest, "prefix": old.prefix, "last4": old.last4, "previous_digest": None}
    assert replace(new, **secret) == replace(old, rotated_at=NOON, previous_until=until)
    assert new.previous_digest == old.digest
    assert await service.keys.get(ONE.id, old.id) == new
    assert await service.keys.list(ONE.id) == [new]
    assert await end_times(service, old_key, new_key) == [overlap * 1000, None]
    assert service.changes == [(old.digest,)]
    action, subject, detail = (await service.audited())[-1]
    assert (action, subject) == ("key.rotate", old.id)
    ended = {"previous_until": format_time(until)} if overlap else {}
    assert detail["after"] == {"rotated_at": format_time(NOON)} | ended
    assert not {old_key, new_key} & {json.dumps(row) for row in await service.audited()}


async def test_second_rotation_ends_the_previous_secret_at_once(service: KeyService) -> None:
    row, first = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    _, second = await service.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    service.clock.now += 10_000
    service.changes.clear()
    renewed, third = await service.keys.rotate(ADA, ONE.id, row.id, overlap=20)
    assert await end_times(service, second, third) == [20_000, None]
    assert renewed.previous_until == service.clock.now + 20_000
    assert await service.store.read(select_key_by_digest, key_digest(b"p", first)) is None
    assert {key_digest(b"p", key) for key in (first, second)} == set(*service.changes), "caches drop both"
    service.changes.clear()
    changed = await service.keys.change(ADA, ONE.id, row.id, adding(name="b"))
    assert {key_digest(b"p", key) for key in (second, third)} == set(*service.changes)
    assert changed == replace(renewed, name="b")
    _, fourth = await service.keys.rotate(ADA, ONE.id, row.id, overlap=0)
    assert await end_times(service, third, fourth) == [0, None]


async def test_end_previous_ends_the_overlap(service: KeyService) -> None:
    row, first = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    for _ in range(2):
        before = await service.audited()
        await service.keys.end_previous(ADA, ONE.id, row.id)
        assert await service.audited() == before, "there is no overlap"
        renewed, second = await service.keys.rotate(ADA, ONE.id, row.id, overlap=60)
        service.changes.clear()
        await service.keys.end_previous(ADA, ONE.id, row.id)
        assert key_digest(b"p", first) in service.changes[0]
        assert await end_times(service, first, second) == [0, None]
        assert await service.keys.get(ONE.id, row.id) == replace(renewed, previous_until=None)
        action, _, detail = (await service.audited())[-1]
        assert (action, detail["after"]) == ("key.end_previous", {"previous_until": None})
        first = second
    await service.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    service.clock.now += 60_000
    before = await service.audited()
    await service.keys.end_previous(ADA, ONE.id, row.id)
    assert await service.audited() == before, "the overlap has expired"


async def test_new_guest_key_ends_the_earlier_secrets(service: KeyService) -> None:
    first = await service.keys.guest(ADA, user_id=ONE.id, expires_at=NOON + 1000)
    (row,) = await service.keys.list(ONE.id)
    _, second = await service.keys.rotate(ADA, ONE.id, row.id, overlap=600)
    await service.keys.change(ADA, ONE.id, row.id, adding(name="b", scopes=("models",)))
    service.clock.now += 5000
    await service.keys.guest(ADA, user_id=ONE.id, expires_at=NOON + 9000)
    again = await service.keys.get(ONE.id, row.id)
    assert (again.previous_until, again.name, again.scopes) == (None, "guest", None)
    for key in (first, second):
        assert await service.store.read(select_key_by_digest, key_digest(b"p", key)) is None


async def test_rotation_of_expired_key_is_rejected(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a", expires_at=NOON + 1000))
    new, _ = await service.keys.rotate(ADA, ONE.id, row.id, overlap=60)
    assert new.expires_at == NOON + 1000
    service.clock.now = NOON + 1000
    with pytest.raises(Conflict) as caught:
        await service.keys.rotate(ADA, ONE.id, new.id, overlap=60)
    assert caught.value.code == "api_key_expired"
    changed = await service.keys.change(ADA, ONE.id, new.id, adding(name="b"))
    assert changed.expires_at == NOON + 1000, "an expiry in the past does not prevent other changes"
    with pytest.raises(InvalidRequest):
        await service.keys.change(ADA, ONE.id, new.id, adding(expires_at=NOON + 999))


async def test_key_changes_concurrent_are_all_applied(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))

    async def tag(n: int) -> None:
        def change(policy: KeyPolicy) -> KeyPolicy:
            return structs.replace(policy, metadata={**policy.metadata, str(n): "x"})

        await service.keys.change(ADA, ONE.id, row.id, change)

    async with trio.open_nursery() as nursery:
        for n in range(12):
            nursery.start_soon(tag, n)
    assert (await service.keys.get(ONE.id, row.id)).metadata.keys() == {str(n) for n in range(12)}
    steps = [detail for action, _, detail in await service.audited() if action == "key.update"]
    found = [len(step["after"]["metadata"]) for step in steps]
    assert found == list(range(1, 13)), "each audit row begins where the one before it ended"


async def test_rotations_concurrent_leave_one_secret(service: KeyService) -> None:
    row, first = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    results: list[str] = []

    async def rotate() -> None:
        results.append((await service.keys.rotate(ADA, ONE.id, row.id, overlap=0))[1])

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(rotate)
    digests = [key_digest(b"p", key) for key in (first, *results)]
    holders = [await service.store.read(select_key_by_digest, digest) for digest in digests]
    assert sorted(str(holder.ends_at) for holder in holders if holder is not None) == ["0", "None"]
    assert [key.id for key in await service.keys.list(ONE.id)] == [row.id]


async def test_create_above_max_active_keys_is_rejected(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ACTIVE", 5)
    for serial in range(3):
        await service.store.write(insert_key, key_row(ONE, serial))
    results: list[bool] = []

    async def create() -> None:
        try:
            await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
            results.append(True)
        except Conflict as exc:
            assert exc.code == "too_many_keys"
            results.append(False)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(create)
    assert sorted(results) == [False] * 8 + [True] * 2
    active = await service.keys.list(ONE.id, active=True)
    assert len(active) == 5
    await service.keys.rotate(ADA, ONE.id, active[0].id, overlap=60)
    assert len(await service.keys.list(ONE.id, active=True)) == 5, "a rotation adds no key"
    await service.keys.create(ADA, OTHER.id, KeyPolicy(name="a"))


async def test_expired_key_renewed_above_max_active_is_rejected(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ACTIVE", 1)
    old, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a", expires_at=NOON + 1000))
    service.clock.now = NOON + 1000
    new, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="b"))
    with pytest.raises(Conflict) as caught:
        await service.keys.change(ADA, ONE.id, old.id, adding(expires_at=None))
    assert caught.value.code == "too_many_keys"
    assert await service.keys.get(ONE.id, old.id) == old
    await service.keys.revoke(ADA, ONE.id, new.id)
    await service.keys.change(ADA, ONE.id, old.id, adding(expires_at=None))


async def test_usage_of_one_key_is_reported_by_day(service: KeyService) -> None:
    row, _ = await service.keys.create(ADA, ONE.id, KeyPolicy(name="a"))
    of_key = {"key_id": row.id, "user_id": ONE.id}
    rows = [
        usage(1, **of_key),
        usage(2, **of_key, outcome="cut"),
        usage(3, at=NOON - DAY, **of_key),
        usage(4, at=NOON - 2 * DAY, **of_key),
        usage(5, key_id="other", user_id=ONE.id),
    ]
    await service.store.write(insert_batch, rows)
    found = await service.keys.usage(ONE.id, row.id, days=2)
    assert [(day.requests, day.errors, day.input_tokens) for day in found.days] == [(1, 0, 10), (2, 1, 20)]
    assert found.key == row


# Canonical form


def checked(**fields: Any) -> KeyPolicy:
    return KeyPolicy(name="a", **fields).checked(NOON)


def test_policy_checked_returns_canonical_form() -> None:
    policy = checked(
        allowed_ips=("10.0.0.0/8", "2001:DB8::1", "::ffff:192.0.2.1", "10.0.0.0/8"),
        allowed_origins=(
            "HTTPS://App.Example.com:443/",
            "http://localhost:80",
            "http://[2001:DB8::0:1]:8080",
        ),
        allowed_models=("b", "a*", "*", "b"),
        scopes=("models", "models"),
    )
    assert policy.allowed_ips == ("10.0.0.0/8", "2001:db8::1/128", "192.0.2.1/32")
    assert policy.allowed_origins == (
        "https://app.example.com",
        "http://localhost",
        "http://[2001:db8::1]:8080",
    )
    assert policy.allowed_models == ("b", "a*", "*")
    assert policy.scopes == ("models",)
    assert policy.checked(NOON) == policy


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
def test_policy_checked_of_any_text_is_idempotent_or_raises(texts: list[str], field: str) -> None:
    try:
        policy = checked(**{field: tuple(texts)})
    except InvalidRequest:
        return
    assert policy.checked(NOON) == policy
