"""Estimates of tokens and cost, and amounts of money."""

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import Price, read_usd, write_usd
from bluesminds.common.values import Call, Usage
from bluesminds.gateway.estimate import INITIAL_RATIO, MAX_MODELS, MAX_RATIO, Estimator
from bluesminds.gateway.pipeline import read_call
from tests.gateway.test_authenticate import context
from tests.gateways import ASK, Gateway

PRICE = Price(input=1_250_000_000, cached_input=125_000_000, output=10_000_000_000)


def call(model: str = "m", limit: int | None = None, choices: int = 1) -> Call:
    return Call(
        context=context(), model=model, stream=False, wants_usage=False, max_completion=limit, choices=choices
    )


def reported(prompt: int) -> Usage:
    return Usage(input=prompt, output=1, source="upstream")


def test_estimate_is_prompt_bytes_plus_maximum_completion() -> None:
    capped = Price(input=0, cached_input=0, output=1_000_000, max_output=30)
    estimator = Estimator({"priced": PRICE, "capped": capped}, default_completion=512)
    assert estimator.estimate(call(), 400).tokens == 101 + 512
    assert estimator.estimate(call(limit=7, choices=3), 400).tokens == 101 + 21
    assert estimator.estimate(call("capped", choices=2), 0).tokens == 1 + 60
    assert estimator.estimate(call("capped", limit=5), 0).nano == 5
    assert estimator.estimate(call("priced", limit=100), 396).nano == 100 * 1250 + 100 * 10_000
    assert estimator.estimate(call(), 400).nano is None


def test_learned_ratio_follows_reports_within_bounds() -> None:
    estimator = Estimator({}, default_completion=1)
    for _ in range(200):
        estimator.learn("dense", 1000, reported(400))
        estimator.learn("pictures", 10, reported(100_000))
        estimator.learn("estimated", 1000, Usage(input=900, output=1, source="estimated"))
        estimator.learn("empty", 0, reported(5))
    sizes = {
        model: estimator.estimate(call(model, 1), 10_000).tokens for model in ("dense", "pictures", "empty")
    }
    assert 3990 <= sizes["dense"] <= 4002
    assert sizes["pictures"] <= 10_000 * MAX_RATIO + 2
    assert (
        sizes["empty"]
        == estimator.estimate(call("estimated", 1), 10_000).tokens
        == 10_000 * INITIAL_RATIO + 2
    )


def test_estimator_remembers_limited_number_of_models() -> None:
    estimator = Estimator({}, default_completion=1)
    for number in range(MAX_MODELS + 5):
        estimator.learn(f"m{number}", 100, reported(50))
    assert len(estimator._ratios) == MAX_MODELS


counts = st.integers(0, 10**10)
rates = st.integers(0, 10**14)


@given(counts, counts, counts, st.tuples(rates, rates, rates))
def test_cost_is_rounded_up_once(
    prompt: int, cached: int, completion: int, prices: tuple[int, int, int]
) -> None:
    price = Price(*prices)
    fresh, known = prompt - min(cached, prompt), min(cached, prompt)
    exact = Fraction(fresh * prices[0] + known * prices[1] + completion * prices[2], 10**6)
    assert 0 <= price.cost(prompt, cached, completion) - exact < 1
    assert price.cost(prompt, cached, completion) <= price.max_cost(prompt, completion)


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


INVALID_FIELDS: list[tuple[str, Any]] = [
    (field, value)
    for field in ("max_tokens", "max_completion_tokens", "n", "best_of", "top_logprobs")
    for value in (True, False, -1, "5", 1.5, 10**30, [1], {})
] + [("max_tokens", 0), ("max_completion_tokens", 0), ("n", 0), ("best_of", 0), ("n", 129), ("best_of", 129)]


@pytest.mark.parametrize(("field", "value"), INVALID_FIELDS)
async def test_invalid_cost_field_is_rejected(field: str, value: object) -> None:
    body = _json(ASK | {field: value})
    with pytest.raises(InvalidRequest) as caught:
        read_call(context(), body)
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert f"`{field}`" in caught.value.message


async def test_larger_of_two_token_limits_applies() -> None:
    body = _json(ASK | {"max_tokens": 5, "max_completion_tokens": 9, "n": 2, "best_of": 4, "top_logprobs": 0})
    found, _ = read_call(context(), body)
    assert (found.max_completion, found.choices) == (9, 4)
    found, _ = read_call(context(), _json(ASK | {"max_tokens": None, "n": None}))
    assert (found.max_completion, found.choices) == (None, 1)


async def test_invalid_body_names_field_and_has_rate_headers(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"rpm": 5})
    answer = await gateway.chat(ASK | {"n": 500}, key=key)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert answer.headers["x-ratelimit-remaining-requests"] == "5"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
