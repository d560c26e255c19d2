"""The model server every subject forwards to, as cheap as Python allows: one thread, one selector, llhttp.

Run as `python -m bench.upstream`; it prints its port and serves until it is ended. A plain call is answered
at once with PLAIN_ANSWER. A streamed call gets STREAM_EVENTS events, STREAM_TICK apart, each carrying the
moment it was written (`time.monotonic_ns`) as its content, then the usage event if it was asked for, then
`[DONE]`. At MESSAGES_PATH a streamed call gets the same as a stream of Anthropic's Messages API.
Streams that are due in the same millisecond are written in one go with the same bytes.
"""

import json
import re
import selectors
import signal
import socket
import time

import httptools

from bench.scenarios import MESSAGES_MODEL, MESSAGES_PATH, MODEL, PATH, STREAM_EVENTS, STREAM_TICK

SLOTS = 10  # a stream belongs to one of these; each is written once a tick
SLOT_SECONDS = STREAM_TICK / SLOTS
RECEIVE_BYTES = 262_144
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_INCLUDE_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
_USAGE = {"prompt_tokens": 32, "completion_tokens": STREAM_EVENTS, "total_tokens": 32 + STREAM_EVENTS}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[object], **more: object) -> bytes:
    head = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": MODEL,
    }
    return b"data: " + _json({**head, "choices": choices, **more}) + b"\n\n"


PLAIN_BODY = _json(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "It keeps a table of servers and picks one by weight.",
                },
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
)
PLAIN_ANSWER = _answer("200 OK", PLAIN_BODY)
MODELS_ANSWER = _answer("200 OK", _json({"object": "list", "data": [{"id": MODEL, "object": "model"}]}))
NOT_FOUND = _answer(
    "404 Not Found", _json({"error": {"message": "There is nothing here.", "code": "not_found"}})
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE_EVENT = _chunk(_event([], usage=_USAGE))
STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _named(value: dict[str, object]) -> bytes:
    """An event of Anthropic's format, which has its type as its name."""
    return f"event: {value['type']}\ndata: ".encode() + _json(value) + b"\n\n"


def _start() -> bytes:
    usage = {"input_tokens": 32, "output_tokens": 1}
    message = {"id": "msg_bench", "type": "message", "role": "assistant", "model": MESSAGES_MODEL}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    block = {"type": "text", "text": ""}
    return _named({"type": "message_start", "message": message}) + _named(
        {"type": "content_block_start", "index": 0, "content_block": block}
    )


def _stop() -> bytes:
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"output_tokens": STREAM_EVENTS}
    return (
        _named({"type": "content_block_stop", "index": 0})
        + _named({"type": "message_delta", "delta": delta, "usage": usage})
        + _named({"type": "message_stop"})
    )


MESSAGES_START = _chunk(_start())
MESSAGES_END = _chunk(_stop()) + b"0\r\n\r\n"


def text_chunk(moment_ns: int) -> bytes:
    """One event of Anthropic's format with the moment as its text, in its chunked frame."""
    delta = {"type": "text_delta", "text": f"{moment_ns:019d}"}
    return _chunk(_named({"type": "content_block_delta", "index": 0, "delta": delta}))


def content_chunk(moment_ns: int, finish: str | None) -> bytes:
    """One content event in its chunked frame; the content is the moment, 19 digits."""
    choice = {"index": 0, "delta": {"content": f"{moment_ns:019d}"}, "finish_reason": finish}
    return _chunk(_event([choice]))


class Connection:
    """One subject connection; also the callbacks of its parser."""

    __slots__ = (
        "_body",
        "_messages",
        "_parser",
        "_target",
        "_upstream",
        "include_usage",
        "remaining",
        "sock",
    )

    def __init__(self, upstream: "Upstream", sock: socket.socket) -> None:
        self.sock = sock
        self.remaining = 0  # content events still to be sent in the stream in progress
        self.include_usage = False
        self._messages = False  # the stream in progress has Anthropic's format
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._body: list[bytes] = []

    def readable(self) -> None:
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        if data:
            self._parser.feed_data(data)
        else:
            self._upstream.drop(self)

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        target, body = self._target, b"".join(self._body)
        self._target = b""
        self._body.clear()
        if target in (PATH.encode(), MESSAGES_PATH.encode()):
            self._messages = target == MESSAGES_PATH.encode()
            self._complete(body)
        else:
            self.sock.send(MODELS_ANSWER if target == b"/v1/models" else NOT_FOUND)

    def _complete(self, body: bytes) -> None:
        if _STREAM.search(body) is None:
            self.sock.send(PLAIN_ANSWER)
            return
        self.include_usage = _INCLUDE_USAGE.search(body) is not None
        self.remaining = STREAM_EVENTS
        self.sock.send(STREAM_HEAD + (MESSAGES_START if self._messages else b""))
        self._upstream.stream(self)

    def write_event(self, middle: bytes, last: bytes, text: bytes) -> None:
        """Send the next event. A whole answer fits any socket buffer: a send that blocks is a fault."""
        self.remaining -= 1
        if self._messages:
            self.sock.send(text if self.remaining else text + MESSAGES_END)
        elif self.remaining:
            self.sock.send(middle)
        else:
            self.sock.send(last + (USAGE_EVENT if self.include_usage else b"") + STREAM_END)


class Upstream:
    """The listening socket, its connections, and the clock that writes the streams."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._slots: list[list[Connection]] = [[] for _ in range(SLOTS)]
        self._slot = 0
        self._due = time.monotonic() + SLOT_SECONDS

    def stream(self, connection: Connection) -> None:
        """Write the first event one tick from now."""
        self._slots[(self._slot - 1) % SLOTS].append(connection)

    def drop(self, connection: Connection) -> None:
        connection.remaining = 0
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(max(0.0, self._due - time.monotonic())):
                if key.data is None:
                    self._accept()
                else:
                    key.data.readable()
            self._tick()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ, Connection(self, sock))

    def _tick(self) -> None:
        now = time.monotonic()
        while self._due <= now:
            self._due += SLOT_SECONDS
            streams = self._slots[self._slot]
            if streams:
                self._slots[self._slot] = self._write(streams)
            self._slot = (self._slot + 1) % SLOTS

    def _write(self, streams: list[Connection]) -> list[Connection]:
        moment = time.monotonic_ns()
        middle, last, text = content_chunk(moment, None), content_chunk(moment, "stop"), text_chunk(moment)
        for connection in streams:
            if connection.remaining:
                try:
                    connection.write_event(middle, last, text)
                except ConnectionError:
                    connection.remaining = 0
        return [connection for connection in streams if connection.remaining]


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    Upstream(listener).run()


if __name__ == "__main__":
    main()
