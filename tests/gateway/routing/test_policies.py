"""Selection of servers: priority, ejection and weights."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.gateway.operations import OPERATIONS, Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.gateway.routing.policies import select_targets
from bluesminds.wire.models import ModelRow

BY_PATH = {operation.path: operation for operation in OPERATIONS}
CHAT = BY_PATH["/v1/chat/completions"]


def server(name: str, *, weight: int = 1, priority: int = 0, models: tuple[str, ...] = ("m",)) -> Server:
    return Server(
        name=name, dialect="openai", url="http://x/v1", api_key=None, models=models, weight=weight,
        priority=priority, origin="file",
    )  # fmt: skip


def health_of(ejected: tuple[str, ...] = ()) -> ServerHealthRegistry:
    """The servers are ejected for the model "m"."""
    health = ServerHealthRegistry(eject_after=1, eject_seconds=3600, monotonic=lambda: 0.0)
    for name in ejected:
        health.record_failure(name, "m", "500")
    return health


def order(servers: list[Server], *, ejected: tuple[str, ...] = (), seed: int = 1) -> list[str]:
    targets = select_targets(
        ModelCatalog(servers, {}),
        CHAT,
        "m",
        health=health_of(ejected),
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
    assert order(servers, ejected=("a", "b", "c")) == ["b", "c", "a"], "at most half are left out"
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
    targets = select_targets(ModelCatalog(servers, {}), CHAT, "m", health=health_of(), random=source.random)
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


def test_unknown_model_beside_servers_without_models_names_their_number() -> None:
    silent = [server("a"), server("b", models=()), server("c", models=())]
    with pytest.raises(NotFound, match="2 servers listed no models and may be down"):
        select(ModelCatalog(silent, {}), "x")
    with pytest.raises(NotFound, match="1 server listed no models and may be down"):
        select(ModelCatalog(silent, {"c": [ModelRow("m")]}), "x")
    with pytest.raises(NotFound, match=r"available models\.$"):
        select(ModelCatalog([server("a")], {}), "x")


def test_model_whose_servers_lack_the_endpoint_is_unsupported() -> None:
    anthropic = structs.replace(server("a"), dialect="anthropic")
    embeddings = BY_PATH["/v1/embeddings"]
    with pytest.raises(NotFound, match="/v1/embeddings") as caught:
        select(ModelCatalog([anthropic], {}), "m", embeddings)
    assert (caught.value.code, caught.value.param) == ("unsupported_endpoint", "model")
    both = ModelCatalog([anthropic, server("b", priority=9)], {})
    assert [target.server.name for target in select(both, "m", embeddings)] == ["b"]


def plans(dialects: dict[str, str], operation: Operation) -> list[Plan]:
    """Of one server a dialect, each at its URL."""
    servers = [structs.replace(server(url), dialect=dialect, url=url) for url, dialect in dialects.items()]
    return [target.plan for target in select(ModelCatalog(servers, {}), "m", operation)]


def test_server_is_asked_in_the_clients_format_where_it_has_it() -> None:
    messages = BY_PATH["/v1/messages"]
    assert plans({"http://x/v1": "openai"}, CHAT) == [Plan("chat", "/chat/completions")]
    assert plans({"http://x/v1": "anthropic"}, messages) == [Plan("messages", "/messages")]
    assert plans({"http://x/v1": "litellm"}, messages) == [Plan("messages", "/v1/messages")]


@pytest.mark.parametrize(
    ("url", "bound"),
    [
        ("http://x/v1", "max_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://one.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://notopenai.com/v1", "max_tokens"),
    ],
)
def test_conversation_is_translated_for_a_server_of_another_format(url: str, bound: Any) -> None:
    messages = BY_PATH["/v1/messages"]
    translated = Plan("chat", "/chat/completions", translated=True, bound=bound)
    assert plans({url: "openai"}, messages) == [translated]
    assert [plan.path for plan in plans({url: "anthropic"}, CHAT)] == ["/messages"]


def test_count_of_tokens_needs_no_server_of_its_format() -> None:
    count = BY_PATH["/v1/messages/count_tokens"]
    assert plans({"http://x/v1": "openai"}, count) == []
    assert plans({"http://x/v1": "openai", "http://y/v1": "anthropic"}, count) == [
        Plan("count_tokens", "/messages/count_tokens")
    ]
    with pytest.raises(NotFound, match="No server offers"):
        select(ModelCatalog([server("a")], {}), "other", count)


def select(catalog: ModelCatalog, model: str, operation: Operation | None = None) -> Sequence[Target]:
    return select_targets(catalog, operation or CHAT, model, health=health_of(), random=random.random)
