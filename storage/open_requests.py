"""Requests that run for more than a second: what they have used so far. After a crash they are settled so.

A row that is left over from a settled request does no harm: its usage row exists already.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from storage.base import Connection
from storage.ledger import lock_ledger_head, select_wallet
from storage.usage import UsageRow, insert_batch


@dataclass(frozen=True, slots=True)
class OpenRequestRow:
    """`usage` is the usage row as JSON, as if the request had ended at the time of writing. Its
    `charged_nano` is the cost.
    """

    id: str
    at: int
    usage: str


def open_request(row: UsageRow) -> OpenRequestRow:
    return OpenRequestRow(row.id, row.at, json.dumps(asdict(row)))


async def store_open_requests(connection: Connection, rows: Sequence[OpenRequestRow]) -> set[str]:
    """Write the rows, and delete those whose usage row is stored. Returns the ids that are left."""
    await connection.execute(
        """
        DELETE FROM open_requests
        WHERE EXISTS (SELECT 1 FROM usage WHERE usage.at = open_requests.at AND usage.id = open_requests.id)
        """
    )
    if rows:
        await connection.many(
            """
            INSERT INTO open_requests (id, at, usage) VALUES (:id, :at, :usage)
            ON CONFLICT (id) DO UPDATE SET usage = excluded.usage
            """,
            rows,
        )
    return {str(row[0]) for row in await connection.all("SELECT id FROM open_requests")}


async def settle_open_requests(connection: Connection) -> int:
    """Settle the requests of a process that has crashed. Returns their number. Prepaid credit pays their cost
    as far as it lasts.
    """
    await lock_ledger_head(connection)
    left = await connection.all(
        """
        SELECT usage FROM open_requests
        WHERE NOT EXISTS (
            SELECT 1 FROM usage WHERE usage.at = open_requests.at AND usage.id = open_requests.id
        )
        ORDER BY at, id
        """
    )
    await connection.execute("DELETE FROM open_requests")
    rows = [UsageRow(**json.loads(text)) for (text,) in left]
    await insert_batch(connection, await _affordable(connection, rows))
    return len(rows)


async def _affordable(connection: Connection, rows: Sequence[UsageRow]) -> list[UsageRow]:
    """The rows, in their order, with charges that do not exceed the balances."""
    balances: dict[str, int] = {}
    charged = []
    for row in rows:
        if row.charged_nano is not None:
            if row.user_id not in balances:
                wallet = await select_wallet(connection, row.user_id)
                balances[row.user_id] = 0 if wallet is None else wallet.balance_nano
            nano = max(0, min(row.charged_nano, balances[row.user_id]))
            balances[row.user_id] -= nano
            row = replace(row, charged_nano=nano)
        charged.append(row)
    return charged
