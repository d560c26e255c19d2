"""Selection of servers: priority, ejection and weights."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation, find_operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.policies import Target, select_targets

CHAT = find_operation("POST", "/chat/completions")


def server(name: str, *, weight: int = 1, priority: int = 0, models: tuple[str, ...] = ("m",)) -> Server:
    return Server(
        name=name, dialect="openai", url="http://x/v1", api_key=None, models=models, weight=weight,
        priority=priority, origin="file",
    )  # fmt: skip


def order(servers: list[Server], *, ejected: tuple[str, ...] = (), seed: int = 1) -> list[str]:
    targets = select_targets(
        ModelCatalog(servers, {}),
        CHAT,
        "m",
        usable=lambda name: name not in ejected,
        random=random.Random(seed).random,  # noqa: S311
    )
    return [target.server.name for target in targets]


def test_targets_are_sorted_by_priority() -> None:
    servers = [server("c", priority=7), server("a", priority=-1), server("b", priority=0)]
    for seed in range(20):
        assert order(servers, seed=seed) == ["a", "b", "c"]


def test_ejected_servers_come_last() -> None:
    servers = [server("a", priority=0), server("b", priority=1), server("c", priority=2)]
    assert order(servers, ejected=("a",)) == ["b", "c", "a"]
    assert order(servers, ejected=("a", "b", "c")) == ["a", "b", "c"]
    assert order([server("only")], ejected=("only",)) == ["only"]


def test_weights_set_probability_of_every_order() -> None:
    weights = {"a": 1, "b": 2, "c": 5}
    servers = [server(name, weight=weight) for name, weight in weights.items()]
    runs = 20_000
    counts = Counter(tuple(order(servers, seed=seed)) for seed in range(runs))
    for first, second, third in permutations(weights):
        rest = weights[second] + weights[third]
        expected = weights[first] / 8 * weights[second] / rest
        assert counts[first, second, third] / runs == pytest.approx(expected, abs=0.015)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(-3, 3)), min_size=1, max_size=8), st.randoms())
def test_targets_contain_every_server_once(servers: list[tuple[int, int]], source: random.Random) -> None:
    servers = [
        server(str(n), weight=weight, priority=priority) for n, (weight, priority) in enumerate(servers)
    ]
    targets = select_targets(
        ModelCatalog(servers, {}), CHAT, "m", usable=lambda name: True, random=source.random
    )
    assert sorted(target.server.name for target in targets) == sorted(one.name for one in servers)
    priorities = [target.server.priority for target in targets]
    assert priorities == sorted(priorities)


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        select(ModelCatalog([server("a")], {}), "x" * 300)
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
    assert len(caught.value.message) < 300
    with pytest.raises(NotFound, match="No server is configured"):
        select(ModelCatalog([], {}), "m")


def test_model_whose_servers_lack_the_endpoint_is_unsupported() -> None:
    anthropic = structs.replace(server("a"), dialect="anthropic")
    embeddings = find_operation("POST", "/embeddings")
    with pytest.raises(NotFound, match="/v1/embeddings") as caught:
        select(ModelCatalog([anthropic], {}), "m", embeddings)
    assert (caught.value.code, caught.value.param) == ("unsupported_endpoint", "model")
    both = ModelCatalog([anthropic, server("b", priority=9)], {})
    assert [target.server.name for target in select(both, "m", embeddings)] == ["b"]


def select(catalog: ModelCatalog, model: str, operation: Operation | None = None) -> Sequence[Target]:
    return select_targets(catalog, operation or CHAT, model, usable=lambda name: True, random=random.random)
