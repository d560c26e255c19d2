"""Replies of embeddings, moderations and rerank."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.values import Usage
from bluesminds.wire.base import Format, FormatName, RequestFacts
from bluesminds.wire.embeddings import EMBEDDINGS
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.moderations import MODERATIONS
from bluesminds.wire.requests import read_body
from bluesminds.wire.rerank import RERANK
from bluesminds.wire.usage import settle_usage
from tests.cases import each
from tests.wire.test_stages import json_values

VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, -1e-3]}
BASE64 = {"object": "embedding", "index": 0, "embedding": "AAAAPwAAgL8="}
RANKED = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
GOLDEN = Path(__file__).parent / "golden"


def read(format_: Format, body: Any) -> Any:
    return format_.read_reply(json.dumps(body).encode())


@each(
    ("format_", "body", "items", "tokens", "units"),
    [
        (
            EMBEDDINGS,
            {"data": [VECTOR, VECTOR], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
            2,
            8,
            None,
        ),
        (EMBEDDINGS, {"data": [BASE64], "usage": {"prompt_tokens": 8, "total_tokens": 8}}, 1, 8, None),
        (EMBEDDINGS, {"data": [BASE64], "usage": {"total_tokens": 8}}, 1, 8, None),
        (EMBEDDINGS, {"data": [VECTOR], "usage": {"prompt_tokens": 8, "completion_tokens": 0}}, 1, 8, None),
        (EMBEDDINGS, {"data": [VECTOR]}, 1, None, None),
        (EMBEDDINGS, {"data": [VECTOR], "usage": None}, 1, None, None),
        (
            EMBEDDINGS,
            {"embeddings": [[0.5]], "meta": {"billed_units": {"input_tokens": 8}}},
            1,
            8,
            None,
        ),
        (MODERATIONS, {"id": "m", "results": [{"flagged": False}]}, 1, None, None),
        (MODERATIONS, {"results": [{}, {}], "usage": {"total_tokens": 8}}, 2, 8, None),
        (RERANK, {"results": RANKED, "meta": {"billed_units": {"search_units": 3}}}, 2, None, 3),
        (
            RERANK,
            {
                "results": RANKED,
                "meta": {"billed_units": {"search_units": 3.0}, "tokens": {"input_tokens": 8}},
            },
            2,
            8,
            3,
        ),
        (RERANK, {"results": RANKED, "meta": {"billed_units": {"search_units": "3"}}}, 2, None, None),
        (RERANK, {"results": RANKED, "meta": None}, 2, None, None),
        (RERANK, {"results": RANKED, "usage": {"total_tokens": 8}}, 2, 8, None),
        (RERANK, {"data": RANKED, "usage": {"total_tokens": 8}}, 2, 8, None),
    ],
)
def test_list_reply_is_counted(
    format_: Format, body: dict[str, Any], items: int, tokens: int | None, units: int | None
) -> None:
    facts = read(format_, body)
    assert (facts.readable, facts.choices, facts.units, facts.error) == (True, items, units, None)
    assert facts.usage == (None if tokens is None else Usage(tokens, 0, usage_source="upstream"))
    usage, implausible = settle_usage(
        facts.usage,
        RequestFacts(model="m", max_output=0, text_bytes=40),
        delivered=facts.delivered,
        pieces=facts.pieces,
    )
    assert (usage.input_tokens, usage.output_tokens, implausible) == (tokens or 10, 0, False)


@pytest.mark.parametrize(
    "report", [{"prompt_tokens": 0, "total_tokens": 0}, {"total_tokens": 0}, {"prompt_tokens": -1}]
)
def test_report_without_input_is_no_report(report: dict[str, Any]) -> None:
    facts = read(EMBEDDINGS, {"data": [VECTOR], "usage": report})
    usage, _ = settle_usage(
        facts.usage, RequestFacts(model="m", max_output=0, text_bytes=40), delivered=0, pieces=0
    )
    assert usage == Usage(10, 0, usage_source="estimated")


@pytest.mark.parametrize("format_", [EMBEDDINGS, MODERATIONS, RERANK])
def test_error_in_a_list_reply_is_found(format_: Format) -> None:
    facts = read(format_, {"error": {"message": "too long", "code": 400}})
    assert facts.error is not None and facts.error.status == 400
    assert not format_.read_reply(b"<html>").readable
    assert format_.read_event(b"", b"{}").readable is False


@given(
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps({"data": value, "usage": value, "meta": value}).encode())
)
def test_any_list_reply_is_read(body: bytes) -> None:
    for format_ in (EMBEDDINGS, MODERATIONS, RERANK):
        assert format_.read_reply(body).choices >= 0


def test_vectors_with_odd_numbers_are_read() -> None:
    facts = EMBEDDINGS.read_reply(b'{"data":[{"embedding":[NaN,1e400]}],"usage":{"total_tokens":8}}')
    assert (facts.choices, facts.usage) == (1, Usage(8, 0, usage_source="upstream"))


@each("name", FORMATS)
def test_format_reads_its_golden_request_and_reply(name: FormatName) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    format_ = FORMATS[name]
    fields = read_body(json.dumps(golden["request"]).encode())
    facts = format_.read_request(fields)
    assert {key: getattr(facts, key) for key in golden["facts"]} == golden["facts"]
    prepared = format_.prepare(fields, "upstream-model", True)
    assert {key: json.loads(bytes(value)) for key, value in prepared.items()} == golden["prepared"]
    reply = read(format_, golden["reply"])
    assert (reply.readable, reply.error, reply.choices) == (True, None, golden["choices"])
    assert reply.usage == (
        None
        if golden["usage"] is None
        else Usage(
            **dict(zip(COUNTS, golden["usage"], strict=True)),
            usage_source=golden.get("source", "upstream"),
            **golden.get("units", {}),
        )
    )
