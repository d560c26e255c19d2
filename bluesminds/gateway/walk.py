"""The walk: identify, choose, admit, send, meter, settle. One entrance, one exit.

`Gateway.answer` either writes a whole answer to `out` or raises a GatewayError before the first byte. After
the first byte nothing can be unsaid: a failure then ends a stream with an error event and no [DONE].
Whatever happens after admission, cancellation included, the request is settled exactly once, and the last
byte of an answer leaves after its usage row is durable.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
import trio
from msgspec import Struct

from bluesminds.errors import GatewayError, InvalidRequest, NotFound, UpstreamFailed
from bluesminds.gateway import meter
from bluesminds.gateway.admit import Admission
from bluesminds.gateway.choose import Catalogue, choose
from bluesminds.gateway.health import Health
from bluesminds.gateway.identify import KeyRing
from bluesminds.gateway.send import Reply, Sender
from bluesminds.gateway.settle import CLIENT_GONE, Books, Settlement
from bluesminds.http.client import Response, UpstreamError
from bluesminds.http.sse import EventTooLarge, write_event
from bluesminds.providers import openai
from bluesminds.values import NO_USAGE, Arrival, Call, Caller, Server

Headers = list[tuple[bytes, bytes]]
END_SECONDS = 0.25  # the longest a client's [DONE] waits for the server to end after its own
# Proxies in front must not buffer or rewrite the events.
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class Out(Protocol):
    """Where the answer goes. Writing to a client that has left raises ClientGone."""

    @property
    def gone(self) -> bool: ...

    def on_gone(self, callback: Callable[[], object]) -> None: ...

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def piece(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...


class Shelf(Protocol):
    """Where the current catalogue is to be had."""

    catalogue: Catalogue


class Gateway(Struct, frozen=True):
    keys: KeyRing
    shelf: Shelf
    health: Health
    admission: Admission
    sender: Sender
    books: Books
    total_timeout: float  # seconds
    expose_server: bool

    async def answer(self, arrival: Arrival, read_body: Callable[[], Awaitable[bytes]], out: Out) -> None:
        """POST /v1/chat/completions. Raises GatewayError only while nothing has been written."""
        try:
            caller = await self.keys.identify(arrival)
            call = read_call(arrival, await read_body())
            servers = choose(
                self.shelf.catalogue, call.model, usable=self.health.is_usable, dice=random.random
            )
            settlement = self._admit(caller, call)
        except GatewayError as exc:
            self.books.refused(arrival, exc.status, exc.code)
            raise
        try:
            await self._exchange(call, servers, settlement, out)
        except GatewayError as exc:
            settlement.close(exc.status, "upstream_error")
            exc.headers.update((name.decode(), value.decode()) for name, value in self._headers(settlement))
            raise
        except Exception:
            settlement.close(*((CLIENT_GONE, "client_gone") if out.gone else (500, "internal")))
            raise
        finally:
            settlement.close(CLIENT_GONE, "client_gone" if out.gone else "interrupted")

    def _admit(self, caller: Caller, call: Call) -> Settlement:
        recorder = self.books.recorder
        recorder.require_room()
        ticket = self.admission.admit(caller)
        recorder.reserve()
        return self.books.open(caller, call, ticket)

    async def models(self, arrival: Arrival) -> list[openai.ModelRow]:
        """GET /v1/models: what is offered, by name."""
        await self.keys.identify(arrival)
        return self.shelf.catalogue.models()

    async def model(self, arrival: Arrival, name: str) -> openai.ModelRow:
        """GET /v1/models/{id}. Raises NotFound."""
        await self.keys.identify(arrival)
        row = self.shelf.catalogue.model(name)
        if row is None:
            raise NotFound("model_not_found", f"The model `{name[:200]}` is not offered here.", param="model")
        return row

    async def _exchange(
        self, call: Call, servers: Sequence[Server], settlement: Settlement, out: Out
    ) -> None:
        with trio.CancelScope(deadline=call.arrival.started + self.total_timeout) as scope:
            out.on_gone(scope.cancel)
            reply = await self.sender.send(call, servers, settlement.tried)
            try:
                if reply.response is None:
                    await self._relay_whole(call, reply, settlement, out)
                else:
                    await self._relay_stream(call, reply, reply.response, settlement, out)
            finally:
                reply.close()
        if scope.cancelled_caught and not out.gone:
            await _out_of_time(settlement, out)

    async def _relay_whole(self, call: Call, reply: Reply, settlement: Settlement, out: Out) -> None:
        body = reply.first
        if reply.status < 400:
            usage = openai.read_answer(body).usage or meter.estimate_whole(call.body, body)
            settlement.finish(reply.status, "ok", usage)
        else:
            body = (
                body if openai.has_error_object(body) else write_error(openai.read_error(reply.status, body))
            )
            settlement.finish(reply.status, "client_error", NO_USAGE)
        await settlement.durable()
        settlement.answering()
        await out.whole(reply.status, reply.headers + self._headers(settlement), body)

    async def _relay_stream(
        self, call: Call, reply: Reply, response: Response, settlement: Settlement, out: Out
    ) -> None:
        stream = meter.StreamMeter(wants_usage=call.wants_usage)
        settlement.usage_so_far = lambda: stream.usage or meter.estimate(call.body, stream.events)
        settlement.answering()
        await out.start(reply.status, reply.headers + self._headers(settlement) + STREAM_HEADERS)
        data = reply.first
        try:
            while data:
                if passed := stream.feed(data):
                    await out.piece(passed)
                if stream.ended:
                    await _let_end(response)
                    break
                data = await response.receive()
            last = stream.finish()
            settlement.close(reply.status, "upstream_error" if stream.failed else "ok")
        except (UpstreamError, EventTooLarge):
            settlement.close(reply.status, "cut")
            last = _error_event("upstream_cut", "The server broke off in mid-answer. Try again.")
        try:
            await settlement.durable()
        except GatewayError as exc:
            last = _error_event(exc.code, exc.message)
        await out.end(last)

    def _headers(self, settlement: Settlement) -> Headers:
        """What every answer to an admitted request carries besides the request id."""
        if not self.expose_server or not settlement.tried:
            return settlement.rate_headers
        return [
            *settlement.rate_headers,
            (b"x-bluesminds-server", settlement.tried[-1].encode()),
            (b"x-bluesminds-attempts", b"%d" % len(settlement.tried)),
        ]


async def _let_end(response: Response) -> None:
    """After [DONE]: a moment for the server to end its answer, so that the connection can be kept. What it
    says instead is of no interest to anyone.
    """
    with contextlib.suppress(UpstreamError), trio.move_on_after(END_SECONDS):
        while await response.receive():
            pass


async def _out_of_time(settlement: Settlement, out: Out) -> None:
    message = "The answer took longer than the gateway allows. Ask for less, or raise upstream.total_timeout."
    settlement.close(504, "timeout")
    if settlement.first_byte is None:
        raise UpstreamFailed(504, "upstream_timeout", message)
    with contextlib.suppress(GatewayError):
        await settlement.durable()
    await out.end(_error_event("upstream_timeout", message))


def _error_event(code: str, message: str) -> bytes:
    """A failure in mid-stream, in the one form OpenAI's SDKs raise: a data event with a top-level error."""
    return write_event(write_error(openai.ErrorDetail(message=message, type="server_error", code=code)))


def write_error(detail: openai.ErrorDetail) -> bytes:
    return msgspec.json.encode({"error": detail})


def read_call(arrival: Arrival, body: bytes) -> Call:
    """The client's request. Raises InvalidRequest with the offending field."""
    try:
        request = openai.read_chat_request(body)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$.")
        param = path.rstrip("`") or _missing_field(reason)
        raise InvalidRequest(
            "invalid_value", f"{reason}{f' (in `{param}`)' if param else ''}.", param=param
        ) from exc
    except openai.NOT_JSON as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc
    return Call(
        arrival=arrival,
        model=request.model,
        stream=bool(request.stream),
        wants_usage=request.stream_options is not None and bool(request.stream_options.include_usage),
        body=openai.unambiguous(body),
    )


def _missing_field(reason: str) -> str | None:
    """The name in msgspec's "Object missing required field `name`"."""
    return reason.split("`")[1] if reason.startswith("Object missing") else None
