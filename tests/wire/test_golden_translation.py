"""Requests, replies, streams and errors of one format, and what the other format says in their place."""

import json
from pathlib import Path
from typing import Any

import pytest

from bluesminds.wire.conversation import EncodingOptions
from bluesminds.wire.errors import ErrorDetail, read_error
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.translation import Translation
from tests.cases import each
from tests.wire.conversations import CODECS, events_in, facts, fields_of, json_of, run_stage

GOLDEN = Path(__file__).parent / "golden" / "translation"


def cases(kind: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(f"{kind}-*.json"))


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


@each("name", cases("request"))
def test_request_is_translated(name: str) -> None:
    case = load(name)
    client, server = CODECS[case["client"]], CODECS[case["server"]]
    request = client.decode_request(fields_of(case["request"]), 0)
    encoded = server.encode_request(request, EncodingOptions(model=case.get("model", "upstream-model")))
    assert json_of(encoded.fields) == case["translated"]
    assert list(encoded.dropped) == case["dropped"]


@each("name", cases("reply"))
def test_reply_is_translated(name: str) -> None:
    case = load(name)
    client, server = CODECS[case["client"]], CODECS[case["server"]]
    request = client.decode_request(fields_of(case["request"]), 7)
    reply = server.decode_reply(json.dumps(case["reply"]).encode(), request)
    assert json.loads(client.encode_reply(reply, request)) == case["translated"]


@each("name", cases("stream"))
def test_stream_is_translated(name: str) -> None:
    case = load(name)
    client, server = CODECS[case["client"]], CODECS[case["server"]]
    request = client.decode_request(fields_of(case["request"]), 7)
    stage = Translation(server, client, request, facts())
    written = run_stage(stage, [event.encode() for event in case["stream"]])
    assert [list(event) for event in events_in(written)] == case["translated"]


@pytest.mark.parametrize("name", cases("error"))
def test_error_is_translated(name: str) -> None:
    case = load(name)
    detail = read_error(case["status"], json.dumps(case["error"]).encode())
    detail = ErrorDetail(detail.message, detail.type, detail.param, detail.code, case["status"])
    assert json.loads(FORMATS[case["client"]].write_error(detail, "req-1")) == case["translated"]
