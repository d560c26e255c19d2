"""TLS to upstreams: certificates are checked, and silent peers time out."""

import os
import ssl
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from bluesminds.http.client import exchange as exchange_module
from bluesminds.http.client import pool as pool_module
from bluesminds.http.client.pool import (
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    Pool,
    Timeouts,
    UpstreamCut,
    UpstreamOrigin,
    UpstreamProtocolError,
    tls_context,
)
from tests.fakes.raw_upstream import Peer, Script, Upstream, always_ok, serve, silent

PATIENT = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)
LONG = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
async def pool(nursery: trio.Nursery, ca_file: Path) -> Pool:
    pool = Pool(max_connections=1, tls=tls_context(ca_file))
    await nursery.start(pool.run)
    return pool


async def serve_tls(
    nursery: trio.Nursery, ca: trustme.CA, script: Script, name: str = "127.0.0.1"
) -> Upstream:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)

    async def start(task_status: trio.TaskStatus[Upstream]) -> None:
        await serve(script, tls=context, task_status=task_status)

    upstream: Upstream = await nursery.start(start)
    return upstream


def origin(upstream: Upstream) -> UpstreamOrigin:
    return UpstreamOrigin("https", "127.0.0.1", upstream.port)


async def test_tls_requests_share_one_verified_connection(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA
) -> None:
    upstream = await serve_tls(nursery, ca, always_ok)
    for size in (2, 100_000, 3_000_000):
        response = await pool.request(b"POST", origin(upstream), b"/", [], os.urandom(size), timeouts=PATIENT)
        assert await response.read(size) == upstream.requests[-1].body
    assert upstream.accepted == 1


async def test_tls_certificate_for_other_name_is_rejected(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA
) -> None:
    upstream = await serve_tls(nursery, ca, always_ok, "other.example")
    with pytest.raises(ConnectFailed, match="certificate is not accepted") as caught:
        await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    assert not upstream.requests


async def test_tls_unknown_authority_is_rejected(pool: Pool, nursery: trio.Nursery, ca: trustme.CA) -> None:
    upstream = await serve_tls(nursery, trustme.CA(), always_ok)
    with pytest.raises(ConnectFailed, match="certificate is not accepted"):
        await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)
    system = Pool()
    await nursery.start(system.run)
    trusted_elsewhere = await serve_tls(nursery, ca, always_ok)
    with pytest.raises(ConnectFailed, match="certificate is not accepted"):
        await system.request(b"GET", origin(trusted_elsewhere), b"/", [], timeouts=PATIENT)


async def test_tls_handshake_failure_is_connect_failed(pool: Pool, nursery: trio.Nursery) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def closes(peer: Peer) -> None:
        await peer.close()

    async def resets(peer: Peer) -> None:
        peer.reset()

    for script in (plain, closes, resets):
        upstream = await nursery.start(serve, script)
        with pytest.raises(ConnectFailed, match="TLS handshake"):
            await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)


async def test_tls_silent_peer_times_out(pool: Pool, nursery: trio.Nursery, ca: trustme.CA) -> None:
    no_handshake = await nursery.start(serve, silent)
    no_response = await serve_tls(nursery, ca, silent)
    with trio.fail_after(60):
        for _ in range(2):
            with pytest.raises(ConnectTimeout):
                await pool.request(
                    b"GET", origin(no_handshake), b"/", [], timeouts=replace(LONG, connect=0.2)
                )
            with pytest.raises(FirstByteTimeout):
                await pool.request(
                    b"GET", origin(no_response), b"/", [], timeouts=replace(LONG, first_byte=0.2)
                )
        await no_response.all_closed()


async def test_tls_cancellation_keeps_slot(pool: Pool, nursery: trio.Nursery, ca: trustme.CA) -> None:
    no_handshake = await nursery.start(serve, silent)
    no_response = await serve_tls(nursery, ca, silent)
    good = await serve_tls(nursery, ca, always_ok)
    for upstream in (no_handshake, no_response) * 2:
        async with trio.open_nursery() as inner:
            inner.start_soon(partial(pool.request, b"GET", origin(upstream), b"/", [], timeouts=PATIENT))
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
    response = await pool.request(b"GET", origin(good), b"/", [], timeouts=PATIENT)
    assert await response.read(10) == b"ok"


async def test_tls_early_error_response_is_delivered(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "_EARLY_SECONDS", 3600)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(b"too large")
        await trio.sleep_forever()

    upstream = await serve_tls(nursery, ca, script)
    for _ in range(2):
        response = await pool.request(
            b"POST", origin(upstream), b"/", [], bytes(50_000_000), timeouts=PATIENT
        )
        assert (response.status, await response.read(100)) == (413, b"too large")


async def test_tls_truncated_body_is_upstream_cut(pool: Pool, nursery: trio.Nursery, ca: trustme.CA) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")

    upstream = await serve_tls(nursery, ca, script)
    response = await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)
    with pytest.raises(UpstreamCut):
        await response.read(100)


async def test_tls_stale_connection_is_replaced(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_ROUND_TRIP_SECONDS", 3600)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"%d" % peer.number)
        await peer.head()

    upstream = await serve_tls(nursery, ca, script)
    for expected in (b"1", b"2", b"3"):
        response = await pool.request(b"POST", origin(upstream), b"/", [], b"body", timeouts=PATIENT)
        assert await response.read(10) == expected


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"H"])
@pytest.mark.parametrize("waiting", [False, True])
async def test_tls_extra_record_is_not_read_as_next_response(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA, extra: bytes, waiting: bool
) -> None:
    """One read takes both records from the kernel, so the socket is not readable afterwards."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send_together(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine", extra)
        await peer.wait_closed()

    async def ask() -> None:
        response = await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)
        assert await response.read(100) == b"mine"

    upstream = await serve_tls(nursery, ca, script)
    with trio.fail_after(60):
        if waiting:  # each hands the pool's one connection over to the next
            async with trio.open_nursery() as callers:
                for _ in range(3):
                    callers.start_soon(ask)
        else:
            for _ in range(3):
                await ask()
    assert upstream.accepted == 3


async def test_tls_response_not_http_is_protocol_error(
    pool: Pool, nursery: trio.Nursery, ca: trustme.CA
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00")

    upstream = await serve_tls(nursery, ca, script)
    with pytest.raises(UpstreamProtocolError):
        await pool.request(b"GET", origin(upstream), b"/", [], timeouts=PATIENT)


def test_tls_context_verifies_and_writes_no_session_keys(
    ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for context in (tls_context(None), tls_context(ca_file)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.keylog_filename is None
    assert not (tmp_path / "keys").exists()
    with pytest.raises(OSError, match="No such file"):
        tls_context(tmp_path / "absent.pem")
