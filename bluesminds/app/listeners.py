"""The listeners: the public one, the operator's local socket, and internal ones such as the demo server's.

Errors while a listener opens are CannotListen or BadCertificate, so that callers can distinguish them from
other operating system errors.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import EAI_NONAME, gaierror, socket
from typing import Any

import trio

from bluesminds.app.errors import BadCertificate, CannotListen
from bluesminds.app.services import Services
from bluesminds.app.settings_map import listener_limits
from bluesminds.common.log import Log
from bluesminds.common.networks import Networks
from bluesminds.config import ListenSettings, Settings
from bluesminds.http.asgi import ASGIApp, OnError
from bluesminds.http.server.serve import ListenerLimits, ListenerStats, bind_tcp, bind_unix, serve
from bluesminds.http.server.sockets import raise_descriptor_limit
from bluesminds.web.guard import mark_operator

OTHER_DESCRIPTORS = 100  # for the database, the log, and sockets that are being closed


def ensure_descriptors(settings: Settings, log: Log) -> None:
    """Allow a descriptor for each permitted connection; warn if the hard limit is too low for that."""
    needed = settings.server.max_connections + settings.upstream.max_connections + OTHER_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    if limit < needed:
        log.warning("descriptor_limit_low", limit=limit, needed=needed)


@contextmanager
def public_sockets(server: ListenSettings, inherited: list[socket] | None) -> Iterator[list[socket]]:
    """The inherited sockets, or new ones at the configured address; closed at the end.

    Raises CannotListen.
    """
    sockets = inherited or _open(f"{server.host}:{server.port}", lambda: bind_tcp(server.host, server.port))
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def private_sockets() -> list[socket]:
    """Listening on a free port of the loopback address. Raises CannotListen."""
    return _open("127.0.0.1", lambda: bind_tcp("127.0.0.1", 0))


async def listen_publicly(
    services: Services,
    app: ASGIApp,
    sockets: list[socket],
    stats: ListenerStats,
    shutdown: trio.Event,
    *,
    tls: ssl.SSLContext | None,
    task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `shutdown` is set, then drain."""
    server, log = services.settings.server, services.log
    await serve(
        app,
        sockets,
        listener_limits(server),
        tls=tls,
        http2=server.http2,
        on_error=lambda exc: log.exception("connection_failed", exc),
        on_rejection=lambda client, rejection, request_id, suppressed: log.info(
            "connection_refused",
            client=client,
            status=rejection.status,
            code=rejection.code,
            request_id=request_id,
            suppressed=suppressed,
        ),
        proxies=Networks.read(server.trusted_proxies) if server.proxy_protocol else None,
        shutdown=shutdown,
        stats=stats,
        task_status=task_status,
    )


async def listen_locally(
    services: Services, control: ASGIApp, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the operator on the state directory's Unix socket, until cancelled. Raises CannotListen."""
    path = services.state.socket_path
    sockets = _open(str(path), lambda: [bind_unix(path)])
    task_status.started()
    try:
        await listen_privately(
            mark_operator(control), sockets, lambda exc: services.log.exception("local_failed", exc)
        )
    finally:
        path.unlink(missing_ok=True)


async def listen_privately(app: ASGIApp, sockets: list[socket], on_error: OnError) -> None:
    """Serve with default limits until cancelled."""
    await serve(
        app, sockets, ListenerLimits(), on_error=on_error, shutdown=trio.Event(), stats=ListenerStats()
    )


def server_tls_context(server: ListenSettings) -> ssl.SSLContext | None:
    """None without a certificate. Raises BadCertificate."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, server)
    return context


def load_certificate(context: ssl.SSLContext | None, server: ListenSettings) -> None:
    """Read the files of the certificate, for new connections. Raises BadCertificate."""
    if context is None or server.tls_cert is None:
        return
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except OSError as exc:
        why = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise BadCertificate(f"tls_cert and tls_key in [server] cannot be used: {why}") from exc


def _open(where: str, bind: Callable[[], list[socket]]) -> list[socket]:
    try:
        return bind()
    except OSError as exc:
        raise CannotListen(where, exc) from exc
    except UnicodeError as exc:  # from the IDNA encoding of host names
        raise CannotListen(where, gaierror(EAI_NONAME, "this is not a valid host name")) from exc
