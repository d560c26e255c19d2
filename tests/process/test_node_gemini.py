"""Google's own Node SDK against the gateway: servers that speak Gemini, chat completions and Messages."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server, gemini_server, model_server
from tests.fakes.anthropic_server import message, start, text_block, thinking_block, tool_block
from tests.fakes.gemini_server import content, event
from tests.fakes.model_server import Cut, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateways import Gateway, entry
from tests.wire.replies import DONE, delta_chunk

pytestmark = pytest.mark.process

PROJECT = Path(__file__).parent / "node"
SECONDS = 300
CITY = {"city": "Oslo"}
ARGUMENTS = '{"city":"Oslo"}'


@pytest.fixture(autouse=True)
def node_project() -> None:
    """The installed package."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node: install Node 20 or newer with npm, and run `make test-process`")
    if not (PROJECT / "node_modules" / "@google" / "genai").exists():
        pytest.skip("the Node SDKs are not installed: run `make test-process`, which needs npm")


async def run(gateway: Gateway, version: str) -> dict[str, Any]:
    """The results of the SDK's cases, by name. `version`: of the API; recent SDKs use v1."""
    environ = {
        "PATH": os.environ["PATH"],
        "BASE_URL": gateway.url,
        "API_KEY": gateway.key,
        "API_VERSION": version,
        "MODEL": "m",
    }
    with trio.fail_after(SECONDS):
        done = await trio.run_process(
            ["node", "gemini.mjs"],
            cwd=PROJECT, env=environ, capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    results: dict[str, Any] = json.loads(done.stdout)
    return results


def check(results: dict[str, Any], total: int, *, embeds: bool = True) -> None:
    """What every server's answers become. `total`: tokens of an answer. `embeds`: it makes embeddings."""
    hello = {"text": "Hello world", "finish": "STOP", "total": total}
    for name, turns in (("tools", 4), ("streamedTools", 5)):  # the end of a stream is a turn to the SDK
        assert results[name] == {"calls": 1, "args": CITY, "text": "Rain in Oslo.", "turns": turns}
    assert results["models"] == [["models/m"], "models/m"]
    assert results["plain"] == hello
    assert results["stream"] == hello | {"thought": "Hm."}
    assert results["picture"] == hello | {"text": "A picture."}
    assert results["structured"] == CITY
    assert results["count"] is True
    if embeds:
        assert results["embed"] == [[0.5, -1.25, 0.1]] * 2
    else:
        assert results["embed"]["error"]["status"] == 404
    errors = {name: results[name]["error"] for name in list(results)[-6:]}
    for name, status in (
        ("unknownModel", 404),
        ("wrongKey", 401),
        ("badRequest", 400),
        ("tooManyRequests", 429),
    ):
        assert (errors[name]["name"], errors[name]["status"]) == ("ApiError", status)
    assert "this is 400" in errors["badRequest"]["message"]
    # The SDK reads the error itself only if no other bytes come with it.
    assert errors["failedStream"]["name"] in ("ApiError", "Error")
    assert errors["brokenStream"]["name"] in ("ApiError", "Error")


@pytest.mark.parametrize("version", ["v1beta", "v1"])
async def test_google_node_cases_on_a_native_server_have_the_right_results(
    nursery: trio.Nursery, home: Path, version: str
) -> None:
    google: ModelServer = await nursery.start(gemini_server.serve)
    call = {"functionCall": {"name": "weather", "args": CITY}, "thoughtSignature": "c2ln"}
    rain = whole(content({"text": "Rain in Oslo."}))
    failure = gemini_server.error(503, "UNAVAILABLE", "Overloaded.")
    google.plan(
        whole(content()),
        streamed(
            event({"text": "Hm.", "thought": True}), event({"text": "Hello world"}), gemini_server.end()
        ),
        whole(content(call)),
        rain,
        streamed(event(call), gemini_server.end()),
        rain,
        whole(content({"text": "A picture."})),
        whole(content({"text": ARGUMENTS})),
        gemini_server.correct,
        gemini_server.correct,
        refusal(400, gemini_server.error(400, "INVALID_ARGUMENT", "this is 400")),
        refusal(429, gemini_server.error(429, "RESOURCE_EXHAUSTED", "this is 429")),
        streamed(event({"text": "x"}), failure),
        streamed(event({"text": "x"}), Cut),
    )
    servers = [entry("google", google.url, dialect="gemini", api_key="upstream-google-key")]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1})
    check(await run(gateway, version), 112)
    for asked in (google.asked[3], google.asked[5]):
        parts = [part for turn in asked.body["contents"] for part in turn["parts"]]
        assert call in parts, "the SDK sends the signature back"


async def test_google_node_cases_on_a_chat_server_have_the_right_results(
    nursery: trio.Nursery, home: Path
) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    spoken = {"role": "assistant", "content": None, "tool_calls": [call]}
    called = completion(choices=[{"index": 0, "message": spoken, "finish_reason": "tool_calls"}])
    rain = whole(completion("Rain in Oslo."))
    usage = chunk(usage=model_server.USAGE)
    models.plan(
        whole(completion()),
        streamed(
            delta_chunk(reasoning_content="Hm."), chunk("Hello world"), chunk(finish="stop"), usage, DONE
        ),
        whole(called),
        rain,
        streamed(delta_chunk(tool_calls=[{"index": 0} | call]), chunk(finish="tool_calls"), usage, DONE),
        rain,
        whole(completion("A picture.")),
        whole(completion(ARGUMENTS)),
        whole(msgspec.json.encode({"data": [{"embedding": [0.5, -1.25, 0.1]}] * 2})),
        refusal(400),
        refusal(429),
        streamed(chunk("x"), b'data: {"error":{"message":"Overloaded.","code":503}}\n\n'),
        streamed(chunk("x"), Cut),
    )
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1})
    check(await run(gateway, "v1beta"), 13)
    result = models.asked[3].body["messages"][-1]
    assert (result["tool_call_id"], result["content"]) == ("c1", "rain in Oslo")
    assert models.asked[6].body["messages"][0]["content"][1]["type"] == "image_url"


async def test_google_node_cases_on_a_messages_server_have_the_right_results(
    nursery: trio.Nursery, home: Path
) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": CITY}
    rain = whole(message([{"type": "text", "text": "Rain in Oslo."}]))
    end = anthropic_server.end()
    hello = [*thinking_block(0, "Hm.", "c2ln"), *text_block(1, "Hello", " world")]
    claude.plan(
        whole(message()),
        streamed(start(), *hello, *end),
        whole(message([use], stop_reason="tool_use")),
        rain,
        streamed(
            start(), *tool_block(0, "t1", "weather", '{"city":', '"Oslo"}'), *anthropic_server.end("tool_use")
        ),
        rain,
        whole(message([{"type": "text", "text": "A picture."}])),
        whole(message([{"type": "text", "text": ARGUMENTS}])),
        refusal(400, anthropic_server.error("invalid_request_error", "this is 400")),
        refusal(429, anthropic_server.error("rate_limit_error", "this is 429")),
        streamed(
            start(), *text_block(0, "x"), anthropic_server.error_event("overloaded_error", "Overloaded.")
        ),
        streamed(start(), *text_block(0, "x"), Cut),
    )
    servers = [entry("claude", claude.url, dialect="anthropic", api_key="sk-ant-upstream")]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1})
    check(await run(gateway, "v1"), 132, embeds=False)
