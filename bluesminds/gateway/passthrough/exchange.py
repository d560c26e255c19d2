"""Exchanges one relayed request with its server: streams the answer to the client, learns the ids of new
objects, and reduces lists to the objects of the account.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.common.values import NO_USAGE, Caller, RequestContext, Server
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.passthrough.bodies import JSON_TYPE, ClientRequest, RelayBody, form_pieces
from bluesminds.gateway.passthrough.lists import MAX_PAGE, ListPage, Query, own_page, write_page
from bluesminds.gateway.passthrough.paths import RelayPath
from bluesminds.gateway.passthrough.references import FoundIds, kinds_in_answer, with_own_urls, write_query
from bluesminds.gateway.relay import Relay
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.server_objects import ServerObjects
from bluesminds.gateway.upstream.endpoint import StreamRedactor
from bluesminds.gateway.upstream.raw import RawReply, RawRequest, RawSender
from bluesminds.http.asgi import ResponseAborted
from bluesminds.http.client.pool import UpstreamError
from bluesminds.wire.base import Format

MAX_SEARCHED: Final = 1024 * 1024  # bytes of a JSON answer in which ids are looked for


class RelayedRequest(Struct, frozen=True):
    """A request whose ids are checked. `target` is its path relative to the server's URL, without the query.
    `named`: the ids, except for a form's. `anthropic`: the client speaks Anthropic's API.
    """

    context: RequestContext
    caller: Caller
    path: RelayPath
    target: str
    query: Query
    server: Server
    body: RelayBody
    request: ClientRequest
    named: frozenset[str]
    client_format: Format
    anthropic: bool

    @property
    def is_list(self) -> bool:
        """Whether the server's answer has objects of all accounts."""
        return not self.path.object_id and self.context.method == "GET"

    @property
    def has_new_ids(self) -> bool:
        """Whether the answer may name objects that the account did not have before."""
        method = self.context.method
        return method == "POST" or (method == "GET" and not self.path.below)


class RelayExchange(Struct, frozen=True):
    sender: RawSender
    objects: ServerObjects
    relay: Relay

    async def run(self, relayed: RelayedRequest, entry: UsageEntry, out: ResponseWriter) -> None:
        """Raises GatewayError while nothing has been written, else ResponseAborted."""
        entry.begin_attempt(relayed.server.name)
        if relayed.is_list:
            await self._relay_list(relayed, entry, out)
            return
        reply = await self._send(relayed, relayed.query)
        try:
            await self._pass_on(relayed, reply, entry, out)
        except UpstreamError as exc:
            failure = self.sender.failed(relayed.context, relayed.server, exc)
            if entry.first_byte is None:
                raise failure from exc
            entry.close(reply.status, "cut")
            raise ResponseAborted(failure.message) from exc
        finally:
            reply.response.close()

    async def _send(self, relayed: RelayedRequest, query: Query) -> RawReply:
        body = relayed.body
        content: bytes | AsyncIterator[bytes]
        if body.boundary:
            content = form_pieces(relayed.request, body.boundary, lambda ids: self._check(relayed, ids))
        else:
            content = body.content
        raw = RawRequest(
            relayed.context.method,
            relayed.target + write_query(query),
            [*relayed.request.passed_headers(), *body.headers],
            content,
        )
        return await self.sender.send(relayed.context, relayed.server, raw, relayed.client_format)

    async def _check(self, relayed: RelayedRequest, ids: FoundIds) -> None:
        """The ids in a field of a form. Raises GatewayError."""
        found = await self.objects.find(relayed.caller, ids.references, ids.mentions)
        found.check_mentions(relayed.server.name)
        if found.servers is not None and relayed.server.name not in found.servers:
            raise InvalidRequest(
                "different_servers",
                "The form refers to an object at another server. Name the server of the object in the "
                "header x-bluesminds-server.",
            )

    async def _pass_on(
        self, relayed: RelayedRequest, reply: RawReply, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        if relayed.context.method == "DELETE" and not relayed.path.below and reply.status < 300:
            await self.objects.remove(relayed.caller, relayed.server.name, relayed.path.object_id)
        if reply.error is not None:
            outcome = "client_error" if reply.status < 500 else "upstream_error"
            await self._send_whole(reply, reply.error, outcome, entry, out)
            return
        beginning = b""
        if relayed.has_new_ids and _is_json(reply):
            beginning, ended = await _read_beginning(reply)
            if ended:
                body = with_own_urls(reply.endpoint.redact(beginning), relayed.path.collection)
                await self._record_new(relayed, body)
                await self._send_whole(reply, body, "ok", entry, out)
                return
        await self._stream(reply, beginning, entry, out)

    async def _send_whole(
        self, reply: RawReply, body: bytes, outcome: str, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        entry.finish(reply.status, outcome, NO_USAGE)
        await entry.wait_durable()
        entry.begin_response()
        headers = [header for header in reply.headers if header[0] != b"content-length"]
        await out.send(reply.status, headers + self.relay.headers(entry), body)

    async def _stream(
        self, reply: RawReply, beginning: bytes, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        """The end is held back until the usage row is durable: the last bytes of a declared length, else the
        end of the framing.
        """
        missing = _declared_length(reply)
        redactor = StreamRedactor(reply.endpoint.secrets)
        piece = beginning or await reply.response.receive()
        entry.begin_response()
        await out.start(reply.status, reply.headers + self.relay.headers(entry))
        last = b""
        while piece:
            passed = redactor.feed(piece)
            if missing is not None and (missing := missing - len(piece)) <= 0:
                last = passed
            elif passed:
                await out.write(passed)
            piece = await reply.response.receive()
        entry.finish(reply.status, "ok", NO_USAGE)
        try:
            await entry.wait_durable()
        except GatewayError as exc:
            raise ResponseAborted(exc.message) from exc
        await out.end(last + redactor.finish())

    async def _record_new(self, relayed: RelayedRequest, body: bytes) -> None:
        """Record the objects that the answer names as the account's. An id that the client has named is not
        new: else a client could claim the objects that were not created through the gateway.
        """
        kinds = kinds_in_answer(body, relayed.path.collection)
        new = {one: kind for one, kind in kinds.items() if one not in relayed.named}
        if new:
            await self.objects.add(relayed.caller, relayed.server.name, new)

    async def _relay_list(self, relayed: RelayedRequest, entry: UsageEntry, out: ResponseWriter) -> None:
        server = relayed.server.name
        page = ListPage((), has_more=False, is_openai=not relayed.anthropic)
        if await self.objects.has_any(relayed.caller, server, relayed.path.collection):

            async def own_among(ids: Sequence[str]) -> frozenset[str]:
                return await self.objects.own_among(relayed.caller, server, ids)

            async def fetch(query: Query) -> bytes:
                return await self._fetch_page(relayed, query)

            cursor = "after_id" if relayed.anthropic else "after"
            try:
                page = await own_page(relayed.query, cursor, fetch, own_among)
            except _RefusedList as exc:
                await self._send_whole(exc.reply, exc.reply.error or b"", "client_error", entry, out)
                return
            page = page.with_items(lambda item: with_own_urls(item, relayed.path.collection))
        entry.finish(200, "ok", NO_USAGE)
        await entry.wait_durable()
        entry.begin_response()
        headers: Headers = [(b"content-type", JSON_TYPE), *self.relay.headers(entry)]
        await out.send(200, headers, write_page(page))

    async def _fetch_page(self, relayed: RelayedRequest, query: Query) -> bytes:
        reply = await self._send(relayed, query)
        try:
            if reply.error is not None:
                raise _RefusedList(reply)
            return reply.endpoint.redact(await reply.response.read(MAX_PAGE))
        except UpstreamError as exc:
            raise self.sender.failed(relayed.context, relayed.server, exc) from exc
        finally:
            reply.response.close()


class _RefusedList(Exception):
    """The server has answered the request for a list with an error."""

    def __init__(self, reply: RawReply) -> None:
        super().__init__()
        self.reply = reply


def _declared_length(reply: RawReply) -> int | None:
    """None if the response has another framing."""
    found = reply.response.header(b"content-length")
    return int(found) if found is not None and found.isdigit() else None


def _is_json(reply: RawReply) -> bool:
    found = reply.response.header(b"content-type") or b""
    return found.partition(b";")[0].strip().lower() == JSON_TYPE


async def _read_beginning(reply: RawReply) -> tuple[bytes, bool]:
    """Up to MAX_SEARCHED bytes of the answer, and whether that is all of it."""
    parts: list[bytes] = []
    size = 0
    while size <= MAX_SEARCHED:
        piece = await reply.response.receive()
        if not piece:
            return b"".join(parts), True
        parts.append(piece)
        size += len(piece)
    return b"".join(parts), False
