"""Forms from a real client through the gateway to a real server."""

import hashlib
import json
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.gateway.spool import MEMORY_BYTES
from tests import gateways
from tests.fakes import raw_upstream
from tests.fakes.model_server import (
    JSON,
    ModelServer,
    Plan,
    drop,
    drop_twice,
    error,
    refusal,
    streamed,
    whole,
)
from tests.fakes.raw_upstream import Peer, Upstream
from tests.forms import BOUNDARY, CONTENT_TYPE, field, file, form
from tests.gateway.cases import Since, own_servers
from tests.gateways import Gateway, entry, eventually

TRANSCRIPTIONS = "/v1/audio/transcriptions"
MIB = 1024 * 1024
SMALL = form(field("model", "m"), file(b"\xff\xfb" * 500))
LAST = form(file(b"\xff\xfb" * 500), field("response_format", "json"), field("model", "m"))
USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
    "output_tokens": 45,
    "total_tokens": 59,
}
TEXT = json.dumps({"text": "Hello.", "usage": USAGE}).encode()
UNITS = ("endpoint", "status", "outcome", "input_tokens", "output_tokens", "audio_input_tokens", "audio_ms")


async def upload(
    gateway: Gateway, body: bytes | AsyncIterator[bytes], path: str = TRANSCRIPTIONS, **more: Any
) -> httpx.Response:
    async with gateway.client(**more) as client:
        return await client.post(path, content=body, headers={"content-type": CONTENT_TYPE.decode()})


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def units(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in UNITS)


def large(size: int, *, model_first: bool = True) -> bytes:
    sound = file(b"x" * size)
    return form(field("model", "m"), sound) if model_first else form(sound, field("model", "m"))


class Slow:
    """An upstream that reads a request as `play` does. `taken` counts the bytes of bodies."""

    def __init__(self, play: Callable[["Slow", Peer, int], Awaitable[None]]) -> None:
        self.play = play
        self.upstream = Upstream(0)
        self.heads: list[bytes] = []
        self.digest = hashlib.sha256()
        self.taken = 0
        self.go_on = trio.Event()
        self.left = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1"

    async def script(self, peer: Peer) -> None:
        while True:
            head = await peer.head()
            if head.startswith(b"GET "):
                await peer.answer(b'{"data":[{"id":"m"}]}', JSON)
                continue
            self.heads.append(head)
            (length,) = [
                int(line[16:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"
            ]
            try:
                await self.play(self, peer, length)
            except EOFError:
                self.left += 1
                raise

    async def take(self, peer: Peer, size: int) -> None:
        while size:
            piece = await peer.take(min(size, 65_536))
            self.digest.update(piece)
            self.taken += len(piece)
            size -= len(piece)


async def slow(
    nursery: trio.Nursery, home: Path, play: Callable[[Slow, Peer, int], Awaitable[None]], **sections: Any
) -> tuple[Slow, Gateway]:
    server = Slow(play)
    server.upstream = await nursery.start(raw_upstream.serve, server.script)
    return server, await gateways.start(nursery, home, servers=[entry("one", server.url)], **sections)


async def held(gateway: Gateway) -> float:
    return await gateway.metric("bluesminds_body_bytes_held")


async def test_form_passes_and_is_counted(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for body in [SMALL, LAST]:
        with subtests.test("model first" if body is SMALL else "model last"):
            since = Since(gateway)
            models.asked.clear()
            models.plan(whole(TEXT))
            answer = await upload(gateway, body)
            assert (answer.status_code, answer.content) == (200, TEXT)
            (asked,) = models.asked
            assert asked.received.line == b"POST /v1/audio/transcriptions HTTP/1.1"
            assert asked.received.body == body
            assert asked.received.values(b"content-type") == [CONTENT_TYPE]
            assert asked.received.values(b"content-length") == [str(len(body)).encode()]
            assert asked.header(b"authorization") == b"Bearer sk-upstream"
            (row,) = since.rows()
            assert units(row) == ("audio.transcriptions", 200, "ok", 14, 45, 10, None)


async def test_every_path_of_forms_passes(gateway: Gateway, models: ModelServer) -> None:
    pictures = json.dumps({"created": 1, "data": [{"b64_json": "aaaa"}]}).encode()
    for path, reply, name in (
        ("/v1/images/edits", pictures, "images.edits"),
        ("/v1/images/variations", pictures, "images.variations"),
        ("/v1/audio/translations", b'{"text":"Hello.","duration":7.5}', "audio.translations"),
    ):
        models.plan(whole(reply))
        assert (await upload(gateway, SMALL, path)).content == reply
        assert models.asked[-1].received.line == f"POST {path} HTTP/1.1".encode()
        row = gateway.rows()[-1]
        assert (row["endpoint"], row["images"], row["audio_ms"]) == (
            (name, None, 7500) if "audio" in name else (name, 1, None)
        )


async def test_images_edits_take_json_too(gateway: Gateway, models: ModelServer) -> None:
    body = {"model": "m", "prompt": "a moon", "images": [{"file_id": "file-1"}]}
    models.plan(whole(json.dumps({"data": [{"b64_json": "aaaa"}]}).encode()))
    async with gateway.client() as client:
        assert (await client.post("/v1/images/edits", json=body)).status_code == 200
    assert models.asked[0].body == body
    assert models.asked[0].received.values(b"content-type") == [b"application/json"]


TEXTS = [
    (b"text/plain; charset=utf-8", b"Hello.\n"),
    (b"text/vtt", b"WEBVTT\n\n"),
    (b"application/x-subrip", b"1\n"),
]


async def test_text_and_subtitles_pass(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for content_type, text in TEXTS:
        with subtests.test(content_type.decode()):
            since = Since(gateway)
            models.plan(streamed(text, content_type=b"Content-Type: " + content_type))
            answer = await upload(gateway, SMALL)
            assert (answer.content, answer.headers["content-type"]) == (text, content_type.decode())
            (row,) = since.rows()
            assert row["usage_source"] == "estimated" and row["input_tokens"] > 0


async def test_transcript_events_pass(gateway: Gateway, models: ModelServer) -> None:
    events = [
        b'data: {"type":"transcript.text.delta","delta":"Hello."}\n\n',
        b'data: {"type":"transcript.text.done","text":"Hello.","usage":%b}\n\n' % json.dumps(USAGE).encode(),
    ]
    models.plan(streamed(*events))
    answer = await upload(gateway, form(field("stream", "true"), field("model", "m"), file(b"x")))
    assert (answer.content, answer.headers["content-type"]) == (b"".join(events), "text/event-stream")
    (row,) = gateway.rows()
    assert units(row)[3:6] == (14, 45, 10) and row["streamed"] == 1


WRONG_FORMS: list[tuple[bytes, bytes, int, str, str | None]] = [
    (form(file(b"x")), CONTENT_TYPE, 400, "invalid_value", "model"),
    (form(field("model", "m"), field("model", "n")), CONTENT_TYPE, 400, "invalid_value", "model"),
    (SMALL, b"multipart/form-data", 400, "invalid_multipart", None),
    (SMALL, b"multipart/form-data; boundary=other", 400, "invalid_multipart", None),
    (SMALL[:-9], CONTENT_TYPE, 400, "invalid_multipart", None),
    (form(*[field("a", "b")] * 1001), CONTENT_TYPE, 400, "invalid_multipart", None),
    (b"", CONTENT_TYPE, 400, "invalid_multipart", None),
    (b'{"model":"m"}', b"application/json", 415, "unsupported_content_type", None),
    (form(field("model", "none"), file(b"x")), CONTENT_TYPE, 404, "model_not_found", "model"),
]


async def test_wrong_form_is_refused_and_reaches_no_server(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for body, content_type, status, code, param in WRONG_FORMS:
        with subtests.test(f"{content_type!r} {body[-60:]!r}"):
            async with gateway.client() as client:
                answer = await client.post(
                    TRANSCRIPTIONS, content=body, headers={"content-type": content_type.decode()}
                )
            told = answer.json()["error"]
            assert (answer.status_code, told["code"], told["param"]) == (status, code, param)
            assert models.asked == [] and gateway.rows() == []
            assert await held(gateway) == 0


async def test_compressed_form_is_refused(gateway: Gateway) -> None:
    async with gateway.client() as client:
        answer = await client.post(
            TRANSCRIPTIONS,
            content=SMALL,
            headers={"content-type": CONTENT_TYPE.decode(), "content-encoding": "gzip"},
        )
    assert code_of(answer) == (415, "unsupported_encoding")


async def test_key_restricted_to_models_cannot_send_another_one(gateway: Gateway) -> None:
    _, key = await gateway.new_key(allowed_models=["other"])
    assert code_of(await upload(gateway, SMALL, key=key)) == (403, "model_not_allowed")


async def test_limit_of_tokens_counts_the_size_of_the_upload(gateway: Gateway, models: ModelServer) -> None:
    _, key = await gateway.new_key(limits={"tpm": 3000})
    assert code_of(await upload(gateway, large(3 * MIB), key=key)) == (429, "request_too_large_for_limit")
    models.plan(whole(TEXT))
    assert (await upload(gateway, large(100_000), key=key)).status_code == 200


@pytest.mark.parametrize("model_first", [True, False])
async def test_large_upload_arrives_whole(nursery: trio.Nursery, home: Path, model_first: bool) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)
        await peer.answer(TEXT, JSON)

    server, gateway = await slow(nursery, home, play)
    body = large(5 * MIB, model_first=model_first)
    assert (await upload(gateway, body)).content == TEXT
    assert (server.taken, server.digest.digest()) == (len(body), hashlib.sha256(body).digest())
    assert await held(gateway) == await gateway.metric("bluesminds_upload_bytes_held") == 0


async def test_stream_that_is_asked_for_after_a_large_file_is_recorded(
    gateway: Gateway, models: ModelServer
) -> None:
    done = b'data: {"type":"transcript.text.done","text":"Hello."}\n\n'
    models.plan(streamed(done))
    answer = await upload(gateway, form(field("model", "m"), file(b"x" * 2 * MIB), field("stream", "true")))
    assert (answer.content, answer.headers["content-type"]) == (done, "text/event-stream")
    assert gateway.rows()[0]["streamed"] == 1


async def test_chunked_upload_arrives_chunked(gateway: Gateway, models: ModelServer) -> None:
    body = large(3 * MIB)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    models.plan(whole(TEXT))
    assert (await upload(gateway, pieces())).content == TEXT
    (asked,) = models.asked
    assert asked.received.body == body
    assert asked.received.values(b"transfer-encoding") == [b"chunked"]


async def test_upload_waits_for_a_slow_server_and_is_not_held(nursery: trio.Nursery, home: Path) -> None:
    """Until the server continues, the client can send only what sockets and the gateway hold."""

    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, 1000)
        await server.go_on.wait()
        await server.take(peer, length - 1000)
        await peer.answer(TEXT, JSON)

    server, gateway = await slow(nursery, home, play)
    body = large(60 * MIB)
    answers: list[httpx.Response] = []

    async def send() -> None:
        answers.append(await upload(gateway, body))

    nursery.start_soon(send)
    await eventually(lambda: server.taken == 1000)
    assert MEMORY_BYTES <= await held(gateway) <= MEMORY_BYTES + 65_536
    assert await gateway.metric("bluesminds_upload_bytes_held") == 0
    server.go_on.set()
    await eventually(lambda: len(answers) == 1)
    assert answers[0].content == TEXT and server.digest.digest() == hashlib.sha256(body).digest()


async def test_memory_of_a_large_upload_is_bounded(nursery: trio.Nursery, home: Path) -> None:
    """72 MiB of Python's allocations, counted by the interpreter, with client and server in this process."""

    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)
        await peer.answer(TEXT, JSON)

    server, gateway = await slow(nursery, home, play)
    head, piece, count = large(0).partition(b"audio/mpeg\r\n\r\n"), bytes(65_536), 1152
    start, end = head[0] + head[1], head[2]

    async def pieces() -> AsyncIterator[bytes]:
        yield start
        for _ in range(count):
            yield piece
        yield end

    size = len(start) + count * len(piece) + len(end)
    async with gateway.client() as client:
        tracemalloc.start()
        try:
            headers = {"content-type": CONTENT_TYPE.decode(), "content-length": str(size)}
            answer = await client.post(TRANSCRIPTIONS, content=pieces(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.content == TEXT and server.taken == size > 72 * MIB
    assert peak < 4 * MIB


async def test_upload_that_is_too_large_is_refused_at_once(nursery: trio.Nursery, home: Path) -> None:
    limits = {"max_body_bytes": 10_000, "max_upload_bytes": 100_000, "max_spooled_bytes": 100_000}

    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)
        await peer.answer(TEXT, JSON)

    server, gateway = await slow(nursery, home, play, server=limits)
    assert (await upload(gateway, large(90_000))).status_code == 200
    refused = await upload(gateway, large(100_000))
    assert code_of(refused) == (413, "body_too_large")
    async with gateway.client() as client:
        for content_type in ("application/json", CONTENT_TYPE.decode()):
            answer = await client.post(
                "/v1/chat/completions", content=b"{" * 99_000, headers={"content-type": content_type}
            )
            assert code_of(answer) == (413, "body_too_large")
    assert len(server.heads) == 1


FAILURES: list[Plan] = [drop_twice, refusal(500), refusal(429), whole(error("overloaded", code=503))]


async def test_small_upload_goes_to_the_next_server(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(FAILURES), models.url, second.url)
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, failure in enumerate(FAILURES):
        with subtests.test(str(number)):
            body = form(field("model", f"m{number}"), file(b"\xff\xfb" * 500))
            models.plan(failure)
            second.plan(whole(TEXT))
            answer = await upload(gateway, body)
            assert (answer.content, answer.headers["x-bluesminds-server"]) == (TEXT, f"m{number}-1")
            assert models.asked[-1].received.body == second.asked[-1].received.body == body


async def test_upload_on_disk_goes_to_the_next_server(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    body = large(5 * MIB, model_first=False)
    models.plan(refusal(500))
    second.plan(whole(TEXT))
    answer = await upload(pair, body)
    assert (answer.content, answer.headers["x-bluesminds-server"]) == (TEXT, "second")
    assert [models.asked[0].received.body, second.asked[0].received.body] == [body, body]


async def test_server_that_cannot_be_reached_is_left_before_the_upload_flows(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("gone", "http://127.0.0.1:1/v1", priority=0), entry("two", models.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=servers)
    models.plan(whole(TEXT))
    body = large(3 * MIB)
    answer = await upload(gateway, body)
    assert (answer.content, answer.headers["x-bluesminds-server"]) == (TEXT, "two")
    assert models.asked[0].received.body == body


async def test_upload_that_fails_at_a_second_server_is_not_repeated_by_sdks(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("gone", "http://127.0.0.1:1/v1", priority=0), entry("two", models.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=servers)
    models.plan(refusal(500))
    answer = await upload(gateway, large(3 * MIB))
    assert (code_of(answer), len(models.asked)) == ((502, "upstream_error"), 1)
    assert (answer.headers["x-bluesminds-attempts"], answer.headers["x-should-retry"]) == ("2", "false")


async def test_failure_after_the_upload_flowed_is_final(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    models.plan(refusal(500))
    answer = await upload(pair, large(5 * MIB))
    assert code_of(answer) == (502, "upstream_error")
    assert "The upload had begun, so no other server was tried." in answer.json()["error"]["message"]
    assert "x-should-retry" not in answer.headers
    assert len(models.asked) == 1 and second.asked == []
    (row,) = await pair.settled(1)
    assert (row["outcome"], row["attempts"]) == ("upstream_error", 1)


@pytest.mark.parametrize("status", [401, 413])
async def test_early_answer_ends_the_upload(nursery: trio.Nursery, home: Path, status: int) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, 1000)
        body = error("no", type="invalid_request_error", code="early")
        await peer.answer(body, JSON, b"Connection: close", status=b"%d No" % status)
        await peer.wait_closed()
        server.left += 1

    server, gateway = await slow(nursery, home, play)
    answer = await upload(gateway, large(30 * MIB))
    expected = (502, "upstream_credentials_refused") if status == 401 else (413, "early")
    assert code_of(answer) == expected
    await eventually(lambda: server.left == 1)
    (row,) = await gateway.settled(1)
    assert row["outcome"] == ("upstream_error" if status == 401 else "client_error")
    assert await held(gateway) == 0


async def test_server_that_closes_in_mid_upload_is_an_error(nursery: trio.Nursery, home: Path) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, 1000)
        peer.reset()

    _, gateway = await slow(nursery, home, play)
    answer = await upload(gateway, large(30 * MIB))
    assert code_of(answer) == (502, "upstream_unreachable")
    assert await held(gateway) == 0


async def open_upload(gateway: Gateway, length: int, *lines: str) -> trio.SocketStream:
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    head = [
        f"POST {TRANSCRIPTIONS} HTTP/1.1",
        "Host: t",
        f"x-api-key: {gateway.key}",
        f"Content-Type: {CONTENT_TYPE.decode()}",
        f"Content-Length: {length}",
        *lines,
    ]
    await stream.send_all("\r\n".join([*head, "", ""]).encode())
    return stream


async def test_client_that_leaves_in_mid_upload_ends_it(nursery: trio.Nursery, home: Path) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)

    server, gateway = await slow(nursery, home, play)
    body = large(5 * MIB)
    stream = await open_upload(gateway, len(body))
    await stream.send_all(body[: 3 * MIB])
    await eventually(lambda: server.taken > 2 * MIB)
    await stream.aclose()
    await eventually(lambda: server.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"]) == (499, "client_gone")
    assert row["input_tokens"] > 5000, "what was sent is counted by its size"
    assert await held(gateway) == 0
    assert not gateway.events("request_failed")


@pytest.mark.parametrize("model_first", [True, False])
async def test_client_that_stops_sending_is_given_up(
    nursery: trio.Nursery, home: Path, model_first: bool
) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)

    server, gateway = await slow(nursery, home, play, server={"body_timeout": 1.0})
    body = large(5 * MIB, model_first=model_first)
    stream = await open_upload(gateway, len(body))
    await stream.send_all(body[: 3 * MIB])
    answer = b""
    with trio.fail_after(60):
        while piece := await stream.receive_some():
            answer += piece
    await stream.aclose()
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in answer
    assert len(server.heads) <= int(model_first)
    await eventually(lambda: server.left == len(server.heads))
    assert await held(gateway) == await gateway.metric("bluesminds_upload_bytes_held") == 0


async def test_form_that_goes_wrong_in_mid_upload_is_the_clients_error(
    nursery: trio.Nursery, home: Path
) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)

    server, gateway = await slow(nursery, home, play)
    body = form(field("model", "m"), file(b"x" * 3 * MIB), field("model", "other"))
    answer = await upload(gateway, body)
    assert code_of(answer) == (400, "invalid_value")
    await eventually(lambda: server.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"]) == (400, "client_error")
    assert (
        await gateway.metric("bluesminds_upstream_attempts_total", server="one", outcome="UpstreamCut") == 0
    )


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_expectation_is_met_only_for_a_valid_key(
    gateway: Gateway, models: ModelServer, key: str
) -> None:
    models.plan(whole(TEXT))
    if key:
        gateway.key = key
    stream = await open_upload(gateway, len(SMALL), "Expect: 100-continue")
    first = await stream.receive_some()
    if key:
        assert first.startswith(b"HTTP/1.1 401 ")
        await stream.aclose()
        return
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    await stream.send_all(SMALL)
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert models.asked[0].received.body == SMALL
    await stream.aclose()


async def test_total_timeout_ends_an_upload(nursery: trio.Nursery, home: Path) -> None:
    async def play(server: Slow, peer: Peer, length: int) -> None:
        await server.take(peer, length)

    server, gateway = await slow(nursery, home, play, upstream={"total_timeout": 1.0})
    body = large(5 * MIB)
    stream = await open_upload(gateway, len(body))
    await stream.send_all(body[: 3 * MIB])
    with trio.fail_after(60):
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 504 ")
    await eventually(lambda: server.left == len(server.heads))
    await stream.aclose()


async def test_boundary_of_the_client_is_kept(gateway: Gateway, models: ModelServer) -> None:
    other = b"a b'c"
    body = SMALL.replace(BOUNDARY, other)
    models.plan(whole(TEXT))
    async with gateway.client() as client:
        headers = {"content-type": 'multipart/form-data; charset=utf-8; boundary="a b\'c"'}
        assert (await client.post(TRANSCRIPTIONS, content=body, headers=headers)).status_code == 200
    assert models.asked[0].received.values(b"content-type") == [b'multipart/form-data; boundary="a b\'c"']
    assert models.asked[0].received.body == body


async def test_connection_that_drops_is_repeated_only_while_possible(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(drop, whole(TEXT))
    assert (await upload(gateway, SMALL)).content == TEXT
    models.plan(drop)
    assert code_of(await upload(gateway, large(2 * MIB))) == (502, "upstream_unreachable")
