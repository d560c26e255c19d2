"""The key that the gateway presents to a server never reaches a client, whatever the server says."""

from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    ModelServer,
    Pause,
    Plan,
    chunk,
    completion,
    error,
    refusal,
    streamed,
    whole,
)
from tests.gateway.cases import own_servers
from tests.gateways import ASK, STREAM, Gateway

KEY = "sk-canary/4713-upstream"
QUOTED = f"Incorrect API key provided: {KEY}"
QUOTING = error(QUOTED, param=KEY)
EVENT = b"data: " + QUOTING + b"\n\n"


@pytest.fixture
async def keyed(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    """Case N has the model "mN"."""
    servers = own_servers(max(len(WHOLE), len(STREAMS)), models.url, api_key=KEY)
    return await gateways.start(nursery, home, servers=servers, upstream={"eject_after": 100, "attempts": 1})


WHOLE: list[Plan] = [
    *(refusal(status, QUOTING) for status in (400, 401, 403, 404, 409, 429, 500, 503)),
    refusal(400, QUOTED.encode()),
    refusal(400, b'{"detail":"%b"}' % QUOTED.encode()),
    refusal(400, QUOTING.replace(b"/", b"\\/")),
    refusal(400, b'{"error":{"code":"x","type":"%b"}}' % KEY.encode()),
    refusal(500, b'{"error":"\\u0073%b"}' % KEY.encode()[1:]),
    refusal(400, QUOTED.encode() * 50_000),
    whole(QUOTING),
    whole(completion("Hi", error={"message": QUOTED})),
]


async def test_answers_are_redacted(keyed: Gateway, models: ModelServer, subtests: pytest.Subtests) -> None:
    for number, plan in enumerate(WHOLE):
        with subtests.test(str(number)):
            for body in (ASK, STREAM):
                models.plan(plan)
                answer = await keyed.chat(body | {"model": f"m{number}"})
                assert models.asked.pop().body["model"] == f"m{number}"
                text = answer.text.replace("\\/", "/") + str(answer.headers)
                assert KEY not in text
                assert KEY not in keyed.log
                if answer.headers["content-type"] == "application/json":
                    answer.json()


async def test_redacted_error_keeps_its_message(keyed: Gateway, models: ModelServer) -> None:
    models.plan(refusal(400, QUOTING))
    told = (await keyed.chat(ASK | {"model": "m0"})).json()["error"]
    assert told["message"] == "Incorrect API key provided: [redacted]"
    assert told["type"] == "server_error"


STREAMS: list[Plan] = [
    streamed(EVENT, DONE),
    streamed(chunk("one"), EVENT),
    streamed(chunk("one"), EVENT[:40], Pause(0.05), EVENT[40:]),
    streamed(chunk("one"), EVENT[:-2]),
    streamed(chunk("one", error={"message": QUOTED}), DONE),
    streamed(chunk("one"), b"event: error\ndata: " + QUOTED.encode() + b"\n\n"),
]


async def test_streams_are_redacted(keyed: Gateway, models: ModelServer, subtests: pytest.Subtests) -> None:
    for number, plan in enumerate(STREAMS):
        with subtests.test(str(number)):
            models.plan(plan)
            answer = await keyed.chat(STREAM | {"model": f"m{number}"})
            assert KEY not in answer.text
            assert "[redacted]" in answer.text


async def test_bytes_of_speech_are_redacted_across_pieces(keyed: Gateway, models: ModelServer) -> None:
    key = KEY.encode()
    models.plan(
        streamed(b"RIFF", key[:9], key[9:], b"end " + key[:5], content_type=b"Content-Type: audio/wav")
    )
    speak = {"model": "m0", "input": "Hi", "voice": "alloy"}
    async with keyed.client() as client:
        answer = await client.post("/v1/audio/speech", json=speak)
    assert answer.content == b"RIFF" + b"*" * len(key) + b"end " + key[:5]
