"""The places a gateway listens at: the public one, the operator's local socket, and private ones of its own.

What goes wrong in opening one is a CannotListen or a BadCertificate, so that nothing else can be mistaken
for it.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import EAI_NONAME, gaierror, socket

import trio

from bluesminds.app.services import Services
from bluesminds.common.log import Log
from bluesminds.config import ListenSettings, Settings
from bluesminds.http.asgi import ASGIApp, OnError
from bluesminds.http.server.serve import ListenerLimits, ListenerStats, bind_tcp, bind_unix, serve
from bluesminds.http.server.sockets import raise_descriptor_limit
from bluesminds.web.guard import mark_operator

OTHER_DESCRIPTORS = 100  # for the database, the log, and sockets that are being closed


class CannotListen(Exception):
    """A listening socket cannot be had at `where`, because of `cause`."""

    def __init__(self, where: str, cause: OSError) -> None:
        super().__init__(f"cannot listen on {where}: {cause.strerror or cause}")
        self.cause = cause


class BadCertificate(Exception):
    """The listener's certificate or its key cannot be used."""


def ensure_descriptors(settings: Settings, log: Log) -> None:
    """Allow a descriptor for each permitted connection; warn if the hard limit is too low for that."""
    needed = settings.server.max_connections + settings.upstream.max_connections + OTHER_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    if limit < needed:
        log.warning("descriptor_limit_low", limit=limit, needed=needed)


@contextmanager
def public_sockets(server: ListenSettings, inherited: list[socket] | None) -> Iterator[list[socket]]:
    """Those that listen already, else what the settings say; closed at the end. Raises CannotListen."""
    sockets = inherited or _opened(f"{server.host}:{server.port}", lambda: bind_tcp(server.host, server.port))
    try:
        yield sockets
    finally:
        for sock in sockets:
            sock.close()


def private_sockets() -> list[socket]:
    """On a free port of this machine. Raises CannotListen."""
    return _opened("127.0.0.1", lambda: bind_tcp("127.0.0.1", 0))


async def listen_locally(
    core: Services, site: ASGIApp, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The operator's socket in the state directory, owner only. Raises CannotListen."""
    path = core.state.socket_path
    sockets = _opened(str(path), lambda: [bind_unix(path)])
    task_status.started()
    try:
        await listen_privately(
            mark_operator(site), sockets, lambda exc: core.log.exception("local_failed", exc)
        )
    finally:
        path.unlink(missing_ok=True)


async def listen_privately(app: ASGIApp, sockets: list[socket], on_error: OnError) -> None:
    """Serve until cancelled."""
    await serve(
        app, sockets, ListenerLimits(), on_error=on_error, shutdown=trio.Event(), stats=ListenerStats()
    )


def tls_context(server: ListenSettings) -> ssl.SSLContext | None:
    """None without a certificate. Raises BadCertificate."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(server.tls_cert, server.tls_key)
    except OSError as exc:
        why = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise BadCertificate(f"tls_cert and tls_key in [server] cannot be used: {why}") from exc
    return context


def _opened(where: str, bind: Callable[[], list[socket]]) -> list[socket]:
    try:
        return bind()
    except OSError as exc:
        raise CannotListen(where, exc) from exc
    except UnicodeError as exc:  # from the encoding of names
        cause = gaierror(EAI_NONAME, "this cannot be the name of a machine")
        raise CannotListen(where, cause) from exc
