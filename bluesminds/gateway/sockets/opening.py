"""How a client opens a WebSocket. Everything that can refuse it happens before it is accepted, so that a
client gets an ordinary error response.
"""

from typing import Protocol

from msgspec import Struct

from bluesminds.common.errors import Forbidden, GatewayError
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import HeldMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocket, WebSocketLimits


class SocketOpening(Struct, frozen=True):
    """How a client requests a WebSocket. `upgrade` is None for a request without a handshake. `same_origin`:
    it comes from a page of the gateway itself.
    """

    query: str
    upgrade: WebSocketUpgrade | None
    same_origin: bool


class SocketWriter(ResponseWriter, Protocol):
    async def accept(
        self,
        upgrade: WebSocketUpgrade,
        subprotocol: str | None,
        headers: Headers,
        limits: WebSocketLimits,
        memory: HeldMemory,
    ) -> WebSocket:
        """Accept the WebSocket. `memory` is for its messages. Raises ClientDisconnected."""


async def check_origin(origins: BrowserOrigins, context: RequestContext, opening: SocketOpening) -> None:
    """Browsers do not apply CORS to WebSockets, so the gateway does. Raises Forbidden."""
    if context.origin is None or opening.same_origin:
        return
    if not await origins.allows_reading(context):
        raise Forbidden(
            "origin_not_allowed",
            "Web pages of this origin may not call the gateway. Add the origin to allowed_origins of the API"
            " key, or to cors_origins in the configuration.",
        )


def upgrade_required() -> GatewayError:
    return GatewayError(
        426,
        "upgrade_required",
        "GET of this path opens a WebSocket. Connect to it with wss:// or ws://, over HTTP/1.1.",
        headers={"upgrade": "websocket"},
    )
