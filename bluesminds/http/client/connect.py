"""Opens wires: name resolution, all addresses, Unix sockets, TLS. The caller sets the deadline."""

import socket
import ssl

import trio

from bluesminds.http.client.errors import ConnectFailed
from bluesminds.http.client.origin import UpstreamOrigin
from bluesminds.http.wire import SocketWire, TLSWire, Wire


async def open_wire(origin: UpstreamOrigin, tls: ssl.SSLContext) -> Wire:
    """Connect to the origin. Raises ConnectFailed; a cancelled call leaves no socket behind."""
    try:
        if origin.scheme == "unix":
            return SocketWire(_plain_socket(await trio.open_unix_socket(origin.host)))
        stream = await trio.open_tcp_stream(origin.host, origin.port)
    except (OSError, ValueError) as exc:  # ValueError: a name that IDNA or the resolver rejects
        raise ConnectFailed(f"cannot connect to the upstream: {exc}", phase="connect", sent=False) from exc
    if origin.scheme == "http":
        return SocketWire(_plain_socket(stream))
    return await _start_tls(stream, origin.host, tls)


async def _start_tls(stream: trio.SocketStream, host: str, tls: ssl.SSLContext) -> TLSWire:
    secured = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException as exc:
        stream.socket.close()
        if isinstance(exc, trio.BrokenResourceError | OSError):
            raise ConnectFailed(_tls_error(exc), phase="connect", sent=False) from exc
        raise
    return TLSWire(secured)


def _tls_error(exc: Exception) -> str:
    cause = exc.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the upstream's certificate is not accepted: {cause.verify_message}"
    return f"the TLS handshake with the upstream failed: {cause or exc}"


def _plain_socket(stream: trio.SocketStream) -> socket.socket:
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock
