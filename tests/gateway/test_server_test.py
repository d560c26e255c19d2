"""The test of a server: every step with its time, and a clear sentence for the one that fails."""

import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server
from tests.fakes.model_server import ModelServer, error, refusal
from tests.gateways import Gateway, entry


async def run_test(gateway: Gateway, name: str = "one", **query: str) -> Any:
    async with gateway.operator() as client:
        return (await client.post(f"/api/admin/servers/{name}/test", params=query)).json()


async def start(nursery: trio.Nursery, home: Path, url: str, **more: Any) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", url, **more)])


def steps(result: Any) -> list[tuple[str, bool]]:
    return [(step["name"], step["ok"]) for step in result["steps"]]


async def test_working_server_passes_every_step(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    models.models = ("text-embedding-3", "chat-model")
    gateway = await start(nursery, home, models.url, models=[], api_key="sk-upstream")
    result = await run_test(gateway)
    assert steps(result) == [("dns", True), ("connect", True), ("models", True), ("completion", True)]
    assert (result["ok"], result["problem"]) == (True, None)
    assert result["models"] == ["text-embedding-3", "chat-model"]
    assert [step["message"] for step in result["steps"]][2:] == [
        "2 listed by the server",
        "chat-model responded",
    ]
    asked = models.asked[-1]
    assert (asked.body["model"], asked.header(b"authorization")) == ("chat-model", b"Bearer sk-upstream")
    assert asked.body["max_completion_tokens"] == 16
    await run_test(gateway, model="text-embedding-3")
    assert models.asked[-1].body["model"] == "text-embedding-3"


async def test_completion_is_translated_for_the_server(nursery: trio.Nursery, home: Path) -> None:
    anthropic: ModelServer = await nursery.start(anthropic_server.serve)
    gateway = await start(nursery, home, anthropic.url, dialect="anthropic")
    result = await run_test(gateway)
    assert result["ok"], result
    assert anthropic.asked[-1].body["max_tokens"] == 16


async def test_refused_completion_says_why(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models.url)
    models.plan(refusal(404, error("The model m does not exist.")))
    result = await run_test(gateway)
    assert steps(result)[-1] == ("completion", False)
    assert result["problem"] == "m: 404: The model m does not exist."


FAILING_URLS = [
    ("http://no-such-host.invalid/v1", "dns", "no-such-host.invalid cannot be resolved"),
    ("http://127.0.0.1:{free}/v1", "connect", "connection refused"),
    ("https://127.0.0.1:{closing}/v1", "tls", "TLS handshake"),
]


async def test_failing_step_is_the_last_one(
    nursery: trio.Nursery, home: Path, subtests: pytest.Subtests
) -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    (listener,) = await nursery.start(partial(trio.serve_tcp, close, 0, host="127.0.0.1"))
    closing = listener.socket.getsockname()[1]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        free = unused.getsockname()[1]
        servers = [entry(failed, url.format(free=free, closing=closing)) for url, failed, _ in FAILING_URLS]
        gateway = await gateways.start(nursery, home, servers=servers)
        for _, failed, text in FAILING_URLS:
            with subtests.test(failed):
                result = await run_test(gateway, failed)
                assert steps(result)[-1] == (failed, False)
                assert all(ok for _, ok in steps(result)[:-1])
                assert result["ok"] is False and text in result["problem"]
