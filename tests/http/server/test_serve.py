"""The listener: limits, lifespan, addresses, Unix sockets, TLS and HTTP/2."""

import contextlib
import os
import pathlib
import resource
import socket
import ssl
import stat
from collections.abc import Callable, Mapping
from functools import cache

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.testing
import trustme

from bluesminds.http.asgi import ClientDisconnected, Receive, Scope, Send
from bluesminds.http.server import serve as serve_module
from bluesminds.http.server.rejections import URL_TOO_LONG, RateLimitedReporter
from bluesminds.http.server.serve import (
    LifespanError,
    ListenerLimits,
    ListenerStats,
    bind_tcp,
    bind_unix,
    serve,
)
from tests.http.serving import (
    Client,
    Served,
    answer,
    app_of,
    body_of,
    echo,
    eventually,
    patient,
    read_all,
    start,
)

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
AUTHORITY = trustme.CA()


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return context


@cache
def client_tls(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    AUTHORITY.configure_trust(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def connect_tls(served: Served, *alpn: str, attempts: int = 1) -> trio.SSLStream[trio.SocketStream]:
    context = client_tls(*alpn)
    for left in reversed(range(attempts)):
        stream = trio.SSLStream(
            await served.connect(), context, server_hostname="localhost", https_compatible=True
        )
        try:
            await stream.do_handshake()
            break
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)
            if not left:
                raise
    return stream


async def _send_quietly(stream: trio.abc.SendStream, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(data)


# Caps


async def test_connection_above_limit_is_503_until_one_closes(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(max_connections=2))
    first, second = await served.connect(), await served.connect()
    assert (await Client(first).ask(GET)).status == 200
    assert (await Client(second).ask(GET)).status == 200
    assert (await served.ask(b"")).startswith(b"HTTP/1.1 503 ")
    await first.aclose()
    await eventually(lambda: served.stats.open < 2)
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 200
    await second.aclose()
    assert served.stats.refused["too_many_connections"] == 1


async def test_connection_above_address_limit_is_429(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(max_connections_per_ip=1))
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 200
        assert (await served.ask(b"")).startswith(b"HTTP/1.1 429 ")
        other = await trio.open_tcp_stream("127.0.0.1", served.port, local_address="127.0.0.2")
        async with other:
            assert (await Client(other).ask(GET)).status == 200
    await eventually(lambda: served.stats.open == 0)
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 200


async def test_accept_without_descriptors_pauses_and_reports_once(
    nursery: trio.Nursery,
) -> None:
    served = await start(nursery, echo)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    clients = [socket.socket() for _ in range(3)]
    used = max(used, *(client.fileno() for client in clients))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
    spare = []
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        pass
    try:
        for client in clients:
            client.connect(("127.0.0.1", served.port))
        await eventually(lambda: served.stats.refused["descriptors"] >= 3)
    finally:
        for descriptor in spare:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await eventually(lambda: served.stats.accepted == 3)
    for client in clients:
        client.close()
    assert [type(error) for error in served.errors] == [OSError]


def early_body() -> bytes:
    """A request whose client does not wait before it sends the body."""
    return b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)


@pytest.mark.parametrize(
    ("limits", "status"),
    [(patient(max_connections=1), 503), (patient(max_connections_per_ip=1), 429)],
    ids=["cap", "cap per address"],
)
async def test_connection_above_limit_that_is_sending_can_read_rejection(
    limits: ListenerLimits, status: int, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "REJECT_SECONDS", 3600)
    served = await start(nursery, echo, limits)
    async with await served.connect() as first:
        assert (await Client(first).ask(GET)).status == 200
        for _ in range(50):
            async with await served.connect() as stream:
                await stream.send_all(early_body())
                assert (await Client(stream).read()).status == status
    with trio.fail_after(60):
        served.shutdown.set()
        await served.ended.wait()


# Refusals


async def test_rejections_are_reported_with_address_code_and_status(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(max_connections=1, body_bytes=10))
    for request, status in (
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 11\r\n\r\n", 413),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414),
    ):
        answer = await served.ask(request)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        request_id = served.rejections[-1][2].encode()
        assert b"\r\nx-request-id: %b\r\n" % request_id in answer
        assert b'"request_id": "%b"' % request_id in answer
        await eventually(lambda: not served.stats.open)
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 200
        await served.ask(GET)
    assert len({request_id for _, _, request_id, _ in served.rejections}) == 4
    reported = [(client, rejection.status, rejection.code) for client, rejection, _, _ in served.rejections]
    assert reported == [
        ("127.0.0.1", 400, "malformed_request"),
        ("127.0.0.1", 413, "body_too_large"),
        ("127.0.0.1", 414, "url_too_long"),
        ("127.0.0.1", 503, "too_many_connections"),
    ]


def test_reporter_flood_is_limited_and_counted() -> None:
    reported: list[tuple[str, int]] = []
    reporter = RateLimitedReporter(
        lambda client, rejection, request_id, suppressed: reported.append((client, suppressed))
    )
    for _ in range(100):
        reporter.report(("10.0.0.1", 5), URL_TOO_LONG, "id", 50.0)
    assert reported == [("10.0.0.1", 0)] * 10
    reporter.report(None, URL_TOO_LONG, "id", 50.9)
    reporter.report(None, URL_TOO_LONG, "id", 51.0)
    reporter.report(None, URL_TOO_LONG, "id", 51.1)
    assert reported[10:] == [("local", 91), ("local", 0)]


# Lifespan and addresses


async def test_lifespan_surrounds_requests_and_shares_state(nursery: trio.Nursery) -> None:
    events: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            events.append((await receive())["type"])
            scope["state"]["answer"] = b"shared"
            await send({"type": "lifespan.startup.complete"})
            events.append((await receive())["type"])
            await send({"type": "lifespan.shutdown.complete"})
        else:
            events.append("request")
            scope["state"]["local"] = 1
            await answer(send, scope["state"]["answer"] + b"%d" % len(scope["state"]))

    served = await start(nursery, app)
    for _ in range(2):
        assert (await served.ask(GET[:-2] + b"Connection: close\r\n\r\n")).endswith(b"shared2")
    served.shutdown.set()
    await served.ended.wait()
    assert events == ["lifespan.startup", "request", "request", "lifespan.shutdown"]


async def test_lifespan_failed_startup_raises() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    sockets = bind_tcp("127.0.0.1", 0)
    with pytest.raises(LifespanError, match="no database"):
        await serve(
            app,
            sockets,
            patient(),
            on_error=lambda _: None,
            shutdown=trio.Event(),
            stats=ListenerStats(),
        )
    assert sockets[0].fileno() == -1


@pytest.mark.parametrize("after_startup", [False, True])
async def test_lifespan_error_is_reported(after_startup: bool, nursery: trio.Nursery) -> None:
    errors: list[BaseException] = []
    failed = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            if after_startup:
                await send({"type": "lifespan.startup.complete"})
            failed.set()
            raise ValueError("broken")
        await answer(send)

    shutdown = trio.Event()
    if after_startup:
        served = await start(nursery, app)
        await failed.wait()
        assert b"200 OK" in await served.ask(GET[:-2] + b"Connection: close\r\n\r\n")
        assert [str(error) for error in served.errors] == ["broken"]
    else:
        with pytest.raises(LifespanError):
            await serve(
                app,
                bind_tcp("127.0.0.1", 0),
                patient(),
                on_error=errors.append,
                shutdown=shutdown,
                stats=ListenerStats(),
            )
        assert [str(error) for error in errors] == ["broken"]


async def hanging_at(stage: str, receive: Receive, send: Send) -> None:
    """A lifespan that does not finish `stage`."""
    while (message := await receive())["type"] != f"lifespan.{stage}":
        await send({"type": f"{message['type']}.complete"})
    await trio.sleep_forever()


async def test_lifespan_startup_timeout_raises(autojump_clock: trio.testing.MockClock) -> None:
    sockets = bind_tcp("127.0.0.1", 0)
    with pytest.raises(LifespanError, match="not ready after 60 seconds"):
        await serve(
            lambda scope, receive, send: hanging_at("startup", receive, send),
            sockets,
            patient(),
            on_error=lambda _: None,
            shutdown=trio.Event(),
            stats=ListenerStats(),
        )
    assert sockets[0].fileno() == -1


async def test_lifespan_shutdown_timeout_raises() -> None:
    shutdown = trio.Event()
    shutdown.set()
    with pytest.raises(LifespanError, match="did not end in time"), trio.fail_after(60):
        await serve(
            lambda scope, receive, send: hanging_at("shutdown", receive, send),
            bind_tcp("127.0.0.1", 0),
            patient(drain_timeout=0.1),
            on_error=lambda _: None,
            shutdown=shutdown,
            stats=ListenerStats(),
        )


async def test_lifespan_shutdown_during_startup_ends_serve(nursery: trio.Nursery) -> None:
    shutdown, starting = trio.Event(), trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        starting.set()
        await hanging_at("startup", receive, send)

    async def shut_down() -> None:
        await starting.wait()
        shutdown.set()

    nursery.start_soon(shut_down)
    with trio.fail_after(60):
        await serve(
            app,
            bind_tcp("127.0.0.1", 0),
            patient(),
            on_error=lambda _: None,
            shutdown=shutdown,
            stats=ListenerStats(),
        )


async def test_lifespan_unsupported_app_is_served(nursery: trio.Nursery) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, scope["type"].encode())

    served = await start(nursery, app)
    assert (await served.ask(GET[:-2] + b"Connection: close\r\n\r\n")).endswith(b"http")
    served.shutdown.set()
    await served.ended.wait()
    assert not served.errors


async def test_scope_has_client_and_server_addresses(nursery: trio.Nursery) -> None:
    scopes: list[Scope] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        await Client(stream).ask(b"GET /a%20b/%C3%A9?q=%20 HTTP/1.1\r\nHost: test\r\nX-A: 1\r\n\r\n")
        client = stream.socket.getsockname()
    scope = scopes[0]
    assert scope["client"] == client
    assert scope["server"] == ("127.0.0.1", served.port)
    assert (scope["scheme"], scope["http_version"], scope["method"]) == ("http", "1.1", "GET")
    assert (scope["path"], scope["raw_path"]) == ("/a b/é", b"/a%20b/%C3%A9")
    assert scope["query_string"] == b"q=%20"
    assert scope["headers"] == [(b"host", b"test"), (b"x-a", b"1")]
    assert scope["asgi"]["version"] == "3.0"


def test_bind_name_with_several_addresses_uses_one_port() -> None:
    sockets = bind_tcp("localhost", 0)
    ports = {sock.getsockname()[1] for sock in sockets}
    for sock in sockets:
        sock.close()
    assert len(ports) == 1


def test_bind_port_in_use_raises() -> None:
    first = bind_tcp("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        bind_tcp("127.0.0.1", first[0].getsockname()[1])
    first[0].close()


async def test_bind_unix_is_private_and_replaces_stale_socket_only(
    tmp_path: pathlib.Path, nursery: trio.Nursery
) -> None:
    path = tmp_path / "admin.sock"
    bind_unix(path).close()
    listening = bind_unix(path, 0o660)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(FileExistsError):
        bind_unix(path)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        bind_unix(tmp_path / "file")

    scopes: list[Scope] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await answer(send)

    shutdown = trio.Event()
    async with trio.open_nursery() as inner:
        inner.start_soon(
            lambda: serve(
                app,
                [listening],
                patient(),
                on_error=lambda _: None,
                shutdown=shutdown,
                stats=ListenerStats(),
            )
        )
        async with await trio.open_unix_socket(path) as stream:
            assert (await Client(stream).ask(GET)).status == 200
        shutdown.set()
    assert (scopes[0]["client"], scopes[0]["server"]) == (None, (str(path), None))


# TLS


async def test_tls_requests_are_served(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, tls=server_tls())
    async with await connect_tls(served, "h2", "http/1.1") as stream:
        assert stream.selected_alpn_protocol() == "http/1.1"
        client = Client(stream)
        for _ in range(2):
            got = await client.ask(
                b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000)
            )
            assert got.body == b"POST /x " + bytes(300_000)


async def test_tls_deadlines_disconnects_and_drain_work(nursery: trio.Nursery) -> None:
    left = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/":
            await answer(send)
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await receive()
        left.set()

    strict = await start(nursery, app, patient(header_timeout=0.4), tls=server_tls())
    status = 0
    with trio.fail_after(60):
        while not status:  # input that arrives after the deadline gets no response
            async with await connect_tls(strict) as slow:
                await _send_quietly(slow, b"GET / HT")
                status = (await Client(slow).read()).status
    assert status == 408
    served = await start(nursery, app, tls=server_tls())
    leaving = await connect_tls(served)
    await leaving.send_all(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n")
    assert b"200 OK" in await leaving.receive_some()
    await trio.aclose_forcefully(leaving)
    with trio.fail_after(60):
        await left.wait()
    async with await connect_tls(served) as idle:
        assert (await Client(idle).ask(GET)).status == 200
        served.shutdown.set()
        with trio.fail_after(60):
            assert await read_all(idle) == b""
            await served.ended.wait()
    assert not strict.errors
    assert not served.errors


async def test_tls_failed_or_stalled_handshakes_are_closed(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(handshake_timeout=0.3), tls=server_tls())
    streams = [await served.connect() for _ in range(50)]
    for index, stream in enumerate(streams):
        if index % 3 == 0:
            await _send_quietly(stream, b"\x00\x01\x02" * 10)
        elif index % 3 == 1:
            await _send_quietly(stream, b"\x16\x03\x01\x02\x00\x01")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await stream.aclose()
    await eventually(lambda: served.stats.accepted == 50 and not served.stats.open)
    for stream in streams:
        await stream.aclose()
    assert served.stats.refused["handshake"] == 50
    async with await connect_tls(served, attempts=100) as encrypted:
        assert (await Client(encrypted).ask(GET)).status == 200
    assert not served.errors


async def test_tls_plain_http_request_is_answered(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, tls=server_tls(), http2=True)
    answer = await served.ask(GET)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'"code": "https_required"' in answer
    assert (served.stats.refused["https_required"], len(served.rejections)) == (1, 1)
    await eventually(lambda: not served.stats.open)
    async with await connect_tls(served) as encrypted:
        assert (await Client(encrypted).ask(GET)).status == 200
    assert not served.errors


# HTTP/2


class HTTP2Client:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="latin-1", validate_outbound_headers=False
            )
        )
        self.h2.initiate_connection()
        self.answers: dict[int, list[object]] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.unread: set[int] = set()  # streams whose window is not opened

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def request(
        self,
        path: str,
        *,
        method: str = "GET",
        end: bool = True,
        headers: Mapping[str, str] | None = None,
        authority: str = "localhost",
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", authority)]
        self.h2.send_headers(number, [*fields, *(headers or {}).items()], end_stream=end)
        self.answers[number] = [0, b""]
        await self.flush()
        return number

    async def wait(self, until: Callable[[], bool]) -> None:
        while not until():
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            for event in self.h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    fields: dict[object, bytes] = dict(event.headers)
                    self.answers[event.stream_id][0] = int(fields[":status"])
                elif isinstance(event, h2.events.DataReceived):
                    self.answers[event.stream_id][1] += event.data  # type: ignore[operator]
                    if event.stream_id in self.unread:
                        self.h2.increment_flow_control_window(event.flow_controlled_length)
                    else:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    self.reset.add(event.stream_id)
            await self.flush()

    async def finish(self, number: int) -> tuple[object, ...]:
        with trio.fail_after(60):
            await self.wait(lambda: number in self.ended)
        return tuple(self.answers[number])


async def connect_http2(served: Served) -> HTTP2Client:
    stream = await connect_tls(served, "h2")
    assert stream.selected_alpn_protocol() == "h2"
    client = HTTP2Client(stream)
    await client.flush()
    return client


async def test_http2_streams_run_concurrently(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    async with client.stream:
        slow = await client.request("/slow", method="POST", end=False)
        quick = await client.request("/quick")
        assert await client.finish(quick) == (200, b"GET /quick ")
        client.h2.send_data(slow, b"body", end_stream=True)
        await client.flush()
        assert await client.finish(slow) == (200, b"POST /slow body")
    assert served.stats.requests == 2
    assert not served.errors


async def test_http2_large_bodies_are_carried_both_ways(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        assert body is not None
        await answer(send, body * 20)

    served = await start(nursery, app, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    async with client.stream:
        number = await client.request("/", method="POST", end=False)
        for _ in range(4):
            client.h2.send_data(number, bytes(15_000))
        client.h2.end_stream(number)
        await client.flush()
        assert await client.finish(number) == (200, bytes(1_200_000))


async def test_http2_data_after_early_response_is_ignored(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"no", 401)

    served = await start(nursery, app, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    async with client.stream:
        for _ in range(3):
            number = await client.request("/", method="POST", end=False)
            assert await client.finish(number) == (401, b"no")
            for _ in range(3):
                client.h2.send_data(number, bytes(15_000))
                await client.flush()
        assert await client.finish(await client.request("/")) == (401, b"no")
    assert not served.errors


async def test_http2_unread_body_does_not_block_connection(
    nursery: trio.Nursery,
) -> None:
    began, go_on = trio.Event(), trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/ignores":
            began.set()
            await go_on.wait()
        await answer(send)

    served = await start(nursery, app, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    async with client.stream:
        number = await client.request("/ignores", method="POST", end=False)
        for _ in range(40):
            client.h2.send_data(number, bytes(100))
        await client.flush()
        await began.wait()
        go_on.set()
        assert (await client.finish(number))[0] == 200
        assert (await client.finish(await client.request("/")))[0] == 200


async def test_http2_limits_errors_and_resets_end_streams(nursery: trio.Nursery) -> None:
    gone = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise ValueError("secret")
        if scope["path"] == "/large":
            assert await body_of(receive) is None
            return
        if scope["path"] == "/form":
            assert await body_of(receive) == bytes(30_000)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        disconnect = scope["extensions"]["disconnect"]
        disconnect.add_callback(gone.set)
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(ClientDisconnected):
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await trio.lowlevel.checkpoint()

    served = await start(nursery, app, patient(body_bytes=20_000), tls=server_tls(), http2=True)
    client = await connect_http2(served)
    async with client.stream:
        status, body = await client.finish(await client.request("/fail"))
        assert status == 500
        assert b"internal_error" in body  # type: ignore[operator]
        number = await client.request("/large", method="POST", end=False)
        client.h2.send_data(number, bytes(15_000))
        client.h2.send_data(number, bytes(15_000))
        await client.flush()
        assert (await client.finish(number))[0] == 413
        form = {"content-type": "multipart/form-data; boundary=a"}
        number = await client.request("/form", method="POST", end=False, headers=form)
        client.h2.send_data(number, bytes(15_000))
        client.h2.send_data(number, bytes(15_000), end_stream=True)
        await client.flush()
        assert (await client.finish(number))[0] == 200
        number = await client.request("/stream")
        await client.wait(lambda: bool(client.answers[number][1]))
        client.h2.reset_stream(number)
        await client.flush()
        with trio.fail_after(60):
            await gone.wait()
        assert (await client.finish(await client.request("/fail")))[0] == 500
    assert [type(error) for error in served.errors] == [ValueError, ValueError]


async def test_http2_rapid_resets_end_the_connection(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    with pytest.raises(trio.BrokenResourceError), trio.fail_after(60):
        while True:
            number = await client.request("/", method="POST", end=False)
            client.h2.reset_stream(number)
            await client.flush()
    await client.stream.aclose()
    assert 200 < served.stats.requests < 1000


async def test_http2_drain_finishes_streams(nursery: trio.Nursery) -> None:
    began, go_on = trio.Event(), trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await go_on.wait()
        await answer(send, b"done")

    served = await start(nursery, app, tls=server_tls(), http2=True)
    busy, idle = await connect_http2(served), await connect_http2(served)
    number = await busy.request("/")
    await began.wait()
    served.shutdown.set()
    with trio.fail_after(60):
        await idle.wait(lambda: False)
        go_on.set()
        assert await busy.finish(number) == (200, b"done")
        await busy.wait(lambda: False)
        await served.ended.wait()
    await busy.stream.aclose()
    await idle.stream.aclose()
    assert not served.errors
