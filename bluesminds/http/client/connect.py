"""Opening wires: name look-up, all addresses, Unix sockets, TLS. Deadlines are the caller's."""

import socket
import ssl

import trio

from bluesminds.http.client.errors import ConnectFailed
from bluesminds.http.client.origin import Origin
from bluesminds.http.wire import SocketWire, TLSWire, Wire


async def open_wire(origin: Origin, tls: ssl.SSLContext) -> Wire:
    """Connect to the origin. Raises ConnectFailed; a cancelled call leaves no socket behind."""
    try:
        if origin.scheme == "unix":
            return SocketWire(_plain_socket(await trio.open_unix_socket(origin.host)))
        stream = await trio.open_tcp_stream(origin.host, origin.port)
    except (OSError, ValueError) as exc:  # ValueError: a name that IDNA or the system refuses
        raise ConnectFailed(f"cannot connect to the upstream: {exc}", phase="connect", sent=False) from exc
    if origin.scheme == "http":
        return SocketWire(_plain_socket(stream))
    return await _secured(stream, origin.host, tls)


async def _secured(stream: trio.SocketStream, host: str, tls: ssl.SSLContext) -> TLSWire:
    secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException as exc:
        stream.socket.close()
        if isinstance(exc, trio.BrokenResourceError | OSError):
            raise ConnectFailed(_why_no_tls(exc), phase="connect", sent=False) from exc
        raise
    return TLSWire(secured)


def _why_no_tls(exc: Exception) -> str:
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the upstream's certificate is not accepted: {cause.verify_message}"
    return f"the TLS handshake with the upstream failed: {cause or exc}"


def _plain_socket(stream: trio.SocketStream) -> socket.socket:
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock
