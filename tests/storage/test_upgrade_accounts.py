"""Accounts of a database from before there were sign-ups keep working, and nobody has to confirm them."""

from pathlib import Path

from storage import Connection, open_store
from storage.members import select_users
from storage.migrate import shipped

OLD = """
    INSERT INTO users (id, email, full_name, role, password_hash, disabled_at, created_at)
    VALUES
        ('1', 'ada@example.org', 'Ada', 'admin', 'hash', NULL, 5),
        ('2', NULL, 'Local', 'user', NULL, NULL, 6)
"""


async def insert_old(connection: Connection) -> None:
    await connection.execute(OLD)


async def test_accounts_that_the_operator_made_count_as_confirmed(url: str, tmp_path: Path) -> None:
    first = tmp_path / "schema"
    first.mkdir()
    for file in shipped().iterdir():
        if file.name.startswith("0001_"):
            (first / file.name).write_bytes(file.read_bytes())
    async with open_store(url, schema=first) as store:
        await store.write(insert_old)
    async with open_store(url) as store:
        ada, local = await store.read(select_users)
    assert (ada.role, ada.password_hash, ada.email_verified_at, ada.tier) == ("admin", "hash", 5, None)
    assert (local.email_verified_at, local.tier, local.limits) == (None, None, None)
