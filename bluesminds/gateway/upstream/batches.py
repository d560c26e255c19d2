"""Requests for embeddings with more texts than the server accepts in one request: several requests, and one
reply with all vectors in order. If one of them fails, its failure is that of all.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import reduce
from typing import Final

import trio
from msgspec import Struct, structs

from bluesminds.gateway.forms import Headers
from bluesminds.gateway.json_body import JSON_HEADERS
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.wire.base import FormatName, ReplyFacts
from bluesminds.wire.formats import client_vectors_of, vectors_of
from bluesminds.wire.json_text import write_fields
from bluesminds.wire.support import Support
from bluesminds.wire.usage import add_usage
from bluesminds.wire.vectors import VectorReply, VectorRequest, check_vectors

MAX_RUNNING: Final = 4  # requests to the server at once


class TextBatch(Struct, frozen=True):
    """Some texts of a request, as the body of a request. Its reply stays in the server's format."""

    texts: VectorRequest
    conversation: None = None
    vectors: None = None

    def headers(self, model: str) -> Headers:
        return JSON_HEADERS

    def content(self, plan: Plan, model: str, support: Support) -> bytes:
        return write_fields(vectors_of(plan.format).encode_request(self.texts, model).fields)


def split_texts(request: VectorRequest, plan: Plan) -> Sequence[TextBatch]:
    """Empty if one request is enough."""
    if not plan.translated:
        return ()
    most = vectors_of(plan.format).most_texts
    if not most or len(request.texts) <= most:
        return ()
    return [
        TextBatch(structs.replace(request, texts=request.texts[start : start + most]))
        for start in range(0, len(request.texts), most)
    ]


async def exchange_batches(
    exchange: Callable[[TextBatch], Awaitable[Reply]],
    batches: Sequence[TextBatch],
    request: VectorRequest,
    plan: Plan,
    client: FormatName,
) -> Reply:
    """One reply in the client's format, or the first error. Raises what `exchange` raises first."""
    replies: dict[int, Reply] = {}
    failures: list[Reply | Exception] = []
    waiting = iter(enumerate(batches))

    async def run(scope: trio.CancelScope) -> None:
        for number, batch in waiting:
            try:
                reply = await exchange(batch)
            except Exception as exc:  # raised below, without an exception group
                failures.append(exc)
            else:
                replies[number] = reply
                if reply.error is not None or not reply.facts.readable:
                    failures.append(reply)
            if failures:
                scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(min(MAX_RUNNING, len(batches))):
            nursery.start_soon(run, nursery.cancel_scope)
    for failure in failures:
        if isinstance(failure, Exception):
            raise failure
        return failure
    in_order = [replies[number] for number in range(len(batches))]
    return _join(in_order, batches, request, plan.format, client)


def _join(
    replies: Sequence[Reply],
    batches: Sequence[TextBatch],
    request: VectorRequest,
    server: FormatName,
    client: FormatName,
) -> Reply:
    """The usage is the sum, and missing if one reply reports none."""
    first = replies[0]
    try:
        parts = [vectors_of(server).decode_reply(reply.body) for reply in replies]
        for part, batch in zip(parts, batches, strict=True):
            check_vectors(part, batch.texts)
        facts = _joined_facts([reply.facts for reply in replies])
        vectors = tuple(vector for part in parts for vector in part.vectors)
        joined = VectorReply(vectors, None if facts.usage is None else facts.usage.input_tokens)
        body = client_vectors_of(client).encode_reply(joined, request)
    except ValueError:
        return structs.replace(first, facts=ReplyFacts(readable=False))
    return structs.replace(first, body=body, facts=facts)


def _joined_facts(facts: Sequence[ReplyFacts]) -> ReplyFacts:
    reports = [one.usage for one in facts if one.usage is not None]
    return structs.replace(
        facts[0],
        choices=sum(one.choices for one in facts),
        usage=reduce(add_usage, reports) if len(reports) == len(facts) else None,
        implausible=any(one.implausible for one in facts),
    )
