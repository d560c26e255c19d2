"""Lengths and modalities in the lists of models of real servers."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bluesminds.wire.model_details import NO_DETAILS, ModelDetails, read_details
from bluesminds.wire.models import (
    ModelRow,
    read_models,
    write_anthropic_model,
    write_gemini_model,
    write_model,
)
from tests.cases import each
from tests.prices import token_price
from tests.wire.test_stages import json_values

OPENROUTER = {
    "id": "vendor/model",
    "context_length": 131072,
    "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"], "tokenizer": "x"},
    "top_provider": {"context_length": 65536, "max_completion_tokens": 8192, "is_moderated": False},
    "pricing": {"prompt": "0.0000001", "completion": "0.0000004"},
}
GITHUB = {
    "id": "openai/gpt",
    "limits": {"max_input_tokens": 1048576, "max_output_tokens": 32768},
    "supported_input_modalities": ["text", "audio"],
    "supported_output_modalities": ["text"],
}


@each(
    ("item", "details"),
    [
        (OPENROUTER, ModelDetails(131072, 8192, ("text", "image"), ("text",))),
        (GITHUB, ModelDetails(1048576, 32768, ("text", "audio"), ("text",))),
        ({"id": "vllm", "max_model_len": 4096, "root": "x"}, ModelDetails(4096)),
        ({"id": "groq", "context_window": 8192, "max_completion_tokens": 1024}, ModelDetails(8192, 1024)),
        ({"id": "mistral", "max_context_length": 32768}, ModelDetails(32768)),
        ({"id": "claude", "max_input_tokens": 200000, "max_tokens": 64000}, ModelDetails(200000, 64000)),
        ({"name": "gemini", "inputTokenLimit": 9, "outputTokenLimit": 3}, ModelDetails(9, 3)),
        ({"id": "llama.cpp", "meta": {"n_ctx_train": 131072, "n_ctx": 4096}}, ModelDetails(4096)),
        ({"id": "llama.cpp", "meta": None}, NO_DETAILS),
        ({"id": "ollama", "created": 1, "owned_by": "library"}, NO_DETAILS),
        (
            {"context_length": None, "top_provider": {"max_completion_tokens": None}, "architecture": []},
            NO_DETAILS,
        ),
        ({"context_length": 1.5, "max_model_len": True, "context_window": -1, "limits": 7}, NO_DETAILS),
        ({"context_length": 10**12, "input_modalities": "text"}, NO_DETAILS),
        ({"input_modalities": ["text", 7, "<b>", "x" * 30, None]}, ModelDetails(input_modalities=("text",))),
    ],
)
def test_details_are_read_in_every_spelling(item: dict[str, Any], details: ModelDetails) -> None:
    assert read_details(item) == details
    if "id" in item:
        (row,) = read_models(json.dumps([item]).encode())
        assert row.details == details


@given(json_values)
def test_details_any_row_is_readable(value: Any) -> None:
    item = value if isinstance(value, dict) else {"context_length": value, "architecture": value}
    details = read_details(item)
    assert details.context_length is None or details.context_length > 0


@given(st.integers(0, 10**18))
def test_token_price_is_exact(nano: int) -> None:
    price = token_price(nano, nano, 0)
    text = json.loads(write_model(ModelRow("a", price=price)))["pricing"]["prompt"]
    whole, _, fraction = text.partition(".")
    assert int(whole) * 10**15 + int(fraction.ljust(15, "0") or 0) == nano and "e" not in text


def test_models_are_written_with_what_is_known() -> None:
    details = read_details(OPENROUTER)
    price = token_price(1_250_000_000, 10_000_000_000, 125_000_000)
    row = ModelRow("a", 5, "x", details, price)
    architecture = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    pricing = {"prompt": "0.00000125", "completion": "0.00001", "input_cache_read": "0.000000125"}
    assert json.loads(write_model(row)) == {
        "id": "a",
        "object": "model",
        "created": 5,
        "owned_by": "x",
        "context_length": 131072,
        "max_output_tokens": 8192,
        "architecture": architecture,
        "pricing": pricing,
    }
    assert json.loads(write_anthropic_model(row)) == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "1970-01-01T00:00:05Z",
        "lifecycle": "active",
        "max_input_tokens": 131072,
        "max_tokens": 8192,
        "architecture": architecture,
        "pricing": pricing,
    }


def test_gemini_model_has_limits_if_they_are_known() -> None:
    known = json.loads(write_gemini_model(ModelRow("a", details=ModelDetails(9, 3))))
    assert (known["inputTokenLimit"], known["outputTokenLimit"]) == (9, 3)
    assert "inputTokenLimit" not in json.loads(write_gemini_model(ModelRow("a")))


def test_free_model_has_a_price_of_zero() -> None:
    assert json.loads(write_model(ModelRow("a", price=token_price(0, 0))))["pricing"]["prompt"] == "0"
    assert "pricing" not in json.loads(write_model(ModelRow("a")))
