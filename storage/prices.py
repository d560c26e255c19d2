"""Prices that the operator has set. A line is identified by server, model, date, service tier and length."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class PriceRow:
    """`server` and `service_tier` are "" for all servers and the standard tier. `since` and `until` are in
    milliseconds. `rates` is a JSON object.
    """

    server: str
    model: str
    since: int
    service_tier: str
    from_tokens: int
    rates: str
    max_output: int | None
    until: int | None
    updated_at: int


async def select_prices(connection: Connection) -> Sequence[PriceRow]:
    rows = await connection.all(
        """
        SELECT server, model, since, service_tier, from_tokens, rates, max_output, until, updated_at
        FROM prices ORDER BY model, server, since, service_tier, from_tokens
        """
    )
    return [PriceRow(*row) for row in rows]


async def select_price(
    connection: Connection, server: str, model: str, since: int, service_tier: str, from_tokens: int
) -> PriceRow | None:
    row = await connection.one(
        """
        SELECT server, model, since, service_tier, from_tokens, rates, max_output, until, updated_at
        FROM prices
        WHERE server = :server AND model = :model AND since = :since AND service_tier = :service_tier
            AND from_tokens = :from_tokens
        """,
        server=server,
        model=model,
        since=since,
        service_tier=service_tier,
        from_tokens=from_tokens,
    )
    return None if row is None else PriceRow(*row)


async def upsert_price(connection: Connection, row: PriceRow) -> None:
    await connection.many(
        """
        INSERT INTO prices (
            server, model, since, service_tier, from_tokens, rates, max_output, until, updated_at
        ) VALUES (
            :server, :model, :since, :service_tier, :from_tokens, :rates, :max_output, :until, :updated_at
        )
        ON CONFLICT (model, server, since, service_tier, from_tokens) DO UPDATE SET
            rates = excluded.rates, max_output = excluded.max_output, until = excluded.until,
            updated_at = excluded.updated_at
        """,
        [row],
    )


async def delete_price(
    connection: Connection, server: str, model: str, since: int, service_tier: str, from_tokens: int
) -> bool:
    """False: there is no such line."""
    changed = await connection.execute(
        """
        DELETE FROM prices
        WHERE server = :server AND model = :model AND since = :since AND service_tier = :service_tier
            AND from_tokens = :from_tokens
        """,
        server=server,
        model=model,
        since=since,
        service_tier=service_tier,
        from_tokens=from_tokens,
    )
    return changed == 1
