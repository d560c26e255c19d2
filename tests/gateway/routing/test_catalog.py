"""Which servers are tried, and in which order."""

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ModelCatalog, select_targets
from bluesminds.providers.openai import ModelRow


def server(name: str, *, weight: int = 1, priority: int = 0, models: tuple[str, ...] = ("m",)) -> Server:
    return Server(
        name=name, dialect="openai", url="http://x/v1", api_key=None, models=models, weight=weight,
        priority=priority, origin="file",
    )  # fmt: skip


def order(servers: list[Server], *, ejected: tuple[str, ...] = (), seed: int = 1) -> list[str]:
    dice = random.Random(seed).random  # noqa: S311
    chosen = select_targets(
        ModelCatalog(servers, {}), "m", usable=lambda name: name not in ejected, dice=dice
    )
    return [one.name for one in chosen]


def test_a_lower_priority_number_comes_first() -> None:
    servers = [server("c", priority=7), server("a", priority=-1), server("b", priority=0)]
    for seed in range(20):
        assert order(servers, seed=seed) == ["a", "b", "c"]


def test_ejected_servers_come_last_and_are_not_lost() -> None:
    servers = [server("a", priority=0), server("b", priority=1), server("c", priority=2)]
    assert order(servers, ejected=("a",)) == ["b", "c", "a"]
    assert order(servers, ejected=("a", "b", "c")) == ["a", "b", "c"]
    assert order([server("only")], ejected=("only",)) == ["only"]


def test_weights_are_the_odds_of_every_place() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    servers = [server(name, weight=weight) for name, weight in weights.items()]
    rolls = 20_000
    counts = Counter(tuple(order(servers, seed=seed)) for seed in range(rolls))
    for first, second, third in permutations(weights):
        rest = weights[second] + weights[third]
        expected = weights[first] / 8 * weights[second] / rest
        assert counts[first, second, third] / rolls == pytest.approx(expected, abs=0.015)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(-3, 3)), min_size=1, max_size=8), st.randoms())
def test_every_server_appears_once(wanted: list[tuple[int, int]], dice: random.Random) -> None:
    servers = [
        server(str(n), weight=weight, priority=priority) for n, (weight, priority) in enumerate(wanted)
    ]
    chosen = select_targets(ModelCatalog(servers, {}), "m", usable=lambda name: True, dice=dice.random)
    assert sorted(one.name for one in chosen) == sorted(one.name for one in servers)
    assert [one.priority for one in chosen] == sorted(one.priority for one in chosen)


def test_a_model_named_twice_is_offered_once() -> None:
    assert order([server("a", models=("m", "m")), server("b", priority=1)]) == ["a", "b"]
    twice = ModelCatalog([server("asked", models=())], {"asked": [ModelRow("m"), ModelRow("m", 5)]})
    assert [one.name for one in twice.servers_for("m")] == ["asked"]
    assert len(twice.models()) == 1


def test_a_model_nobody_offers() -> None:
    with pytest.raises(NotFound) as caught:
        select_targets(
            ModelCatalog([server("a")], {}), "x" * 300, usable=lambda name: True, dice=random.random
        )
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert len(caught.value.message) < 300
    with pytest.raises(NotFound, match="No server is configured"):
        select_targets(ModelCatalog([], {}), "m", usable=lambda name: True, dice=random.random)


def test_what_servers_say_they_have_fills_the_catalogue() -> None:
    found = {
        "asked": [ModelRow("b", 5, "them"), ModelRow("m")],
        "named": [ModelRow("hidden")],
        "gone": [ModelRow("x")],
    }
    catalog = ModelCatalog([server("named"), server("asked", models=())], found)
    assert [row.id for row in catalog.models()] == ["b", "m"]
    assert [one.name for one in catalog.servers_for("m")] == ["named", "asked"]
    assert catalog.model("b") == ModelRow("b", 5, "them")
    assert catalog.model("hidden") is None
