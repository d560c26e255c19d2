"""The walk: identify, choose, admit, send, meter, settle. One entrance, one exit.

`Gateway.answer` either writes a whole answer to `out` or raises a GatewayError before the first byte. After
the first byte nothing can be unsaid: a failure then ends a stream with an error event and no [DONE].
Whatever happens after admission, cancellation included, the request is settled exactly once, and the last
byte of an answer leaves after its usage row is durable.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import trio
from msgspec import Struct

from bluesminds.common.crypto import scoped
from bluesminds.common.errors import GatewayError, InvalidRequest, NotFound, Unavailable, UpstreamFailed
from bluesminds.common.money import write_usd
from bluesminds.common.values import NO_USAGE, Call, Caller, RequestContext, Server
from bluesminds.gateway import stream_meter
from bluesminds.gateway.accounting import CLIENT_GONE, UsageAccounting, UsageEntry
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.authorize import check_model
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.recorder import usage_unrecorded_error
from bluesminds.gateway.routing.catalog import ModelCatalog, ServerRegistry
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.policies import select_targets
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.http.client.pool import Response, UpstreamError
from bluesminds.http.sse import MAX_EVENT, EventTooLarge, write_event
from bluesminds.providers import openai

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
END_SECONDS = 0.25  # how long a server may take to end its answer after its [DONE]
_RANDOM: Final = random.Random()  # noqa: S311 - own instance: seeding the shared one must not steer routing
# Proxies in front must not buffer or rewrite the events.
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class ResponseWriter(Protocol):
    """Where the answer goes. Writing to a client that has left raises ClientGone."""

    @property
    def gone(self) -> bool: ...

    def on_gone(self, callback: Callable[[], object]) -> None: ...

    async def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def piece(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...


class Gateway(Struct, frozen=True):
    keys: KeyAuthenticator
    registry: ServerRegistry
    health: ServerHealthRegistry
    limiter: RateLimiter
    sender: Sender
    accounting: UsageAccounting
    total_timeout: float  # seconds
    expose_server: bool

    async def answer(
        self, context: RequestContext, read_body: Callable[[], Awaitable[Body]], out: ResponseWriter
    ) -> None:
        """POST /v1/chat/completions. Raises GatewayError only while nothing has been written."""
        caller = call = None
        try:
            known = self.keys.changes
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            if caller.address:
                self.limiter.check_exhausted(caller)  # before megabytes of anybody's are read
            body = await read_body()
            if self.keys.changes != known:  # a body can take its time, and a key be revoked meanwhile
                caller = await self.keys.authenticate(context)
                self.keys.authorize_use(caller, context)
            call, body.data = read_call(
                _with_own_idempotency(context, caller), body.data, own_key=bool(caller.address)
            )
            check_model(caller, call.model)
            servers = select_targets(
                self._catalog(caller), call.model, usable=self.health.is_usable, random=_RANDOM.random
            )
            entry = self._admit(caller, call, stream_meter.text_size(body.data))
        except BaseException as exc:
            self._record_rejection(context, caller, call, exc)
            raise
        try:
            await self._exchange(call, body, servers, entry, out)
        except GatewayError as exc:
            refusal = await _recorded(entry, exc)
            refusal.headers.update(_as_text(self._headers(entry)))
            raise refusal from None
        except Exception:
            entry.close(*((CLIENT_GONE, "client_gone") if out.gone else (500, "internal")))
            raise
        finally:
            entry.close(CLIENT_GONE, "client_gone" if out.gone else "interrupted")

    def _admit(self, caller: Caller, call: Call, size: int) -> UsageEntry:
        recorder = self.accounting.recorder
        recorder.check_capacity(strict=self.accounting.strict)
        reservation = self.limiter.reserve(caller, self.accounting.estimator.estimate(call, size), call.model)
        recorder.reserve()
        return self.accounting.open(caller, call, reservation, size)

    def _record_rejection(
        self, context: RequestContext, caller: Caller | None, call: Call | None, exc: BaseException
    ) -> None:
        """Count a request that ends before it is admitted, and tell its caller what is left."""
        if isinstance(exc, GatewayError):
            status, code = exc.status, exc.code
            if caller is not None:
                exc.headers = _as_text(self.limiter.headers(caller)) | exc.headers
        elif isinstance(exc, OSError):
            status, code = CLIENT_GONE, "client_gone"
        elif isinstance(exc, Exception):
            status, code = 500, "internal_error"
        else:
            status, code = CLIENT_GONE, "interrupted"
        self.accounting.note(
            context,
            status,
            code=code,
            key_id="" if caller is None else caller.key_id,
            model="" if call is None else call.model,
        )

    async def models(self, context: RequestContext) -> tuple[list[openai.ModelRow], Headers]:
        """GET /v1/models: what is offered that the key may use, by name, and the rate headers."""

        def find(catalog: ModelCatalog, caller: Caller) -> list[openai.ModelRow]:
            rows, may_use = catalog.models(), caller.models
            return rows if may_use is None else [row for row in rows if row.id in may_use]

        return await self._look_up(context, find)

    async def model(self, context: RequestContext, name: str) -> tuple[openai.ModelRow, Headers]:
        """GET /v1/models/{id}. Raises NotFound, also for one that the key may not use."""

        def find(catalog: ModelCatalog, caller: Caller) -> openai.ModelRow:
            row = catalog.model(name)
            if row is None or not (caller.models is None or name in caller.models):
                raise NotFound(
                    "model_not_found", f"The model `{name[:200]}` is not offered here.", param="model"
                )
            return row

        return await self._look_up(context, find)

    async def _look_up(
        self, context: RequestContext, find: Callable[[ModelCatalog, Caller], T]
    ) -> tuple[T, Headers]:
        caller = None
        try:
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            found = find(self._catalog(caller), caller)
        except BaseException as exc:
            self._record_rejection(context, caller, None, exc)
            raise
        self.accounting.note(context, 200, key_id=caller.key_id)
        return found, self.limiter.headers(caller)

    def _catalog(self, caller: Caller) -> ModelCatalog:
        return self.registry.keyless if caller.address else self.registry.catalog

    async def _exchange(
        self, call: Call, body: Body, servers: Sequence[Server], entry: UsageEntry, out: ResponseWriter
    ) -> None:
        answered = False
        with trio.CancelScope(deadline=call.context.started + self.total_timeout) as scope:
            out.on_gone(scope.cancel)
            reply = await self.sender.send(call, body.data, servers, entry.tried)
            answered = True
            try:
                if reply.response is None:
                    await self._relay_json(body, reply, entry, out)
                else:
                    await self._relay_stream(call, body, reply, reply.response, entry, out)
            finally:
                reply.close()
        if scope.cancelled_caught and not out.gone:
            if not answered:
                self.sender.out_of_time(entry.tried)
            await _handle_total_timeout(entry, out)

    async def _relay_json(self, body: Body, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        if reply.status < 400:
            usage = stream_meter.filled(
                reply.reading.usage, lambda: stream_meter.estimate_whole(entry.size, reply.first)
            )
            entry.finish(reply.status, "ok", usage)
        else:
            entry.finish(reply.status, "client_error", NO_USAGE)
        body.release()
        await entry.durable()
        entry.answering()
        headers = reply.headers + self._headers(entry)
        if entry.cost is not None:
            headers.append((b"x-cost-usd", write_usd(entry.cost).encode()))
        await out.whole(reply.status, headers, reply.first)

    async def _relay_stream(
        self, call: Call, body: Body, reply: Reply, response: Response, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        stream = stream_meter.StreamMeter(wants_usage=call.wants_usage)
        body.release()
        entry.usage_so_far = lambda: stream_meter.filled(
            stream.usage, lambda: stream_meter.estimate(entry.size, stream.events)
        )
        lingers = False
        entry.answering()
        await out.start(reply.status, reply.headers + self._headers(entry) + STREAM_HEADERS)
        data = reply.first
        try:
            while data:
                if passed := reply.redact(stream.feed(data)):
                    await out.piece(passed)
                data = b"" if stream.ended else await response.receive()
            lingers = stream.ended
            last = reply.redact(stream.finish())
            self.sender.ended(call, reply, error=stream.error, implausible=stream.implausible)
            entry.close(reply.status, "upstream_error" if stream.failed else "ok")
        except UpstreamError as exc:
            self.sender.stream_failed(reply, exc)
            entry.close(reply.status, "cut")
            last = _error_event("upstream_cut", "The server broke off in mid-answer. Try again.")
        except EventTooLarge:
            entry.close(reply.status, "cut")
            message = f"The server sent an event of more than {MAX_EVENT >> 20} MiB, too large to pass on."
            last = _error_event("upstream_invalid", message)
        try:
            await entry.durable()
        except GatewayError as exc:
            last = _error_event(exc.code, exc.message)
        await out.end(last)
        if lingers:
            await _drain_after_done(response)

    def _headers(self, entry: UsageEntry) -> Headers:
        """What every answer to an admitted request carries besides the request id."""
        if not self.expose_server or not entry.tried:
            return entry.rate_headers
        return [
            *entry.rate_headers,
            (b"x-bluesminds-server", entry.tried[-1].encode()),
            (b"x-bluesminds-attempts", b"%d" % len(entry.tried)),
        ]


async def _drain_after_done(response: Response) -> None:
    """After [DONE]: a moment for the server to end its answer, so that the connection can be kept. What it
    says instead is of no interest to anyone. The client has its answer, so its deadline does not count.
    """
    with contextlib.suppress(UpstreamError), trio.move_on_after(END_SECONDS, shield=True):
        while await response.receive():
            pass


def _as_text(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


async def _recorded(entry: UsageEntry, exc: GatewayError) -> GatewayError:
    """Settle a request without an answer. Returns what to tell its client: exc, or that no row is there."""
    entry.close(exc.status, "upstream_error")
    if isinstance(exc, Unavailable):
        return exc
    try:
        await entry.durable()
    except Unavailable:
        return Unavailable("storage_unavailable", "Usage cannot be recorded right now. Try again shortly.")
    return exc


async def _handle_total_timeout(entry: UsageEntry, out: ResponseWriter) -> None:
    if entry.settled:  # only the row's way to the disk took too long
        failure: GatewayError = usage_unrecorded_error()
    else:
        failure = UpstreamFailed(
            504,
            "upstream_timeout",
            "The answer took longer than the gateway allows. Ask for less, or raise upstream.total_timeout.",
        )
        entry.close(504, "timeout")
    if entry.first_byte is None:
        raise failure
    if not isinstance(failure, Unavailable):
        with contextlib.suppress(GatewayError):
            await entry.durable()
    await out.end(_error_event(failure.code, failure.message))


def _error_event(code: str, message: str) -> bytes:
    """A failure in mid-stream, in the one form OpenAI's SDKs raise: a data event with a top-level error."""
    return write_event(write_error(openai.ErrorDetail(message=message, type="server_error", code=code)))


def write_error(detail: openai.ErrorDetail) -> bytes:
    return msgspec.json.encode({"error": detail})


def read_call(context: RequestContext, body: bytes, *, own_key: bool = False) -> tuple[Call, bytes]:
    """The client's request, and the body to send for it. Raises InvalidRequest with the offending field."""
    try:
        request = openai.read_chat_request(body)
        wants_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        outgoing = (
            openai.with_forced_usage(body) if request.stream and not wants_usage else openai.unambiguous(body)
        )
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$.")
        missing = _missing_field(reason)
        if missing is not None:
            message = f"Missing field `{missing}`."
            raise InvalidRequest("invalid_value", message, param=missing) from exc
        param = path.rstrip("`") or None
        raise InvalidRequest(
            "invalid_value", f"{reason}{f' (in `{param}`)' if param else ''}.", param=param
        ) from exc
    except openai.NOT_JSON as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc
    call = Call(
        context=context,
        model=request.model,
        stream=bool(request.stream),
        wants_usage=wants_usage,
        max_completion=request.max_completion,
        choices=request.choices,
        own_key=own_key,
    )
    return call, outgoing


def _with_own_idempotency(context: RequestContext, caller: Caller) -> RequestContext:
    """Callers share the gateway's account at the server, where one key must not find another's answer."""
    if not context.forward:
        return context
    owner = (context.credential or "") if caller.address else caller.key_id
    forward = tuple(
        (name, scoped(owner, value) if name == b"idempotency-key" else value)
        for name, value in context.forward
    )
    return msgspec.structs.replace(context, forward=forward)


def _missing_field(reason: str) -> str | None:
    """The name in msgspec's "Object missing required field `name`"."""
    return reason.split("`")[1] if reason.startswith("Object missing") else None
