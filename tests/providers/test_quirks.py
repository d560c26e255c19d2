"""Fields that single kinds of servers read otherwise, or cannot honour."""

import json
from typing import Any

import pytest
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.providers.quirks import check_supported, unsupported, use_max_tokens
from bluesminds.wire.json_text import Fields, read_fields, write_fields

SOME = unsupported("Ollama", "logit_bias", n=(b"1",), tool_choice=(b'"auto"', b'{"type":"auto"}'))


def fields(**values: Any) -> Fields:
    return read_fields(json.dumps(values, indent=1).encode())


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        {"n": 1},
        {"n": None},
        {"logit_bias": {}},
        {"logit_bias": None},
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "auto"}},
        {"other": 5},
    ],
)
def test_check_supported_harmless_value_passes(harmless: dict[str, Any]) -> None:
    check_supported(fields(model="m", **harmless), SOME)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n", 2), ("logit_bias", {"5": 1}), ("tool_choice", "required"), ("tool_choice", {"type": "any"})],
)
def test_check_supported_other_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_supported(fields(model="m", **{field: value}), SOME)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "unsupported_by_server",
        field,
    )
    assert caught.value.message.startswith(f"Ollama does not support this value of `{field}`.")


def test_check_supported_unreadable_value_passes() -> None:
    check_supported({"n": Raw(b"{{")}, SOME)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_completion_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 9}),
        ({"max_completion_tokens": 5, "max_tokens": None}, {"max_tokens": 5}),
        ({"max_tokens": 9}, {"max_tokens": 9}),
        ({"n": 1}, {"n": 1}),
    ],
)
def test_use_max_tokens_renames_the_other_field(given: dict[str, Any], sent: dict[str, Any]) -> None:
    before = fields(**given)
    kept = dict(before)
    assert json.loads(write_fields(use_max_tokens(before))) == sent
    assert before == kept, "the client's fields are not changed"
