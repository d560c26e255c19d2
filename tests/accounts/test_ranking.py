"""Shares of the most used models."""

from types import SimpleNamespace
from typing import Any, cast

import trio
import trio.testing

from bluesminds.accounts.ranking import CACHE_SECONDS, MAX_RANKED, ModelRanking, RankedModel
from bluesminds.accounts.usage import UsageReports


class Reports:
    """The usage totals of a model are twice its figure in `tokens`."""

    def __init__(self, **tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[tuple[int, str]] = []

    async def totals(self, *, days: int, group: str) -> list[Any]:
        self.asked.append((days, group))
        await trio.lowlevel.checkpoint()
        return [
            SimpleNamespace(label=name, input_tokens=count, output_tokens=count)
            for name, count in self.tokens.items()
        ]


def ranking(reports: Reports) -> ModelRanking:
    return ModelRanking(cast(UsageReports, reports))


async def test_rank_is_by_tokens_and_then_by_name() -> None:
    reports = Reports(c=1, a=1, b=6, unused=0, gone=50)
    assert await ranking(reports).rank(["a", "b", "c", "unused"]) == [
        RankedModel("b", 1, 0.75),
        RankedModel("a", 2, 0.125),
        RankedModel("c", 3, 0.125),
    ]
    assert reports.asked == [(30, "model")]


async def test_rank_without_usage_is_empty() -> None:
    assert await ranking(Reports()).rank(["a"]) == []


async def test_rank_is_bounded() -> None:
    names = [f"m{number}" for number in range(MAX_RANKED + 5)]
    ranked = await ranking(Reports(**dict.fromkeys(names, 1))).rank(names)
    assert len(ranked) == MAX_RANKED


async def test_rank_reads_again_only_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    reports = Reports(a=1)
    found = ranking(reports)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(found.rank, ["a"])
    await trio.sleep(CACHE_SECONDS - 1)
    await found.rank(["a"])
    assert len(reports.asked) == 1
    await trio.sleep(1)
    await found.rank(["a"])
    assert len(reports.asked) == 2
