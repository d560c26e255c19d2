"""Which route applies to a model, and fallback models in a cycle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.routes import ModelRoute, RouteCondition, RouteTable, RouteTraits, find_cycle
from tests.cases import each

PATTERNS = ("gpt-5", "gpt-5*", "gpt-5-mini*", "gpt*", "*")


@pytest.mark.parametrize(
    ("model", "pattern"),
    [
        ("gpt-5", "gpt-5"),
        ("gpt-5-mini", "gpt-5-mini*"),
        ("gpt-5-mini-2026", "gpt-5-mini*"),
        ("gpt-5.1", "gpt-5*"),
        ("gpt-4", "gpt*"),
        ("gpt", "gpt*"),
        ("llama", "*"),
        ("", "*"),
    ],
)
def test_most_specific_route_applies(model: str, pattern: str) -> None:
    for order in (PATTERNS, PATTERNS[::-1]):
        route = RouteTable([ModelRoute(one) for one in order]).match(model)
        assert route is not None and route.model == pattern


def test_model_without_route_matches_none() -> None:
    table = RouteTable([ModelRoute("a"), ModelRoute("b*")])
    assert table.match("ab") is None
    assert table.match("") is None


def test_first_of_equal_routes_applies() -> None:
    first, second = ModelRoute("a*", fallback=("x",)), ModelRoute("a*", fallback=("y",))
    assert RouteTable([first, second]).match("ab") is first


PRO = RouteCondition(tier=("pro",), needs=("tools",))


@each(
    ("condition", "traits", "holds"),
    [
        (RouteCondition(), RouteTraits(), True),
        (RouteCondition(tier=("pro", "free")), RouteTraits(tier="free"), True),
        (RouteCondition(tier=("pro",)), RouteTraits(tier="free"), False),
        (RouteCondition(key_tag=("a", "b")), RouteTraits(key_tags=frozenset("bc")), True),
        (RouteCondition(key_tag=("a",)), RouteTraits(), False),
        (RouteCondition(region=("eu",)), RouteTraits(regions=frozenset(("eu",))), True),
        (RouteCondition(region=("eu",)), RouteTraits(), False),
        (RouteCondition(tag=("zdr",)), RouteTraits(tags=frozenset(("zdr", "x"))), True),
        (RouteCondition(needs=("tools", "images")), RouteTraits(needs=frozenset(("tools",))), False),
        (RouteCondition(prompt_tokens_over=10), RouteTraits(prompt_tokens=10), False),
        (RouteCondition(prompt_tokens_over=10), RouteTraits(prompt_tokens=11), True),
        (PRO, RouteTraits(tier="pro"), False),
        (PRO, RouteTraits(tier="pro", needs=frozenset(("tools", "audio"))), True),
    ],
)
def test_condition_holds_if_all_its_parts_do(
    condition: RouteCondition, traits: RouteTraits, holds: bool
) -> None:
    assert condition.holds(traits) is holds


def test_route_with_conditions_comes_before_one_without() -> None:
    plain, pro, prefix = ModelRoute("a"), ModelRoute("a", when=PRO), ModelRoute("a*")
    traits = RouteTraits(tier="pro", needs=frozenset(("tools",)))
    table = RouteTable([plain, prefix, pro])
    assert table.conditional and table.match("a", traits) is pro and table.match("a") is plain
    assert RouteTable([prefix, pro]).match("a") is prefix
    assert RouteTable([pro]).match("a") is None
    assert not RouteTable([plain, prefix]).conditional


def test_cycle_over_a_route_with_conditions_is_found() -> None:
    routes = [ModelRoute("a", when=PRO, fallback=("b",)), ModelRoute("a"), ModelRoute("b", fallback=("a",))]
    found = find_cycle(routes)
    assert found is not None and set(found[1]) == {"a", "b"}
    assert find_cycle([ModelRoute("a", when=PRO), *routes[1:]]) is None


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.text("ab", max_size=6))
def test_match_agrees_with_search_of_all_routes(prefixes: list[str], model: str) -> None:
    routes = [ModelRoute(prefix + "*") for prefix in prefixes]
    expected = max((one for one in prefixes if model.startswith(one)), key=len, default=None)
    found = RouteTable(routes).match(model)
    assert (found and found.model) == (None if expected is None else expected + "*")


def test_cycle_names_models_in_the_order_of_fallback() -> None:
    routes = [
        ModelRoute("start", fallback=("a",)),
        ModelRoute("a", fallback=("x", "b")),
        ModelRoute("b", fallback=("c",)),
        ModelRoute("c", fallback=("a",)),
    ]
    found = find_cycle(routes)
    assert found is not None
    route, cycle = found
    assert cycle[0] == cycle[-1] == route.model
    assert "".join(cycle) in "abcabc"
    assert find_cycle(routes[:3]) is None


def test_prefix_that_leads_to_its_own_names_is_cycle() -> None:
    looping = ModelRoute("gpt-5*", fallback=("gpt-5-mini",))
    assert find_cycle([looping]) == (looping, ("gpt-5-mini", "gpt-5-mini"))
    assert find_cycle([looping, ModelRoute("gpt-5-mini")]) is None
