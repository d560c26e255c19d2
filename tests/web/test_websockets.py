"""WebSocket handshakes on paths that have no WebSocket: they are answered like any other GET request."""

from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.http.serving import Client
from tests.http.sockets import HANDSHAKE

PATHS: list[tuple[bytes, int, bytes]] = [
    (b"/v1/nothing", 404, b"unknown_url"),
    (b"/api/v1/chat/completions", 405, b"method_not_allowed"),
    (b"/v1/models", 401, b"missing_api_key"),
    (b"/api/admin/keys", 401, b"session_required"),
    (b"/health", 200, b""),
]


async def test_websocket_handshake_on_other_path_gets_the_response_to_get(
    nursery: trio.Nursery, home: Path, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    for path, status, code in PATHS:
        with subtests.test(path=path):
            async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
                got = await Client(stream).ask(HANDSHAKE % (path, b"X-Request-Id: req-1\r\n"))
                assert (got.status, got.complete, got.headers["connection"]) == (status, True, "close")
                assert got.headers["content-type"] == "application/json"
                assert code in got.body
                assert got.headers["x-request-id"] == "req-1"
                assert await stream.receive_some(1) == b""
            assert not [line for line in gateway.lines if b'"level":"error"' in line]
