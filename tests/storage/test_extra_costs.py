"""The costs of the day for hedged requests and copies outlast a restart, on both engines."""

from bluesminds.gateway.upstream.extra_budget import DAY_MS, ExtraBudget
from bluesminds.gateway.upstream.extra_costs import ExtraCosts
from storage import Store

NOON = 20_000 * DAY_MS + DAY_MS // 2


class SetClock:
    """The time that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def now_ms(self) -> int:
        return self.now


class Process:
    """The budgets of one process."""

    def __init__(self, store: Store, clock: SetClock) -> None:
        self.clock = clock
        self.hedges, self.copies = ExtraBudget(), ExtraBudget()
        self.costs = ExtraCosts(store, clock, self.hedges, self.copies)

    def take(self, budget: ExtraBudget, route: str = "m") -> int:
        """How many requests of 30 are allowed with 100 a day."""
        for _ in range(10):
            budget.add_request(route, 1.0)
        return sum(budget.take(route, self.clock.now, 30, 100) for _ in range(5))


async def test_costs_of_the_day_outlast_a_restart(store: Store) -> None:
    clock = SetClock()
    first = Process(store, clock)
    assert first.take(first.hedges) == 3
    first.copies.add_request("m", 1.0)
    assert first.copies.take("m", clock.now, 60, 100)
    await first.costs.write()
    first.copies.correct("m", clock.now, -20)
    await first.costs.write()

    second = Process(store, clock)
    await second.costs.load()
    assert (second.take(second.hedges), second.take(second.copies)) == (0, 2)
    assert second.take(second.hedges, "other") == 3

    clock.now += DAY_MS
    await second.costs.write()
    third = Process(store, clock)
    await third.costs.load()
    assert (third.take(third.hedges), third.take(third.copies)) == (3, 3)


async def test_share_starts_again_after_a_restart(store: Store) -> None:
    first = Process(store, SetClock())
    assert first.take(first.hedges) == 3
    await first.costs.write()
    second = Process(store, first.clock)
    await second.costs.load()
    second.hedges.add_request("m", 0.0)
    assert not second.hedges.take("m", NOON, 0, 100)
