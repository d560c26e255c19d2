"""Keeps what routes have spent in this day for hedged requests and copies, so that a restart does not raise
their bounds. A crash loses the last seconds.
"""

from collections.abc import Mapping
from typing import Final

from bluesminds.common.clock import Clock
from bluesminds.gateway.receipts import HEDGED, SHADOW
from bluesminds.gateway.upstream.extra_budget import DAY_MS, ExtraBudget
from storage.base import Store
from storage.extra_costs import ExtraCostRow, select_extra_costs, store_extra_costs
from storage.rounds import run_rounds

ROUND: Final = 5.0  # seconds between two rounds


class ExtraCosts:
    def __init__(self, store: Store, clock: Clock, hedges: ExtraBudget, copies: ExtraBudget) -> None:
        self._store = store
        self._clock = clock
        self._budgets: Mapping[str, ExtraBudget] = {HEDGED: hedges, SHADOW: copies}

    async def load(self) -> None:
        """Raises StorageError."""
        day = self._clock.now_ms() // DAY_MS
        rows = await self._store.read(select_extra_costs, day)
        for kind, budget in self._budgets.items():
            budget.restore(day, {row.route: row.nano for row in rows if row.kind == kind})

    async def run(self) -> None:
        """Run until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.write, ROUND, waits_first=True)

    async def write(self) -> None:
        """Write what has changed. Raises StorageError."""
        changed = {kind: budget.changed for kind, budget in self._budgets.items() if budget.changed}
        if not changed:
            return
        day = self._clock.now_ms() // DAY_MS
        rows = [
            ExtraCostRow(kind, route, day, nano)
            for kind, routes in changed.items()
            for route, nano in self._budgets[kind].costs(day, routes).items()
        ]
        for kind in changed:  # before the write, during which more can change
            self._budgets[kind].changed = set()
        try:
            await self._store.write(store_extra_costs, rows, day)
        except BaseException:
            for kind, routes in changed.items():
                self._budgets[kind].changed |= routes
            raise
