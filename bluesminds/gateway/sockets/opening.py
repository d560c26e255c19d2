"""What all WebSockets of clients need, whatever their messages are."""

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from bluesminds.common.errors import Forbidden, GatewayError
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import HeldMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.operations import OperationMatch
from bluesminds.gateway.relay import Headers, ResponseWriter
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocket, WebSocketLimits

KEY_SUBPROTOCOL: Final = "openai-insecure-api-key."  # of browsers, which cannot set headers
_REASON_BYTES: Final = 120  # of a close frame
_PRIVATE_SUBPROTOCOLS: Final = (KEY_SUBPROTOCOL, "openai-organization.", "openai-project.")


class SessionSettings(Struct, frozen=True):
    """Times are seconds. `drain_grace`: how long running responses may go on when the gateway shuts down."""

    idle_timeout: float
    session_timeout: float
    drain_grace: float


class SocketOpening(Struct, frozen=True):
    """How a client asks for a WebSocket. `upgrade` is None for a request that is no handshake. `same_origin`:
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


class SocketSettings(Struct, frozen=True):
    """`handshake_timeout`: seconds for a server to open a WebSocket."""

    session: SessionSettings
    client: WebSocketLimits
    upstream: WebSocketLimits
    handshake_timeout: float


class SocketHandler(Protocol):
    """Serves the sessions of one endpoint. `open` is the number of open sessions."""

    open: int

    async def handle(
        self, match: OperationMatch, context: RequestContext, opening: SocketOpening, out: SocketWriter
    ) -> None:
        """Serve a session until its end. Raises GatewayError only before its WebSocket is accepted."""


async def check_origin(origins: BrowserOrigins, context: RequestContext, opening: SocketOpening) -> None:
    """Browsers do not apply CORS to WebSockets, so the gateway does. Raises Forbidden."""
    if context.origin is None or opening.same_origin:
        return
    if not await origins.allows_reading(context):
        raise Forbidden(
            "origin_not_allowed",
            "Pages of this origin may not use the gateway. Add the origin to allowed_origins of the API"
            " key, or to cors_origins in the configuration.",
        )


def upgrade_required() -> GatewayError:
    return GatewayError(
        426,
        "upgrade_required",
        "This endpoint is a WebSocket. Connect to it with wss:// or ws://, over HTTP/1.1.",
        headers={"upgrade": "websocket"},
    )


def public_subprotocols(offered: Sequence[str]) -> tuple[str, ...]:
    """Those that the server may see."""
    return tuple(name for name in offered if not name.startswith(_PRIVATE_SUBPROTOCOLS))


def chosen_subprotocol(offered: Sequence[str], by_server: str | None) -> str | None:
    """The server's choice. A browser that offers some must get one, also from a server that has none."""
    public = public_subprotocols(offered)
    return by_server or (public[0] if public else None)


def shortened(reason: str) -> str:
    """The reason for a close frame."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
