"""A server's account of its tokens, believed field by field."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from bluesminds.common.values import Usage
from bluesminds.providers.usage import MAX_TOKENS, Implausible, read_usage

values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)
details = values | st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "x"]), values)
reports = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": values,
        "completion_tokens": values,
        "prompt_tokens_details": details,
        "completion_tokens_details": details,
    },
)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":2}', Usage(1, 2, None, None, None, "upstream")),
        (b'{"prompt_tokens":5.0,"completion_tokens":2e1}', Usage(5, 20, None, None, None, "upstream")),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":"0"}}',
            Usage(5, 9, None, None, None, "upstream"),
        ),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":-1},%b'
            % b'"completion_tokens_details":{"reasoning_tokens":4.0}}',
            Usage(5, 9, None, None, 4, "upstream"),
        ),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"completion_tokens_details":[]}',
            Usage(5, 9, None, None, None, "upstream"),
        ),
        (b'{"total_tokens":5}', None),
        (b'{"completion_tokens_details":[]}', None),
    ],
)
def test_an_odd_detail_costs_only_itself(report: bytes, expected: Usage | None) -> None:
    assert read_usage(Raw(report)) == expected


@pytest.mark.parametrize(
    "report",
    [
        b'{"prompt_tokens":-5,"completion_tokens":1}',
        b'{"prompt_tokens":5,"completion_tokens":"1"}',
        b'{"prompt_tokens":5,"completion_tokens":1.5}',
        b'{"prompt_tokens":true}',
        b'{"prompt_tokens":1e30}',
        b'{"prompt_tokens":10000000001}',
        b"[1]",
        b'"many"',
        b"[" * 100_000,
    ],
)
def test_a_main_count_that_cannot_be_true_spoils_it_all(report: bytes) -> None:
    with pytest.raises(Implausible):
        read_usage(Raw(report))


@given(reports)
def test_what_is_believed_is_a_count(report: dict[str, object]) -> None:
    try:
        usage = read_usage(Raw(json.dumps(report).encode()))
    except Implausible:
        return
    if usage is not None:
        for count in (usage.input, usage.output, usage.cache_read, usage.reasoning):
            assert count is None or (type(count) is int and 0 <= count <= MAX_TOKENS)
