"""Accounts of a database from before there were sign-ups keep working, and nobody has to confirm them."""

from dataclasses import replace
from pathlib import Path

from bluesminds.common.crypto import is_uuid, uuid7
from storage import Connection, open_store
from storage.migrate import shipped
from storage.single_use_tokens import TokenRow, insert_token, select_invites, select_token
from storage.users import insert_user, select_users
from tests.storage.samples import NOON, user

OLD = """
    INSERT INTO users (id, email, full_name, role, password_hash, disabled_at, created_at)
    VALUES
        ('1', 'ada@example.org', 'Ada', 'admin', 'hash', NULL, 5),
        ('2', NULL, 'Local', 'user', NULL, NULL, 6)
"""


async def insert_old(connection: Connection) -> None:
    await connection.execute(OLD)


def older(before: str, into: Path) -> Path:
    """The migrations that came before one."""
    into.mkdir()
    for file in shipped().iterdir():
        if file.name < before:
            (into / file.name).write_bytes(file.read_bytes())
    return into


async def test_accounts_that_the_operator_made_count_as_confirmed(url: str, tmp_path: Path) -> None:
    async with open_store(url, schema=older("0002", tmp_path / "schema")) as store:
        await store.write(insert_old)
    async with open_store(url) as store:
        ada, local = await store.read(select_users)
    assert (ada.role, ada.password_hash, ada.email_verified_at, ada.tier) == ("admin", "hash", 5, None)
    assert (local.email_verified_at, local.tier, local.limits) == (None, None, None)


async def test_invitations_that_are_out_stay_good_and_get_an_id(url: str, tmp_path: Path) -> None:
    digests = [bytes([number]) * 32 for number in (1, 255)]

    async def invite(connection: Connection, digest: bytes, at: int) -> None:
        columns = "digest, purpose, user_id, email, created_at, expires_at, used_at"
        values = "VALUES (:digest, 'invite', NULL, 'new@example.org', :at, :until, NULL)"
        sql = f"INSERT INTO one_time_tokens ({columns}) {values}"
        await connection.execute(sql, digest=digest, at=at, until=at + 9)

    async with open_store(url, schema=older("0006", tmp_path / "schema")) as store:
        for age, digest in enumerate(digests):
            await store.write(invite, digest, NOON - age)
    async with open_store(url) as store:
        found = await store.read(select_invites, NOON, None, "", 10)
        kept = [await store.read(select_token, digest, "invite", NOON) for digest in reversed(digests)]
    assert [row.digest for row in found] == digests[::-1], "the oldest first"
    assert all(is_uuid(row.id) and row.id < uuid7(NOON + 1) for row in found)
    assert kept == found


async def test_invitations_to_addresses_that_are_taken_go(url: str, tmp_path: Path) -> None:
    confirmed = replace(user(1, "confirmed@example.org"), email_verified_at=NOON)
    disabled = replace(user(2, "disabled@example.org"), disabled_at=NOON)
    waiting = user(3, "waiting@example.org")
    emails = ("Confirmed@example.org", "Disabled@example.org", "Waiting@example.org", "nobody@example.org")
    async with open_store(url, schema=older("0008", tmp_path / "schema")) as store:
        for row in (confirmed, disabled, waiting):
            await store.write(insert_user, row)
        for serial, email in enumerate(emails):
            digest = bytes([serial]) * 32
            invite = TokenRow(uuid7(NOON + serial), digest, "invite", None, email, NOON, NOON + 9)
            await store.write(insert_token, invite)
    async with open_store(url) as store:
        found = await store.read(select_invites, NOON, None, "", 10)
    assert [row.email for row in found] == list(emails[2:])
