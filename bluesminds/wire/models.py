"""Lists of models: reading a server's, writing OpenAI's, Anthropic's and Gemini's.

Shapes: {"data": [{"id"}]} (OpenAI, LM Studio, OpenRouter), a bare list (Together), {"models": [{"name"} or
text]} (Ollama, Gemini). Rows that cannot be read are skipped.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from bluesminds.common.money import Price, write_unit_price
from bluesminds.wire.json_text import NOT_JSON, read_value
from bluesminds.wire.model_details import NO_DETAILS, ModelDetails, read_details

_NEWEST = 2**53
_LAST_TIME = 253_402_300_799  # the last second of the year 9999


class ModelRow(Struct, frozen=True, gc=False):
    """`created`: seconds since the epoch, 0 if unknown. `owned_by`: "" if unknown. `price`: what the gateway
    charges, None if it has no price. `embeds`: it only makes embeddings, as Gemini's list says.
    """

    id: str
    created: int = 0
    owned_by: str = ""
    details: ModelDetails = NO_DETAILS
    price: Price | None = None
    embeds: bool = False


def read_models(body: bytes, prefix: str = "") -> list[ModelRow]:
    """Every row with an id, each id once and without `prefix`; null is an empty list. Raises ValueError if
    there is no list.
    """
    try:
        answer = read_value(body)
    except NOT_JSON as exc:
        raise ValueError("the server's list of models is not JSON") from exc
    rows = [row for item in _items(answer) if (row := _read_row(item, answer, prefix)) is not None]
    return list({row.id: row for row in reversed(rows)}.values())[::-1]


def _items(answer: object) -> list[Any]:
    if isinstance(answer, list):
        return answer
    if isinstance(answer, dict):
        for name in ("data", "models"):
            if isinstance(items := answer.get(name), list):
                return items
        if any(name in answer and answer[name] is None for name in ("data", "models")):
            return []
    raise ValueError("the server's response has no list of models")


def _read_row(item: object, answer: object, prefix: str) -> ModelRow | None:
    if isinstance(item, str):
        item = {"id": item}
    if not isinstance(item, dict):
        return None
    name = item.get("id")
    if name is None and isinstance(answer, dict) and "data" not in answer:
        name = item.get("name") or item.get("model") or item.get("key")
        name = name.removeprefix("models/") if isinstance(name, str) else None
    methods = item.get("supportedGenerationMethods")
    others = methods if isinstance(methods, list) and "generateContent" not in methods else ()
    embeds = "embedContent" in others
    if not isinstance(name, str) or not name or (others and not embeds):
        return None
    created, owner = item.get("created"), item.get("owned_by")
    return ModelRow(
        id=name.removeprefix(prefix) or name,
        created=created if type(created) is int and 0 <= created < _NEWEST else 0,
        owned_by=owner if isinstance(owner, str) else "",
        details=read_details(item),
        embeds=embeds,
    )


def write_models(rows: Iterable[ModelRow]) -> bytes:
    """OpenAI's list."""
    return msgspec.json.encode({"object": "list", "data": [_as_openai(row) for row in rows]})


def write_model(row: ModelRow) -> bytes:
    return msgspec.json.encode(_as_openai(row))


def write_anthropic_models(rows: Sequence[ModelRow], *, has_more: bool = False) -> bytes:
    """A page of Anthropic's list. `has_more`: other rows follow, or precede it if it was read backwards."""
    page = {
        "data": [_as_anthropic(row) for row in rows],
        "has_more": has_more,
        "first_id": rows[0].id if rows else None,
        "last_id": rows[-1].id if rows else None,
    }
    return msgspec.json.encode(page)


def write_anthropic_model(row: ModelRow) -> bytes:
    return msgspec.json.encode(_as_anthropic(row))


def _as_anthropic(row: ModelRow) -> dict[str, object]:
    created = datetime.fromtimestamp(min(row.created, _LAST_TIME), UTC)
    model: dict[str, object] = {"type": "model", "id": row.id, "display_name": row.id, "created_at": created}
    model |= {"lifecycle": "active", "max_input_tokens": row.details.context_length}
    return model | {"max_tokens": row.details.max_output} | _more(row)


def write_gemini_models(rows: Iterable[ModelRow]) -> bytes:
    """Gemini's list, in one page."""
    return msgspec.json.encode({"models": [_as_gemini(row) for row in rows]})


def write_gemini_model(row: ModelRow) -> bytes:
    return msgspec.json.encode(_as_gemini(row))


def _as_gemini(row: ModelRow) -> dict[str, object]:
    model: dict[str, object] = {
        "name": f"models/{row.id}",
        "baseModelId": row.id,
        "version": "",
        "displayName": row.id,
    }
    if row.details.context_length is not None:
        model["inputTokenLimit"] = row.details.context_length
    if row.details.max_output is not None:
        model["outputTokenLimit"] = row.details.max_output
    methods = ("embedContent", "batchEmbedContents") if row.embeds else ("generateContent", "countTokens")
    return model | {"supportedGenerationMethods": methods}


def _as_openai(row: ModelRow) -> dict[str, object]:
    model: dict[str, object] = {"id": row.id, "object": "model", "created": row.created}
    model["owned_by"] = row.owned_by
    if row.details.context_length is not None:
        model["context_length"] = row.details.context_length
    if row.details.max_output is not None:
        model["max_output_tokens"] = row.details.max_output
    return model | _more(row)


def _more(row: ModelRow) -> dict[str, object]:
    """Fields in the form of OpenRouter's list: modalities, and prices in USD per token. Unknown ones are
    left out.
    """
    details, price = row.details, row.price
    more: dict[str, object] = {}
    modalities = {
        "input_modalities": details.input_modalities,
        "output_modalities": details.output_modalities,
    }
    if known := {name: value for name, value in modalities.items() if value}:
        more["architecture"] = known
    if price is not None:
        rates = price.rates
        pricing = {
            "prompt": rates.input,
            "completion": rates.output,
            "input_cache_read": rates.input if rates.cached_input is None else rates.cached_input,
            "input_cache_write": rates.cache_write,
            "request": rates.request,
        }
        more["pricing"] = {name: write_unit_price(rate) for name, rate in pricing.items() if rate is not None}
    return more
