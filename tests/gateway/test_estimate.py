"""Estimates of tokens and cost, and amounts of money."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.money import Price, Rates, read_usd, write_usd
from bluesminds.common.values import Usage
from bluesminds.gateway.call import Call
from bluesminds.gateway.estimate import INITIAL_RATIO, MAX_MODELS, MAX_RATIO, Estimator
from bluesminds.gateway.operations import OPERATIONS
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.formats import FORMATS
from tests.gateway.test_authenticate import context
from tests.gateways import ASK, Gateway
from tests.prices import registry, token_price

PRICE = token_price(1_250_000_000, 10_000_000_000, 125_000_000)


CHAT = next(one for one in OPERATIONS if one.name == "chat.completions")


def call(model: str = "m", most: int | None = None, choices: int = 1, *, size: int = 400) -> Call:
    facts = RequestFacts(model=model, max_output=most, choices=choices, text_bytes=size)
    return Call(context(), CHAT, FORMATS["chat"], model, facts)


def reported(prompt: int) -> Usage:
    return Usage(input_tokens=prompt, output_tokens=1, usage_source="upstream")


def test_estimate_is_prompt_bytes_plus_maximum_completion() -> None:
    capped = token_price(0, 1_000_000, max_output=30)
    estimator = Estimator(registry({"priced": PRICE, "capped": capped}), default_completion=512)
    assert estimator.estimate(call()).tokens == 101 + 512
    assert estimator.estimate(call(most=7, choices=3)).tokens == 101 + 21
    assert estimator.estimate(call("capped", choices=2, size=0)).tokens == 1 + 60
    assert estimator.estimate(call("capped", most=5, size=0)).nano == 5
    assert estimator.estimate(call("priced", most=100, size=396)).nano == 100 * 1250 + 100 * 10_000
    assert estimator.estimate(call()).nano is None


@pytest.mark.parametrize("unit", ["image", "second", "character", "image_output"])
def test_only_a_price_of_0_makes_a_request_free(unit: str) -> None:
    prices = {"dear": Price("1", ((0, Rates(**{unit: 1})),)), "free": token_price(0, 0)}
    estimator = Estimator(registry(prices), default_completion=512)
    assert estimator.estimate(call("dear")).nano == 1, "0 would be allowed when a budget is used up"
    assert estimator.estimate(call("free")).nano == 0
    assert estimator.estimate_tokens(prices["dear"], 1, 1).nano == 1


def test_learned_ratio_follows_reports_within_bounds() -> None:
    estimator = Estimator(registry({}), default_completion=1)
    for _ in range(200):
        estimator.learn("dense", 1000, reported(400))
        estimator.learn("pictures", 10, reported(100_000))
        estimator.learn("estimated", 1000, Usage(input_tokens=900, output_tokens=1, usage_source="estimated"))
        estimator.learn("empty", 0, reported(5))
    sizes = {
        model: estimator.estimate(call(model, 1, size=10_000)).tokens
        for model in ("dense", "pictures", "empty")
    }
    assert 3990 <= sizes["dense"] <= 4002
    assert sizes["pictures"] <= 10_000 * MAX_RATIO + 2
    assert (
        sizes["empty"]
        == estimator.estimate(call("estimated", 1, size=10_000)).tokens
        == 10_000 * INITIAL_RATIO + 2
    )


def test_estimator_remembers_limited_number_of_models() -> None:
    estimator = Estimator(registry({}), default_completion=1)
    for number in range(MAX_MODELS + 5):
        estimator.learn(f"m{number}", 100, reported(50))
    assert len(estimator._ratios) == MAX_MODELS


counts = st.integers(0, 10**10)
rates = st.integers(0, 10**14)


@given(counts, counts, counts, st.tuples(rates, rates, rates))
def test_cost_is_rounded_up_once(
    prompt: int, cached: int, completion: int, prices: tuple[int, int, int]
) -> None:
    price = token_price(prices[0], prices[2], prices[1])
    fresh, known = prompt - min(cached, prompt), min(cached, prompt)
    exact = Fraction(fresh * prices[0] + known * prices[1] + completion * prices[2], 10**6)
    cost = price.cost(Usage(prompt, completion, cached, usage_source="upstream"))
    assert cost is not None
    assert 0 <= cost - exact < 1
    assert cost <= price.max_cost(prompt, completion)


@given(st.integers(0, 10**18 - 1))
def test_usd_amount_round_trips(nano: int) -> None:
    assert read_usd(write_usd(nano)) == nano
    assert "e" not in write_usd(nano).lower()
    assert write_usd(-nano) == ("-" if nano else "") + write_usd(nano)


@pytest.mark.parametrize(
    "text", ["", "1,5", "-1", "1e3", "1.", ".5", "0x1", "1.0000000001", "\u0661", "1\n", " 1"]
)
def test_invalid_usd_amount_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="USD"):
        read_usd(text)


async def test_invalid_body_names_field_and_has_rate_headers(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"rpm": 5})
    answer = await gateway.chat(ASK | {"n": 500}, key=key)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert answer.headers["x-ratelimit-remaining-requests"] == "5"
