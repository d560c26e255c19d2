"""The targets of a route, and of its fallback models."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.errors import NotFound
from bluesminds.common.routes import ModelRoute, RouteTarget
from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.selection import Dropped, Selection, select_candidates
from bluesminds.wire.model_details import ModelDetails
from bluesminds.wire.models import ModelRow
from tests.gateway.routing.test_policies import BY_PATH, CHAT, server

EMBEDDINGS = BY_PATH["/v1/embeddings"]


def select(
    servers: Sequence[Server],
    routes: Sequence[ModelRoute],
    model: str,
    *,
    operation: Operation = CHAT,
    may_use: Callable[[str], bool] = lambda model: True,
    discovered: dict[str, list[ModelRow]] | None = None,
) -> Selection:
    catalog = ModelCatalog(servers, discovered or {}, routes)
    assert catalog.routes is not None
    route = catalog.routes.match(model)
    assert route is not None
    return select_candidates(catalog, route, operation, model, may_use=may_use)


def names(selection: Selection) -> list[tuple[str, list[str]]]:
    return [(group.model, [one.target.server.name for one in group.candidates]) for group in selection.groups]


def to(*servers: str) -> tuple[RouteTarget, ...]:
    return tuple(RouteTarget(name) for name in servers)


ANY = [server(name, models=()) for name in "abc"]


def test_targets_are_those_of_the_route_in_its_words() -> None:
    route = ModelRoute(
        "fast", (RouteTarget("b", "gpt-5-eu", weight=7), RouteTarget("a", "gpt-5", priority=3))
    )
    selection = select(ANY, [route], "fast")
    first, second = selection.groups[0].candidates
    assert first.target == Target(ANY[1], first.target.plan, model="gpt-5-eu")
    assert second.target == Target(ANY[0], first.target.plan, model="gpt-5")
    assert [(one.weight, one.priority) for one in (first, second)] == [(7, 0), (1, 3)]
    assert selection.dropped == ()


def test_target_without_weight_has_that_of_its_server() -> None:
    servers = [server("a", weight=5, priority=-2, models=())]
    (candidate,) = select(servers, [ModelRoute("m", to("a"))], "m").groups[0].candidates
    assert (candidate.weight, candidate.priority) == (5, -2)


def test_route_without_targets_has_every_server_of_the_model() -> None:
    servers = [server("a"), server("b", models=("other",)), server("c")]
    assert names(select(servers, [ModelRoute("m", policy="weighted")], "m")) == [("m", ["a", "c"])]


def test_targets_that_do_not_list_the_model_are_left_out() -> None:
    servers = [server("a", models=("x", "m")), server("b", models=("x",)), server("c", models=())]
    found = {"c": [ModelRow("m2")]}
    selection = select(servers, [ModelRoute("m*", to("a", "b", "c"))], "m", discovered=found)
    assert names(selection) == [("m", ["a"])]
    assert selection.dropped == (Dropped("m", "b", "not_listed"), Dropped("m", "c", "not_listed"))
    unknown = select(servers, [ModelRoute("m*", to("a", "b"))], "m-new")
    assert names(unknown) == [("m-new", ["a", "b"])], "no list has it, so the lists may be incomplete"
    renamed = select(servers, [ModelRoute("m", (RouteTarget("a"), RouteTarget("b", "m-eu")))], "m")
    assert names(renamed) == [("m", ["a", "b"])], "the operator names the model of this server"


def test_missing_servers_are_dropped_with_a_reason() -> None:
    keyless = structs.replace(server("k", models=()), keyless=True)
    selection = select([*ANY, keyless], [ModelRoute("m", to("gone", "a", "k"))], "m")
    assert names(selection) == [("m", ["a"])]
    assert selection.dropped == (Dropped("m", "gone", "unknown_server"), Dropped("m", "k", "unknown_server"))
    with pytest.raises(NotFound, match="no available server") as caught:
        select(ANY, [ModelRoute("m", to("gone"))], "m")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_servers_without_the_endpoint_are_dropped_with_a_reason() -> None:
    anthropic = structs.replace(server("n", models=()), dialect="anthropic")
    selection = select([*ANY, anthropic], [ModelRoute("m", to("n", "a"))], "m", operation=EMBEDDINGS)
    assert names(selection) == [("m", ["a"])]
    assert selection.dropped == (Dropped("m", "n", "no_endpoint"),)
    with pytest.raises(NotFound, match="/v1/embeddings") as caught:
        select([anthropic], [ModelRoute("m", to("n"))], "m", operation=EMBEDDINGS)
    assert caught.value.code == "unsupported_endpoint"
    count = BY_PATH["/v1/messages/count_tokens"]
    assert select(ANY, [ModelRoute("m", to("a"))], "m", operation=count).groups == ()


def test_fallback_models_follow_by_their_own_routes() -> None:
    routes = [
        ModelRoute("m", to("a"), fallback=("n", "listed", "o")),
        ModelRoute("n", (RouteTarget("b", "n-eu"),), fallback=("p", "o")),
        ModelRoute("o*", to("c")),
        ModelRoute("p", to("c")),
    ]
    servers = [*ANY, server("d", models=("listed",))]
    selection = select(servers, routes, "m")
    assert names(selection) == [("m", ["a"]), ("n", ["b"]), ("p", ["c"]), ("listed", ["d"]), ("o", ["c"])]
    shown = [(one.model, one.serves) for one in selection.targets()]
    assert shown == [
        ("", ""),
        ("n-eu", "n"),
        ("p", "p"),
        ("listed", "listed"),
        ("o", "o"),
    ]


def test_fallback_model_that_the_key_may_not_use_is_left_out() -> None:
    routes = [ModelRoute("m", to("a"), fallback=("n", "o")), ModelRoute("n", to("b"), fallback=("p",))]
    routes += [ModelRoute("o", to("b")), ModelRoute("p", to("c"))]
    selection = select(ANY, routes, "m", may_use=lambda model: model in ("o", "p"))
    assert names(selection) == [("m", ["a"]), ("p", ["c"]), ("o", ["b"])]
    assert selection.dropped == (Dropped("n", "", "model_not_allowed"),)


def test_unknown_fallback_model_is_left_out() -> None:
    selection = select(ANY, [ModelRoute("m", to("a"), fallback=("missing",))], "m")
    assert names(selection) == [("m", ["a"])]
    assert selection.dropped == (Dropped("missing", "", "unknown_model"),)


def test_fallback_serves_model_without_own_target() -> None:
    selection = select(ANY, [ModelRoute("fast", fallback=("m",)), ModelRoute("m", to("a"))], "fast")
    assert names(selection) == [("m", ["a"])]
    with pytest.raises(NotFound, match="No server offers"):
        select(ANY, [ModelRoute("fast", fallback=("x",))], "fast")


def test_target_of_an_earlier_model_is_not_repeated() -> None:
    routes = [
        ModelRoute("m", (RouteTarget("a", "x"),), fallback=("n",)),
        ModelRoute("n", (RouteTarget("a", "x"), RouteTarget("a"), RouteTarget("b"))),
    ]
    selection = select(ANY, routes, "m")
    assert [(one.server.name, one.model) for one in selection.targets()] == [
        ("a", "x"),
        ("a", "n"),
        ("b", "n"),
    ]
    assert selection.dropped == (Dropped("n", "a", "duplicate"),)


def test_cycle_of_fallback_models_ends() -> None:
    """Routes of the file and of the database are checked apart, so a cycle is possible."""
    routes = [ModelRoute("m", to("a"), fallback=("n",)), ModelRoute("n", to("b"), fallback=("m", "n"))]
    assert names(select(ANY, routes, "m")) == [("m", ["a"]), ("n", ["b"])]


def test_keep_drops_models_without_target() -> None:
    selection = select(ANY, [ModelRoute("m", to("a", "b"), fallback=("n",)), ModelRoute("n", to("c"))], "m")
    kept = selection.keep(selection.targets()[1:2])
    assert names(kept) == [("m", ["b"])]
    assert kept.dropped == (Dropped("m", "a", "unsupported"), Dropped("n", "c", "unsupported"))
    assert selection.keep(selection.targets()) is selection


def test_models_whose_servers_are_all_ejected_come_last() -> None:
    routes = [
        ModelRoute("m", to("a"), fallback=("n", "o")),
        ModelRoute("n", to("a", "b")),
        ModelRoute("o", to("c")),
    ]
    selection = select(ANY, routes, "m")
    assert [
        model for model, _ in names(selection.prefer_usable(lambda target: target.server.name != "a"))
    ] == ["n", "o", "m"]
    assert names(selection.prefer_usable(lambda target: False)) == names(selection)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcx"), st.sampled_from(["", "m", "n"])),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    st.lists(st.sampled_from(["m", "n", "o", "unknown"]), max_size=4),
)
def test_no_target_is_selected_twice_and_none_is_lost(
    targets: list[tuple[str, str]], fallback: list[str]
) -> None:
    specs = tuple(RouteTarget(name, model) for name, model in targets)
    routes = [
        ModelRoute("m", specs, fallback=tuple(fallback)),
        ModelRoute("n", specs),
        ModelRoute("o", specs),
    ]
    try:
        selection = select(ANY, routes, "m")
    except NotFound:
        assert {name for name, _ in targets} == {"x"}
        return
    chosen = [(one.server.name, one.model or "m") for one in selection.targets()]
    assert len(chosen) == len(set(chosen))
    sent = {(name, own or model) for model in {"m", *fallback} - {"unknown"} for name, own in targets}
    assert set(chosen) == {key for key in sent if key[0] != "x"}


def test_only_servers_that_have_the_referenced_object_are_targets() -> None:
    route = ModelRoute("m", to("a", "b"), fallback=("n",))
    catalog = ModelCatalog(ANY, {}, [route, ModelRoute("n", to("b", "c"))])

    def selected(*only: str) -> Selection:
        return select_candidates(catalog, route, CHAT, "m", may_use=lambda model: True, only=frozenset(only))

    assert names(selected("b")) == [("m", ["b"]), ("n", ["b"])]
    assert selected("b").dropped == (Dropped("m", "a", "other_server"), Dropped("n", "c", "other_server"))
    with pytest.raises(NotFound) as caught:
        selected("gone")
    assert caught.value.code == "object_server_missing"


def test_context_of_a_model_is_the_largest_of_its_targets() -> None:
    found = {
        "a": [ModelRow("m", details=ModelDetails(1000))],
        "b": [ModelRow("m-long", details=ModelDetails(4000))],
    }
    targets = (RouteTarget("a"), RouteTarget("b", "m-long"))
    routes = [ModelRoute("m", targets, fallback=("n",)), ModelRoute("n", to("c"))]
    selection = select(ANY, routes, "m", discovered=found)
    assert [group.context for group in selection.groups] == [4000, None]
