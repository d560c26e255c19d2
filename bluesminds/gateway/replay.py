"""Sends a request of the prompt log again, to the same or to another model.

A replay is a request with the API key of the first one: it has the same limits, routing and price, and is
charged to the same account. Its body and its response are in memory.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec
import trio
from msgspec import Raw, Struct, structs

from bluesminds.common.broadcast import Broadcast, Subscription, TooManyReaders
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import Conflict, GatewayError, RateLimited, Unauthenticated
from bluesminds.common.prompts import LoggedPrompt
from bluesminds.common.values import RequestContext, Requirement
from bluesminds.gateway.bodies import BodyMemory, PreparedBody
from bluesminds.gateway.operations import OperationMatch, find_operation, find_path
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.prompt_log import AnswerCollector
from bluesminds.gateway.response_writer import Headers
from bluesminds.http.asgi import ResponseAborted
from bluesminds.wire.answer_text import answer_text
from bluesminds.wire.json_text import NOT_JSON, read_fields, write_fields
from storage.prompt_log import PromptRow
from storage.usage import UsageRow

_NO_CACHE: Final = "no-store"
MODEL: Final = "model"


class ReplayResult(Struct, frozen=True):
    """`row`: the usage row of the replay. `response`: the JSON of a response that was not streamed, else "".
    `is_cut`: the answer is longer. `error` is None if a server answered.
    """

    row: UsageRow
    answer: str
    response: str
    is_cut: bool
    error: GatewayError | None


class Replayer:
    """`find_digest` returns the digest of a key of a user, by the ids of the user and the key; None if the
    key is revoked or deleted. `max_bytes`: returned of an answer.
    """

    def __init__(
        self,
        gateway: Gateway,
        bodies: BodyMemory,
        settled: Broadcast[UsageRow],
        find_digest: Callable[[str, str], Awaitable[bytes | None]],
        *,
        max_bytes: int,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._bodies = bodies
        self._settled = settled
        self._find_digest = find_digest
        self._max_bytes = max_bytes
        self._clock = clock

    async def replay(
        self, kept: PromptRow, prompt: LoggedPrompt, *, path: str, model: str | None, client: str
    ) -> ReplayResult:
        """`path`: of the request. `model`: instead of the model of the request. `client`: the address of the
        user who wants the replay.

        Raises Conflict if the request cannot be sent again, and what the request pipeline raises for a
        request that it does not admit.
        """
        match = _find_operation(path)
        if "request" in prompt.cut or match is None:
            raise _not_complete()
        digest = await self._find_digest(kept.user_id, kept.key_id)
        if digest is None:
            raise _key_unusable()
        if model is not None and MODEL in match.params:
            match = structs.replace(match, params={**match.params, MODEL: model})
        data = prompt.request.encode()
        if model is not None and MODEL not in match.params:
            data = _with_model(data, model)
        context = self._context(kept.id, prompt, match, path=path, client=client, digest=digest)
        subscription = self._subscribe(context.id)
        try:
            return await self._run(match, context, data, subscription)
        finally:
            subscription.close()

    async def _run(
        self, match: OperationMatch, context: RequestContext, data: bytes, settled: Subscription[UsageRow]
    ) -> ReplayResult:
        collected = AnswerCollector(self._max_bytes)
        error: GatewayError | None = None
        body = PreparedBody(self._bodies)
        try:
            body.acquire(len(data))
            body.data = data
            with suppress(ResponseAborted):
                await self._gateway.handle(match, context, body, _MemoryWriter(collected))
        except Unauthenticated as exc:
            raise _key_unusable() from exc
        except GatewayError as exc:
            error = exc
        finally:
            body.release()
        collected.close()
        received = await settled.receive(0)
        if not received or not received[0]:  # it was not admitted
            raise error or _shutting_down()
        answer, response = collected.joined(), b""
        if answer is None:
            response = collected.response
            answer = answer_text(response)
        return ReplayResult(
            received[0][0],
            answer[: self._max_bytes],
            response[: self._max_bytes].decode(errors="replace"),
            collected.is_cut or len(response) > self._max_bytes,
            error,
        )

    def _context(
        self,
        replay_of: str,
        prompt: LoggedPrompt,
        match: OperationMatch,
        *,
        path: str,
        client: str,
        digest: bytes,
    ) -> RequestContext:
        now = self._clock.now_ms()
        forward = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in prompt.headers)
        trace, tracer = None, self._gateway.accounting.observer.tracer
        if tracer is not None:
            trace, forward = tracer.begin(forward)
        required = None
        if prompt.regions or prompt.tags:
            required = Requirement(frozenset(prompt.regions), frozenset(prompt.tags))
        id_ = uuid7(now)
        return RequestContext(
            id=id_,
            request_id=id_,
            method="POST",
            path=path,
            endpoint=match.operation.name,
            credential=None,
            credential_header=None,
            origin=None,
            client=client,
            forward=forward,
            at_ms=now,
            started=trio.current_time(),
            key_digest=digest,
            cache_control=_NO_CACHE,
            required=required,
            trace=trace,
            replay_of=replay_of,
        )

    def _subscribe(self, request_id: str) -> Subscription[UsageRow]:
        """Subscribe to the usage row of the replay. There is only one, so the queue cannot overflow."""
        try:
            return self._settled.subscribe(request_id, lambda row: row.id == request_id)
        except TooManyReaders:
            message = "Too many live streams and replays are running. Try again later."
            raise RateLimited("too_many_streams", message, retry_after=60.0) from None


class _MemoryWriter:
    """A ResponseWriter that keeps the answer. The client that waits for it is one of the control plane."""

    gone = False

    def __init__(self, collected: AnswerCollector) -> None:
        self._collected = collected

    def on_gone(self, callback: Callable[[], object]) -> None:
        """The control plane cancels a request whose client has disconnected."""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self._collected.begin(headers, streamed=False)
        self._collected.feed(body)

    async def start(self, status: int, headers: Headers) -> None:
        self._collected.begin(headers, streamed=True)

    async def write(self, data: bytes) -> None:
        self._collected.feed(data)

    async def end(self, data: bytes = b"") -> None:
        self._collected.feed(data)

    def abort(self) -> NoReturn:
        raise ResponseAborted("the response is cut")


def _find_operation(path: str) -> OperationMatch | None:
    """None for a path that calls no model, and for one that was too long to be kept."""
    found = find_path(path)
    if found is None:
        return None
    try:
        match = find_operation("POST", found)
    except GatewayError:
        return None
    return match if match.operation.handler == "model" else None


def _with_model(data: bytes, model: str) -> bytes:
    try:
        fields = read_fields(data)
    except NOT_JSON as exc:
        raise _not_complete() from exc
    return write_fields({**fields, MODEL: Raw(msgspec.json.encode(model))})


def _not_complete() -> Conflict:
    return Conflict(
        "replay_impossible",
        "This request was too long to be stored completely, so it cannot be sent again. For later "
        "requests, raise max_bytes in [prompt_log].",
    )


def _key_unusable() -> Conflict:
    return Conflict(
        "replay_key_unusable",
        "The API key of this request is revoked, expired or disabled. A replay needs it, because the "
        "key is charged.",
    )


def _shutting_down() -> Conflict:
    return Conflict("replay_impossible", "The gateway is shutting down. Send the replay again later.")
