"""Lists of models of any server."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.wire.models import (
    ModelRow,
    read_models,
    write_anthropic_model,
    write_anthropic_models,
    write_gemini_models,
    write_model,
    write_models,
)
from tests.wire.test_stages import json_values


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b", "created": None}]}, ["a", "b"]),
        ([{"id": "a", "type": "chat"}, {"id": "b"}], ["a", "b"]),
        ({"models": [{"name": "a:latest", "model": "a:latest"}]}, ["a:latest"]),
        ({"models": [{"name": "models/gemini-x"}, {"key": "lm-studio"}]}, ["gemini-x", "lm-studio"]),
        ({"models": ["a", "b"]}, ["a", "b"]),
        ({"models": [{"name": "a"}], "data": [{"id": "b"}]}, ["b"]),
        ({"data": [{"id": "a"}, {"id": 7}, {"id": ""}, {"name": "b"}, None, 5, [], {"id": "a"}]}, ["a"]),
        ({"data": []}, []),
        ({"object": "list", "data": None}, []),
        ([], []),
    ],
)
def test_every_row_with_an_id_is_offered(body: Any, ids: list[str]) -> None:
    assert [row.id for row in read_models(json.dumps(body).encode())] == ids
    assert [row.id for row in read_models(b"\xef\xbb\xbf" + json.dumps(body).encode())] == ids


@pytest.mark.parametrize("created", [1.5, "2026-01-31", -1, True, None, [], 10**20])
def test_odd_details_are_unknown(created: Any) -> None:
    body = json.dumps([{"id": "a", "created": created, "owned_by": created}]).encode()
    (row,) = read_models(body)
    assert row.created == 0
    assert row.owned_by == (created if isinstance(created, str) else "")


def test_row_with_odd_json_is_offered() -> None:
    assert [row.id for row in read_models(b'{"data":[{"id":"a","price":NaN},{"id":"b","x":1e400}]}')] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b'"x"', b"5", b"null", b'{"data":{}}', b'{"error":{}}']
)
def test_body_without_a_list_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match="list of models"):
        read_models(body)


@given(json_values.map(json.dumps).map(str.encode) | st.binary(max_size=50))
def test_any_body_is_a_list_or_a_value_error(body: bytes) -> None:
    try:
        rows = read_models(body)
    except ValueError:
        return
    assert all(row.id for row in rows)


def test_models_are_written_in_openais_form() -> None:
    row = ModelRow("a", 5, "x")
    one = {"id": "a", "object": "model", "created": 5, "owned_by": "x"}
    assert json.loads(write_models([row])) == {"object": "list", "data": [one]}
    assert json.loads(write_model(row)) == one


def test_list_in_anthropics_shape_is_one_page() -> None:
    rows = [ModelRow("a", created=1_700_000_000, owned_by="x"), ModelRow("b", created=2**53 - 1)]
    one = {"type": "model", "id": "a", "display_name": "a", "created_at": "2023-11-14T22:13:20Z"}
    one |= {"lifecycle": "active", "max_input_tokens": None, "max_tokens": None}
    other = one | {"id": "b", "display_name": "b", "created_at": "9999-12-31T23:59:59Z"}
    page = {"data": [one, other], "has_more": False, "first_id": "a", "last_id": "b"}
    assert json.loads(write_anthropic_models(rows)) == page
    assert json.loads(write_anthropic_model(rows[0])) == one
    empty = {"data": [], "has_more": False, "first_id": None, "last_id": None}
    assert json.loads(write_anthropic_models([])) == empty


def test_gemini_model_has_its_limits_if_known() -> None:
    listed = read_models(
        b'{"models":[{"name":"models/a","inputTokenLimit":1048576,"outputTokenLimit":99},{"name":"models/b"}]}'
    )
    models = json.loads(write_gemini_models(listed))["models"]
    limits = [(model.get("inputTokenLimit"), model.get("outputTokenLimit")) for model in models]
    assert limits == [(1_048_576, 99), (None, None)]


@pytest.mark.parametrize(
    ("methods", "written"),
    [
        (["generateContent"], ["generateContent", "countTokens"]),
        (["generateContent", "embedContent"], ["generateContent", "countTokens"]),
        (["embedContent"], ["embedContent", "batchEmbedContents"]),
        (["predict"], None),
    ],
)
def test_model_of_gemini_is_listed_if_it_generates_content_or_embeds(
    methods: list[str], written: list[str] | None
) -> None:
    row = {"name": "models/a", "supportedGenerationMethods": methods}
    listed = read_models(json.dumps({"models": [row]}).encode())
    models = json.loads(write_gemini_models(listed))["models"]
    assert [model["supportedGenerationMethods"] for model in models] == ([written] if written else [])
