"""WebSocket handshakes (RFC 6455) of clients, over HTTP/1.1.

A handshake is passed to the app as an ordinary GET request, so all checks of requests apply to it. The
extension "websocket" of its scope is a WebSocketUpgrade: the app can accept it instead of sending a response.
Invalid handshakes are rejected earlier.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

import h11
import trio
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError, RemoteProtocolError

from bluesminds.http.asgi import ClientDisconnected
from bluesminds.http.server.exchange import HTTP1Exchange
from bluesminds.http.server.rejections import Rejection
from bluesminds.http.server.request_parser import ParsedRequest
from bluesminds.http.websocket import CloseCode, WebSocket, WebSocketLimits
from bluesminds.http.wire import Wire

_UPGRADE: Final = (b"upgrade", b"websocket")
_CONNECTION: Final = (b"connection", b"upgrade")


class WebSocketUpgrade:
    """A valid handshake. `subprotocols`: those that the client offers. `draining` is set when the listener
    starts to shut down.
    """

    __slots__ = ("_exchange", "_handshake", "_leftover", "_socket", "_wire", "draining", "subprotocols")

    def __init__(
        self,
        exchange: HTTP1Exchange,
        wire: Wire,
        handshake: H11Handshake,
        subprotocols: tuple[str, ...],
        leftover: bytes,
    ) -> None:
        """`leftover`: the bytes read after the handshake's head."""
        self.subprotocols = subprotocols
        self.draining = trio.Event()
        self._exchange = exchange
        self._wire = wire
        self._handshake = handshake
        self._leftover = leftover
        self._socket: WebSocket | None = None

    async def accept(
        self,
        subprotocol: str | None,
        headers: Iterable[tuple[bytes, bytes]],
        limits: WebSocketLimits,
        hold: Callable[[int], object],
    ) -> WebSocket:
        """Switch protocols; see WebSocket for `hold`. `subprotocol` must be one of the offered.

        The app closes the WebSocket before it returns. Raises ClientDisconnected.
        """
        event = AcceptConnection(subprotocol=subprotocol, extra_headers=list(headers))
        await self._exchange.switch_protocols(self._handshake.send(event))
        connection = self._handshake.connection
        if connection is None:
            raise ClientDisconnected("the handshake has failed")
        connection.receive_data(self._leftover)
        self._socket = WebSocket(self._wire, connection, limits, subprotocol=subprotocol, hold=hold)
        return self._socket

    def end(self) -> None:
        """The app has returned. One that failed has not closed its WebSocket."""
        if self._socket is not None:
            self._socket.abort(CloseCode.INTERNAL_ERROR, "The gateway failed to process this WebSocket.")


def read_upgrade(
    exchange: HTTP1Exchange, wire: Wire, request: ParsedRequest, leftover: bytes
) -> WebSocketUpgrade | Rejection:
    """The handshake of a request whose parser has marked it as one."""
    handshake = H11Handshake(ConnectionType.SERVER)
    _, raw_path, query = request.target
    try:
        handshake.initiate_upgrade_connection(request.headers, raw_path + (b"?" + query if query else b""))
    except RemoteProtocolError as exc:
        return _rejection(str(exc).replace("'", "`"), exc.event_hint)
    except (ProtocolError, h11.ProtocolError, ValueError):
        return _rejection("Malformed headers", None)
    offered = [
        name for event in handshake.events() if isinstance(event, Request) for name in event.subprotocols
    ]
    return WebSocketUpgrade(exchange, wire, handshake, tuple(offered), leftover)


def _rejection(reason: str, hint: object) -> Rejection:
    """`hint`: how wsproto would reject the handshake."""
    message = f"The WebSocket handshake is not valid: {reason}."
    if isinstance(hint, RejectConnection) and hint.status_code == HTTPStatus.UPGRADE_REQUIRED:
        return Rejection(
            426, "malformed_handshake", message, extra_headers=(*hint.headers, _UPGRADE, _CONNECTION)
        )
    return Rejection(400, "malformed_handshake", message)
