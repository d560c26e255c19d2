"""Support for clients of Google's API: where they send their key, and streams as JSON arrays.

Format: Google Cloud, system parameters: the header x-goog-api-key or the query parameter `key` has the API
key, and `alt=sse` asks for server-sent events. Without it, a stream is one JSON array, element by element.
"""

from typing import Final
from urllib.parse import parse_qsl

from bluesminds.http.asgi import Message, Scope, Send
from bluesminds.http.sse import EventSplitter, event_data
from bluesminds.wire.stages import bare_json

_KEY_HEADER: Final = b"x-goog-api-key"
_MAX_PARAMETERS: Final = 100
_JSON: Final = (b"content-type", b"application/json")
_EVENTS: Final = b"text/event-stream"


def is_google_client(scope: Scope) -> bool:
    """Whether the client sends its key like Google's SDKs. They list models at the same path as OpenAI's."""
    return any(name == _KEY_HEADER for name, _ in scope["headers"])


def google_credential(scope: Scope) -> tuple[str | None, str | None]:
    """The name of the header with the API key, and the key. The name is None if the key is in the query."""
    for name, value in scope["headers"]:
        if name == _KEY_HEADER:
            return name.decode(), value.strip().decode("latin-1")
    return None, _query(scope).get("key")


def _query(scope: Scope) -> dict[str, str]:
    """The first value of each parameter; none of a query with too many."""
    try:
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        return {}
    return dict(reversed(pairs))


def google_send(scope: Scope, send: Send) -> Send:
    """Sends streams in the form that the client of Gemini's API requests."""
    return send if _query(scope).get("alt") == "sse" else _ArraySend(send).__call__


class _ArraySend:
    """Sends a stream of events as a JSON array of their data. Other responses are not changed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._splitter: EventSplitter | None = None
        self._count = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            if headers.get(_JSON[0], b"").startswith(_EVENTS):
                self._splitter = EventSplitter()
                rest = [header for header in message["headers"] if header[0] != _JSON[0]]
                message = {**message, "headers": [*rest, _JSON]}
        elif self._splitter is not None:
            more = message.get("more_body", False)
            body = self._elements(self._splitter.feed(message.get("body", b"")))
            if not more:
                body += self._elements([self._splitter.finish()]) + (b"\n]\n" if self._count else b"[]\n")
            if more and not body:
                return
            message = {**message, "body": body}
        await self._send(message)

    def _elements(self, events: list[bytes]) -> bytes:
        written = []
        for event in events:
            if data := event_data(event) or bare_json(event):
                written.append((b"\n,\r\n" if self._count else b"[") + data)
                self._count += 1
        return b"".join(written)
