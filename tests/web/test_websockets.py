"""WebSocket handshakes: there are no WebSocket routes."""

from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.http.serving import Client

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: req-1\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize("path", [b"/", b"/v1/realtime", b"/api/v1/chat/completions", b"/api/admin/keys"])
async def test_websocket_handshake_on_any_path_is_404(nursery: trio.Nursery, home: Path, path: bytes) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
        got = await Client(stream).ask(HANDSHAKE % path)
    assert (got.status, got.complete, got.headers["content-type"]) == (404, True, "application/json")
    assert b'"code":"unknown_url"' in got.body
    assert got.headers["x-request-id"] == "req-1"
    (line,) = gateway.events("websocket_rejected")
    assert (line["path"], line["request_id"]) == (path.decode(), "req-1")
    assert not [line for line in gateway.lines if b'"level":"error"' in line]
