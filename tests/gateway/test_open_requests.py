"""What long requests have used is written down, and settled at the next start after a crash."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import trio

from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, streamed, text_chunks
from tests.gateways import ASK, STREAM, Gateway, entry

PRICE = {"model": "m", "input_usd": 0, "output_usd": "10"}


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **more: Any) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], prices=[PRICE], **more)


def open_rows(gateway: Gateway) -> int:
    with gateway.reading() as database:
        return int(database.execute("SELECT count(*) FROM open_requests").fetchone()[0])


def crashed_copy(home: Path, target: Path) -> None:
    """The state as a crash of the process would leave it now."""
    shutil.copytree(
        home / "state", target / "state", ignore=shutil.ignore_patterns("*.db*", "*.sock", "*.lock")
    )
    with (
        closing(sqlite3.connect(home / "state" / "bluesminds.db")) as source,
        closing(sqlite3.connect(target / "state" / "bluesminds.db")) as copy,
    ):
        source.backup(copy)


async def test_stream_of_a_crashed_process_is_charged_once(
    nursery: trio.Nursery, home: Path, tmp_path: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    person = {"email": "ada@example.com", "password": "a long password"}
    async with gateway.operator() as client:
        user = (await client.post("/api/admin/users", json=person)).json()["id"]
        key = (await client.post("/api/admin/keys", json={"name": "k", "user_id": user})).json()["key"]
        credit = {"kind": "topup", "amount_usd": "1"}
        await client.post(f"/api/admin/users/{user}/credit", json=credit)
    go_on = trio.Event()
    models.plan(streamed(*text_chunks(["word"] * 700), go_on, chunk(finish="stop"), DONE))
    crashed = tmp_path / "crashed"
    async with trio.open_nursery() as clients:
        clients.start_soon(lambda: gateway.chat(STREAM, key=key))

        def has_all() -> bool:
            with gateway.reading() as database:
                row = database.execute("SELECT usage FROM open_requests").fetchone()
            return row is not None and '"output_tokens": 700' in row[0]

        await gateways.eventually(has_all)
        crashed_copy(home, crashed)
        go_on.set()
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["cost_nano"], row["charged_nano"]) == ("ok", 7_000_000, 7_000_000)
    await gateways.eventually(lambda: open_rows(gateway) == 0)

    for _ in range(2):  # the second start finds nothing left
        again = await start(nursery, crashed, models)
        (row,) = again.rows()
        assert (row["outcome"], row["output_tokens"]) == ("crashed", 700)
        assert (row["cost_nano"], row["charged_nano"]) == (7_000_000, 7_000_000)
        async with again.operator() as client:
            balance = (await client.get(f"/api/admin/users/{user}/balance")).json()["balance_usd"]
            proof = (await client.get("/api/admin/ledger/verify")).json()
        assert (balance, proof["ok"]) == ("0.993", True)
        await again.stop()


async def test_row_of_a_settled_request_is_not_settled_again(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    hang = trio.Event()
    models.plan(streamed(*text_chunks(["word"] * 5), hang, chunk(finish="stop"), DONE))
    async with trio.open_nursery() as clients:
        clients.start_soon(lambda: gateway.chat(STREAM))
        await gateways.eventually(lambda: open_rows(gateway) == 1)
        with gateway.reading() as database:
            (left,) = database.execute("SELECT id, at, usage FROM open_requests").fetchall()
        hang.set()
    await gateway.settled(1)
    await gateway.stop()
    with closing(sqlite3.connect(home / "state" / "bluesminds.db")) as database, database:
        database.execute("INSERT OR REPLACE INTO open_requests VALUES (?, ?, ?)", tuple(left))
    again = await start(nursery, home, models)
    assert [row["outcome"] for row in again.rows()] == ["ok"]
    assert open_rows(again) == 0


async def test_short_request_is_never_written_down(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    assert (await gateway.chat(ASK)).status_code == 200
    assert open_rows(gateway) == 0
