"""The response of one server, read as far as it must be known before the client sees any of it.

A Reply is either whole, or a stream whose first event is an answer. Its form is what the client asked for,
JSON or events, whatever the server's content type says. The key that was sent to the server is in none of
it.
"""

import trio
from msgspec import Struct, json, structs

from bluesminds.gateway.call import Call
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.http.client.pool import (
    BodyTooLarge,
    FirstByteTimeout,
    Response,
    UpstreamCut,
    UpstreamProtocolError,
)
from bluesminds.http.sse import EventTooLarge
from bluesminds.wire.base import ReplyFacts, Stage
from bluesminds.wire.errors import ErrorDetail, has_error_object, read_error, write_error
from bluesminds.wire.stages import Passthrough, StreamOpening, looks_like_events

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

    def as_client_error(self, request_id: str) -> "Reply":
        """The response for a client whose request was wrong, in OpenAI's error form."""
        status = self.error_status
        headers = [header for header in self.headers if header[0] in RETRY_HEADERS]
        if self.status >= 400 and has_error_object(self.body):
            return structs.replace(self, headers=[*headers, JSON_TYPE])
        error = self.error or ErrorDetail()
        error = structs.replace(
            error,
            type=error.type or "invalid_request_error",
            code="invalid_request" if error.code is None else error.code,
        )
        body = write_error(error, request_id)
        return structs.replace(self, status=status, headers=[*headers, JSON_TYPE], body=body)


async def read_reply(endpoint: UpstreamEndpoint, response: Response, call: Call, seconds: float) -> Reply:
    """`seconds`: how long the first event of a stream may take. The caller closes the response. Raises
    UpstreamError.
    """
    if response.status >= 300:
        body = endpoint.redact(await _read_error_body(response))
        return _error_reply(endpoint, response, body, read_error(response.status, body))
    if call.facts.stream:
        with trio.move_on_after(seconds):
            return await _read_stream(endpoint, response, call)
        raise FirstByteTimeout("the first event did not come in time", phase="body", sent=True)
    return _read_whole(endpoint, response, call, await response.read(MAX_ANSWER))


def _headers(response: Response, *content_type: tuple[bytes, bytes]) -> Headers:
    return [*(header for header in response.headers if header[0] in _PASSED_HEADERS), *content_type]


def _error_reply(endpoint: UpstreamEndpoint, response: Response, body: bytes, error: ErrorDetail) -> Reply:
    if error.message is not None:
        message = endpoint.redact(error.message.encode(errors="replace")).decode(errors="replace")
        error = structs.replace(error, message=message)
    return Reply(
        endpoint=endpoint,
        status=response.status,
        headers=_headers(response, JSON_TYPE),
        body=body,
        error=error,
    )


async def _read_stream(endpoint: UpstreamEndpoint, response: Response, call: Call) -> Reply:
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
            return await _events_from_json(endpoint, response, call, body)
        if is_events and (verdict := opening.feed(piece)) is not None:
            break
    else:
        if not is_events:
            return await _events_from_json(endpoint, response, call, body)
        verdict = opening.finish()
    if verdict == "error" and opening.error is not None:
        return _error_reply(endpoint, response, body, opening.error)
    if verdict == "empty":
        raise UpstreamCut("the stream ended without an answer", phase="body", sent=True)
    return Reply(
        endpoint=endpoint,
        status=response.status,
        headers=_headers(response, EVENTS_TYPE),
        body=body,
        stage=Passthrough(call.format, call.facts),
        response=response,
    )


async def _events_from_json(
    endpoint: UpstreamEndpoint, response: Response, call: Call, first: bytes
) -> Reply:
    """The server ignored `stream`: the client gets its answer as events."""
    body = first + await response.read(MAX_ANSWER)
    reply = _read_json(endpoint, response, call, body)
    write = call.format.events_from_reply
    if reply.error is not None or not reply.facts.readable or write is None:
        return reply
    try:
        events = write(reply.body, call.facts.wants_usage)
    except ValueError:
        return structs.replace(reply, facts=ReplyFacts(readable=False))
    return structs.replace(reply, headers=_headers(response, EVENTS_TYPE), body=events)


def _read_whole(endpoint: UpstreamEndpoint, response: Response, call: Call, body: bytes) -> Reply:
    """The client asked for JSON."""
    join = call.format.reply_from_events
    if join is None or not _is_event_stream(response, body):
        return _read_json(endpoint, response, call, body)
    stage = Passthrough(call.format, call.facts)
    try:
        stage.feed(body)
        stage.finish()
    except EventTooLarge as exc:
        raise BodyTooLarge("an event of the stream is too large", phase="body", sent=True) from exc
    if stage.error is not None:
        return _error_reply(endpoint, response, body, stage.error)
    if not stage.finished:
        raise UpstreamCut("the stream ended before the answer did", phase="body", sent=True)
    try:
        whole = join(body)
    except ValueError as exc:
        raise UpstreamProtocolError("the stream has no answer", phase="body", sent=True) from exc
    return _read_json(endpoint, response, call, whole)


def _read_json(endpoint: UpstreamEndpoint, response: Response, call: Call, body: bytes) -> Reply:
    body = endpoint.redact(body)
    facts = call.format.read_reply(body)
    if facts.error is not None:
        return _error_reply(endpoint, response, body, facts.error)
    headers = _headers(response, JSON_TYPE)
    return Reply(endpoint=endpoint, status=response.status, headers=headers, body=body, facts=facts)


def _is_event_stream(response: Response, first: bytes) -> bool | None:
    """By the first bytes of the body; None: too few to know. The content type only decides what is neither JSON
    nor begins like events.
    """
    found = looks_like_events(first)
    if found is False and not first.lstrip(_SPACE).startswith((b"{", b"[")):
        return (response.header(b"content-type") or b"").lower().startswith(_EVENT_STREAM)
    return found


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
