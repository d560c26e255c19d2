"""HTTP/2: what goes wrong in one stream is that stream's alone."""

import contextlib

import pytest
import trio
import trio.testing
from h2.settings import SettingCodes

from bluesminds.http.asgi import ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from bluesminds.http.server import hypercorn_apps
from bluesminds.http.server.serve import ListenerLimits
from tests.http.server.test_serve import HTTP2Client, connect_http2, server_tls
from tests.http.serving import Served, answer, app_of, body_of, eventually, start

HURRIED_BODY = ListenerLimits(body_timeout=0.4)
HURRIED_ANSWER = ListenerLimits(write_timeout=0.4)


async def events(send: Send) -> None:
    """A stream that takes 1.2 seconds."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(12):
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await trio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"END"})


@app_of
async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["path"]:
        case "/events":
            await events(send)
        case "/large":
            await answer(send, bytes(1_000_000))
        case "/early":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await body_of(receive)
        case "/left":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        case "/broken":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("broken")
        case _:
            if (body := await body_of(receive)) is not None:
                await answer(send, b"%d" % len(body))


async def begin(
    nursery: trio.Nursery, limits: ListenerLimits, app: ASGIApp = app
) -> tuple[Served, HTTP2Client]:
    served = await start(nursery, app, limits, tls=server_tls(), http2=True)
    return served, await connect_http2(served)


async def test_http2_stalled_upload_is_408_and_other_stream_continues(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, HURRIED_BODY)
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/upload", method="POST", end=False)
        client.h2.send_data(stalled, b"abc")
        await client.flush()
        assert (await client.finish(stalled))[0] == 408
        assert await client.finish(good) == (200, b"." * 12 + b"END")
        assert await client.finish(await client.request("/")) == (200, b"0")
    assert served.stats.refused == {"body_timeout": 1}
    assert [(told[0], told[1].code) for told in served.rejections] == [("127.0.0.1", "body_timeout")]
    assert not served.errors


async def test_http2_upload_expired_during_pause_is_408(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece has come in time, but nobody came to look at it."""
    put = hypercorn_apps._HTTP2Exchange.put

    async def put_and_stand_still(request: hypercorn_apps._HTTP2Exchange, event: Message) -> None:
        await put(request, event)
        mock_clock.jump(2 * HURRIED_BODY.body_timeout)

    monkeypatch.setattr(hypercorn_apps._HTTP2Exchange, "put", put_and_stand_still)
    served, client = await begin(nursery, HURRIED_BODY)
    async with client.stream:
        stalled = await client.request("/upload", method="POST", end=False)
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.h2.send_data(stalled, b"abc")
        await client.flush()
        assert (await client.finish(stalled))[0] == 408
    assert not served.errors


async def test_http2_upload_stalled_during_response_is_reset(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, HURRIED_BODY)
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/early", method="POST", end=False)
        await client.finish(good)
        assert client.answers[stalled] == [200, b"begun"]
        assert client.reset == {stalled}
        assert stalled not in client.ended


async def test_http2_unread_response_is_reset_and_other_stream_continues(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, HURRIED_ANSWER)
    async with client.stream:
        good = await client.request("/events")
        unread = await client.request("/large")
        client.unread.add(unread)
        assert await client.finish(good) == (200, b"." * 12 + b"END")
        assert client.reset == {unread}
        for _ in range(5):  # on a slow machine this client, too, may not read in time
            number = await client.request("/large")
            with trio.fail_after(30):
                await client.wait(lambda number=number: number in client.ended | client.reset)
            if number in client.ended:
                break
        assert client.answers[number] == [200, bytes(1_000_000)]
    assert served.stats.refused == {"write_timeout": len(client.reset)}
    assert not served.errors


async def test_http2_unread_upload_does_not_block_others(nursery: trio.Nursery) -> None:
    go_on = trio.Event()

    @app_of
    async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/unread":
            await go_on.wait()
            await answer(send)
        else:
            await app(scope, receive, send)

    _served, client = await begin(nursery, ListenerLimits(), leaving)
    async with client.stream:
        await client.finish(await client.request("/"))  # by now the client knows its window
        unread = await client.request("/unread", method="POST", end=False)
        for _ in range(1000):
            client.h2.send_data(unread, bytes(64))  # many small pieces, within the stream's window
        await client.flush()
        for _ in range(5):
            number = await client.request("/", method="POST", end=False)
            for _ in range(4):
                client.h2.send_data(number, bytes(15_000))
            client.h2.end_stream(number)
            await client.flush()
            assert await client.finish(number) == (200, b"60000")
        go_on.set()
        assert (await client.finish(unread))[0] == 200
        for _ in range(200):  # what was left unread has not cost the connection its window
            number = await client.request("/quick", method="POST", end=False)
            client.h2.send_data(number, bytes(50_000 // 4), pad_length=200)
            client.h2.end_stream(number)
            await client.flush()
            assert await client.finish(number) == (200, b"12500")


async def test_http2_client_that_reads_nothing_is_disconnected(
    nursery: trio.Nursery,
) -> None:
    @app_of
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except ClientDisconnected:
            pass

    for _ in range(5):  # on a slow machine the stream's time may be over before its socket is full
        served = await start(
            nursery, endless, ListenerLimits(write_timeout=0.5), tls=server_tls(), http2=True
        )
        client = await connect_http2(served)
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
        client.h2.increment_flow_control_window(2**30)
        await client.request("/")
        with trio.move_on_after(5):
            with contextlib.suppress(trio.BrokenResourceError):
                while served.stats.open:
                    client.h2.ping(b"12345678")
                    await client.flush()
                    await trio.sleep(0.02)
            await eventually(lambda served=served: served.stats.open == 0)
        ended = served.stats.open == 0
        await trio.aclose_forcefully(client.stream)
        if ended:
            break
    assert ended
    assert served.stats.refused["write_timeout"] >= 1
    assert not served.errors


async def test_http2_oversized_head_is_rejected_on_its_stream(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, ListenerLimits(url_bytes=500, header_lines=20, header_bytes=2000))
    async with client.stream:
        good = await client.request("/events")
        assert (await client.finish(await client.request("/" + "a" * 500)))[0] == 414
        many = {f"x-{number}": "y" for number in range(20)}
        assert (await client.finish(await client.request("/", headers=many)))[0] == 431
        assert (await client.finish(await client.request("/", headers={"x": "y" * 2000})))[0] == 431
        assert (await client.finish(await client.request("/" + "a" * 499)))[0] == 200
        assert (await client.finish(good))[0] == 200
    assert served.stats.refused == {"url_too_long": 1, "headers_too_large": 2}
    assert served.stats.requests == 2


@pytest.mark.parametrize(
    "authority", ["", "u@x", "\xff\xfe", "<script>", "a..b", ".x", "a" * 64, "a b", "a/b"]
)
async def test_http2_authority_invalid_is_rejected_with_400(nursery: trio.Nursery, authority: str) -> None:
    served, client = await begin(nursery, ListenerLimits())
    async with client.stream:
        number = await client.request("/", authority=authority)
        assert (await client.finish(number))[0] == 400
        assert (await client.finish(await client.request("/", authority="example.com:8443")))[0] == 200
    assert served.stats.refused == {"malformed_request": 1}
    assert served.stats.requests == 1
    assert not served.errors


async def test_http2_connect_is_reset(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, ListenerLimits())
    async with client.stream:
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [(":method", "CONNECT"), (":authority", "localhost")])
        await client.flush()
        with trio.fail_after(30):
            await client.wait(lambda: number in client.reset)
        assert (await client.finish(await client.request("/")))[0] == 200


async def test_http2_app_error_during_response_is_reset(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, ListenerLimits())
    async with client.stream:
        number = await client.request("/broken")
        with trio.fail_after(30):
            await client.wait(lambda: number in client.reset)
        assert client.answers[number] == [200, b"half"]
        assert number not in client.ended
        assert (await client.finish(await client.request("/")))[0] == 200
    assert [str(error) for error in served.errors] == ["broken"]


async def test_http2_connection_with_all_streams_reset_is_idle(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """On a clock that only the test moves."""
    served, client = await begin(nursery, ListenerLimits(idle_timeout=0.3))
    async with client.stream:
        number = await client.request("/left")
        await client.wait(lambda: bool(client.answers[number][1]))
        client.h2.reset_stream(number)
        await client.flush()
        for _ in range(30):
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()
            if not served.stats.open:
                break
        assert served.stats.open == 0
