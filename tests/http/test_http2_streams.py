"""HTTP/2: what goes wrong in one stream is that stream's alone."""

import trio

from bluesminds.http.asgi import ClientDisconnected, Receive, Scope, Send
from bluesminds.http.server import Limits
from tests.http.serving import Served, answer, app_of, body_of, eventually, start
from tests.http.test_server import HTTP2Client, connect_http2, server_tls

QUICK = Limits(body_timeout=0.4, write_timeout=0.4)


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
        case "/unread":
            await trio.sleep(1)
            await answer(send)
        case "/broken":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("broken")
        case _:
            if (body := await body_of(receive)) is not None:
                await answer(send, b"%d" % len(body))


async def begin(nursery: trio.Nursery, limits: Limits) -> tuple[Served, HTTP2Client]:
    served = await start(nursery, app, limits, tls=server_tls(), http2=True)
    return served, await connect_http2(served)


async def test_a_stalled_upload_is_told_and_its_sibling_goes_on(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, QUICK)
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/upload", method="POST", end=False)
        client.h2.send_data(stalled, b"abc")
        await client.flush()
        assert (await client.finish(stalled))[0] == 408
        assert await client.finish(good) == (200, b"." * 12 + b"END")
        assert await client.finish(await client.request("/")) == (200, b"0")
    assert served.stats.refused == {"body_timeout": 1}
    assert [(told[0], told[1].code) for told in served.refusals] == [("127.0.0.1", "body_timeout")]
    assert not served.errors


async def test_an_upload_that_stalls_after_the_answer_began_is_reset(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, QUICK)
    async with client.stream:
        good = await client.request("/events")
        stalled = await client.request("/early", method="POST", end=False)
        await client.finish(good)
        assert client.answers[stalled] == [200, b"begun"]
        assert client.reset == {stalled}
        assert stalled not in client.ended


async def test_an_answer_that_is_not_read_is_reset_and_its_sibling_goes_on(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, QUICK)
    async with client.stream:
        good = await client.request("/events")
        unread = await client.request("/large")
        client.unread.add(unread)
        assert await client.finish(good) == (200, b"." * 12 + b"END")
        assert client.reset == {unread}
        assert (await client.finish(await client.request("/large"))) == (200, bytes(1_000_000))
    assert served.stats.refused == {"write_timeout": 1}
    assert not served.errors


async def test_an_app_that_leaves_its_body_does_not_hold_up_other_uploads(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, Limits(body_timeout=10))
    async with client.stream:
        await client.finish(await client.request("/"))  # by now the client knows its window
        unread = await client.request("/unread", method="POST", end=False)
        for _ in range(1000):
            client.h2.send_data(unread, bytes(64))  # many small pieces, within the stream's window
        await client.flush()
        began = trio.current_time()
        for _ in range(5):
            number = await client.request("/", method="POST", end=False)
            for _ in range(4):
                client.h2.send_data(number, bytes(15_000))
            client.h2.end_stream(number)
            await client.flush()
            assert await client.finish(number) == (200, b"60000")
        assert trio.current_time() - began < 0.9
        assert (await client.finish(unread))[0] == 200
        for _ in range(200):  # what was left unread has not cost the connection its window
            number = await client.request("/quick", method="POST", end=False)
            client.h2.send_data(number, bytes(50_000 // 4), pad_length=200)
            client.h2.end_stream(number)
            await client.flush()
            assert await client.finish(number) == (200, b"12500")


async def test_a_socket_that_takes_nothing_ends_the_connection_whatever_it_sends(
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

    served = await start(nursery, endless, Limits(write_timeout=0.5), tls=server_tls(), http2=True)
    client = await connect_http2(served)
    client.h2.increment_flow_control_window(2**30)
    number = await client.request("/")
    client.h2.increment_flow_control_window(2**30, number)
    try:
        await client.flush()
        with trio.move_on_after(5):
            while served.stats.open:
                client.h2.ping(b"12345678")
                await client.flush()
                await trio.sleep(0.02)
    except trio.BrokenResourceError:
        pass
    await eventually(lambda: served.stats.open == 0)
    assert served.stats.refused["write_timeout"] >= 1
    assert not served.errors
    await trio.aclose_forcefully(client.stream)


async def test_heads_out_of_bounds_are_refused_on_their_stream(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, Limits(url_bytes=500, header_lines=20, header_bytes=2000))
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


async def test_a_tunnel_is_refused(nursery: trio.Nursery) -> None:
    _served, client = await begin(nursery, Limits())
    async with client.stream:
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [(":method", "CONNECT"), (":authority", "localhost")])
        await client.flush()
        with trio.fail_after(3):
            await client.wait(lambda: number in client.reset)
        assert (await client.finish(await client.request("/")))[0] == 200


async def test_an_answer_that_breaks_off_is_reset(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, Limits())
    async with client.stream:
        number = await client.request("/broken")
        with trio.fail_after(3):
            await client.wait(lambda: number in client.reset)
        assert client.answers[number] == [200, b"half"]
        assert number not in client.ended
        assert (await client.finish(await client.request("/")))[0] == 200
    assert [str(error) for error in served.errors] == ["broken"]


async def test_a_connection_whose_requests_were_all_reset_is_idle(nursery: trio.Nursery) -> None:
    served, client = await begin(nursery, Limits(idle_timeout=0.3))
    async with client.stream:
        number = await client.request("/events")
        await client.wait(lambda: bool(client.answers[number][1]))
        client.h2.reset_stream(number)
        await client.flush()
        await eventually(lambda: served.stats.open == 0)
