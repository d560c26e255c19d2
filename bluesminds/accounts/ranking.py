"""The most used models, as shares. Absolute figures stay with the operator."""

from collections.abc import Collection, Sequence
from typing import Final

import trio
from msgspec import Struct

from bluesminds.accounts.usage import UsageReports

RANKED_DAYS: Final = 30
CACHE_SECONDS: Final = 300.0
MAX_RANKED: Final = 100


class RankedModel(Struct, frozen=True):
    """`share`: of the tokens of all ranked models, from 0 to 1, rounded to four digits."""

    model: str
    rank: int
    share: float


class ModelRanking:
    """Reads the usage totals at most every CACHE_SECONDS."""

    def __init__(self, reports: UsageReports) -> None:
        self._reports = reports
        self._lock = trio.Lock()
        self._tokens: dict[str, int] = {}
        self._until = -1.0  # Trio's clock

    async def rank(self, offered: Collection[str]) -> Sequence[RankedModel]:
        """The most used of the `offered` models. Other names are left out, because they may be private."""
        async with self._lock:
            if trio.current_time() >= self._until:
                rows = await self._reports.totals(days=RANKED_DAYS, group="model")
                self._tokens = {row.label: row.input_tokens + row.output_tokens for row in rows}
                self._until = trio.current_time() + CACHE_SECONDS
        used = [(model, tokens) for model, tokens in self._tokens.items() if tokens and model in offered]
        used = sorted(used, key=lambda one: (-one[1], one[0]))[:MAX_RANKED]
        total = sum(tokens for _, tokens in used)
        return [
            RankedModel(model, rank, round(tokens / total, 4))
            for rank, (model, tokens) in enumerate(used, start=1)
        ]
