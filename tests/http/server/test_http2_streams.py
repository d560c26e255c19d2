"""HTTP/2: an error in one stream does not affect the others."""

import pytest
import trio
import trio.testing
from h2.settings import SettingCodes

from bluesminds.http.asgi import ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from bluesminds.http.server import hypercorn_apps
from bluesminds.http.server.hypercorn_http2 import WINDOW
from bluesminds.http.server.serve import ListenerLimits
from tests.http.server.test_serve import HTTP2Client, connect_http2, server_tls
from tests.http.serving import Served, answer, app_of, body_of, eventually, patient, start

SHORT_BODY = patient(body_timeout=0.4)
SHORT_RESPONSE = patient(write_timeout=0.4)


def app_with(finish: trio.Event) -> ASGIApp:
    """`/events` ends its stream after `finish`."""

    @app_of
    async def with_events(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/events":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b".", "more_body": True})
        await finish.wait()
        await send({"type": "http.response.body", "body": b"END"})

    return with_events


@app_of
async def app(scope: Scope, receive: Receive, send: Send) -> None:
    match scope["path"]:
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
    finish = trio.Event()
    served, client = await begin(nursery, SHORT_BODY, app_with(finish))
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/upload", method="POST", end=False)
        client.h2.send_data(stalled, b"abc")
        await client.flush()
        assert (await client.finish(stalled))[0] == 408
        finish.set()
        assert await client.finish(good) == (200, b".END")
        assert await client.finish(await client.request("/")) == (200, b"0")
    assert served.stats.refused == {"body_timeout": 1}
    assert [(client, rejection.code) for client, rejection, _, _ in served.rejections] == [
        ("127.0.0.1", "body_timeout")
    ]
    assert not served.errors


async def test_http2_upload_expired_during_pause_is_408(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data has arrived in time, but the deadline passes before it is read."""
    put = hypercorn_apps._HTTP2Exchange.put

    async def put_and_stand_still(request: hypercorn_apps._HTTP2Exchange, event: Message) -> None:
        await put(request, event)
        mock_clock.jump(2 * SHORT_BODY.body_timeout)

    monkeypatch.setattr(hypercorn_apps._HTTP2Exchange, "put", put_and_stand_still)
    served, client = await begin(nursery, SHORT_BODY)
    async with client.stream:
        stalled = await client.request("/upload", method="POST", end=False)
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.h2.send_data(stalled, b"abc")
        await client.flush()
        assert (await client.finish(stalled))[0] == 408
    assert not served.errors


async def test_http2_upload_stalled_during_response_is_reset(nursery: trio.Nursery) -> None:
    finish = trio.Event()
    _served, client = await begin(nursery, SHORT_BODY, app_with(finish))
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/early", method="POST", end=False)
        with trio.fail_after(60):
            await client.wait(lambda: stalled in client.reset)
        finish.set()
        assert await client.finish(good) == (200, b".END")
        assert client.answers[stalled] == [200, b"begun"]
        assert client.reset == {stalled}
        assert stalled not in client.ended


async def test_http2_unread_response_is_reset_and_other_stream_continues(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    finish = trio.Event()
    served, client = await begin(nursery, SHORT_RESPONSE, app_with(finish))
    async with client.stream:
        good = await client.request("/events")
        unread = client.h2.get_next_available_stream_id()
        client.unread.add(unread)
        assert await client.request("/large") == unread
        await client.wait(lambda: len(client.answers[unread][1]) == WINDOW)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1)
        await client.wait(lambda: unread in client.reset)
        finish.set()
        assert await client.finish(good) == (200, b".END")
        assert await client.finish(await client.request("/large")) == (200, bytes(1_000_000))
    assert served.stats.refused == {"write_timeout": 1}
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

    _served, client = await begin(nursery, patient(), leaving)
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
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    @app_of
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
        except ClientDisconnected:
            pass

    served = await start(nursery, endless, SHORT_RESPONSE, tls=server_tls(), http2=True)
    client = await connect_http2(served)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
    client.h2.increment_flow_control_window(2**30)
    await client.request("/")
    await eventually(lambda: served.stats.requests == 1)
    for _ in range(5):
        client.h2.ping(b"12345678")
    await client.flush()
    await trio.testing.wait_all_tasks_blocked(0.05)  # the server waits for the client to read
    mock_clock.jump(1)
    await eventually(lambda: served.stats.open == 0)
    await trio.aclose_forcefully(client.stream)
    assert served.stats.refused["write_timeout"] >= 1
    assert not served.errors


async def test_http2_oversized_head_is_rejected_on_its_stream(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, patient(url_bytes=500, header_lines=20, header_bytes=2000))
    async with client.stream:
        good = await client.request("/good")
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
    served, client = await begin(nursery, patient())
    async with client.stream:
        number = await client.request("/", authority=authority)
        assert (await client.finish(number))[0] == 400
        assert (await client.finish(await client.request("/", authority="example.com:8443")))[0] == 200
    assert served.stats.refused == {"malformed_request": 1}
    assert served.stats.requests == 1
    assert not served.errors


async def test_http2_connect_is_reset(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, patient())
    async with client.stream:
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [(":method", "CONNECT"), (":authority", "localhost")])
        await client.flush()
        with trio.fail_after(60):
            await client.wait(lambda: number in client.reset)
        assert (await client.finish(await client.request("/")))[0] == 200


async def test_http2_app_error_during_response_is_reset(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, patient())
    async with client.stream:
        number = await client.request("/broken")
        with trio.fail_after(60):
            await client.wait(lambda: number in client.reset)
        assert client.answers[number] == [200, b"half"]
        assert number not in client.ended
        assert (await client.finish(await client.request("/")))[0] == 200
    assert [str(error) for error in served.errors] == ["broken"]


async def test_http2_connection_with_all_streams_reset_is_idle(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Uses a clock that only the test moves."""
    served, client = await begin(nursery, patient(idle_timeout=0.3))
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
