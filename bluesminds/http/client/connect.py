"""Opens wires: name resolution, all addresses, Unix sockets, TLS. The caller sets the deadline."""

import errno
import socket
import ssl

import trio

from bluesminds.http.client.errors import ConnectFailed, LocalResourceError
from bluesminds.http.client.origin import UpstreamOrigin
from bluesminds.http.wire import SocketWire, TLSWire, Wire

_LOCAL_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


async def open_wire(origin: UpstreamOrigin, tls: ssl.SSLContext) -> Wire:
    """Connect to the origin. Raises ConnectFailed and LocalResourceError. Cancelling leaves no socket."""
    try:
        if origin.scheme == "unix":
            return SocketWire(_plain_socket(await trio.open_unix_socket(origin.host)))
        stream = await trio.open_tcp_stream(origin.host, origin.port)
    except (OSError, ValueError) as exc:  # ValueError: a name that IDNA or the resolver rejects
        if _is_local(exc):
            message = "cannot open a connection: this machine has no free descriptors or memory"
            raise LocalResourceError(message, phase="connect", sent=False) from exc
        raise ConnectFailed(f"cannot connect to the upstream: {exc}", phase="connect", sent=False) from exc
    if origin.scheme == "http":
        return SocketWire(_plain_socket(stream))
    return await _start_tls(stream, origin.host, tls)


def _is_local(error: BaseException | None) -> bool:
    """Whether this machine caused the failure. Trio keeps the error of each address in the cause."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_local(part) for part in error.exceptions)
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_MEMORY or _is_out_of_descriptors()
    if not isinstance(error, OSError):
        return False
    return error.errno in _LOCAL_ERRORS or _is_local(error.__cause__)


def _is_out_of_descriptors() -> bool:
    """The resolver reports a lack of descriptors as an unknown name."""
    try:
        socket.socket().close()
    except OSError as exc:
        return exc.errno in _LOCAL_ERRORS
    return False


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
