"""A gateway in front of one server of the Realtime API."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import realtime_server
from tests.fakes.socket_upstream import SocketUpstream
from tests.gateways import Gateway, entry
from tests.http.sockets import Closed, SocketClient

MODEL = "/v1/realtime?model=m"
CREATE = {"type": "response.create"}
KEY = "sk-upstream-secret"


class Session(SocketClient):
    """A client that sends and receives JSON. Its connection is closed with the block that opened it."""

    async def say(self, event: Any) -> None:
        await self.send(json.dumps(event))

    async def hear(self) -> dict[str, Any]:
        got = await self.receive()
        assert isinstance(got, str), got
        event: dict[str, Any] = json.loads(got)
        return event

    async def hear_types(self, count: int) -> list[str]:
        return [(await self.hear())["type"] for _ in range(count)]

    async def hear_until(self, kind: str) -> dict[str, Any]:
        while (event := await self.hear())["type"] != kind:
            pass
        return event

    async def hear_closed(self) -> tuple[list[dict[str, Any]], Closed]:
        """All events up to the close frame."""
        events = []
        while isinstance(got := await self.receive(), str):
            events.append(json.loads(got))
        assert isinstance(got, Closed)
        return events, got

    @property
    def error(self) -> dict[str, Any]:
        """Of a handshake that was refused."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@asynccontextmanager
async def session(
    gateway: Gateway,
    target: str = MODEL,
    *,
    key: str | None = None,
    headers: Iterable[tuple[str, str]] = (),
    subprotocols: Iterable[str] = (),
) -> AsyncIterator[Session]:
    """Open a session, or get the response that refuses it. An empty `key` is not sent."""
    key = gateway.key if key is None else key
    fields = [*headers, *([("Authorization", f"Bearer {key}")] if key else [])]
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    async with stream:
        client = await Session.open(stream, target, headers=fields, subprotocols=subprotocols)
        assert isinstance(client, Session)
        yield client


@asynccontextmanager
async def opened(gateway: Gateway, target: str = MODEL, **more: Any) -> AsyncIterator[Session]:
    """A session after its first event."""
    async with session(gateway, target, **more) as client:
        assert client.status == 101, client.body
        assert (await client.hear())["type"] == "session.created"
        yield client


@pytest.fixture
async def realtime(nursery: trio.Nursery) -> SocketUpstream:
    server: SocketUpstream = await nursery.start(realtime_server.serve)
    return server


@pytest.fixture
async def second(nursery: trio.Nursery) -> SocketUpstream:
    server: SocketUpstream = await nursery.start(realtime_server.serve)
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, realtime: SocketUpstream) -> Gateway:
    return await start(nursery, home, realtime)


async def start(nursery: trio.Nursery, home: Path, *servers: SocketUpstream, **sections: Any) -> Gateway:
    """A gateway with these servers, the first one first."""
    entries = [
        entry(f"server-{number}", server.url, api_key=KEY, priority=number)
        for number, server in enumerate(servers)
    ]
    return await gateways.start(nursery, home, servers=entries, **sections)


def response(status: int, body: str = "{}", *headers: str) -> bytes:
    """The bytes of an ordinary response."""
    lines = [f"HTTP/1.1 {status} Reply", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", body]).encode()
