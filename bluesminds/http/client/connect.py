"""Opens wires: name resolution, all addresses, Unix sockets, TLS. The caller sets the deadline."""

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Final

import trio

from bluesminds.http.client.address_policy import AddressPolicy
from bluesminds.http.client.errors import ConnectFailed, LocalResourceError, UpstreamError
from bluesminds.http.client.origin import UpstreamOrigin
from bluesminds.http.wire import SocketWire, TLSWire, Wire

STAGGER: Final = 0.25  # seconds between attempts at the addresses of a name (RFC 8305, section 5)
_LOCAL_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


async def open_wire(origin: UpstreamOrigin, tls: ssl.SSLContext, policy: AddressPolicy) -> Wire:
    """Connect to the origin. Raises ConnectFailed and LocalResourceError. Cancelling leaves no socket."""
    try:
        if origin.scheme == "unix":
            if not (origin.trusted or policy.permits_unix()):
                raise _address_refused(policy)
            return SocketWire(_plain_socket(await trio.open_unix_socket(origin.host)))
    except OSError as exc:
        raise _connect_error(origin, exc) from exc
    stream = await open_tcp(origin, policy)
    if origin.scheme == "http":
        return SocketWire(_plain_socket(stream))
    return await start_tls(stream, origin.host, tls)


async def open_tcp(origin: UpstreamOrigin, policy: AddressPolicy) -> trio.SocketStream:
    """Connect to one of the addresses. Raises ConnectFailed and LocalResourceError."""
    try:
        if origin.trusted:
            return await trio.open_tcp_stream(origin.host, origin.port)
        return await _open_permitted(origin, policy)
    except (OSError, ValueError) as exc:  # ValueError: a name that IDNA or the resolver rejects
        raise _connect_error(origin, exc) from exc


def _connect_error(origin: UpstreamOrigin, exc: Exception) -> UpstreamError:
    if _is_local(exc):
        message = "cannot open a connection: this machine has no free descriptors or memory"
        return LocalResourceError(message, phase="connect", sent=False)
    return ConnectFailed(f"cannot connect to {origin.host}: {_reason(exc)}", phase="connect", sent=False)


async def _open_permitted(origin: UpstreamOrigin, policy: AddressPolicy) -> trio.SocketStream:
    """Connect if the policy permits every address of the origin."""
    found = await trio.socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    if not all(policy.permits_text(str(sockaddr[0])) for *_, sockaddr in found):
        raise _address_refused(policy)
    # Not to the name: it may resolve differently a moment later.
    return await _open_first(list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)), origin.port)


async def _open_first(addresses: Sequence[str], port: int) -> trio.SocketStream:
    """A connection to the first address that answers. The next one is tried when the one before has failed,
    or after STAGGER. Raises OSError of the first address if all fail.
    """
    opened: list[trio.SocketStream] = []
    errors: list[OSError] = []

    async def attempt(address: str, ended: trio.Event) -> None:
        try:
            opened.append(await trio.open_tcp_stream(address, port))
            nursery.cancel_scope.cancel()
        except OSError as exc:
            errors.append(exc)
        ended.set()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                ended = trio.Event()
                nursery.start_soon(attempt, address, ended)
                with trio.move_on_after(STAGGER):
                    await ended.wait()
    except BaseException:
        for stream in opened:
            stream.socket.close()
        raise
    if not opened:
        raise errors[0]
    for stream in opened[1:]:
        stream.socket.close()
    return opened[0]


def _address_refused(policy: AddressPolicy) -> ConnectFailed:
    message = f"the server's address is link-local, reserved, or private and outside {policy.setting}"
    return ConnectFailed(message, phase="connect", sent=False)


def _reason(error: BaseException) -> str:
    """The operating system's reason, such as "connection refused". Trio keeps it in the cause."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    found = cause if isinstance(cause, OSError) else error
    if not isinstance(found, OSError) or found.errno is None:
        return str(found)
    if isinstance(found, socket.gaierror):
        return str(found.strerror).lower()
    return os.strerror(found.errno).lower()  # Trio adds the address to `strerror`


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


async def start_tls(stream: trio.SocketStream, host: str, tls: ssl.SSLContext) -> TLSWire:
    """Raises ConnectFailed, and closes the stream then."""
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
