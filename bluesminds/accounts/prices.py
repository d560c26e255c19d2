"""The operator's prices in the database."""

from collections.abc import Sequence

import msgspec

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.errors import NotFound
from bluesminds.common.money import Rates
from bluesminds.common.prices import PriceLine, rate_texts, write_day
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.prices import PriceRow, delete_price, select_price, select_prices, upsert_price

_rates = msgspec.json.Decoder(Rates)


class Prices:
    """Changes apply to requests that arrive after them."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def load(self) -> Sequence[PriceLine]:
        return [_line(row) for row in await self._store.read(select_prices)]

    async def set(self, actor: Actor, line: PriceLine) -> None:
        """Add a line, or replace the one with the same key."""
        row = PriceRow(
            *line.key,
            msgspec.json.encode(line.rates).decode(),
            line.max_output,
            line.until,
            self._clock.now_ms(),
        )
        await self._store.write(_set, self._clock, actor, row)

    async def remove(self, actor: Actor, key: tuple[str, str, int, str, int]) -> None:
        """`key` as in PriceLine. Raises NotFound."""
        await self._store.write(_remove, self._clock, actor, key)


def _line(row: PriceRow) -> PriceLine:
    return PriceLine(
        model=row.model,
        rates=_rates.decode(row.rates),
        server=row.server,
        since=row.since,
        service_tier=row.service_tier,
        from_tokens=row.from_tokens,
        max_output=row.max_output,
        until=row.until,
    )


async def _set(connection: Connection, clock: Clock, actor: Actor, row: PriceRow) -> None:
    await lock_audit_head(connection)
    key = (row.server, row.model, row.since, row.service_tier, row.from_tokens)
    before = await select_price(connection, *key)
    shown = None if before is None else _audit_fields(_line(before))
    await insert_audit(
        connection, entry(clock, actor, "price.set", row.model, before=shown, after=_audit_fields(_line(row)))
    )
    await upsert_price(connection, row)


async def _remove(
    connection: Connection, clock: Clock, actor: Actor, key: tuple[str, str, int, str, int]
) -> None:
    await lock_audit_head(connection)
    before = await select_price(connection, *key)
    if before is None:
        raise NotFound(
            "price_not_found",
            "There is no such price in the database. GET /api/admin/prices lists the prices.",
        )
    shown = _audit_fields(_line(before))
    await insert_audit(connection, entry(clock, actor, "price.remove", before.model, before=shown))
    await delete_price(connection, *key)


def _audit_fields(line: PriceLine) -> dict[str, object]:
    rates = {name: text for name, text in rate_texts(line.rates).items() if text is not None}
    return {
        "server": line.server,
        "since": write_day(line.since) if line.since else "",
        "until": "" if line.until is None else write_day(line.until),
        "service_tier": line.service_tier,
        "from_tokens": line.from_tokens,
        **rates,
        "max_output_tokens": line.max_output,
    }
