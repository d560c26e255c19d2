"""GET and DELETE /v1/responses/{id}, its input items, and its cancellation.

Format: OpenAI API reference, responses. The gateway answers for what it stores itself; requests for other
responses are relayed to the server that has them.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.common.errors import Forbidden, GatewayError, InvalidRequest, NotFound
from bluesminds.common.values import Caller, RequestContext, Server
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.call import with_scoped_idempotency
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.operations import OperationMatch
from bluesminds.gateway.passthrough.bodies import JSON_TYPE, ClientRequest, RelayBody
from bluesminds.gateway.passthrough.exchange import RelayedRequest
from bluesminds.gateway.passthrough.lists import Query
from bluesminds.gateway.passthrough.paths import RelayPath
from bluesminds.gateway.passthrough.references import read_query
from bluesminds.gateway.passthrough.runner import RelayRunner
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.stored_responses.store import RESPONSES, ResponseStore, StoredResponse, id_of
from bluesminds.gateway.stream_relay import STREAM_HEADERS
from bluesminds.http.sse import EventSplitter
from bluesminds.providers.profiles import profile_of
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.json_text import Fields
from bluesminds.wire.responses import events_from_reply

MAX_ITEMS: Final = 100  # of one page of input items
USUAL_ITEMS: Final = 20


class _Page(Struct, frozen=True):
    """Of a list of input items."""

    data: Sequence[Fields]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class StoredResponseHandler(Struct, frozen=True):
    keys: KeyAuthenticator
    registry: ServerRegistry
    limiter: RateLimiter
    responses: ResponseStore
    runner: RelayRunner

    async def handle(
        self, match: OperationMatch, context: RequestContext, request: ClientRequest, out: ResponseWriter
    ) -> None:
        """Raises GatewayError only while nothing has been written, else ResponseAborted."""
        caller = None
        try:
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            if caller.address:
                raise Forbidden("scope_not_allowed", "This endpoint needs an API key of this gateway.")
            query = read_query(request.query)
            found = await self.responses.find(caller, match.params["id"])
            if isinstance(found, StoredResponse):
                headers, body = await self._answer(match, caller, found, dict(query))
            else:
                relayed = self._relayed(match, context, caller, found, query, request)
                entry = self.runner.admit(relayed, match.operation)
        except BaseException as exc:
            self.runner.accounting.observer.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        if isinstance(found, StoredResponse):
            self.runner.accounting.observer.record_rejection(context, 200, key_id=caller.key_id)
            await out.send(200, headers, body)
        else:
            await self.runner.run(relayed, entry, out)

    async def _answer(
        self, match: OperationMatch, caller: Caller, found: StoredResponse, query: dict[str, str]
    ) -> tuple[Headers, bytes]:
        """What the gateway answers for a response that it stores. Raises GatewayError."""
        reservation = self.limiter.reserve(caller, Estimate(0, 0))
        try:
            headers: Headers = [(b"content-type", JSON_TYPE), *reservation.headers]
            path = match.operation.path
            if path.endswith("/cancel"):
                message = "Cannot cancel a synchronous response."
                raise InvalidRequest("invalid_request", message)
            if path.endswith("/input_items"):
                return headers, msgspec.json.encode(_page(await self._items(caller, found), query))
            if match.operation.method == "DELETE":
                await self.responses.delete(caller, found.id)
                deleted = {"id": found.id, "object": "response.deleted", "deleted": True}
                return headers, msgspec.json.encode(deleted)
            if query.get("stream") == "true":
                events: Headers = [(b"content-type", b"text/event-stream"), *STREAM_HEADERS]
                return events + reservation.headers, _events(found, query)
            return headers, bytes(found.response)
        finally:
            reservation.settle()

    async def _items(self, caller: Caller, found: StoredResponse) -> Sequence[Fields]:
        """The items that the response was generated from, oldest first. Those of a deleted response that it
        continued are missing.
        """
        if found.previous_id is None:
            return found.input
        try:
            history = await self.responses.history(caller, found.previous_id)
        except (NotFound, InvalidRequest):
            return found.input
        return [*history.items, *found.input]

    def _relayed(
        self,
        match: OperationMatch,
        context: RequestContext,
        caller: Caller,
        servers: frozenset[str],
        query: Query,
        request: ClientRequest,
    ) -> RelayedRequest:
        """The request for the server that has the response. Raises NotFound if there is no such server."""
        server = self._server(caller, servers)
        response_id = match.params["id"]
        below = tuple(match.operation.path.removeprefix("/v1/responses/{id}").strip("/").split("/"))
        path = RelayPath(RESPONSES, response_id, tuple(filter(None, below)))
        base, _, fixed = profile_of(server).speaks["responses"].partition("?")
        return RelayedRequest(
            context=with_scoped_idempotency(context, caller),
            caller=caller,
            path=path,
            target=base + path.text.removeprefix(f"/{RESPONSES}"),
            query=[*read_query(fixed.encode()), *query],
            server=server,
            body=RelayBody(),
            request=request,
            named=frozenset((response_id,)),
            client_format=FORMATS["responses"],
            anthropic=False,
        )

    def _server(self, caller: Caller, names: frozenset[str]) -> Server:
        own = [key.server for key in caller.own_keys or ()]
        for server in (*self.registry.catalog.servers, *own):
            if server.name in names and "responses" in profile_of(server).speaks:
                return server
        raise NotFound(
            "object_server_missing",
            "The server of the response is no longer configured, or has no Responses API.",
        )


def _page(items: Sequence[Fields], query: dict[str, str]) -> _Page:
    """Newest first unless `order` says otherwise. Raises InvalidRequest."""
    order = query.get("order", "desc")
    limit = query.get("limit", str(USUAL_ITEMS))
    if order not in ("asc", "desc"):
        raise InvalidRequest("invalid_value", "`order` must be asc or desc.", param="order")
    if not (limit.isdecimal() and len(limit) <= 9 and 1 <= int(limit) <= MAX_ITEMS):
        message = f"`limit` must be a number from 1 to {MAX_ITEMS}."
        raise InvalidRequest("invalid_value", message, param="limit")
    ordered = list(items) if order == "asc" else list(items)[::-1]
    ids = [id_of(item) for item in ordered]
    start = 0
    if after := query.get("after"):
        if after not in ids:
            raise InvalidRequest("invalid_value", "`after` is not the id of an input item.", param="after")
        start = ids.index(after) + 1
    end = start + int(limit)
    shown = ids[start:end]
    return _Page(
        ordered[start:end],
        shown[0] if shown else None,
        shown[-1] if shown else None,
        has_more=end < len(ids),
    )


def _events(found: StoredResponse, query: dict[str, str]) -> bytes:
    """The stream of the response, after the event with the number `starting_after`. Raises InvalidRequest."""
    after = query.get("starting_after")
    if after is not None and not after.isdecimal():
        message = "`starting_after` must be the number of an event."
        raise InvalidRequest("invalid_value", message, param="starting_after")
    try:
        events = EventSplitter().feed(events_from_reply(bytes(found.response), wants_usage=True))
    except ValueError as exc:
        raise InvalidRequest("invalid_request", "This response cannot be streamed again.") from exc
    return b"".join(events if after is None else events[int(after[:9]) + 1 :])
