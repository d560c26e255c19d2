"""The response of one server, read as far as it must be known before the client sees any of it.

A Reply is either whole, or a stream whose first event is an answer. Its form is what the client asked for,
JSON or events, whatever the server's content type says. The key that was sent to the server is in none of
it.
"""

import trio
from msgspec import Struct, json, structs

from bluesminds.gateway.call import Call
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.http.client.pool import (
    BodyTooLarge,
    FirstByteTimeout,
    HandshakeRejected,
    Response,
    UpstreamCut,
    UpstreamProtocolError,
)
from bluesminds.http.sse import EventTooLarge
from bluesminds.wire.base import Codec, Format, ReplyFacts, Stage
from bluesminds.wire.conversation import ConversationRequest
from bluesminds.wire.errors import ErrorDetail, read_error
from bluesminds.wire.formats import FORMATS, codec_of
from bluesminds.wire.stages import Passthrough, StreamOpening, looks_like_events
from bluesminds.wire.translation import Translation

MAX_ANSWER = 64 * 1024 * 1024  # bytes of a response in one piece
MAX_ERROR = 1024 * 1024  # bytes of an error body; servers quote the request in it
SHOWN = 500  # bytes shown of an error body that is too long
# What OpenAI's SDKs read before they repeat a request.
RETRY_HEADERS = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry"))
_PASSED_HEADERS = RETRY_HEADERS | {b"openai-processing-ms", b"openai-version"}
_EVENT_STREAM = b"text/event-stream"
_SPACE = b"\xef\xbb\xbf \t\r\n"
JSON_TYPE = (b"content-type", b"application/json")
EVENTS_TYPE = (b"content-type", _EVENT_STREAM)

Headers = list[tuple[bytes, bytes]]


class Reply(Struct, frozen=True):
    """`body` is all of it or, with a `stage`, what a running stream has sent so far. `error` is set when the
    response is an error, by its status or by its content; its text holds no secret.
    """

    endpoint: UpstreamEndpoint
    status: int
    headers: Headers
    body: bytes
    facts: ReplyFacts = ReplyFacts()
    error: ErrorDetail | None = None
    translated: bool = False  # the body of an error is in another format than the client's
    stage: Stage | None = None
    response: Response | None = None

    def close(self) -> None:
        if self.response is not None:
            self.response.close()

    @property
    def error_status(self) -> int:
        """The status of the error: its own if it has one and HTTP's says success."""
        own = None if self.error is None else self.error.status
        return self.status if self.status >= 400 else own or 502

    def as_client_error(self, format_: Format, request_id: str) -> "Reply":
        """The response for a client whose request was wrong, in its format's shape."""
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
    """Reads the response of one server to a call. `conversation`: the request, if it was translated."""

    endpoint: UpstreamEndpoint
    call: Call
    plan: Plan
    conversation: ConversationRequest | None

    async def read(self, response: Response, seconds: float) -> Reply:
        """`seconds`: how long the first event of a stream may take. The caller closes the response. Raises
        UpstreamError.
        """
        if response.status >= 300:
            body = self.endpoint.redact(await _read_error_body(response))
            return self._error_reply(response, body, read_error(response.status, body))
        if self.call.facts.stream:
            with trio.move_on_after(seconds):
                return await self._read_stream(response)
            raise FirstByteTimeout("the first event did not come in time", phase="body", sent=True)
        body = await response.read(MAX_ANSWER)
        if body.startswith(b"{"):
            return self._read_json(response, body)
        return self._read_whole(response, body)

    @property
    def _format(self) -> Format:
        """What the server writes."""
        return FORMATS[self.plan.format]

    @property
    def _codecs(self) -> tuple[Codec, Codec]:
        """The server's and the client's."""
        return codec_of(self.plan.format), codec_of(self.call.operation.format)

    def _own_stage(self) -> Stage:
        """Of a stream that stays in the server's format."""
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
            status=response.status,
            headers=_headers(response, JSON_TYPE),
            body=body,
            error=error,
            translated=self.plan.translated,
        )

    async def _read_stream(self, response: Response) -> Reply:
        """The client asked for events."""
        opening = StreamOpening()
        is_events: bool | None = None
        body = b""
        while piece := await response.receive():
            body += piece
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
            status=response.status,
            headers=_headers(response, EVENTS_TYPE),
            body=body,
            stage=self._client_stage(),
            response=response,
        )

    async def _events_from_json(self, response: Response, first: bytes) -> Reply:
        """The server ignored `stream`: the client gets its answer as events."""
        body = first + await response.read(MAX_ANSWER)
        reply = self._read_json(response, body)
        write = self.call.format.events_from_reply
        if reply.error is not None or not reply.facts.readable or write is None:
            return reply
        try:
            events = write(reply.body, self.call.facts.wants_usage)
        except ValueError:
            return structs.replace(reply, facts=ReplyFacts(readable=False))
        return structs.replace(reply, headers=_headers(response, EVENTS_TYPE), body=events)

    def _read_whole(self, response: Response, body: bytes) -> Reply:
        """The client asked for JSON."""
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
            raise UpstreamCut("the stream ended before the answer did", phase="body", sent=True)
        try:
            whole = join(body)
        except ValueError as exc:
            raise UpstreamProtocolError("the stream has no answer", phase="body", sent=True) from exc
        return self._read_json(response, whole)

    def _read_json(self, response: Response, body: bytes) -> Reply:
        body = self.endpoint.redact(body)
        facts = self._format.read_reply(body)
        if facts.error is not None:
            return self._error_reply(response, body, facts.error)
        if self.conversation is not None and self.plan.translated and facts.readable:
            try:
                body = self._translate(body, self.conversation)
            except ValueError:
                facts = ReplyFacts(readable=False)
        headers = _headers(response, JSON_TYPE)
        return Reply(endpoint=self.endpoint, status=response.status, headers=headers, body=body, facts=facts)

    def _translate(self, body: bytes, conversation: ConversationRequest) -> bytes:
        """The answer in the client's format. Raises ValueError when it holds none."""
        server, client = self._codecs
        return client.encode_reply(server.decode_reply(body, conversation), conversation)


def handshake_reply(endpoint: UpstreamEndpoint, rejected: HandshakeRejected) -> Reply:
    """The response that a server has sent instead of opening a WebSocket."""
    body = endpoint.redact(rejected.body)
    headers = [header for header in rejected.headers if header[0] in _PASSED_HEADERS]
    error = read_error(rejected.status, body) if rejected.status >= 300 else None
    return Reply(endpoint, rejected.status, [*headers, JSON_TYPE], body, error=error)


def _headers(response: Response, *content_type: tuple[bytes, bytes]) -> Headers:
    return [*[header for header in response.headers if header[0] in _PASSED_HEADERS], *content_type]


def _is_event_stream(response: Response, first: bytes) -> bool | None:
    """By the first bytes of the body; None: too few to know. The content type decides for all that is
    neither JSON nor begins like events.
    """
    if first.startswith(b"{"):
        return False
    found = looks_like_events(first)
    if found is False and not first.lstrip(_SPACE).startswith((b"{", b"[")):
        return _has_event_type(response)
    return found


def _has_event_type(response: Response) -> bool:
    return (response.header(b"content-type") or b"").lower().startswith(_EVENT_STREAM)


async def _read_error_body(response: Response) -> bytes:
    """The body of an error; one that is too long is replaced by a message with its beginning."""
    body = bytearray()
    while data := await response.receive():
        body += data
        if len(body) > MAX_ERROR:
            response.close()
            shown = bytes(body[:SHOWN]).decode(errors="replace")
            reason = f"The server answered {response.status} with a reason too long to pass on: {shown}"
            return json.encode({"message": reason})
    return bytes(body)
