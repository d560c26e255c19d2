"""Opens a connection step by step, to find out which step fails and how long each takes."""

import socket
import ssl
from typing import Literal

import trio
from msgspec import Struct

from bluesminds.http.client.address_policy import AddressPolicy
from bluesminds.http.client.connect import open_tcp, start_tls
from bluesminds.http.client.errors import ConnectFailed, UpstreamError
from bluesminds.http.client.origin import UpstreamOrigin


class ConnectStep(Struct, frozen=True):
    """`error` is None on success. `detail` says what was found."""

    name: Literal["dns", "connect", "tls"]
    seconds: float
    detail: str = ""
    error: str | None = None


async def diagnose(origin: UpstreamOrigin, tls: ssl.SSLContext, policy: AddressPolicy) -> list[ConnectStep]:
    """The steps up to the first one that fails. The connection is closed. A Unix socket has no steps."""
    if origin.scheme == "unix":
        return []
    steps: list[ConnectStep] = []
    started = trio.current_time()

    def done(name: Literal["dns", "connect", "tls"], detail: str = "", error: str | None = None) -> None:
        nonlocal started
        now = trio.current_time()
        steps.append(ConnectStep(name, now - started, detail, error))
        started = now

    try:
        found = await trio.socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        done("dns", error=f"the name {origin.host} cannot be resolved: {reason.lower()}")
        return steps
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    done("dns", detail=", ".join(addresses[:5]))
    try:
        stream = await open_tcp(origin, policy)
    except UpstreamError as exc:
        done("connect", error=str(exc))
        return steps
    try:
        done("connect", detail=f"port {origin.port}")
        if origin.scheme == "https":
            try:
                wire = await start_tls(stream, origin.host, tls)
            except ConnectFailed as exc:
                done("tls", error=str(exc))
            else:
                done("tls")
                wire.close()
    finally:
        stream.socket.close()
    return steps
