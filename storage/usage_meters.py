"""The two meters: the gateway's own count and price, and what servers report of the same requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class MeterRow:
    """Sums over the requests to a model at a server. `compared` requests have both counts of tokens, `costed`
    ones both costs. Output is only of requests without reasoning. `own_cost_nano` is without a markup.
    `quarantined` requests had a report that was not used.
    """

    model: str
    server: str
    compared: int
    own_input: int
    reported_input: int
    own_output: int
    reported_output: int
    costed: int
    own_cost_nano: int
    reported_cost_nano: int
    quarantined: int


async def select_meters(
    connection: Connection, since: int, until: int, model: str = "", server: str = ""
) -> Sequence[MeterRow]:
    """Sums of the days (UTC) that start in [since, until), in milliseconds, ordered by model and server."""
    rows = await connection.all(SELECT_METERS, since=since, until=until, model=model, server=server)
    return [MeterRow(*row) for row in rows]


SELECT_METERS: Final[LiteralString] = """
    SELECT
        model, server,
        CAST(SUM(compared) AS BIGINT),
        CAST(SUM(own_input) AS BIGINT), CAST(SUM(reported_input) AS BIGINT),
        CAST(SUM(own_output) AS BIGINT), CAST(SUM(reported_output) AS BIGINT),
        CAST(SUM(costed) AS BIGINT),
        CAST(SUM(own_cost_nano) AS BIGINT), CAST(SUM(reported_cost_nano) AS BIGINT),
        CAST(SUM(quarantined) AS BIGINT)
    FROM usage_meters
    WHERE bucket_start >= :since AND bucket_start < :until
        AND (CAST(:model AS TEXT) = '' OR model = :model)
        AND (CAST(:server AS TEXT) = '' OR server = :server)
    GROUP BY 1, 2 ORDER BY 1, 2
"""
