"""Reads the response of one server: all of it, or a stream up to its first event.

A Reply is either complete, or a stream whose first event is part of an answer. It has the form that the
client requested, JSON or events, independent of the server's content type. A reply of a media format has
the form of its content type: JSON, events, or other bytes. The key that was sent to the server is removed
from it.
"""

import trio
from msgspec import Struct, json, structs

from bluesminds.gateway.call import Call
from bluesminds.gateway.routing.load import RunningAttempt
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.http.client.pool import (
    BodyTooLarge,
    FirstByteTimeout,
    HandshakeRejected,
    Response,
    UpstreamCut,
    UpstreamProtocolError,
)
from bluesminds.http.sse import EventTooLarge
from bluesminds.wire.base import ClientCodec, Codec, Format, ReplyFacts, Stage
from bluesminds.wire.conversation import ConversationRequest
from bluesminds.wire.errors import ErrorDetail, read_error
from bluesminds.wire.formats import FORMATS, client_codec_of, client_vectors_of, codec_of, vectors_of
from bluesminds.wire.media import Opaque, PassingJson
from bluesminds.wire.stages import Passthrough, StreamOpening, looks_like_events
from bluesminds.wire.tool_names import restore_names
from bluesminds.wire.translation import Translation
from bluesminds.wire.usage import read_cost, settle_usage
from bluesminds.wire.vectors import VectorRequest

MAX_ANSWER = 64 * 1024 * 1024  # bytes of a response that is not streamed
MAX_HELD_JSON = 1024 * 1024  # bytes of JSON with media that is read before it is passed on
MAX_ERROR = 1024 * 1024  # bytes of an error body; servers quote the request in it
SHOWN = 500  # bytes shown of an error body that is too long
# OpenAI's SDKs read these before a retry.
RETRY_HEADERS = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry"))
_PASSED_HEADERS = RETRY_HEADERS | {b"openai-processing-ms", b"openai-version"}
LITELLM_COST = b"x-litellm-response-cost"
_EVENT_STREAM = b"text/event-stream"
_SPACE = b"\xef\xbb\xbf \t\r\n"
JSON_TYPE = (b"content-type", b"application/json")
EVENTS_TYPE = (b"content-type", _EVENT_STREAM)

Headers = list[tuple[bytes, bytes]]


class Reply(Struct, frozen=True):
    """`body` is the complete body or, with a `stage`, the bytes of the stream so far. `is_events`: the client
    gets events. `error` is set if the status or the content is an error; its text contains no secret.
    `running` measures the load of the server. `model` is the server's name of it. `cost`: nano-USD that a
    header of the server names, or NO_AMOUNT.
    """

    endpoint: UpstreamEndpoint
    status: int
    headers: Headers
    body: bytes
    facts: ReplyFacts = ReplyFacts()
    error: ErrorDetail | None = None
    translated: bool = False  # from another format than the client's, in which the body of an error still is
    stage: Stage | None = None
    response: Response | None = None
    is_events: bool = False
    running: RunningAttempt | None = None
    model: str = ""
    cost: int | None = None

    def close(self) -> None:
        if self.response is not None:
            self.response.close()
        if self.running is not None:
            self.running.end()

    @property
    def error_status(self) -> int:
        """The status of the error. If the HTTP status is a success, it is the status in the error, otherwise
        502.
        """
        own = None if self.error is None else self.error.status
        return self.status if self.status >= 400 else own or 502

    def as_client_error(self, format_: Format, request_id: str) -> "Reply":
        """The error response for the client, in the client's format."""
        status = self.error_status
        headers = [header for header in self.headers if header[0] in RETRY_HEADERS]
        if self.status >= 400 and not self.translated and format_.is_error(self.body):
            return structs.replace(self, headers=[*headers, JSON_TYPE])
        error = self.error or ErrorDetail()
        code = "invalid_request" if error.code is None else error.code
        error = structs.replace(error, code=code, status=status)
        body = format_.write_error(error, request_id)
        return structs.replace(self, status=status, headers=[*headers, JSON_TYPE], body=body)


class ReplyReader(Struct, frozen=True):
    """Reads the response of one server to a call. `conversation` or `vectors` is the request if it was
    translated, `model` the server's name of the model. `progress`: of an attempt that can be given up.
    """

    endpoint: UpstreamEndpoint
    call: Call
    plan: Plan
    conversation: ConversationRequest | None
    vectors: VectorRequest | None
    model: str
    progress: AttemptProgress | None = None

    async def read(self, response: Response, deadline: float) -> Reply:
        """`deadline` on Trio's clock, for the first content of a stream. The caller closes the response.
        Raises UpstreamError.
        """
        if response.status >= 300:
            body = self.endpoint.redact(await read_error_body(response))
            return self._error_reply(response, body, read_error(response.status, body))
        if self._format.is_media:
            return await self._read_media(response, deadline)
        if self.call.facts.stream:
            return await self._read_stream_in_time(response, deadline)
        body = await response.read(MAX_ANSWER)
        if body.startswith(b"{"):
            return self._read_json(response, body)
        return self._read_whole(response, body)

    @property
    def _format(self) -> Format:
        """The format of the server's response."""
        return FORMATS[self.plan.format]

    @property
    def _codecs(self) -> tuple[Codec, ClientCodec]:
        """The codecs of the server and of the client."""
        return codec_of(self.plan.format), client_codec_of(self.call.operation.format)

    def _own_stage(self) -> Stage:
        """The stage of a stream that is not translated."""
        make = self._format.stage
        return Passthrough(self._format, self.call.facts) if make is None else make(self.call.facts)

    def _client_stage(self) -> Stage:
        if self.conversation is None or not self.plan.translated:
            return self._own_stage()
        return Translation(*self._codecs, self.conversation, self.call.facts)

    def _error_reply(self, response: Response, body: bytes, error: ErrorDetail) -> Reply:
        if error.message is not None:
            message = self.endpoint.redact(error.message.encode(errors="replace")).decode(errors="replace")
            error = structs.replace(error, message=message)
        return Reply(
            endpoint=self.endpoint,
            model=self.model,
            status=response.status,
            headers=_headers(response, JSON_TYPE),
            body=body,
            error=error,
            translated=self.plan.translated,
        )

    async def _read_stream_in_time(self, response: Response, deadline: float) -> Reply:
        with trio.move_on_at(deadline):
            return await self._read_stream(response)
        raise FirstByteTimeout("the first content did not arrive in time", phase="body", sent=True)

    async def _read_stream(self, response: Response) -> Reply:
        """The client requested a stream."""
        opening = StreamOpening()
        is_events: bool | None = None
        body = b""
        if self.progress is not None:
            self.progress.stage = self._client_stage
        while piece := await response.receive():
            body += piece
            if self.progress is not None:
                self.progress.received = body
            if is_events is None:
                is_events = _is_event_stream(response, body)
                piece = body  # nothing was fed yet
            if is_events is False:
                return await self._events_from_json(response, body)
            if is_events and (verdict := opening.feed(piece)) is not None:
                break
        else:
            if not (is_events or _has_event_type(response)):
                return await self._events_from_json(response, body)
            verdict = opening.finish()
        if verdict == "error" and opening.error is not None:
            return self._error_reply(response, body, opening.error)
        if verdict == "empty":
            raise UpstreamCut("the stream ended without an answer", phase="body", sent=True)
        return Reply(
            endpoint=self.endpoint,
            model=self.model,
            status=response.status,
            headers=_headers(response, EVENTS_TYPE),
            body=body,
            translated=self.plan.translated,
            stage=self._client_stage(),
            response=response,
            is_events=True,
        )

    async def _read_media(self, response: Response, deadline: float) -> Reply:
        """Events, JSON, or other bytes, which are forwarded unchanged."""
        if _has_event_type(response):
            return await self._read_stream_in_time(response, deadline)
        kind = _media_type(response)
        first = b""
        if not kind:
            first = await response.receive()
        if kind.endswith(b"json") or first.lstrip(_SPACE).startswith((b"{", b"[")):
            return await self._read_media_json(response, first)
        if kind == b"text/html":  # a page of a proxy, or of a server with another path
            raise UpstreamProtocolError("the response is a web page", phase="head", sent=True)
        first = first or await response.receive()
        if not first:
            raise UpstreamCut("the response is empty", phase="body", sent=True)
        content_type = response.header(b"content-type") or b"application/octet-stream"
        return Reply(
            endpoint=self.endpoint,
            model=self.model,
            status=response.status,
            headers=_headers(response, (b"content-type", content_type)),
            body=first,
            stage=Opaque(self.call.facts, is_text=kind.startswith(b"text/")),
            response=response,
        )

    async def _read_media_json(self, response: Response, first: bytes) -> Reply:
        """JSON with images can be long. A longer body than MAX_HELD_JSON is forwarded while it arrives."""
        body = bytearray(first)
        while len(body) <= MAX_HELD_JSON:
            if not (piece := await response.receive()):
                return self._read_json(response, bytes(body))
            body += piece
        return Reply(
            endpoint=self.endpoint,
            model=self.model,
            status=response.status,
            headers=_headers(response, JSON_TYPE),
            body=bytes(body),
            stage=PassingJson(self.call.facts, self._format.read_reply),
            response=response,
        )

    async def _events_from_json(self, response: Response, first: bytes) -> Reply:
        """The server ignored `stream`: convert its answer to events."""
        body = first + await response.read(MAX_ANSWER)
        reply = self._read_json(response, body)
        write = self.call.format.events_from_reply
        if reply.error is not None or not reply.facts.readable or write is None:
            return reply
        try:
            events = write(reply.body, self.call.facts.wants_usage)
        except ValueError:
            return structs.replace(reply, facts=ReplyFacts(readable=False))
        headers = _headers(response, EVENTS_TYPE)
        return structs.replace(reply, headers=headers, body=events, is_events=True)

    def _read_whole(self, response: Response, body: bytes) -> Reply:
        """The client requested JSON."""
        join = self._format.reply_from_events
        if join is None or not _is_event_stream(response, body):
            return self._read_json(response, body)
        stage = self._own_stage()
        try:
            stage.feed(body)
            stage.finish()
        except EventTooLarge as exc:
            raise BodyTooLarge("an event of the stream is too large", phase="body", sent=True) from exc
        if stage.error is not None:
            return self._error_reply(response, body, stage.error)
        if not stage.finished:
            raise UpstreamCut("the stream ended before the answer was complete", phase="body", sent=True)
        try:
            whole = join(body)
        except ValueError as exc:
            raise UpstreamProtocolError("the stream contains no answer", phase="body", sent=True) from exc
        return self._read_json(response, whole)

    def _read_json(self, response: Response, body: bytes) -> Reply:
        body = self.endpoint.redact(body)
        facts = self._format.read_reply(body)
        if facts.error is not None:
            return self._error_reply(response, body, facts.error)
        if self.plan.translated and facts.readable:
            try:
                body = self._translate(body, facts)
            except ValueError:
                facts = ReplyFacts(readable=False)
        headers = _headers(response, JSON_TYPE)
        return Reply(
            endpoint=self.endpoint,
            model=self.model,
            status=response.status,
            headers=headers,
            body=body,
            facts=facts,
            translated=self.plan.translated,
            cost=self._cost(response),
        )

    def _cost(self, response: Response) -> int | None:
        """LiteLLM's header. In a stream it is sent before the cost is known, so it is not read there."""
        if self.endpoint.server.vendor != "litellm" or not (value := response.header(LITELLM_COST)):
            return None
        return read_cost(value.decode("latin-1"))

    def _translate(self, body: bytes, facts: ReplyFacts) -> bytes:
        """The answer in the client's format, with estimates for counts that the server has not reported.

        Raises ValueError if the body contains no answer.
        """
        if self.vectors is not None:
            reply = vectors_of(self.plan.format).decode_reply(body)
            return client_vectors_of(self.call.operation.format).encode_reply(reply, self.vectors)
        if self.conversation is None:
            return body
        server, client = self._codecs
        answer = restore_names(server.decode_reply(body, self.conversation), self.conversation)
        usage, _ = settle_usage(facts.usage, self.call.facts, delivered=facts.delivered, pieces=facts.pieces)
        return client.encode_reply(structs.replace(answer, usage=usage), self.conversation)


def handshake_reply(endpoint: UpstreamEndpoint, rejected: HandshakeRejected) -> Reply:
    """The response that a server has sent instead of opening a WebSocket."""
    body = endpoint.redact(rejected.body)
    headers = [header for header in rejected.headers if header[0] in _PASSED_HEADERS]
    error = read_error(rejected.status, body) if rejected.status >= 300 else None
    return Reply(endpoint, rejected.status, [*headers, JSON_TYPE], body, error=error)


def _headers(response: Response, *content_type: tuple[bytes, bytes]) -> Headers:
    return [*[header for header in response.headers if header[0] in _PASSED_HEADERS], *content_type]


def _is_event_stream(response: Response, first: bytes) -> bool | None:
    """Decided by the first bytes of the body; None if there are too few. The content type only decides if the
    body begins neither like JSON nor like events.
    """
    if first.startswith(b"{"):
        return False
    found = looks_like_events(first)
    if found is False and not first.lstrip(_SPACE).startswith((b"{", b"[")):
        return _has_event_type(response)
    return found


def _has_event_type(response: Response) -> bool:
    return (response.header(b"content-type") or b"").lower().startswith(_EVENT_STREAM)


def _media_type(response: Response) -> bytes:
    """In lower case, without parameters; b"" when there is none."""
    return (response.header(b"content-type") or b"").partition(b";")[0].strip().lower()


async def read_error_body(response: Response) -> bytes:
    """The body of an error. A body above MAX_ERROR is replaced by a message with its beginning."""
    body = bytearray()
    while data := await response.receive():
        body += data
        if len(body) > MAX_ERROR:
            response.close()
            shown = bytes(body[:SHOWN]).decode(errors="replace")
            reason = f"The server responded with {response.status} and a very long message: {shown}"
            return json.encode({"message": reason})
    return bytes(body)
