"""New costs of requests that were settled with another price.

Usage rows stay as they are. Each change of a cost is a row of `usage_adjustments`, with a number that counts
the changes of this request, and changes the sums. The last row has the current cost. If the request was paid
with prepaid credit, the ledger has an entry with the id of `entry_id`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from storage.base import Connection
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list
from storage.ledger import CHECKED, REVENUE, LedgerRow, wallet_account
from storage.usage import DAY, HOUR, USAGE_COLUMNS, UsageRow, usage_row


@dataclass(frozen=True, slots=True)
class AdjustmentRow:
    """`cost_nano` is the new cost and `charged_nano` what is now paid of it, None if the account has no
    prepaid credit. `posted_nano`: the change of the balance.
    """

    usage_id: str
    number: int
    usage_at: int
    user_id: str
    at: int
    cost_nano: int
    price_version: str
    charged_nano: int | None
    posted_nano: int

    @property
    def entry_id(self) -> str:
        return f"reprice:{self.usage_id}:{self.number}"

    def entry(self) -> LedgerRow:
        """What it posts. `posted_nano` must not be 0."""
        wallet = wallet_account(self.user_id)
        given_back = self.posted_nano > 0
        return LedgerRow(
            id=self.entry_id,
            at=self.at,
            kind="adjustment",
            debit=REVENUE if given_back else wallet,
            credit=wallet if given_back else REVENUE,
            amount_nano=abs(self.posted_nano),
            user_id=self.user_id,
            reference=self.usage_id,
            detail="{}",
        )


@dataclass(frozen=True, slots=True)
class SumChange:
    """What changes in the sums of one group: `nano` more, and `priced` requests that have a price now."""

    hour: int
    day: int
    key_id: str
    user_id: str
    model: str
    server: str
    nano: int
    priced: int


def sum_change(row: UsageRow, before: int | None, after: int) -> SumChange:
    """`before` and `after`: the costs in nano-USD; None: there was no price."""
    hour, day = row.at - row.at % HOUR, row.at - row.at % DAY
    counts = (row.input_tokens, row.output_tokens, row.images, row.audio_ms, row.characters)
    priced = before is None and any(counts)
    return SumChange(
        *(hour, day, row.key_id, row.user_id, row.model, row.server),
        nano=after - (before or 0),
        priced=int(priced),
    )


SELECT_AFTER = (
    "SELECT"
    + USAGE_COLUMNS
    + "FROM usage WHERE (at, id) > (:at, :id) AND at < :until ORDER BY at, id LIMIT :limit"
)


async def select_rows_after(
    connection: Connection, at: int, id_: str, until: int, limit: int
) -> Sequence[UsageRow]:
    """Usage rows above the position `(at, id)`, before `until`, oldest first."""
    rows = await connection.all(SELECT_AFTER, at=at, id=id_, until=until, limit=limit)
    return [usage_row(row) for row in rows]


_ADJUSTMENTS: Final[LiteralString] = """
    SELECT usage_id, number, usage_at, user_id, at, cost_nano, price_version, charged_nano, posted_nano
    FROM usage_adjustments WHERE usage_id"""


async def select_last_adjustments(
    connection: Connection, rows: Sequence[UsageRow]
) -> dict[str, AdjustmentRow]:
    """The last adjustment of each usage row that has one, by the id of the row."""
    if not rows:
        return {}
    within = IN_SQLITE if connection.engine == "sqlite" else IN_POSTGRES
    ids = id_list(connection, [row.id for row in rows])
    found = await connection.all(_ADJUSTMENTS + within + " ORDER BY usage_id, number", ids=ids)
    return {row[0]: AdjustmentRow(*row) for row in found}


async def insert_adjustments(
    connection: Connection, rows: Sequence[AdjustmentRow], changes: Sequence[SumChange]
) -> None:
    """Insert the rows, and change the sums. Raises IntegrityError if one of them exists."""
    await connection.many(
        """
        INSERT INTO usage_adjustments (
            usage_id, number, usage_at, user_id, at, cost_nano, price_version, charged_nano, posted_nano
        ) VALUES (
            :usage_id, :number, :usage_at, :user_id, :at, :cost_nano, :price_version, :charged_nano,
            :posted_nano
        )
        """,
        rows,
    )
    for statement in _CHANGE_SUMS:
        await connection.many(statement, changes)


_SET: Final[LiteralString] = " SET cost_nano = cost_nano + :nano, unpriced = unpriced - :priced WHERE "
_EACH: Final[LiteralString] = (
    " AND key_id = :key_id AND user_id = :user_id AND model = :model AND server = :server"
)
_SITE: Final[LiteralString] = " AND model = :model AND server = :server"
_CHANGE_SUMS: Final[tuple[LiteralString, ...]] = (
    "UPDATE usage_hourly" + _SET + "bucket_start = :hour" + _EACH,
    "UPDATE usage_daily" + _SET + "bucket_start = :day" + _EACH,
    "UPDATE usage_site_hourly" + _SET + "bucket_start = :hour" + _SITE,
    "UPDATE usage_site_daily" + _SET + "bucket_start = :day" + _SITE,
    "UPDATE usage_key_daily" + _SET + "bucket_start = :day AND key_id = :key_id AND user_id = :user_id",
)


async def check_adjustments(
    connection: Connection, after: tuple[str, int], limit: int = CHECKED
) -> tuple[str | None, tuple[str, int] | None]:
    """Of `limit` adjustments after the position `(usage_id, number)`: one whose entry in the ledger is
    missing or different, by the id of the entry. Also returns the next position, None at the end.
    """
    found = await connection.one(
        """
        WITH page AS (
            SELECT usage_id, number, user_id, posted_nano FROM usage_adjustments
            WHERE (usage_id, number) > (:usage_id, :number) ORDER BY usage_id, number LIMIT :limit
        )
        SELECT
            (SELECT count(*) FROM page),
            (SELECT usage_id FROM page ORDER BY usage_id DESC, number DESC LIMIT 1),
            (SELECT number FROM page ORDER BY usage_id DESC, number DESC LIMIT 1),
            (
                SELECT 'reprice:' || usage_id || ':' || number
                FROM page LEFT JOIN ledger ON ledger.id = 'reprice:' || usage_id || ':' || number
                WHERE posted_nano <> 0 AND (
                    ledger.id IS NULL OR ledger.user_id <> page.user_id
                    OR posted_nano <> CASE WHEN debit = 'revenue' THEN amount_nano ELSE -amount_nano END
                )
                LIMIT 1
            )
        """,
        usage_id=after[0],
        number=after[1],
        limit=limit,
    )
    count, usage_id, number, wrong = found or (0, "", 0, None)
    return wrong, None if count < limit else (usage_id, number)


async def check_adjustment_entries(
    connection: Connection, after: int, limit: int = CHECKED
) -> tuple[str | None, int | None]:
    """Of `limit` entries after the number `after`: one of a new cost without its adjustment. Also returns the
    next number, None at the end.
    """
    found = await connection.one(
        """
        WITH page AS (
            SELECT seq, id, kind, reference FROM ledger WHERE seq > :after ORDER BY seq LIMIT :limit
        )
        SELECT
            (SELECT count(*) FROM page), (SELECT max(seq) FROM page),
            (
                SELECT page.id FROM page LEFT JOIN usage_adjustments
                    ON usage_id = page.reference AND page.id = 'reprice:' || usage_id || ':' || number
                WHERE page.kind = 'adjustment' AND page.id LIKE 'reprice:%' AND usage_id IS NULL
                LIMIT 1
            )
        """,
        after=after,
        limit=limit,
    )
    count, last, wrong = found or (0, 0, None)
    return wrong, None if count < limit else last
