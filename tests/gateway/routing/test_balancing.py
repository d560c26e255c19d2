"""The policies of routes: how requests are shared, and in which order targets are tried."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.routes import FallbackReason, ModelRoute, Policy, RouteOptions, RouteTarget
from bluesminds.gateway.routing.affinity import load_bound, prompt_key
from bluesminds.gateway.routing.load import FAILURE_SECONDS, MAX_FIGURES, LoadRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest
from bluesminds.gateway.routing.rotation import RotationRegistry, WeightedRotation
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.selection import ModelCandidates
from tests.gateway.routing.test_policies import health_of, server
from tests.gateway.routing.test_selection import select

POLICIES: tuple[Policy, ...] = (
    *("priority", "weighted", "least_latency", "least_busy", "cheapest", "affinity", "region", "pinned"),
)


class SetClock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fleet:
    """Servers a, b, ... with the given weights, and a balancer with a seeded random source."""

    def __init__(
        self,
        policy: Policy,
        weights: dict[str, int],
        *,
        seed: int = 1,
        priorities: dict[str, int] | None = None,
        ejected: tuple[str, ...] = (),
        regions: dict[str, str] | None = None,
        prefer: tuple[str, ...] = (),
    ) -> None:
        targets = tuple(
            RouteTarget(name, weight=weight, priority=(priorities or {}).get(name, 0))
            for name, weight in weights.items()
        )
        servers = [
            structs.replace(server(name, models=()), region=(regions or {}).get(name, "")) for name in weights
        ]
        route = ModelRoute("m", targets, policy, options=RouteOptions(prefer_regions=prefer))
        self.group: ModelCandidates = select(servers, [route], "m").groups[0]
        self.clock = SetClock()
        self.load = LoadRegistry(self.clock)
        self.balancer = Balancer(
            health_of(ejected),
            self.load,
            RotationRegistry(),
            random.Random(seed).random,  # noqa: S311
        )

    def order(
        self,
        *,
        prompt_key: bytes = b"",
        account_key: bytes = b"",
        regions: tuple[str, ...] = (),
        price: Callable[[Target], int | None] = lambda target: None,
        commit: bool = True,
    ) -> list[str]:
        request = RoutedRequest(
            "m",
            stream=True,
            price=price,
            prompt_key=prompt_key,
            account_key=account_key,
            regions=regions,
        )
        return [one.server.name for one in self.balancer.order(self.group, request, commit=commit)]


def test_region_of_the_request_comes_before_that_of_the_route_and_the_others() -> None:
    regions = {"a": "us", "b": "eu", "c": "eu", "d": "asia", "e": ""}
    weights = dict.fromkeys("abcde", 1)
    fleet = Fleet("region", weights, priorities={"c": 1, "a": 5}, regions=regions, prefer=("eu", "us"))
    assert fleet.order()[:3] == ["b", "c", "a"]
    assert set(fleet.order()[3:]) == {"d", "e"}
    assert fleet.order(regions=("asia",))[:4] == ["d", "b", "c", "a"]
    assert fleet.order(regions=("mars", "us"))[:3] == ["a", "b", "c"]
    fleet = Fleet("region", weights, regions=regions, prefer=("eu",), ejected=("b", "c"))
    assert set(fleet.order()[-2:]) == {"b", "c"}, "unhealthy servers come last, also those of the region"


def test_targets_of_one_region_share_requests_by_weight() -> None:
    fleet = Fleet("region", {"a": 1, "b": 3, "c": 9}, regions={"a": "eu", "b": "eu"}, prefer=("eu",))
    counts = Counter(fleet.order()[0] for _ in range(8_000))
    assert set(counts) == {"a", "b"}
    assert abs(counts["b"] / 8_000 - 0.75) < 0.02


def test_pinned_account_stays_at_its_server_while_that_is_healthy() -> None:
    weights = dict.fromkeys("abcd", 1)
    fleet = Fleet("pinned", weights)
    accounts = [prompt_key(f"account-{number}", b"") for number in range(400)]
    first = {account: fleet.order(account_key=account)[0] for account in accounts}
    assert min(Counter(first.values()).values()) > 60, "accounts are spread over the servers"
    for _ in range(20):
        fleet.load.begin("a", "m", stream=True)  # load does not move an account
    assert all(fleet.order(account_key=account)[0] == first[account] for account in accounts)
    other = Fleet("pinned", weights, ejected=("a",))
    moved = {account: other.order(account_key=account)[0] for account in accounts}
    assert all(moved[account] == first[account] for account in accounts if first[account] != "a")
    assert "a" not in moved.values()


def test_smooth_rotation_spreads_turns_evenly() -> None:
    rotation: WeightedRotation[str] = WeightedRotation()
    weights = {"a": 5, "b": 1, "c": 1}
    assert "".join(rotation.next(weights) for _ in range(14)) == "aabacaa" * 2


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=1),
    st.integers(1, 3),
)
def test_rotation_follows_weights_exactly_in_every_cycle(weights: dict[str, int], cycles: int) -> None:
    rotation: WeightedRotation[str] = WeightedRotation()
    total = sum(weights.values())
    for _ in range(cycles):
        assert Counter(rotation.next(weights) for _ in range(total)) == weights


def test_rotation_continues_when_a_target_leaves_and_returns() -> None:
    rotation: WeightedRotation[str] = WeightedRotation()
    turns = [rotation.next({"a": 1, "b": 1, "c": 2}) for _ in range(3)]
    turns += [rotation.next({"a": 1, "b": 1}) for _ in range(100)]
    counts = Counter(turns)
    assert abs(counts["a"] - counts["b"]) <= 2
    peeked = rotation.next({"a": 1, "b": 1}, commit=False)
    assert peeked == rotation.next({"a": 1, "b": 1}, commit=False) == rotation.next({"a": 1, "b": 1})


def chi_square(counts: Counter[str], weights: dict[str, int]) -> float:
    requests, total = counts.total(), sum(weights.values())
    expected = {name: requests * weight / total for name, weight in weights.items()}
    return sum((counts[name] - count) ** 2 / count for name, count in expected.items())


# The 99.9 % quantile of the chi-square distribution with three degrees of freedom.
CHI_SQUARE_3 = 16.27


DRAWN: tuple[Policy, ...] = ("priority", "least_busy", "cheapest")  # equal targets are in random order


@pytest.mark.parametrize(
    ("policy", "requests"),
    [
        ("weighted", 60_000),
        ("affinity", 60_000),
        *((policy, 12_000) for policy in DRAWN),
        *(pytest.param(policy, 60_000, marks=pytest.mark.process) for policy in DRAWN),
    ],
)
def test_requests_follow_weights_within_two_percent(policy: Policy, requests: int) -> None:
    weights = {"a": 1, "b": 2, "c": 3, "d": 6}
    fleet = Fleet(policy, weights)
    source = random.Random(7)  # noqa: S311
    counts = Counter(
        fleet.order(prompt_key=prompt_key("t", source.randbytes(8)) if policy == "affinity" else b"")[0]
        for _ in range(requests)
    )
    for name, weight in weights.items():
        assert counts[name] / requests == pytest.approx(weight / 12, abs=0.02)
    assert chi_square(counts, weights) < CHI_SQUARE_3


def test_requests_of_failing_server_are_shared_by_weight() -> None:
    fleet = Fleet("weighted", {"a": 1, "b": 1, "c": 2})
    second = Counter(order[1] for order in (fleet.order() for _ in range(20_000)) if order[0] == "a")
    assert second["b"] / second.total() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_all_targets_once(policy: Policy) -> None:
    for seed in range(50):
        fleet = Fleet(policy, {"a": 1, "b": 2, "c": 3, "d": 4}, seed=seed, ejected=("b", "c"))
        order = fleet.order(prompt_key=b"key")
        assert sorted(order) == ["a", "b", "c", "d"]
        assert set(order[:2]) == {"a", "d"}, "ejected servers come last"
    everything = Fleet(policy, {"a": 1, "b": 2}, ejected=("a", "b"))
    assert sorted(everything.order()) == ["a", "b"]
    assert Fleet(policy, {"a": 1}).order() == ["a"]


def test_priority_tries_lower_numbers_first() -> None:
    fleet = Fleet("priority", {"a": 1, "b": 1, "c": 1}, priorities={"a": 5, "b": -1, "c": 0})
    assert {tuple(fleet.order()) for _ in range(20)} == {("b", "c", "a")}


def test_order_without_commit_uses_no_turn() -> None:
    fleet = Fleet("weighted", {"a": 1, "b": 1})
    peeked = [fleet.order(commit=False)[0] for _ in range(5)]
    assert len(set(peeked)) == 1
    assert fleet.order()[0] == peeked[0] != fleet.order()[0]


def test_rotations_of_removed_routes_are_dropped() -> None:
    rotations = RotationRegistry()
    kept, dropped = rotations.of("a"), rotations.of("b")
    rotations.keep_only({"a"})
    assert rotations.of("a") is kept
    assert rotations.of("b") is not dropped


def test_least_busy_compares_running_requests_by_weight() -> None:
    fleet = Fleet("least_busy", {"a": 1, "b": 4})
    running = [fleet.load.begin("b", "any", stream=False) for _ in range(3)]
    only = fleet.load.begin("a", "m", stream=True)
    assert {fleet.order()[0] for _ in range(20)} == {"b"}, "3 of 4 are less than 1 of 1"
    only.end()
    assert {fleet.order()[0] for _ in range(20)} == {"a"}
    for one in running:
        one.end()
        one.end()
    assert fleet.load.in_flight("b") == 0


def test_cheapest_price_comes_first_and_unknown_price_last() -> None:
    specs = tuple(RouteTarget(name, f"{name}-model") for name in "abc")
    servers = [server(name, models=()) for name in "abc"]
    fleet = Fleet("cheapest", {"a": 1})
    fleet.group = select(servers, [ModelRoute("m", specs, "cheapest")], "m").groups[0]
    prices = {"a-model": 30, "c-model": 20}
    for _ in range(20):
        assert fleet.order(price=lambda target: prices.get(target.model)) == ["c", "a", "b"]


def test_least_latency_prefers_the_faster_of_two() -> None:
    fleet = Fleet("least_latency", {"a": 1, "b": 1})
    for name, seconds in (("a", 0.2), ("b", 0.6)):
        attempt = fleet.load.begin(name, "m", stream=True)
        fleet.clock.now += seconds
        attempt.answered()
        attempt.end()
    assert {fleet.order()[0] for _ in range(20)} == {"a"}
    busy = [fleet.load.begin("a", "m", stream=True) for _ in range(3)]
    assert {fleet.order()[0] for _ in range(20)} == {"b"}, "0.2 s x 4 is more than 0.6 s x 1"
    busy.pop().end()
    busy.pop().end()
    assert {fleet.order()[0] for _ in range(20)} == {"a"}


def test_least_latency_shares_requests_among_equal_servers() -> None:
    fleet = Fleet("least_latency", {"a": 1, "b": 1, "c": 1, "d": 1})
    counts: Counter[str] = Counter()
    for _ in range(4000):
        name = fleet.order()[0]
        counts[name] += 1
        attempt = fleet.load.begin(name, "m", stream=True)
        fleet.clock.now += 0.1
        attempt.answered()
        attempt.end()
    assert min(counts.values()) > 4000 / 4 * 0.7


def test_slow_server_gets_few_requests() -> None:
    fleet = Fleet("least_latency", {"a": 1, "b": 1, "c": 1})
    seconds = {"a": 0.1, "b": 0.1, "c": 2.0}
    counts: Counter[str] = Counter()
    for _ in range(3000):
        name = fleet.order()[0]
        counts[name] += 1
        attempt = fleet.load.begin(name, "m", stream=True)
        fleet.clock.now += seconds[name]
        attempt.answered()
        attempt.end()
    assert counts["c"] < 3000 * 0.03


def test_unknown_latency_is_tried_by_one_request_at_a_time() -> None:
    load = LoadRegistry(SetClock())
    assert load.expected_seconds("a", "m", stream=True) == 0
    load.begin("a", "m", stream=True)
    assert load.expected_seconds("a", "m", stream=True) == inf
    assert load.expected_seconds("a", "other", stream=True) == 0
    assert load.expected_seconds("a", "m", stream=False) == 0


def test_peak_counts_at_once_and_decays() -> None:
    clock = SetClock()
    load = LoadRegistry(clock)

    def answer(seconds: float) -> None:
        attempt = load.begin("a", "m", stream=True)
        clock.now += seconds
        attempt.answered()
        attempt.end()

    def figure() -> float:
        return load.expected_seconds("a", "m", stream=True)

    answer(1.0)
    assert figure() == 1.0
    answer(3.0)
    assert figure() == 3.0
    answer(1.0)
    assert 2.7 < figure() < 3.0
    clock.now += 100.0
    assert figure() < 0.001


def test_fast_failures_do_not_attract_requests() -> None:
    load = LoadRegistry(SetClock())
    attempt = load.begin("a", "m", stream=True)
    attempt.failed()
    attempt.end()
    assert load.expected_seconds("a", "m", stream=True) == FAILURE_SECONDS


def test_hanging_server_does_not_attract_requests() -> None:
    fleet = Fleet("least_latency", {"a": 1, "b": 1})
    for name in "ab":
        attempt = fleet.load.begin(name, "m", stream=True)
        fleet.clock.now += 0.2
        attempt.answered()
        attempt.end()
    fleet.clock.now += 100.0  # the figures have decayed
    hanging = fleet.load.begin("a", "m", stream=True)
    fleet.clock.now += 0.5
    answered = fleet.load.begin("b", "m", stream=True)
    fleet.clock.now += 0.2
    answered.answered()
    assert {fleet.order()[0] for _ in range(20)} == {"b"}, "0.2 s x 2 is less than 0.7 s x 2"
    hanging.end()
    answered.end()
    assert {fleet.order()[0] for _ in range(20)} == {"a"}, "a request that was cancelled is no answer"


def test_load_figures_are_bounded_and_follow_servers() -> None:
    load = LoadRegistry(SetClock())
    for number in range(MAX_FIGURES + 5):
        attempt = load.begin("a", f"m{number}", stream=True)
        attempt.failed()
        attempt.end()
    assert load.expected_seconds("a", "m0", stream=True) == 0
    assert load.expected_seconds("a", f"m{MAX_FIGURES}", stream=True) == FAILURE_SECONDS
    load.keep_only({"b"})
    assert load.expected_seconds("a", f"m{MAX_FIGURES}", stream=True) == 0


CONVERSATIONS, TURNS = 64, 40


def test_affinity_keeps_turns_of_conversation_on_one_server_under_load() -> None:
    """64 conversations run at once; each has one request at a time, and they end in random order."""
    fleet = Fleet("affinity", {"a": 1, "b": 1, "c": 1})
    source = random.Random(5)  # noqa: S311
    keys = [prompt_key(f"tenant-{n % 7}", b"You are helpful.\0%d" % n) for n in range(CONVERSATIONS)]
    served: list[Counter[str]] = [Counter() for _ in keys]
    running = {}
    for _ in range(CONVERSATIONS * TURNS):
        turn = source.randrange(CONVERSATIONS)
        if turn in running:
            running.pop(turn).end()
        name = fleet.order(prompt_key=keys[turn])[0]
        served[turn][name] += 1
        running[turn] = fleet.load.begin(name, "m", stream=True)
    kept = sum(max(counts.values()) for counts in served if counts)
    assert kept / (CONVERSATIONS * TURNS) >= 0.95
    assert len({counts.most_common(1)[0][0] for counts in served if counts}) == 3


def test_affinity_bounds_load_of_one_prompt() -> None:
    fleet = Fleet("affinity", {"a": 1, "b": 1, "c": 1, "d": 1})
    counts: Counter[str] = Counter()
    for _ in range(200):
        name = fleet.order(prompt_key=prompt_key("t", b"the same prompt"))[0]
        fleet.load.begin(name, "m", stream=True)
        counts[name] += 1
    assert max(counts.values()) <= load_bound(200, 1, 4) + 1


def test_affinity_moves_only_requests_of_missing_server() -> None:
    names = {"a": 1, "b": 1, "c": 1}
    full, without = Fleet("affinity", names), Fleet("affinity", names, ejected=("c",))
    moved = 0
    for number in range(300):
        key = prompt_key("t", b"%d" % number)
        before, after = full.order(prompt_key=key), without.order(prompt_key=key)
        if before[0] != "c":
            assert before[0] == after[0]
        else:
            moved += 1
            assert after[0] == before[1]
    assert 60 < moved < 140


def test_affinity_separates_tenants() -> None:
    fleet = Fleet("affinity", dict.fromkeys("abcdefgh", 1))
    servers = {fleet.order(prompt_key=prompt_key(f"tenant-{n}", b"the same"))[0] for n in range(50)}
    assert len(servers) > 4
    assert prompt_key("x" * 100, b"a") != prompt_key("x" * 100, b"b")


def test_affinity_without_prompt_shares_by_weight() -> None:
    fleet = Fleet("affinity", {"a": 1, "b": 3})
    counts = Counter(fleet.order()[0] for _ in islice(iter(int, 1), 10_000))
    assert counts["b"] / 10_000 == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("reasons", "first"), [(("error", "limit"), "n"), (("error",), "m"), (("limit",), "m")]
)
def test_model_at_a_limit_is_replaced_only_if_the_route_allows_it(
    reasons: tuple[FallbackReason, ...], first: str
) -> None:
    routes = [
        ModelRoute("m", (RouteTarget("a"),), fallback=("n",), fallback_on=reasons),
        ModelRoute("n", (RouteTarget("b"),)),
    ]
    selection = select([server("a", models=()), server("b", models=())], routes, "m")
    health = health_of()
    health.rest("a", "m", 60)
    balancer = Balancer(health, LoadRegistry(SetClock()), RotationRegistry(), random.random)
    request = RoutedRequest("m", stream=True, price=lambda target: None)
    preview = RoutedTargets(routes[0], selection, balancer, request).preview()
    assert preview[0][0].model == first
