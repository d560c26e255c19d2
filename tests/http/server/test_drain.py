"""Shutdown: the port closes at once, running requests finish, and every wait has a limit."""

import socket

import pytest
import trio
import trio.testing

from bluesminds.http.asgi import Receive, Scope, Send
from bluesminds.http.deadlines import TICK
from bluesminds.http.server import connection
from tests.http.serving import Client, Served, answer, app_of, eventually, patient, read_all, start

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def refused(served: Served) -> bool:
    try:
        stream = await served.connect()
    except OSError:
        return True
    await stream.aclose()
    return False


async def test_drain_finishes_streams_and_closes_port(nursery: trio.Nursery) -> None:
    began = 0
    go_on = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal began
        began += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for index in range(10):
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % index, "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    served = await start(nursery, app, patient(header_timeout=60))
    ends: list[tuple[bool, bool]] = []

    async def read(stream: trio.SocketStream) -> None:
        async with stream:
            got = await Client(stream).ask(GET)
            ends.append((got.complete, got.body.endswith(b"[DONE]\n\n")))
            assert await read_all(stream) == b""

    async with trio.open_nursery() as readers:
        for _ in range(50):
            readers.start_soon(read, await served.connect())
        idle = await served.connect()
        await eventually(lambda: began == 50)
        served.shutdown.set()
        with trio.fail_after(60):
            while not await refused(served):
                await trio.lowlevel.checkpoint()
            async with idle:
                assert await read_all(idle) == b""
        assert not served.ended.is_set()
        go_on.set()
    with trio.fail_after(60):
        await served.ended.wait()
    assert ends == [(True, True)] * 50
    assert served.stats.open == 0
    assert not served.errors


async def test_drain_response_has_connection_close(nursery: trio.Nursery) -> None:
    began, go_on = trio.Event(), trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await go_on.wait()
        await answer(send)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        await stream.send_all(GET)
        await began.wait()
        served.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        got = await Client(stream).read()
    assert (got.status, got.headers["connection"]) == (200, "close")
    with trio.fail_after(60):
        await served.ended.wait()


async def test_drain_request_on_idle_connection_is_answered(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(connection, "DRAIN_GRACE", 3600)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        client = Client(stream)
        await client.ask(GET)
        served.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(2 * TICK)  # the deadlines are checked
        await trio.testing.wait_all_tasks_blocked()
        got = await client.ask(GET)
    assert (got.status, got.headers["connection"]) == (200, "close")


async def test_drain_answers_connections_in_backlog(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    served = await start(nursery, app)
    clients = []
    for _ in range(150):  # without a pause, so that the server can have accepted only some of them
        client = socket.create_connection(("127.0.0.1", served.port))
        client.sendall(GET)
        clients.append(client)
    served.shutdown.set()
    with trio.fail_after(60):
        await served.ended.wait()
    for client in clients:
        with client:
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("reading", [True, False])
async def test_drain_timeout_cancels_requests(reading: bool, nursery: trio.Nursery) -> None:
    began = trio.Event()
    cancelled = 0

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal cancelled
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                began.set()
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            cancelled += 1
            raise

    served = await start(nursery, app, patient(drain_timeout=0.5))
    async with await served.connect() as stream:
        await stream.send_all(GET)
        await began.wait()
        served.shutdown.set()
        with trio.fail_after(60):
            if reading:
                await read_all(stream)
            await served.ended.wait()
    assert cancelled == 1
    assert served.stats.refused["drain_timeout"] == 1


async def test_cancellation_ends_all_connections(nursery: trio.Nursery) -> None:
    began = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as inner:
        served = await start(inner, app)
        async with await served.connect() as stream:
            await stream.send_all(GET)
            await began.wait()
            inner.cancel_scope.cancel()
    assert served.stats.open == 0
    assert await refused(served)
