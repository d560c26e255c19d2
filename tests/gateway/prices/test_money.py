"""What a request costs: units, kinds of tokens, long contexts, service tiers, markups, rounding."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.money import Price, Rates
from bluesminds.common.values import Usage

USD = 10**9
FULL = Rates(
    input=3 * USD,
    cached_input=USD,
    cache_write=4 * USD,
    output=15 * USD,
    reasoning=20 * USD,
    audio_input=32 * USD,
    audio_output=64 * USD,
    image_input=5 * USD,
    image_output=40 * USD,
    image=40_000 * USD,
    second=100 * USD,
    character=15 * USD,
    request=2000 * USD,
)


def price(rates: Rates, *more: tuple[int, Rates], **tiers: Rates) -> Price:
    return Price("test", ((0, rates), *more), tiers={name: ((0, one),) for name, one in tiers.items()})


def used(**counts: int | None) -> Usage:
    return structs.replace(Usage(usage_source="upstream"), **counts)


def test_cost_has_every_unit_once() -> None:
    usage = used(
        input_tokens=100,
        output_tokens=50,
        cache_read_tokens=40,
        cache_write_tokens=10,
        reasoning_tokens=20,
        audio_input_tokens=5,
        audio_output_tokens=6,
        image_input_tokens=3,
        image_output_tokens=4,
        images=2,
        audio_ms=1500,
        characters=7,
    )
    items = price(FULL).items(usage)
    assert items is not None
    assert [(one.unit, one.quantity) for one in items] == [
        ("cached_input", 40),
        ("cache_write", 10),
        ("audio_input", 5),
        ("image_input", 3),
        ("input", 42),
        ("audio_output", 6),
        ("image_output", 4),
        ("reasoning", 20),
        ("output", 20),
        ("image", 2),
        ("second", 1500),
        ("character", 7),
        ("request", 1),
    ]
    micro = 40 + 4 * 10 + 32 * 5 + 5 * 3 + 3 * 42 + 64 * 6 + 40 * 4 + 20 * 20 + 15 * 20
    micro += 2 * 40_000 + 150 + 15 * 7 + 2000
    assert price(FULL).cost(usage) == micro * 1000


def test_kind_without_a_rate_costs_as_the_main_one() -> None:
    plain = price(Rates(input=2 * USD, output=4 * USD))
    usage = used(
        input_tokens=10, output_tokens=10, cache_read_tokens=5, reasoning_tokens=10, audio_output_tokens=3
    )
    assert plain.cost(usage) == 60_000
    items = plain.items(usage) or []
    assert [(one.unit, one.fallback) for one in items] == [
        ("cached_input", True),
        ("input", False),
        ("audio_output", True),
        ("reasoning", True),
    ]


def test_cost_without_a_rate_for_the_usage_is_unknown_and_never_zero() -> None:
    tokens = price(Rates(input=USD, output=USD))
    assert tokens.cost(used(images=1)) is None
    assert tokens.cost(used(input_tokens=5)) is None, "the output is unknown"
    assert price(Rates(input=USD)).cost(used(input_tokens=5)) == 5000, "nothing is sold by output"
    assert price(Rates(second=USD)).cost(used(input_tokens=5, output_tokens=1)) is None
    assert price(Rates(second=USD)).cost(used(input_tokens=5, audio_ms=1)) == 1
    assert price(Rates(input=0, output=0)).cost(used(input_tokens=5, output_tokens=5)) == 0, "zero is a price"


def test_request_without_usage_costs_nothing() -> None:
    assert price(FULL).cost(Usage()) == 0


def test_long_context_uses_its_rates_for_the_whole_request() -> None:
    two = price(Rates(input=USD, output=USD), (201, Rates(input=2 * USD, output=3 * USD)))
    assert two.cost(used(input_tokens=200, output_tokens=1)) == 201_000
    assert two.cost(used(input_tokens=201, output_tokens=1)) == 405_000
    assert two.max_cost(201, 1) == 405_000


def test_cache_writes_for_an_hour_have_their_own_rate() -> None:
    usage = used(
        input_tokens=100,
        output_tokens=0,
        cache_read_tokens=10,
        cache_write_tokens=70,
        cache_write_hour_tokens=50,
    )
    rates = Rates(input=4 * USD, cached_input=USD, cache_write=5 * USD, cache_write_hour=8 * USD, output=0)
    assert price(rates).cost(usage) == 1000 * (20 * 4 + 10 * 1 + 20 * 5 + 50 * 8)
    assert price(rates).max_cost(100, 0) == 1000 * 100 * 8
    short = structs.replace(rates, cache_write_hour=None)
    assert price(short).cost(usage) == 1000 * (20 * 4 + 10 * 1 + 70 * 5)


def test_service_tier_of_the_response_decides() -> None:
    tiered = price(Rates(input=2 * USD, output=2 * USD), flex=Rates(input=USD, output=USD))
    assert tiered.cost(used(input_tokens=1, output_tokens=1)) == 4000
    assert tiered.cost(structs.replace(used(input_tokens=1, output_tokens=1), service_tier="flex")) == 2000
    assert tiered.cost(structs.replace(used(input_tokens=1, output_tokens=1), service_tier="scale")) == 4000


counts = st.none() | st.integers(0, 10**9)
rates = st.builds(Rates, **{name: st.none() | st.integers(0, 10**12) for name in Rates.__struct_fields__})
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_tokens=counts,
    cache_write_tokens=counts,
    reasoning_tokens=counts,
    audio_input_tokens=counts,
    audio_output_tokens=counts,
    image_input_tokens=counts,
    image_output_tokens=counts,
    images=counts,
    audio_ms=counts,
    characters=counts,
    cache_write_hour_tokens=counts,
    usage_source=st.just("upstream"),
)


@given(rates, usages, st.integers(0, 100_000))
def test_cost_is_the_exact_sum_rounded_up_once(own: Rates, usage: Usage, markup: int) -> None:
    one = price(own)
    items, cost = one.items(usage), one.cost(usage, markup)
    if items is None:
        assert cost is None
        return
    exact = sum(
        (Fraction(item.quantity * item.rate, 10**9 if item.unit == "second" else 10**6) for item in items),
        Fraction(),
    ) * Fraction(10_000 + markup, 10_000)
    assert cost is not None
    assert 0 <= cost - exact < 1


@given(rates, usages)
def test_tokens_are_charged_once(own: Rates, usage: Usage) -> None:
    for main, parts in (
        ("input", ("cached_input", "cache_write", "cache_write_hour", "audio_input", "image_input", "input")),
        ("output", ("audio_output", "image_output", "reasoning", "output")),
    ):
        charged = sum(one.quantity for one in price(own).items(usage) or () if one.unit in parts)
        assert charged in (0, getattr(usage, f"{main}_tokens") or 0)


@pytest.mark.parametrize(("markup", "cost"), [(0, 1000), (2000, 1200), (1, 1001)])
def test_markup_is_in_hundredths_of_a_percent(markup: int, cost: int) -> None:
    assert price(Rates(input=USD, output=USD)).cost(used(input_tokens=1, output_tokens=0), markup) == cost
