"""Code shared by formats without generated text: replies are lists, and only the input has tokens."""

from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.wire.base import ReplyFacts, RequestFacts
from bluesminds.wire.errors import find_error
from bluesminds.wire.json_text import NOT_JSON, Fields, is_set, read_fields, read_value, text_bytes
from bluesminds.wire.usage import ImplausibleUsage, read_usage


class CountedFields(Struct):
    """`model` is the only field that the gateway reads; all others are forwarded."""

    model: str


_raws = msgspec.json.Decoder(list[Raw])


def facts_of(fields: Fields, model: str) -> RequestFacts:
    """The facts of a request whose answer has no tokens."""
    return RequestFacts(model=model, max_output=0, text_bytes=text_bytes(fields))


def read_list_reply(body: bytes, *names: str) -> ReplyFacts:
    """A reply with its items in one of the fields `names`. A usage without input is ignored; the output is
    always 0.
    """
    try:
        fields = read_fields(body)
    except NOT_JSON:
        return ReplyFacts(readable=False)
    items = next((count for name in names if (count := list_length(fields.get(name)))), 0)
    usage, implausible = None, False
    meta = fields.get("meta")
    for place in ("usage", "meta", "usageMetadata"):
        if is_set(raw := fields.get(place)) and raw is not None:
            try:
                usage = _input_only(read_usage(raw, total_is_input=True))
            except ImplausibleUsage:
                implausible = True
            if usage is not None:
                break
    return ReplyFacts(
        choices=items,
        usage=usage,
        implausible=implausible,
        units=None if meta is None else _search_units(meta),
        error=None if items else find_error(body),
    )


def _input_only(usage: Usage | None) -> Usage | None:
    if usage is None or usage.input_tokens is None:
        return None
    return structs.replace(usage, output_tokens=0, reasoning_tokens=None)


def list_length(raw: Raw | None) -> int:
    if raw is None:
        return 0
    try:
        return len(_raws.decode(raw))
    except NOT_JSON:
        pass
    try:
        value = read_value(raw)
    except NOT_JSON:
        return 0
    return len(value) if isinstance(value, list) else 0


def _search_units(meta: Raw) -> int | None:
    """Cohere's `meta.billed_units.search_units`, an integer."""
    try:
        value: Any = read_value(meta)
    except NOT_JSON:
        return None
    billed = value.get("billed_units") if isinstance(value, dict) else None
    units = billed.get("search_units") if isinstance(billed, dict) else None
    if isinstance(units, bool) or not isinstance(units, int | float) or not 0 <= units <= 10**6:
        return None
    return int(units) if units == int(units) else None


def read_count_reply(body: bytes, name: str = "input_tokens") -> ReplyFacts:
    """A count of tokens in the field `name`. Counting generates nothing and costs nothing."""
    try:
        value = read_value(body)
    except NOT_JSON:
        return ReplyFacts(readable=False)
    count = value.get(name) if isinstance(value, dict) else None
    answered = isinstance(count, int)
    return ReplyFacts(
        readable=isinstance(value, dict),
        choices=int(answered),
        usage=Usage(0, 0, usage_source="upstream") if answered else None,
        error=None if answered else find_error(body),
    )


def no_events(name: bytes, data: bytes) -> ReplyFacts:
    """These formats have no streams."""
    return ReplyFacts(readable=False)
