"""Usage in every spelling, and what is charged for what was not reported."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from bluesminds.common.values import NO_AMOUNT, Usage
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.messages_stream import MessageUsage
from bluesminds.wire.usage import (
    MAX_TOKENS,
    ImplausibleUsage,
    add_usage,
    estimate_output,
    is_too_large,
    merge_reports,
    read_usage,
    settle_usage,
)
from tests.cases import each


def read(report: Any, **options: bool) -> Usage | None:
    return read_usage(json.dumps(report).encode(), **options)


def told(*counts: int | None) -> Usage:
    filled = (*counts, *[None] * (5 - len(counts)))
    return Usage(filled[0], filled[1], filled[2], filled[3], filled[4], "upstream")


# (report, input, output, cache_read, cache_write, reasoning)
SPELLINGS: list[tuple[dict[str, Any], tuple[int | None, ...]]] = [
    ({"prompt_tokens": 1, "completion_tokens": 2}, (1, 2)),
    ({"prompt_tokens": 5.0, "completion_tokens": 2e1}, (5, 20)),
    ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
    ({"prompt_tokens": 5, "prompt_tokens_details": None}, (5,)),
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": None},
        },
        (9, 5, 4, 3, 2),
    ),
    (
        {
            "input_tokens": 9,
            "output_tokens": 5,
            "total_tokens": 14,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        (9, 5, 4, 3, 2),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_cache_hit_tokens": 4}, (9, 5, 4)),
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "prompt_cache_hit_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
        (9, 5, 3),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 5, "cached_tokens": 4}, (9, 5, 4)),
    (
        {
            "prompt_tokens": 9,
            "completion_tokens": 5,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
        },
        (9, 5, 4, 2),
    ),
    ({"promptTokenCount": 9, "candidatesTokenCount": 5, "totalTokenCount": 14}, (9, 5)),
    (
        {
            "promptTokenCount": 9,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 7,
            "totalTokenCount": 21,
            "cachedContentTokenCount": 4,
        },
        (9, 12, 4, None, 7),
    ),
    (
        {
            "promptTokenCount": 9,
            "toolUsePromptTokenCount": 3,
            "candidatesTokenCount": 5,
            "totalTokenCount": 17,
        },
        (12, 5),
    ),
    ({"billed_units": {"input_tokens": 9, "output_tokens": 5}, "tokens": {"input_tokens": 99}}, (9, 5)),
    ({"tokens": {"input_tokens": 9, "output_tokens": 5}}, (9, 5)),
    ({"prompt_tokens": 0, "input_tokens": 9, "completion_tokens": 5}, (9, 5)),
    # Reasoning inside and beside the output: the total decides.
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 9,
            "total_tokens": 19,
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
        (10, 9, None, None, 5),
    ),
    (
        {
            "prompt_tokens": 10,
            "completion_tokens": 9,
            "total_tokens": 24,
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
        (10, 14, None, None, 5),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}},
        (10, 103, None, None, 94),
    ),
    (
        {"input_tokens": 10, "output_tokens": 9, "total_tokens": 24, "reasoning_tokens": 5},
        (10, 14, None, None, 5),
    ),
    # Cached input beside the input: the total says so.
    (
        {"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 59, "prompt_cache_hit_tokens": 40},
        (50, 9, 40),
    ),
    # A total completes counts, raises them, and never lowers them.
    ({"prompt_tokens": 10, "total_tokens": 25}, (10, 15)),
    ({"completion_tokens": 10, "total_tokens": 25}, (15, 10)),
    ({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 30}, (10, 20)),
    ({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 0}, (10, 9)),
    ({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 12}, (10, 9)),
    ({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": "many"}, (10, 9)),
    # A part is no larger than its whole.
    ({"prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 9}, (5, 1, 5)),
    # An invalid detail is ignored, the rest is used.
    ({"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": "0"}}, (5, 9)),
    ({"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": -1}}, (5, 9)),
    ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": []}, (5, 9)),
]


@each(("report", "expected"), SPELLINGS)
def test_usage_in_any_spelling_is_normalised(
    report: dict[str, Any], expected: tuple[int | None, ...]
) -> None:
    assert read(report) == told(*expected)


@pytest.mark.parametrize(
    "report", [{}, {"total_tokens": 5}, {"completion_tokens_details": []}, {"cost": 1.5}]
)
def test_report_without_counts_is_none(report: dict[str, Any]) -> None:
    assert read(report) is None


def test_total_alone_is_the_input_where_the_format_says_so() -> None:
    assert read({"total_tokens": 5}, total_is_input=True) == told(5)
    assert read({"prompt_tokens": 5, "total_tokens": 5}, total_is_input=True) == told(5)


def test_cache_beside_the_input_is_added_where_the_format_says_so() -> None:
    report = {
        "input_tokens": 10,
        "output_tokens": 9,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 2,
    }
    assert read(report, cache_beside=True) == told(52, 9, 40, 2)
    assert read(report) == told(10, 9, 10, 0)


@pytest.mark.parametrize(
    "report",
    [
        b'{"prompt_tokens":-5,"completion_tokens":1}',
        b'{"prompt_tokens":5,"completion_tokens":"1"}',
        b'{"prompt_tokens":5,"completion_tokens":1.5}',
        b'{"input_tokens":true}',
        b'{"prompt_tokens":1e30}',
        b'{"prompt_tokens":10000000001}',
        b"[1]",
        b'"many"',
        b"[" * 100_000,
    ],
)
def test_main_count_that_is_no_count_spoils_the_report(report: bytes) -> None:
    with pytest.raises(ImplausibleUsage):
        read_usage(report)


values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3)
details = values | st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "x"]), values
)
NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "prompt_cache_hit_tokens",
    "cache_creation_input_tokens",
    "reasoning_tokens",
    "thoughtsTokenCount",
]
reports = st.dictionaries(
    st.sampled_from([*NAMES, "prompt_tokens_details", "completion_tokens_details"]), values | details
) | st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50))


@given(reports, st.booleans(), st.booleans())
def test_any_report_gives_counts_whose_parts_fit(report: dict[str, Any], beside: bool, total: bool) -> None:
    try:
        usage = read(report, cache_beside=beside, total_is_input=total)
    except ImplausibleUsage:
        return
    if usage is None:
        return
    for count in (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    ):
        assert count is None or (type(count) is int and 0 <= count <= 4 * MAX_TOKENS)
    if usage.input_tokens is not None:
        assert (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0) <= usage.input_tokens
    if usage.output_tokens is not None:
        assert (usage.reasoning_tokens or 0) <= usage.output_tokens


@pytest.mark.parametrize(
    ("earlier", "later", "expected"),
    [
        (None, told(1, 2), told(1, 2)),
        (told(1, 2), told(3, 4), told(3, 4)),
        (told(50, 11), told(0, 0), told(50, 11)),
        (told(0, 0), told(50, 11), told(50, 11)),
        (told(50, None, 40), told(None, 7), told(50, 7, 40)),
        (told(50, 7, 40, None, 2), told(50, 9), told(50, 9, 40)),
        (told(50, 7, 40, None, 2), told(60, 7), told(60, 7, None, None, 2)),
        (told(50, 7, 40), told(50, 9, 0), told(50, 9, 40)),
        (told(5000, None, 4000), told(100, 9), told(100, 9)),
        (told(0, None), told(None, 0), told(0, 0)),
    ],
)
def test_later_report_wins_unless_it_says_nothing(
    earlier: Usage | None, later: Usage, expected: Usage
) -> None:
    assert merge_reports(later, earlier) == expected


ASKED = RequestFacts(model="m", text_bytes=41)


def test_cache_writes_for_an_hour_are_read_and_kept_in_streams() -> None:
    """Anthropic's servers name them only at the start of a stream, and later totals can be larger
    (https://github.com/BerriAI/litellm/issues/42663).
    """
    start = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 70,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 50},
    }
    merged = MessageUsage()
    first = merged.merge(Raw(json.dumps(start | {"output_tokens": 1}).encode()))
    assert first is not None and (first.cache_write_tokens, first.cache_write_hour_tokens) == (70, 50)
    last = merged.merge(Raw(json.dumps({"output_tokens": 9, "cache_creation_input_tokens": 200}).encode()))
    assert last is not None
    assert (last.input_tokens, last.cache_write_tokens, last.cache_write_hour_tokens) == (203, 200, 50)
    less = read_usage(json.dumps(start | {"cache_creation_input_tokens": 40}).encode(), cache_beside=True)
    assert less is not None and less.cache_write_hour_tokens == 40, "a part is not larger than the whole"


@each(
    ("reported", "delivered", "pieces", "complete", "charged", "implausible"),
    [
        (None, 9, 1, True, (11, 3), False),
        (None, 0, 7, True, (11, 7), False),
        (told(5, 6), 9, 1, True, (5, 6), False),
        (told(5, 0), 0, 0, True, (5, 0), False),
        (told(5, 0), 9, 1, True, (5, 3), True),
        (told(5, 0), 0, 1, True, (5, 1), True),
        (told(0, 0), 9, 1, True, (11, 3), True),
        (told(0, 0), 9, 1, False, (11, 3), False),
        (told(0, 6), 9, 1, True, (11, 6), True),
        (told(5, 5), 1200, 1, True, (5, 5), False),
        (told(5, 5), 1201, 1, True, (5, 301), True),
        (told(5, 100), 5000, 1, True, (5, 100), False),
        (told(5, 100), 5001, 1, True, (5, 1251), True),
        (told(5, 100), 500, 1, False, (5, 125), False),
        (told(None, 6), 9, 1, True, (11, 6), False),
        (told(5, None), 9, 1, True, (5, 3), False),
        (told(None, 6, 90), 9, 1, True, (90, 6), False),
        (told(5, None, None, None, 80), 9, 1, True, (5, 80), False),
    ],
)
def test_charge_is_what_was_reported_or_what_was_delivered(
    reported: Usage | None,
    delivered: int,
    pieces: int,
    complete: bool,
    charged: tuple[int, int],
    implausible: bool,
) -> None:
    usage, found = settle_usage(reported, ASKED, delivered=delivered, pieces=pieces, complete=complete)
    assert (usage.input_tokens, usage.output_tokens) == charged
    is_reported = reported is not None and (reported.input_tokens, reported.output_tokens) == charged
    assert usage.usage_source == ("upstream" if is_reported else "estimated")
    assert found == implausible


@given(st.integers(0, 10**6), st.integers(0, 10**4), st.none() | st.integers(1, 10**4), st.integers(1, 4))
def test_estimate_is_within_the_bound_and_no_less_than_the_text(
    delivered: int, pieces: int, max_output: int | None, choices: int
) -> None:
    facts = RequestFacts(model="m", max_output=max_output, choices=choices)
    tokens = estimate_output(delivered, pieces, facts)
    if max_output is not None:
        assert tokens <= max_output * choices
    if max_output is None or tokens < max_output * choices:
        assert tokens == max(-(-delivered // 4), pieces)


@pytest.mark.parametrize(
    ("cost", "nano"),
    [
        (0, 0),
        (0.0012, 1_200_000),
        ("2.85e-05", 28_500),
        (None, None),
        ("much", None),
        ({"total": 1}, None),
        (-1, NO_AMOUNT),
        ("nan", NO_AMOUNT),
        ("inf", NO_AMOUNT),
        (10**12, NO_AMOUNT),
    ],
)
def test_reported_cost_is_read_as_an_amount(cost: object, nano: int | None) -> None:
    usage = read({"prompt_tokens": 3, "completion_tokens": 4, "cost": cost})
    assert usage is not None and (usage.input_tokens, usage.output_tokens, usage.cost) == (3, 4, nano)


@pytest.mark.parametrize(
    ("one", "other", "both"), [(3, 4, 7), (3, None, None), (NO_AMOUNT, 4, NO_AMOUNT), (0, 0, 0)]
)
def test_usage_of_two_attempts_adds_costs_and_keeps_the_tier(
    one: int | None, other: int | None, both: int | None
) -> None:
    added = add_usage(
        Usage(1, 2, service_tier="flex", cost=one), Usage(3, 4, service_tier="flex", cost=other)
    )
    assert (added.input_tokens, added.output_tokens, added.service_tier, added.cost) == (4, 6, "flex", both)


@pytest.mark.parametrize(
    ("usage", "context", "own", "too_large"),
    [
        (Usage(90_000, 10_000), 10_000, 9_000, False),
        (Usage(90_001, 10_000), 10_000, 10, True),
        (Usage(10**8, 10), None, 10, False),
        (Usage(10, 401), None, 100, True),
        (Usage(10, 401), None, 101, False),
        (Usage(10, 400), None, 10, False),
        (Usage(10, 500, reasoning_tokens=100), None, 10, False),
        (Usage(10, 401), None, None, False),
    ],
)
def test_usage_is_too_large_only_beyond_context_or_maximum(
    usage: Usage, context: int | None, own: int | None, too_large: bool
) -> None:
    asked = RequestFacts(model="m", max_output=200)
    assert is_too_large(usage, asked, context, own) is too_large


small = st.one_of(st.none(), st.integers(-1, 6), st.just(2.0), st.just("1"))
details = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens"]), small
    ),
)
reports = st.fixed_dictionaries(
    {"prompt_tokens": small, "completion_tokens": small, "total_tokens": st.integers(0, 12)},
    optional={
        "prompt_tokens_details": details,
        "completion_tokens_details": details,
        "prompt_cache_hit_tokens": small,
    },
)


@given(reports)
def test_plain_report_reads_as_every_other(report: dict[str, Any]) -> None:
    """The same report with a field that the quick reader does not take."""
    try:
        expected = read(report | {"other": 0.5})
    except ImplausibleUsage:
        with pytest.raises(ImplausibleUsage):
            read(report)
        return
    assert read(report) == expected
