"""The handshake that opens a WebSocket to an upstream (RFC 6455), on a wire that the pool has opened.

The upstream switches protocols, or it sends an ordinary response, of which the status, the headers and the
beginning of the body are kept. Anything else is an UpstreamError. wsproto checks the response.
"""

from collections.abc import Callable, Sequence

import h11
import trio
from msgspec import Struct
from wsproto.connection import Connection, ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from bluesminds.http.client.errors import FirstByteTimeout, UpstreamCut, UpstreamProtocolError, WriteTimeout
from bluesminds.http.client.exchange import Timeouts
from bluesminds.http.websocket import WebSocketLimits
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

MAX_REJECTION = 64 * 1024  # bytes that are kept of the body of a response

Header = tuple[bytes, bytes]


class WebSocketRequest(Struct, frozen=True):
    """The parameters of a handshake. `target` is percent-encoded; `hold` and `limits` are as in WebSocket."""

    target: bytes
    headers: Sequence[Header]
    subprotocols: Sequence[str]
    limits: WebSocketLimits
    hold: Callable[[int], object]


class HandshakeRejected(Struct, frozen=True):
    """The upstream has sent a response instead of switching protocols. Names of headers are lower-case."""

    status: int
    headers: Sequence[Header]
    body: bytes


class ClientHandshake:
    """One handshake. `subprotocol`: the one that the upstream selected."""

    def __init__(self, wire: Wire, authority: str, request: WebSocketRequest, timeouts: Timeouts) -> None:
        self._wire = wire
        self._authority = authority
        self._request = request
        self._timeouts = timeouts
        self._handshake = H11Handshake(ConnectionType.CLIENT)
        self._response: RejectConnection | None = None
        self._body = b""
        self.subprotocol: str | None = None

    async def run(self) -> Connection | HandshakeRejected:
        """The timeout `first_byte` bounds the whole response. Raises UpstreamError, and ValueError for an
        invalid request.
        """
        await self._send()
        deadline = trio.current_time() + self._timeouts.first_byte
        try:
            while not await self._read(deadline):
                pass
        except (RemoteProtocolError, h11.ProtocolError, ValueError) as exc:
            if self._response is None:
                message = f"the response to the handshake is not valid: {exc}"
                raise UpstreamProtocolError(message, phase="head", sent=True) from None
        if (connection := self._handshake.connection) is not None:
            return connection
        if self._response is None:
            raise _cut()
        headers = [(bytes(name).lower(), bytes(value)) for name, value in self._response.headers]
        return HandshakeRejected(self._response.status_code, headers, self._body[:MAX_REJECTION])

    async def _send(self) -> None:
        request = Request(
            host=self._authority,
            target=self._request.target.decode("ascii"),
            subprotocols=list(self._request.subprotocols),
            extra_headers=[(b"Accept-Encoding", b"identity"), *self._request.headers],
        )
        try:
            head = self._handshake.send(request)
        except (LocalProtocolError, h11.ProtocolError):
            raise ValueError("a header of the handshake is malformed") from None
        try:
            await self._wire.send(head, self._timeouts.write)
        except WireTimeout:
            raise WriteTimeout(
                "the upstream stopped accepting the request", phase="write", sent=True
            ) from None
        except WireClosed as exc:
            raise _cut() from exc

    async def _read(self, deadline: float) -> bool:
        """Read once. Returns whether the handshake is over. An error while the body of a response is read
        only ends it.
        """
        try:
            data = await self._wire.receive(deadline)
        except WireTimeout:
            if self._response is not None:
                return True
            message = "the upstream did not respond to the handshake in time"
            raise FirstByteTimeout(message, phase="head", sent=True) from None
        except WireClosed as exc:
            if self._response is not None:
                return True
            raise _cut() from exc
        if not data and self._response is None:
            raise _cut()
        self._handshake.receive_data(data or None)
        return self._handle_events() or not data

    def _handle_events(self) -> bool:
        for event in self._handshake.events():
            match event:
                case AcceptConnection(subprotocol=subprotocol):
                    self.subprotocol = subprotocol
                    return True
                case RejectConnection(has_body=False, status_code=status):
                    raise RemoteProtocolError(f"status {status}")
                case RejectConnection():
                    self._response = event
                case RejectData(data=data, body_finished=finished):
                    self._body += data
                    if finished or len(self._body) >= MAX_REJECTION:
                        return True
        return False


def _cut() -> UpstreamCut:
    return UpstreamCut("the connection was lost before a response", phase="head", sent=True)
