"""The cost of a request in the usage block of its response, as OpenRouter has it: `usage.cost` in USD.

Format: OpenRouter, "Usage accounting". A client asks for it with `"usage": {"include": true}`.
"""

from msgspec import Raw

from bluesminds.common.money import write_usd
from bluesminds.http.sse import EventSplitter, event_data, with_data
from bluesminds.wire.json_text import NOT_JSON, read_fields, write_fields


def with_cost(body: bytes, nano: int | None) -> bytes:
    """The JSON with the cost in its usage block, null if it is unknown. Unchanged without such a block."""
    try:
        fields = read_fields(body)
        usage = read_fields(bytes(fields["usage"]))
    except (KeyError, *NOT_JSON):
        return body
    usage["cost"] = Raw(b"null" if nano is None else write_usd(nano).encode())
    return write_fields(fields | {"usage": Raw(write_fields(usage))})


def with_stream_cost(events: bytes, nano: int | None) -> bytes:
    """Complete events, with the cost in those with a usage block."""
    if b'"usage"' not in events:
        return events
    splitter = EventSplitter()
    parts = [_with_cost(event, nano) for event in splitter.feed(events)]
    return b"".join([*parts, splitter.finish()])


def _with_cost(event: bytes, nano: int | None) -> bytes:
    data = event_data(event)
    changed = with_cost(data, nano)
    return event if changed is data else with_data(event, changed)
