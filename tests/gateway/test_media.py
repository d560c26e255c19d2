"""Images and speech: what passes, how it is counted, and how a cut reply ends."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    Cut,
    Fin,
    ModelServer,
    Plan,
    Stall,
    drop_twice,
    error,
    refusal,
    streamed,
    whole,
)
from tests.fakes.raw_upstream import Peer
from tests.gateway.cases import Since, own_servers
from tests.gateways import Gateway, entry, eventually

MPEG = b"Content-Type: audio/mpeg"
SPEAK = {"model": "m", "input": "Hällo", "voice": "alloy"}
DRAW = {"model": "m", "prompt": "A lighthouse"}
TOKENS = {
    "input_tokens": 10,
    "output_tokens": 300,
    "total_tokens": 310,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 6},
    "output_tokens_details": {"image_tokens": 290, "text_tokens": 10},
}
UNITS = ("input_tokens", "output_tokens", "images", "characters", "usage_source", "cost_nano")


async def post(gateway: Gateway, path: str, body: dict[str, Any], **more: Any) -> httpx.Response:
    async with gateway.client(**more) as client:
        return await client.post(f"/v1{path}", json=body)


def sound(*steps: Any) -> Plan:
    return streamed(*steps, content_type=MPEG)


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def units(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in UNITS)


async def test_speech_passes_with_its_content_type(gateway: Gateway, models: ModelServer) -> None:
    pieces = [b"\xff\xfb\x00", b"data: [DONE]\n\n", bytes(range(256)) * 300]
    models.plan(sound(*pieces))
    answer = await post(gateway, "/audio/speech", SPEAK)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")
    assert answer.content == b"".join(pieces)
    assert answer.headers["x-bluesminds-server"] == "one"
    assert answer.headers["x-accel-buffering"] == "no"
    (asked,) = models.asked
    assert asked.received.line == b"POST /v1/audio/speech HTTP/1.1" and asked.body == SPEAK
    (row,) = gateway.rows()
    assert (row["endpoint"], row["outcome"], row["streamed"]) == ("audio.speech", "ok", 0)
    assert units(row) == (5, None, None, 5, "estimated", None)
    assert await gateway.metric("bluesminds_upstream_attempts_total", server="one", outcome="answered") == 1


async def test_speech_arrives_while_it_is_made(gateway: Gateway, models: ModelServer) -> None:
    go_on = trio.Event()
    models.plan(sound(b"first", go_on, b"second"))
    async with gateway.client() as client, client.stream("POST", "/v1/audio/speech", json=SPEAK) as answer:
        pieces = answer.aiter_raw()
        assert await anext(pieces) == b"first"
        go_on.set()
        assert await anext(pieces) == b"second"


async def test_speech_events_report_usage(gateway: Gateway, models: ModelServer) -> None:
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    events = [event("speech.audio.delta", audio="UklG"), event("speech.audio.done", usage=usage)]
    models.plan(streamed(*events))
    answer = await post(gateway, "/audio/speech", SPEAK | {"stream_format": "sse"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content == b"".join(events), "without [DONE]"
    (row,) = gateway.rows()
    assert units(row) == (14, 101, None, 5, "upstream", None) and row["streamed"] == 1


@pytest.mark.parametrize("end", [Cut, Fin])
async def test_cut_speech_closes_the_connection(gateway: Gateway, models: ModelServer, end: Any) -> None:
    models.plan(sound(b"first", end))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(gateway, "/audio/speech", SPEAK)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"], row["characters"]) == ("cut", 200, 5)
    assert (
        await gateway.metric("bluesminds_upstream_attempts_total", server="one", outcome="UpstreamCut") == 1
    )
    assert not gateway.events("request_failed") and not gateway.events("listener_error")


async def test_speech_that_takes_too_long_closes_the_connection(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(
        nursery, home, servers=[entry("one", models.url)], upstream={"total_timeout": 1.0}
    )
    models.plan(sound(b"first", Stall))
    with pytest.raises(httpx.RemoteProtocolError):
        await post(gateway, "/audio/speech", SPEAK)
    (row,) = await gateway.settled(1)
    assert row["outcome"] == "timeout"


async def test_client_that_leaves_ends_the_speech(gateway: Gateway, models: ModelServer) -> None:
    models.plan(sound(b"first", Stall))
    async with gateway.client() as client, client.stream("POST", "/v1/audio/speech", json=SPEAK) as answer:
        assert await anext(answer.aiter_raw()) == b"first"
    await eventually(lambda: models.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["characters"]) == ("client_gone", 5)


async def page(server: ModelServer, peer: Peer, asked: Any) -> None:
    await peer.answer(b"<html>Sign in</html>", b"Content-Type: text/html; charset=utf-8")


async def nothing(server: ModelServer, peer: Peer, asked: Any) -> None:
    await peer.answer(b"", MPEG)


FAILURES: list[Plan] = [
    drop_twice,
    page,
    nothing,
    sound(Cut),
    refusal(500),
    whole(error("overloaded", code=503)),
    whole(b"not JSON"),
    streamed(b": ping\n\n", Fin),
    streamed(b"data: " + error("overloaded") + b"\n\n"),
]


async def test_failure_before_the_first_byte_of_speech_goes_to_the_next_server(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(FAILURES), models.url, second.url)
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, failure in enumerate(FAILURES):
        with subtests.test(str(number)):
            models.plan(failure)
            second.plan(sound(b"sound"))
            answer = await post(gateway, "/audio/speech", SPEAK | {"model": f"m{number}"})
            assert (answer.content, answer.headers["x-bluesminds-server"]) == (b"sound", f"m{number}-1")
            assert models.asked[-1].body["model"] == f"m{number}"


async def untyped(server: ModelServer, peer: Peer, asked: Any) -> None:
    await peer.answer(b"sound")


async def untyped_error(server: ModelServer, peer: Peer, asked: Any) -> None:
    await peer.answer(b" " + error("unsafe", code=400))


async def test_speech_without_content_type_is_read_by_its_first_byte(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(untyped, untyped_error)
    answer = await post(gateway, "/audio/speech", SPEAK)
    assert (answer.content, answer.headers["content-type"]) == (b"sound", "application/octet-stream")
    refused = await post(gateway, "/audio/speech", SPEAK)
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "unsafe")


async def test_error_about_speech_passes(gateway: Gateway, models: ModelServer) -> None:
    body = error("Unknown voice.", type="invalid_request_error", param="voice")
    models.plan(refusal(400, body))
    answer = await post(gateway, "/audio/speech", SPEAK)
    assert (answer.status_code, answer.content) == (400, body)


async def test_key_of_server_is_removed_from_text(gateway: Gateway, models: ModelServer) -> None:
    models.plan(sound(b"key sk-upstream."))
    answer = await post(gateway, "/audio/speech", SPEAK)
    assert answer.content == b"key ***********."


async def test_images_pass_and_are_counted(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    body = json.dumps({"created": 1, "data": [{"b64_json": "aaaa"}] * 2, "usage": TOKENS}).encode()
    for path in ["/images/generations", "/images/generate"]:
        with subtests.test(path):
            since = Since(gateway)
            models.asked.clear()
            models.plan(whole(body))
            answer = await post(gateway, path, DRAW | {"n": 2})
            assert (answer.content, answer.headers["content-type"]) == (body, "application/json")
            assert models.asked[0].received.line == b"POST /v1/images/generations HTTP/1.1"
            (row,) = since.rows()
            assert row["endpoint"] == "images.generations"
            assert units(row) == (10, 300, 2, None, "upstream", None)
            assert (row["image_input_tokens"], row["image_output_tokens"]) == (4, 290)


async def test_image_stream_passes_and_is_counted(gateway: Gateway, models: ModelServer) -> None:
    parts = [
        event("image_generation.partial_image", b64_json="aa", partial_image_index=0),
        event("image_generation.completed", b64_json="aaaa", usage=TOKENS),
    ]
    models.plan(streamed(*parts))
    answer = await post(gateway, "/images/generations", DRAW | {"stream": True, "partial_images": 1})
    assert (answer.content, answer.headers["content-type"]) == (b"".join(parts), "text/event-stream")
    assert "stream_options" not in models.asked[0].body
    (row,) = gateway.rows()
    assert units(row) == (10, 300, 1, None, "upstream", None)


async def test_cut_image_stream_ends_with_an_error(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(event("image_generation.partial_image", b64_json="aa"), Fin))
    answer = await post(gateway, "/images/generations", DRAW | {"stream": True})
    last = answer.content.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_cut"
    assert gateway.rows()[0]["outcome"] == "cut"


async def test_image_server_without_streams_answers_with_json(gateway: Gateway, models: ModelServer) -> None:
    body = json.dumps({"data": [{"url": "https://x/y.png"}]}).encode()
    models.plan(whole(body))
    answer = await post(gateway, "/images/generations", DRAW | {"stream": True})
    assert (answer.content, answer.headers["content-type"]) == (body, "application/json")
    (row,) = gateway.rows()
    assert units(row) == (6, None, 1, None, "estimated", None)


async def test_image_events_pass_where_json_was_asked_for(gateway: Gateway, models: ModelServer) -> None:
    part = event("image_generation.completed", b64_json="aaaa")
    models.plan(streamed(part))
    answer = await post(gateway, "/images/generations", DRAW)
    assert (answer.content, answer.headers["content-type"]) == (part, "text/event-stream")


PRICES = [{"model": "m", "input_usd": "1", "output_usd": "10"}]


async def test_price_counts_only_reported_tokens_of_pictures(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], prices=PRICES)
    data = {"data": [{"b64_json": "aaaa"}]}
    models.plan(whole(json.dumps(data | {"usage": TOKENS}).encode()), whole(json.dumps(data).encode()))
    priced = await post(gateway, "/images/generations", DRAW)
    assert priced.headers["x-cost-usd"] == "0.00301"
    unpriced = await post(gateway, "/images/generations", DRAW)
    assert "x-cost-usd" not in unpriced.headers
    assert [row["cost_nano"] for row in gateway.rows()] == [3_010_000, None]


async def test_upstream_is_asked_for_any_content_type(gateway: Gateway, models: ModelServer) -> None:
    models.plan(sound(b"sound"))
    await post(gateway, "/audio/speech", SPEAK)
    assert models.asked[0].header(b"accept") == b"application/json, text/event-stream, */*"


def long_images(*, usage: bool = True, count: int = 3) -> bytes:
    data = [{"b64_json": "aaaa" * 250_000, "revised_prompt": 'a "moon", {}'}] * count
    return json.dumps({"created": 1, "data": data} | ({"usage": TOKENS} if usage else {})).encode()


def pieces_of(body: bytes) -> list[bytes]:
    return [body[start : start + 50_001] for start in range(0, len(body), 50_001)]


JSON_TYPE = b"Content-Type: application/json; charset=utf-8"


async def test_long_json_passes_while_it_arrives(gateway: Gateway, models: ModelServer) -> None:
    body, go_on = long_images(), trio.Event()
    pieces = pieces_of(body)
    models.plan(streamed(*pieces[:30], go_on, *pieces[30:], content_type=JSON_TYPE))
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/images/generations", json=DRAW) as answer,
    ):
        assert answer.headers["content-type"] == "application/json"
        assert "x-cost-usd" not in answer.headers
        received = b""
        arriving = answer.aiter_raw()
        while len(received) < 30 * 50_001:
            received += await anext(arriving)
        go_on.set()
        async for piece in arriving:
            received += piece
    assert received == body
    (row,) = gateway.rows()
    assert units(row) == (10, 300, 3, None, "upstream", None)


async def test_long_json_without_usage_is_counted(gateway: Gateway, models: ModelServer) -> None:
    models.plan(whole(long_images(usage=False)))
    assert (await post(gateway, "/images/generations", DRAW)).status_code == 200
    (row,) = gateway.rows()
    assert units(row) == (5, None, 3, None, "estimated", None)


async def test_long_json_that_is_cut_closes_the_connection(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    steps = pieces_of(long_images())[:-1]
    for end in [Cut, Fin, None]:
        with subtests.test(end.__name__ if end else "ended"):
            since = Since(gateway)
            models.plan(streamed(*steps, *([end] if end else []), content_type=JSON_TYPE))
            with pytest.raises(httpx.RemoteProtocolError):
                await post(gateway, "/images/generations", DRAW)
            (row,) = await since.settled(1)
            assert (row["outcome"], row["status"]) == ("cut", 200)
