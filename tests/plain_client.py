"""An HTTP/1.1 client for tests that send thousands of requests.

It needs a small part of the CPU time of httpx. It knows no redirects, cookies or TLS.

async with connect(gateway) as client:
    answer = await client.send("GET", "/api/keys", {"authorization": f"Bearer {token}"})
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from bluesminds.app.state_dir import StateDir
from tests.gateways import Gateway

RECEIVE = 65_536  # bytes at a time
WITHOUT_BODY = (204, 304)


@dataclass(frozen=True)
class PlainAnswer:
    """`content` is empty for a stream of events, which does not end soon."""

    target: str
    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")

    @property
    def code(self) -> str:
        """The code of an error response."""
        return str(self.json()["error"]["code"])

    def json(self) -> Any:
        return msgspec.json.decode(self.content)


@dataclass
class PlainClient:
    """One connection at a time, opened when it is needed."""

    host: str
    open_stream: Callable[[], Awaitable[trio.SocketStream]]
    _stream: trio.SocketStream | None = None
    _received: bytes = b""

    async def send(
        self, method: str, target: str, headers: Mapping[str, str], body: object = None
    ) -> PlainAnswer:
        """`body` is JSON, or bytes that are sent as they are. Raises EOFError for an answer that is cut."""
        if self._stream is None:
            self._stream = await self.open_stream()
        head = [f"{method} {target} HTTP/1.1", f"host: {self.host}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        content = b""
        if body is not None:
            content = body if isinstance(body, bytes) else msgspec.json.encode(body)
            head += ["content-type: application/json", f"content-length: {len(content)}"]
        await self._stream.send_all("\r\n".join([*head, "\r\n"]).encode("latin-1") + content)
        return await self._answer(method, target)

    async def close(self) -> None:
        self._received = b""
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None

    async def _answer(self, method: str, target: str) -> PlainAnswer:
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(first.split(" ", 2)[1])
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            known = headers.get(name.lower())
            headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
        is_stream = headers.get("content-type", "").startswith("text/event-stream")
        content = b""
        if method != "HEAD" and status not in WITHOUT_BODY and not is_stream:
            content = await self._content(headers)
        if is_stream or headers.get("connection") == "close":
            await self.close()
        return PlainAnswer(target, status, headers, content)

    async def _content(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        assert headers.get("transfer-encoding") == "chunked", headers
        content = b""
        while size := int(await self._until(b"\r\n"), 16):
            content += await self._exactly(size)
            await self._until(b"\r\n")
        await self._until(b"\r\n")
        return content

    async def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            await self._receive()
        found, _, self._received = self._received.partition(end)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._receive()
        found, self._received = self._received[:size], self._received[size:]
        return found

    async def _receive(self) -> None:
        assert self._stream is not None
        received = await self._stream.receive_some(RECEIVE)
        if not received:
            raise EOFError("The server closed the connection within an answer.")
        self._received += received


@asynccontextmanager
async def connect(gateway: Gateway, *, local: bool = False) -> AsyncIterator[PlainClient]:
    """A client of the listener, or of the operator's socket."""

    async def open_stream() -> trio.SocketStream:
        if local:
            return await trio.open_unix_socket(StateDir(gateway.settings.state_dir).socket_path)
        return await trio.open_tcp_stream("127.0.0.1", gateway.port)

    client = PlainClient(f"127.0.0.1:{gateway.port}", open_stream)
    try:
        yield client
    finally:
        await client.close()
