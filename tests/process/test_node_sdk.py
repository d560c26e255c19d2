"""Node SDKs against the gateway: each client on servers of its own format and on servers of another one.

A client is a script in tests/process/node. It prints the results of its cases as one JSON object.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests import gateways
from tests.fakes import anthropic_server, gemini_server, model_server, responses_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry, eventually

PROJECT = Path(__file__).parent / "node"
SECONDS = 300
RESULT = "The tool returned rain in Oslo, rain in Rome"
OSLO = {"city": "Oslo"}
TOO_MANY = "This API key is limited to 1 request per minute."
CUT = "The server ended the stream before the answer was complete. Try again."
# What the gateway answers, whatever the client: status, code and part of the message.
REFUSALS = {
    "unknownModel": (404, "model_not_found", "No server offers the model `other`."),
    "wrongKey": (401, "invalid_api_key", "Invalid API key"),
    "badRequest": (400, None, "this is 400"),
    "tooManyRequests": (429, "upstream_rate_limited", "The server is rate limited: this is 429"),
    "serverError": (502, "upstream_error", "The server responded with 500: this is 500"),
    "limit": (429, "rate_limit_exceeded", TOO_MANY),
}
CLASSES = {
    "unknownModel": "NotFoundError",
    "wrongKey": "AuthenticationError",
    "badRequest": "BadRequestError",
    "tooManyRequests": "RateLimitError",
    "serverError": "InternalServerError",
    "limit": "RateLimitError",
}


@dataclass
class Site:
    """A gateway and its only server, which has the model "m"."""

    gateway: Gateway
    models: ModelServer

    async def run(self, script: str, *arguments: str, model: str = "m", **environ: str) -> dict[str, Any]:
        """The results of a client's cases, by name."""
        _, limited = await self.gateway.new_key(rpm=1)
        environ = {
            "PATH": os.environ["PATH"],
            "BASE_URL": self.gateway.url,
            "API_KEY": self.gateway.key,
            "LIMITED_KEY": limited,
            "MODEL": model,
            **environ,
        }
        with trio.fail_after(SECONDS):
            done = await trio.run_process(
                ["node", script, *arguments],
                cwd=PROJECT, env=environ, capture_stdout=True, capture_stderr=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        results: dict[str, Any] = json.loads(done.stdout)
        return results

    @property
    def asked_paths(self) -> set[str]:
        return {asked.received.line.split(b" ")[1].decode() for asked in self.models.asked}


@pytest.fixture(autouse=True)
def node_project() -> None:
    """The installed packages."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node: install Node 20 or newer with npm, and run `make test-process`")
    if not (PROJECT / "node_modules" / ".package-lock.json").exists():
        pytest.skip("the Node SDKs are not installed: run `make test-process`, which needs npm")


SERVERS: dict[str, tuple[Any, dict[str, str]]] = {
    "chat": (model_server.serve, {}),
    "messages": (anthropic_server.serve, {"dialect": "anthropic", "api_key": "sk-ant-upstream"}),
    "gemini": (gemini_server.serve, {"dialect": "gemini", "api_key": "upstream"}),
    "responses": (responses_server.serve, {"dialect": "litellm"}),
}
USAGES = {"chat": 13, "messages": 132, "gemini": 112, "responses": 13}  # total tokens of an answer
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:",
    "responses": "/v1/responses",
}
WITH_RESPONSES = pytest.mark.parametrize("kind", list(SERVERS))


@pytest.fixture(params=["chat", "messages", "gemini"])
def kind(request: pytest.FixtureRequest) -> str:
    """The only format of the server."""
    return str(request.param)


@pytest.fixture
async def site(kind: str, nursery: trio.Nursery, home: Path) -> Site:
    serve, fields = SERVERS[kind]
    models: ModelServer = await nursery.start(serve)
    return Site(await gateways.start(nursery, home, servers=[entry("one", models.url, **fields)]), models)


def taken(results: dict[str, Any], *names: str) -> dict[str, Any]:
    """Remove these results and return them."""
    return {name: results.pop(name) for name in names}


def check_refusals(refusals: dict[str, Any]) -> None:
    """The errors of the SDK `openai`."""
    for name, (status, code, message) in REFUSALS.items():
        error = refusals[name]["error"]
        assert (error["name"], error["status"]) == (CLASSES[name], status)
        assert code is None or error["code"] == code
        assert message in error["message"]


async def test_openai_node_cases_have_the_right_results(site: Site, kind: str) -> None:
    results = await site.run("openai.mjs", "chat")
    check_refusals(taken(results, *REFUSALS))
    assert all(path.startswith(PATHS[kind]) for path in site.asked_paths)
    usage = USAGES[kind]
    assert results == {
        "models": [["m"], "m"],
        "plain": {"text": "Hello world", "finish": "stop", "usage": usage, "id": True},
        "stream": {"text": "Hello world", "usage": usage},
        "streamHelper": ['{"city":"Oslo"}', '{"city":"Rome"}'],
        "tools": RESULT,
        "streamedTools": RESULT,
        "structured": OSLO,
        "jsonMode": OSLO,
        "brokenStream": {
            "error": {"name": "APIError", "code": "upstream_cut", "type": "server_error", "message": CUT}
        },
    }


@WITH_RESPONSES
async def test_openai_node_responses_have_the_right_results(site: Site, kind: str) -> None:
    results = await site.run("openai.mjs", "responses")
    check_refusals(taken(results, *REFUSALS))
    assert all(path.startswith(PATHS[kind]) for path in site.asked_paths)
    usage = USAGES[kind]
    assert results == {
        "plain": {"text": "Hello world", "status": "completed", "usage": usage, "id": True},
        "stream": {"text": "Hello world", "last": "response.completed", "usage": usage},
        "streamHelper": ['{"city":"Oslo"}', '{"city":"Rome"}'],
        "tools": RESULT,
        "structured": OSLO,
        "countTokens": True,
        "brokenStream": {
            "error": {"name": "APIError", "code": "upstream_cut", "type": "server_error", "message": CUT}
        },
    }


async def test_openai_node_stored_response_is_continued_and_deleted(site: Site) -> None:
    results = await site.run("openai.mjs", "stored")
    assert results == {"stored": {"text": "Hello world", "items": 3, "gone": 404}}


async def test_openai_node_other_endpoints_are_answered_by_the_demo_server(
    nursery: trio.Nursery, home: Path
) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    results = await Site(gateway, ModelServer(())).run("openai.mjs", "endpoints", model="demo/echo")
    assert results == {
        "embeddings": {"sizes": [8, 8], "number": "number", "usage": True},
        "completion": " Say hello.",
        "completionStream": " Say hello.",
        "moderation": True,
        "image": "\x89PNG",
        "imageStream": ["image_generation.partial_image", "image_generation.completed"],
        "speech": "RIFF",
        "imageEdit": "\x89PNG",
        "transcription": [True, "transcript.text.done", True, True],
        "severalChoices": ["Hi", "Hi"],
        "reasoning": True,
    }


async def test_openai_node_realtime_session_over_tls_is_answered(nursery: trio.Nursery, home: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(home / "key.pem")
    (home / "key.pem").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(home / "cert.pem")
    authority.cert_pem.write_to_path(home / "ca.pem")
    tls = {"tls_cert": str(home / "cert.pem"), "tls_key": str(home / "key.pem")}
    demo = {"name": "demo", "dialect": "demo"}
    gateway = await gateways.start(nursery, home, servers=[demo], server=tls)
    results = await Site(gateway, ModelServer(())).run(
        *("openai.mjs", "realtime"),
        BASE_URL=f"https://localhost:{gateway.port}",
        NODE_EXTRA_CA_CERTS=str(home / "ca.pem"),
    )
    assert results == {"realtime": {"first": "session.created", "status": "completed", "text": "Hi"}}


async def test_ai_sdk_other_endpoints_are_answered_by_the_demo_server(
    nursery: trio.Nursery, home: Path
) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    results = await Site(gateway, ModelServer(())).run("ai_sdk.mjs", "endpoints")
    assert results == {
        "embeddings": {"sizes": [256, 256], "usage": True},
        "image": "image/png",
        "speech": True,
    }


async def test_anthropic_node_cases_have_the_right_results(site: Site) -> None:
    results = await site.run("anthropic.mjs")
    refusals = taken(results, *REFUSALS)
    broken = results.pop("brokenStream")["error"]
    events = results.pop("events")
    assert (broken["name"], broken["type"]) == ("APIError", "api_error")
    assert CUT in broken["message"]
    assert [name for name in events if name != "ping"] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert results == {
        "models": [["m"], "m"],
        "plain": {"text": "Hello world", "stop": "end_turn", "usage": True, "id": True},
        "stream": {"text": "Hello world", "stop": "end_turn"},
        "streamHelper": [OSLO, {"city": "Rome"}],
        "tools": RESULT,
        "streamedTools": RESULT,
        "structured": OSLO,
        "countTokens": True,
    }
    for name, (status, code, message) in REFUSALS.items():
        error = refusals[name]["error"]
        assert (error["name"], error["status"]) == (CLASSES[name], status)
        assert code is None or f'"error_code":"{code}"' in error["message"]
        assert message in error["message"]


@pytest.mark.parametrize("provider", ["openai", "openai-chat", "openai-compatible", "anthropic", "google"])
async def test_ai_sdk_cases_have_the_right_results(site: Site, provider: str) -> None:
    results = await site.run("ai_sdk.mjs", provider)
    refusals = taken(results, *REFUSALS)
    broken = results.pop("brokenStream")
    if provider == "google":  # it ignores errors in a stream
        assert broken == {"finishReason": "other"}
    else:
        assert broken["error"]["message"] == CUT
    done = {"text": "Hello world", "finishReason": "stop", "usage": True}
    cities = [f'{{"name":"weather","content":"rain in {city}"}}' for city in ("Oslo", "Rome")]
    result = RESULT if provider != "google" else f"The tool returned {', '.join(cities)}"
    assert results == {
        "plain": done,
        "stream": done,
        "tools": {"text": result, "steps": 2},
        "streamedTools": {"text": result, "steps": 2},
        "structured": OSLO,
        "streamedStructured": OSLO,
    }
    for name, (status, _, message) in REFUSALS.items():
        error = refusals[name]["error"]
        assert (error["name"], error["status"]) == ("APICallError", status)
        assert error["isRetryable"] == (status in (429, 502))
        assert message in error["message"]


async def test_openai_node_stream_that_is_aborted_leaves_the_server(
    nursery: trio.Nursery, home: Path
) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    stalled = [model_server.chunk("one"), model_server.Stall]
    models.plan(model_server.streamed(*stalled))
    results = await Site(gateway, models).run("openai.mjs", "abort")
    assert results == {"abort": True}
    await eventually(lambda: models.left == 1)
    assert (await gateway.settled(1))[0]["outcome"] == "client_gone"
