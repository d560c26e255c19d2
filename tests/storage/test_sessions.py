"""The tables of sessions and of single-use tokens, on both engines."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio

from storage import Connection, IntegrityError, Store
from storage.sessions import (
    SessionHolder,
    SessionRow,
    delete_ended_sessions,
    delete_oldest_sessions,
    delete_session,
    delete_sessions,
    insert_session,
    select_last_seen,
    select_session,
    select_sessions,
    touch_session,
)
from storage.single_use_tokens import (
    TokenRow,
    delete_ended_tokens,
    delete_invite,
    delete_invites,
    delete_tokens,
    insert_token,
    select_invite,
    select_invites,
    select_token,
    use_token,
)
from storage.users import delete_unconfirmed_users, insert_user, select_user, set_password_hash, update_user
from tests.storage.samples import NOON, user, uuid7

ADA, BOB = user(1, "ada@example.org"), user(2, "bob@example.org")


def session(serial: int, owner: str = ADA.id) -> SessionRow:
    return SessionRow(
        digest=serial.to_bytes(32, "big"),
        id=uuid7(NOON, 100 + serial),
        user_id=owner,
        created_at=NOON + serial,
        expires_at=NOON + 1000,
        last_seen_at=NOON + serial,
        address="203.0.113.1",
        user_agent="größe/1.0",
    )


def token(serial: int, **fields: object) -> TokenRow:
    row = TokenRow(
        id=uuid7(NOON, serial),
        digest=serial.to_bytes(32, "big"),
        purpose="reset_password",
        user_id=ADA.id,
        email="ada@example.org",
        created_at=NOON,
        expires_at=NOON + 1000,
    )
    return replace(row, **fields)  # type: ignore[arg-type]


@pytest.fixture
async def users(store: Store) -> Store:
    for row in (ADA, BOB):
        await store.write(insert_user, row)
    return store


async def ids(store: Store, owner: str = ADA.id) -> Sequence[int]:
    return [int.from_bytes(row.digest, "big") for row in await store.read(select_sessions, owner)]


async def test_session_inserted_is_read_with_its_user(users: Store) -> None:
    await users.write(insert_session, session(1))
    holder = SessionHolder(session(1), "user", None, ADA.full_name, ADA.email, has_second_factor=False)
    assert await users.read(select_session, session(1).digest) == holder
    assert await users.read(select_session, bytes(32)) is None
    await users.write(update_user, replace(ADA, role="admin", disabled_at=NOON))
    assert await users.read(select_session, session(1).digest) == replace(
        holder, role="admin", user_disabled_at=NOON
    )
    for wrong in (session(1), session(2, "unknown")):
        with pytest.raises(IntegrityError):
            await users.write(insert_session, wrong)


async def test_session_last_use_only_moves_forward(users: Store) -> None:
    await users.write(insert_session, session(1))
    await users.write(touch_session, session(1).digest, NOON + 50, "10.0.0.1")
    await users.write(touch_session, session(1).digest, NOON + 40, "10.0.0.2")
    (row,) = await users.read(select_sessions, ADA.id)
    assert (row.last_seen_at, row.address) == (NOON + 50, "10.0.0.1")


async def test_session_delete_needs_its_owner(users: Store) -> None:
    for serial in (1, 2, 3):
        await users.write(insert_session, session(serial))
    await users.write(insert_session, session(4, BOB.id))
    seen = await users.read(select_last_seen, [ADA.id, BOB.id, "unknown"])
    assert seen == {ADA.id: session(3).last_seen_at, BOB.id: session(4).last_seen_at}
    assert not await users.write(delete_session, BOB.id, session(1).id)
    assert await users.write(delete_session, ADA.id, session(1).id)
    assert not await users.write(delete_session, ADA.id, session(1).id)
    assert await ids(users) == [2, 3]

    async def end_others(connection: Connection) -> int:
        return await delete_sessions(connection, ADA.id, but=session(3).id)

    assert await users.write(end_others) == 1
    assert await ids(users) == [3]
    assert await users.write(delete_sessions, ADA.id) == 1
    assert (await ids(users), await ids(users, BOB.id)) == ([], [4])


async def test_sessions_above_the_limit_oldest_are_deleted(users: Store) -> None:
    for serial in (1, 2, 3, 4):
        await users.write(insert_session, session(serial))
    await users.write(insert_session, session(5, BOB.id))
    await users.write(delete_oldest_sessions, ADA.id, 2)
    assert (await ids(users), await ids(users, BOB.id)) == ([3, 4], [5])


async def test_sessions_that_have_ended_are_deleted(users: Store) -> None:
    for serial in (1, 2, 3):
        await users.write(insert_session, session(serial))
    await users.write(insert_session, replace(session(4), expires_at=NOON + 10))
    assert await users.write(delete_ended_sessions, NOON + 10, NOON + 1) == 2
    assert await ids(users) == [2, 3]


async def test_token_used_concurrently_succeeds_once(users: Store) -> None:
    await users.write(insert_token, token(1))
    won: list[bool] = []

    async def use() -> None:
        won.append(await users.write(use_token, token(1).digest, "reset_password", NOON + 5))

    async with trio.open_nursery() as race:
        for _ in range(20):
            race.start_soon(use)
    assert sorted(won) == [*[False] * 19, True]
    assert await users.read(select_token, token(1).digest, "reset_password", NOON) is None


async def test_token_wrong_purpose_or_expired_is_rejected(users: Store) -> None:
    await users.write(insert_token, token(1))
    await users.write(insert_token, token(2, purpose="invite", user_id=None))
    for digest, purpose, now in (
        (token(1).digest, "verify_email", NOON),
        (token(1).digest, "reset_password", NOON + 1000),
        (bytes(32), "reset_password", NOON),
    ):
        assert await users.read(select_token, digest, purpose, now) is None
        assert not await users.write(use_token, digest, purpose, now)
    assert await users.read(select_token, token(1).digest, "reset_password", NOON + 999) == token(1)
    with pytest.raises(IntegrityError):
        await users.write(insert_token, token(3, user_id="unknown"))
    await users.write(delete_tokens, BOB.id, "reset_password")
    await users.write(delete_tokens, ADA.id, "verify_email")
    assert await users.read(select_token, token(1).digest, "reset_password", NOON) is not None
    await users.write(delete_tokens, ADA.id, "reset_password")
    assert await users.read(select_token, token(1).digest, "reset_password", NOON) is None
    assert await users.write(delete_ended_tokens, NOON + 1000) == 1


async def test_invitations_open_are_listed_in_pages(users: Store) -> None:
    """Used and expired invitations are not listed."""

    def invite(serial: int, email: str = "new@example.org", **fields: object) -> TokenRow:
        return token(serial, purpose="invite", user_id=None, email=email, **fields)

    first, second, third = invite(1), invite(2, "Other@example.org"), invite(3)
    used, late = invite(4), invite(5, expires_at=NOON)
    for row in (third, second, first, used, late, token(7)):
        await users.write(insert_token, row)
    await users.write(use_token, used.digest, "invite", NOON)

    async def page(after_id: str, email: str | None = None) -> Sequence[TokenRow]:
        return await users.read(select_invites, NOON, email, after_id, 2)

    assert await page("") == [first, second]
    assert await page(second.id) == [third]
    assert await page("", "NEW@example.org") == [first, third]
    assert await page("", "unknown@example.org") == []
    assert await users.read(select_invite, third.id, NOON) == third
    for ended in (used, late, token(7)):
        assert await users.read(select_invite, ended.id, NOON) is None
    await users.write(delete_invite, first.id)
    assert await page("") == [second, third]


async def test_invitations_to_an_address_are_deleted_together(users: Store) -> None:
    def invite(serial: int, email: str) -> TokenRow:
        return token(serial, purpose="invite", user_id=None, email=email)

    first, second = invite(1, "New@example.org"), invite(2, "new@example.org")
    used, other = invite(3, "new@example.org"), invite(4, "other@example.org")
    late = replace(invite(5, "new@example.org"), expires_at=NOON)
    confirmation = token(6, email="new@example.org")
    for row in (second, first, used, other, late, confirmation):
        await users.write(insert_token, row)
    await users.write(use_token, used.digest, "invite", NOON)
    assert await users.write(delete_invites, "NEW@example.org", NOON) == [first, second]
    assert await users.write(delete_invites, "", NOON) == []
    assert await users.read(select_invites, NOON, None, "", 9) == [other]
    found = await users.read(select_token, confirmation.digest, confirmation.purpose, NOON)
    assert found == confirmation


async def test_password_hash_update_replaces_only_the_expected_hash(users: Store) -> None:
    await users.write(update_user, replace(ADA, password_hash="old"))
    assert not await users.write(set_password_hash, ADA.id, "other", "better")
    assert await users.write(set_password_hash, ADA.id, "old", "better")
    assert await users.read(select_user, ADA.id) == replace(ADA, password_hash="better")


async def test_users_never_confirmed_are_deleted(store: Store) -> None:
    stale = user(1, "stale@example.org")
    stay = [
        user(2),
        replace(user(3, "confirmed@example.org"), email_verified_at=NOON),
        replace(user(4, "late@example.org"), created_at=NOON + 1),
        replace(user(5, "banned@example.org"), disabled_at=NOON),
        replace(user(6, "known@example.org"), limits='{"rpm": 1}'),
        replace(user(7, "boss@example.org"), role="admin"),
        user(8, "asked@example.org"),
    ]
    for row in (stale, *stay):
        await store.write(insert_user, row)
    link = token(1, user_id=stay[-1].id, email="asked@example.org", purpose="verify_email")
    await store.write(insert_token, link)
    assert await store.write(delete_unconfirmed_users, NOON + 1) == 1
    assert await store.read(select_user, stale.id) is None
    assert [await store.read(select_user, row.id) for row in stay] == stay
    assert await store.write(delete_unconfirmed_users, NOON + 1) == 0
