"""A server's answer as far as it must be known before the client sees any of it.

It promises that a Reply is either whole or has its first event in hand, and that the key that was sent to the
server, be it the gateway's or the client's, is in nothing that is passed on.
"""

import trio
from msgspec import Struct, json, structs

from bluesminds.common.values import Server
from bluesminds.http.client.pool import FirstByteTimeout, Response, UpstreamCut, UpstreamOrigin
from bluesminds.http.sse import EventSplitter, event_data
from bluesminds.providers import openai
from bluesminds.providers.dialects import DIALECTS

MAX_ANSWER = 64 * 1024 * 1024  # bytes of an answer in one piece
MAX_ERROR = 1024 * 1024  # bytes of an error body; servers quote the request in it
MAX_LEAD = 64 * 1024  # bytes of a stream held back until its first event is whole
SHOWN = 500  # bytes of an error body that is too long
SHORTEST_SECRET = 8  # characters; a shorter key would be found in ordinary words
# What OpenAI's SDKs read before they repeat a request.
RETRY_HEADERS = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry"))
_PASSED_HEADERS = RETRY_HEADERS | {b"content-type", b"openai-processing-ms", b"openai-version"}
_EVENT_STREAM = b"text/event-stream"
_JSON = (b"content-type", b"application/json")
_EVENT = openai.Reading()

Headers = list[tuple[bytes, bytes]]


class UpstreamEndpoint(Struct, frozen=True):
    """What sending to a server needs, worked out once."""

    server: Server
    origin: UpstreamOrigin
    chat_target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    secrets: tuple[bytes, ...]
    own_key: bool = False  # the key is the client's, not the gateway's

    @classmethod
    def to(cls, server: Server) -> "UpstreamEndpoint":
        dialect = DIALECTS[server.dialect]
        origin, base = UpstreamOrigin.parse(server.url, trusted=server.origin != "table")
        return cls(
            server=server,
            origin=origin,
            chat_target=(base + dialect.chat_path).encode(),
            headers=dialect.headers(server.api_key),
            secrets=secret_encodings(server.api_key),
        )

    def with_key(self, api_key: str) -> "UpstreamEndpoint":
        """The same for a client that brings its own key for the server."""
        headers = DIALECTS[self.server.dialect].headers(api_key)
        secrets = (*secret_encodings(api_key), *self.secrets)
        return structs.replace(self, headers=headers, secrets=secrets, own_key=True)

    def redact(self, data: bytes) -> bytes:
        """The data without the server's key."""
        for secret in self.secrets:
            if secret in data:
                data = data.replace(secret, b"[redacted]")
        return data


def secret_encodings(api_key: str | None) -> tuple[bytes, ...]:
    """The key as text and as JSON writers put it."""
    if api_key is None or len(api_key) < SHORTEST_SECRET:
        return ()
    in_json = json.encode(api_key)[1:-1]
    return tuple({api_key.encode(), in_json, in_json.replace(b"/", b"\\/")})


class Reply(Struct, frozen=True):
    """`first` is the whole body, or with a `response` the first bytes of a stream still running, of which
    `event` is the first event's data.
    """

    link: UpstreamEndpoint
    status: int
    headers: Headers
    first: bytes
    event: bytes
    reading: openai.Reading
    response: Response | None

    def close(self) -> None:
        if self.response is not None:
            self.response.close()

    def redact(self, data: bytes) -> bytes:
        return self.link.redact(data)

    def error(self) -> openai.ErrorDetail:
        """What an answer that is an error says, without secrets."""
        told = openai.read_error(self.status, self.event or self.first)
        if told.message is not None:
            told.message = self.redact(told.message.encode(errors="replace")).decode(errors="replace")
        return told

    def as_openai_error(self, request_id: str) -> "Reply":
        """The error itself when it has OpenAI's form, else one of ours that says the same."""
        if openai.has_error_object(self.first):
            return self
        told = self.error()
        error = {
            "message": told.message,
            "type": told.type or "invalid_request_error",
            "param": told.param,
            "code": "invalid_request" if told.code is None else told.code,
            "request_id": request_id,
        }
        headers = [header for header in self.headers if header[0] != b"content-type"]
        return Reply(
            link=self.link,
            status=self.status,
            headers=[*headers, _JSON],
            first=json.encode({"error": error}),
            event=b"",
            reading=self.reading,
            response=None,
        )


async def read_reply(link: UpstreamEndpoint, response: Response, seconds: float) -> Reply:
    """`seconds`: how long a stream's first event may take. The caller closes it. Raises UpstreamError."""
    status = response.status
    event = b""
    streamed = status == 200 and _is_event_stream(response)
    if streamed:
        first, event = await _first_event(response, seconds)
        reading = openai.read_answer(event) if b'"error"' in event else _EVENT
    elif status < 300:
        first = link.redact(await response.read(MAX_ANSWER))
        reading = openai.read_answer(first)
    else:
        first = link.redact(await _read_error(response))
        reading = _EVENT
    return Reply(
        link=link,
        status=status,
        headers=[header for header in response.headers if header[0] in _PASSED_HEADERS],
        first=first,
        event=event,
        reading=reading,
        response=response if streamed else None,
    )


def _is_event_stream(response: Response) -> bool:
    return (response.header(b"content-type") or b"").lower().startswith(_EVENT_STREAM)


async def _read_error(response: Response) -> bytes:
    """The body of a refusal; instead of one that is too long, an error of ours with its beginning."""
    body = bytearray()
    while data := await response.receive():
        body += data
        if len(body) > MAX_ERROR:
            response.close()
            shown = bytes(body[:SHOWN]).decode(errors="replace")
            reason = f"The server answered {response.status} with a reason too long to pass on: {shown}"
            return json.encode({"message": reason})
    return bytes(body)


async def _first_event(response: Response, seconds: float) -> tuple[bytes, bytes]:
    """The stream so far, and the data of its first event that has any. Comments are not the answer: servers
    send them while a request still waits, and may fail after them.
    """
    first = await response.receive()
    end = first.find(b"\n\n")
    if end > 0 and first.startswith(b"data:") and b"\r" not in first[:end]:
        return first, event_data(first[: end + 2])
    with trio.move_on_after(seconds):
        return await _read_until_event(response, first)
    raise FirstByteTimeout("the stream's first event did not come in time", phase="body", sent=True)


async def _read_until_event(response: Response, piece: bytes) -> tuple[bytes, bytes]:
    splitter = EventSplitter()
    lead = bytearray()
    while piece:
        lead += piece
        for event in splitter.feed(piece):
            if data := event_data(event):
                return bytes(lead), data
        if len(lead) > MAX_LEAD:
            return bytes(lead), b""
        piece = await response.receive()
    data = event_data(splitter.finish())
    if not data:
        raise UpstreamCut("the stream ended before its first event", phase="body", sent=True)
    return bytes(lead), data
