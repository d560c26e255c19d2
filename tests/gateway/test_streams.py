"""Event streams: what is forwarded, what is removed, and how they end."""

from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from bluesminds.gateway import stream_relay
from tests import gateways
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Asked,
    Cut,
    Fin,
    ModelServer,
    Pause,
    Stall,
    chunk,
    error,
    streamed,
    text_chunks,
)
from tests.fakes.raw_upstream import Peer
from tests.gateway.cases import Since
from tests.gateways import STREAM, Gateway, entry, eventually

WANTS_USAGE = STREAM | {"stream_options": {"include_usage": True}}
UNKNOWN = b'event: thought\nid: 7\ndata: {"a": 1.50,  "b":"\xc3\xa9"}\n\n'
COMMENT = b": keep-alive\n\n"


def events(body: bytes) -> list[bytes]:
    return [part + b"\n\n" for part in body.split(b"\n\n")[:-1]]


def told(event: bytes) -> dict[str, str]:
    """The error in an event."""
    return dict(msgspec.json.decode(event.removeprefix(b"data: "))["error"])


async def test_plain_stream_passes_byte_for_byte(gateway: Gateway, models: ModelServer) -> None:
    sent = [COMMENT, chunk("Hel", invented=[1.50]), UNKNOWN, COMMENT, chunk("lo"), chunk(finish="stop"), DONE]
    models.plan(streamed(*sent, headers=[b"x-litellm-call-id: 1"]))
    answer = await gateway.chat(STREAM)
    assert answer.content == b"".join(sent)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-bluesminds-server"] == "one"
    assert "x-litellm-call-id" not in answer.headers


async def test_usage_is_asked_for_and_taken_out_again(gateway: Gateway, models: ModelServer) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"\xc3\xa9"}],"stream":true,"zeta":1.50}'
    answer = await gateway.chat(body)
    asked = models.asked[0].body
    assert asked.pop("stream_options") == {"include_usage": True}
    assert asked == msgspec.json.decode(body)
    assert b"1.50" in models.asked[0].received.body
    assert answer.content == b"".join((*text_chunks(), chunk(finish="stop"), DONE))
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 2, "upstream")
    assert (row["streamed"], row["outcome"]) == (1, "ok")
    assert row["first_byte_ms"] <= row["duration_ms"]


async def test_usage_the_client_asked_for_stays(gateway: Gateway, models: ModelServer) -> None:
    body = msgspec.json.encode(WANTS_USAGE)
    answer = await gateway.chat(body)
    assert models.asked[0].received.body == body
    text = [*text_chunks(usage=None), chunk(finish="stop", usage=None)]
    assert answer.content == b"".join((*text, chunk(usage=USAGE), DONE))
    assert gateway.rows()[0]["input_tokens"] == 11


STREAM_OPTIONS: list[dict[str, object] | None] = [
    {"include_obfuscation": False},
    {"include_usage": False, "x": [1]},
    {},
    None,
]


async def test_other_stream_options_survive(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for options in STREAM_OPTIONS:
        with subtests.test(repr(options)):
            models.asked.clear()
            await gateway.chat(STREAM | {"stream_options": options})
            assert models.asked[0].body["stream_options"] == {**(options or {}), "include_usage": True}


async def test_usage_on_the_last_chunk_of_text_is_counted_and_the_text_stays(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(chunk("Hi"), chunk("!", finish="stop", usage=USAGE), DONE))
    answer = await gateway.chat(STREAM)
    assert answer.content == b"".join((chunk("Hi"), chunk("!", finish="stop"), DONE))
    assert gateway.rows()[0]["output_tokens"] == 2


async def test_usage_that_grows_with_the_stream_counts_once(gateway: Gateway, models: ModelServer) -> None:
    steps = [chunk("a", usage={"prompt_tokens": 9, "completion_tokens": n}) for n in (1, 2, 3)]
    models.plan(streamed(*steps, DONE))
    assert (await gateway.chat(STREAM)).content == chunk("a") * 3 + DONE
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"]) == (9, 3)


async def test_first_chunk_without_choices_is_kept(gateway: Gateway, models: ModelServer) -> None:
    filters = chunk(prompt_filter_results=[{"prompt_index": 0}])
    models.plan(streamed(filters, chunk("Hi"), chunk(usage=USAGE), DONE))
    assert (await gateway.chat(STREAM)).content == filters + chunk("Hi") + DONE


USED = b'{"prompt_tokens":1,"completion_tokens":2}'
# What a server sends, and what is left of it for a client that did not ask for usage; None: all of it.
ODD_EVENTS: list[tuple[bytes, bytes | None]] = [
    (b'event: usage\nid: 7\ndata: {"usage":%b}\n\n' % USED, None),
    (b'event: usage\ndata: {"choices":[],"usage":%b}\n\n' % USED, None),
    (b'data: {"usage":%b}\n\n' % USED, b""),
    (b'data: {"x":[{"a":1,"usage":null}],"usage":null}\n\n', b'data: {"x":[{"a":1,"usage":null}]}\n\n'),
    (b'data: {"choices":[{"x":{"a":1,"usage":null}}]}\n\n', None),
    (
        b'data: {"choices":[{"x":{"a":1,"usage":null}}],"usage":null}\n\n',
        b'data: {"choices":[{"x":{"a":1,"usage":null}}]}\n\n',
    ),
    (
        b': hello\nid: 7\ndata: {"choices":[{"index":0}],"usage":%b}\nretry: 5\n\n' % USED,
        b': hello\nid: 7\ndata: {"choices":[{"index":0}]}\nretry: 5\n\n',
    ),
    (
        b'id: 7\r\ndata: {"choices":[{"index":0}],\r\ndata: "usage":null}\r\n\r\n',
        b'id: 7\r\ndata: {"choices":[{"index":0}]}\r\n\r\n',
    ),
    (b'id: 7\ndata: {"choices":[],"usage":%b}\n\n' % USED, b"id: 7\n\n"),
    (b'data: {"choices":[],"usage":%b}\n\n' % USED, b""),
    (
        b'data: {"choices":[],"usage":null,"prompt_filter_results":[]}\n\n',
        b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
    ),
    (
        b'data: {"object":"chat.completion.chunk","usage":%b}\n\n' % USED,
        b"",
    ),
    (
        b'data: {"choices":[{"x":"\\u0022usage"}],"usage":null}\n\n',
        b'data: {"choices":[{"x":"\\u0022usage"}]}\n\n',
    ),
    (b'data: {"kind":"usage","choices":[], "usage": null}\n\n', b'data: {"kind":"usage","choices":[]}\n\n'),
    (b'data: {"usage":null,"choices":[{}]}\n\n', b'data: {"choices":[{}]}\n\n'),
]


async def test_only_the_usage_of_chat_chunks_is_taken_out(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for sent, left in ODD_EVENTS:
        with subtests.test(repr(sent)):
            said = (chunk("a"), sent, chunk("b"), DONE)
            models.plan(streamed(*said), streamed(*said))
            answer = await gateway.chat(STREAM)
            assert answer.content == chunk("a") + (sent if left is None else left) + chunk("b") + DONE
            assert (await gateway.chat(WANTS_USAGE)).content == b"".join(said)


async def test_text_that_looks_like_the_protocol_stays_text(gateway: Gateway, models: ModelServer) -> None:
    said = [chunk('data: [DONE]\n\n"usage":null,"error":{}'), chunk('{"usage": null}'), chunk("[DONE]")]
    models.plan(streamed(*said, DONE))
    assert (await gateway.chat(STREAM)).content == b"".join(said) + DONE


async def test_stream_without_usage_is_estimated(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for usage in [-1, 1e30, "x"]:
        with subtests.test(repr(usage)):
            since = Since(gateway)
            steps = [
                COMMENT,
                *[chunk("word")] * 5,
                chunk(usage={"prompt_tokens": 3, "completion_tokens": usage}),
                DONE,
            ]
            models.plan(streamed(*steps))
            await gateway.chat(STREAM)
            (row,) = since.rows()
            assert row["usage_source"] == "estimated"
            assert 5 <= row["output_tokens"] <= 6
            assert 10 < row["input_tokens"] < 40


async def test_crlf_events_pass(gateway: Gateway, models: ModelServer) -> None:
    sent = [
        event.replace(b"\n", b"\r\n") for event in (COMMENT, chunk("Hi"), UNKNOWN, chunk(usage=USAGE), DONE)
    ]
    models.plan(streamed(*sent))
    answer = await gateway.chat(STREAM)
    assert answer.content == b"".join([*sent[:3], sent[4]])
    assert gateway.rows()[0]["input_tokens"] == 11


async def test_events_cut_anywhere_are_the_same_events(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    sent = b"".join((chunk("Hel"), UNKNOWN, chunk("lo"), chunk(usage=USAGE), DONE))
    for size in [1, 7, 64]:
        with subtests.test(f"pieces of {size}"):
            since = Since(gateway)
            models.plan(streamed(*(sent[at : at + size] for at in range(0, len(sent), size))))
            answer = await gateway.chat(STREAM)
            assert answer.content == sent.replace(chunk(usage=USAGE), b"")
            assert since.rows()[0]["input_tokens"] == 11


async def test_finished_stream_without_done_gets_it(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hi"), chunk(finish="stop"), chunk(usage=USAGE)[:-1]))
    answer = await gateway.chat(STREAM)
    assert answer.content == chunk("Hi") + chunk(finish="stop") + DONE
    (row,) = gateway.rows()
    assert (row["outcome"], row["input_tokens"]) == ("ok", 11)


async def test_finished_stream_that_breaks_before_done_is_complete(
    gateway: Gateway, models: ModelServer
) -> None:
    broken = trio.Event()
    models.plan(streamed(chunk("Hi"), chunk(finish="stop"), broken, Cut))
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        seen = b""
        async for data in answer.aiter_raw():
            seen += data
            if b'"stop"' in seen:
                broken.set()
    assert seen == chunk("Hi") + chunk(finish="stop") + DONE
    (row,) = gateway.rows()
    assert (row["outcome"], row["usage_source"]) == ("ok", "estimated")


async def test_usage_row_is_written_before_done(gateway: Gateway) -> None:
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        seen = b""
        async for data in answer.aiter_raw():
            seen += data
            assert bool(gateway.rows()) >= (b"[DONE]" in seen)
    assert seen.endswith(DONE)


async def test_text_is_not_held_back(gateway: Gateway, models: ModelServer) -> None:
    go_on = trio.Event()
    models.plan(streamed(chunk("Hi"), go_on, chunk("!"), DONE))
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == chunk("Hi")
        assert gateway.rows() == []
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == chunk("!") + DONE


async def test_server_open_after_done_does_not_delay_client(patient: Gateway, models: ModelServer) -> None:
    models.plan(
        streamed(chunk("Hi"), DONE, chunk("more"), Stall), streamed(chunk("Hi"), DONE, Pause(0.1), Cut)
    )
    for _ in range(2):
        with trio.fail_after(60):
            assert (await patient.chat(STREAM)).content == chunk("Hi") + DONE
    assert [row["outcome"] for row in patient.rows()] == ["ok", "ok"]


async def whole_stream(gateway: Gateway) -> None:
    """The client has "Hi", the end mark and the end, in time."""
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == chunk("Hi")
        with trio.fail_after(60):
            assert await anext(pieces) == DONE
            assert [piece async for piece in pieces] == []


async def test_done_is_sent_while_server_stalls(patient: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hi"), Pause(0.05), DONE, Stall))
    await whole_stream(patient)
    await eventually(lambda: models.left == 1)


async def test_connection_that_ends_response_after_done_is_kept(
    patient: Gateway, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_relay, "END_SECONDS", 60)  # longer than the client waits
    go_on = trio.Event()
    models.plan(streamed(chunk("Hi"), Pause(0.05), DONE, go_on))

    def is_idle() -> bool:
        return any(slots.idle for slots in patient.services.pool._slots.by_origin.values())

    await whole_stream(patient)
    assert not is_idle()
    accepted = models.upstream.accepted
    go_on.set()
    await eventually(is_idle)
    assert (await patient.chat(STREAM)).status_code == 200
    assert models.upstream.accepted == accepted


async def test_cut_stream_ends_with_error_event(
    impatient: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for end in [Cut, Fin, Stall]:
        with subtests.test(end.__name__):
            since = Since(impatient)
            models.asked.clear()
            models.plan(streamed(chunk("one"), chunk("two"), b'data: {"half', Pause(0.05), end))
            answer = await impatient.chat(STREAM)
            *passed, last = events(answer.content)
            assert passed == [chunk("one"), chunk("two")]
            assert told(last)["code"] == "upstream_cut"
            assert len(models.asked) == 1
            (row,) = since.rows()
            assert (row["outcome"], row["status"], row["attempts"]) == ("cut", 200, 1)
            assert (row["output_tokens"], row["usage_source"]) == (2, "estimated")


async def test_usage_known_before_the_break_is_kept(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("one"), chunk(usage=USAGE), Pause(0.05), Cut))
    await gateway.chat(STREAM)
    (row,) = gateway.rows()
    assert (row["outcome"], row["output_tokens"], row["usage_source"]) == ("cut", 2, "upstream")


async def test_error_event_in_stream_passes_and_is_recorded(gateway: Gateway, models: ModelServer) -> None:
    broken = b"data: " + error("overloaded", code="server_is_overloaded") + b"\n\n"
    models.plan(streamed(chunk("one"), broken))
    assert (await gateway.chat(STREAM)).content == chunk("one") + broken
    assert gateway.rows()[0]["outcome"] == "upstream_error"


async def test_large_event_with_image_passes(gateway: Gateway, models: ModelServer) -> None:
    for lead in (b"", chunk("one")):
        picture = chunk("x" * 3_000_000)
        models.plan(streamed(lead, picture, DONE) if lead else streamed(picture, DONE))
        assert (await gateway.chat(STREAM)).content == lead + picture + DONE
    assert [row["outcome"] for row in gateway.rows()] == ["ok", "ok"]


async def test_content_type_in_capitals_is_recognized(gateway: Gateway, models: ModelServer) -> None:
    go_on = trio.Event()

    async def play(_: ModelServer, peer: Peer, asked: Asked) -> None:
        await peer.begin_chunked(b"Content-Type: Text/Event-Stream; charset=utf-8")
        await peer.chunk(chunk("Hi"))
        await go_on.wait()
        await peer.chunk(DONE)
        await peer.send(b"0\r\n\r\n")

    models.plan(play)
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        pieces = answer.aiter_raw()
        assert await anext(pieces) == chunk("Hi")
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == DONE


async def test_implausible_usage_of_stream_is_logged(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hi"), chunk(usage={"prompt_tokens": -3, "completion_tokens": 1}), DONE))
    await gateway.chat(STREAM, headers={"x-request-id": "odd"})
    (event,) = gateway.events("usage_implausible")
    assert (event["request_id"], event["server"], event["model"]) == ("odd", "one", "m")


async def test_endless_line_ends_stream_with_error(patient: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("one"), b"data: ", *[b"x" * 1024 * 1024] * 32, Stall))
    *passed, last = events((await patient.chat(STREAM)).content)
    assert passed == [chunk("one")]
    assert told(last)["code"] == "upstream_invalid"
    assert "32 MiB" in told(last)["message"]
    assert patient.rows()[0]["outcome"] == "cut"
    await eventually(lambda: models.left == 1)


async def test_invalid_utf8_passes(gateway: Gateway, models: ModelServer) -> None:
    odd = b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}],"usage":null,"error":null}\n\n'
    models.plan(streamed(odd, chunk(usage=USAGE), DONE))
    assert (await gateway.chat(STREAM)).content == odd.replace(b',"usage":null', b"") + DONE
    assert gateway.rows()[0]["input_tokens"] == 11


async def test_total_timeout_ends_request(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    upstream = {"total_timeout": 4.0, "first_byte_timeout": 60.0, "chunk_timeout": 60.0}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], upstream=upstream)
    models.plan(streamed(chunk("one"), Stall), streamed(Stall))
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await gateway.chat(STREAM))

    with trio.fail_after(60):
        async with trio.open_nursery() as clients:
            clients.start_soon(ask)
            clients.start_soon(ask)
    begun, never_begun = sorted(answers, key=lambda answer: answer.status_code)
    *passed, last = events(begun.content)
    assert (begun.status_code, passed) == (200, [chunk("one")])
    assert told(last)["code"] == "upstream_timeout"
    assert (never_begun.status_code, never_begun.json()["error"]["code"]) == (504, "upstream_timeout")
    await eventually(lambda: models.left == 2)
    assert [(row["outcome"], row["status"]) for row in await gateway.settled(2)] == [("timeout", 504)] * 2


async def test_comments_are_held_back_only_so_far(gateway: Gateway, models: ModelServer) -> None:
    go_on = trio.Event()
    comments = b": PROCESSING\n\n" * 6000
    models.plan(streamed(comments, go_on, chunk("Hi"), DONE))
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        pieces = answer.aiter_raw()
        seen = await anext(pieces)
        go_on.set()
        seen += b"".join([piece async for piece in pieces])
    assert seen == comments + chunk("Hi") + DONE
