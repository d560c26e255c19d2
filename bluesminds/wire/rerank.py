"""Rerank: POST /v1/rerank.

Format: Cohere's v2 rerank, which Jina, Voyage, vLLM and LiteLLM share: `query`, `documents`, `top_n`; a reply
with `results` (Voyage: `data`). Usage is `meta.billed_units.search_units` or `meta.tokens` (Cohere), or
`usage.total_tokens` (Jina, Voyage, vLLM).
"""

import msgspec
from msgspec import Raw

from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.counted import CountedFields, facts_of, no_events, read_list_reply
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.json_text import Fields
from bluesminds.wire.requests import decode_fields, prepare


class RerankFields(CountedFields):
    query: Raw
    documents: Raw


_fields = msgspec.json.Decoder(RerankFields)


def read_request(fields: Fields) -> RequestFacts:
    return facts_of(fields, decode_fields(fields, _fields, unread=("query", "documents")).model)


def read_reply(body: bytes) -> ReplyFacts:
    return read_list_reply(body, "results", "data")


RERANK = Format(
    name="rerank",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=no_events,
    write_error=write_error,
    write_stream_error=write_stream_error,
)
