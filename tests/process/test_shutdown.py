"""How the command ends: streams run to their end, every request is accounted for, a second signal does not
wait; and what the service manager hears of it.
"""

import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.fakes.model_server import DONE, ModelServer, Pause, chunk, streamed
from tests.gateways import STREAM, entry
from tests.pressure import ended, served
from tests.terminal import COMMAND, SECONDS, Serving, User, demo_user

STREAMS = 20
WORDS = 130  # at the demo server's pace of 20 ms a word: 2.6 s
AT_ONCE = 2.0  # seconds
REFUSED = 1.0  # seconds
LONG_STREAMS = 50
LONG_SECONDS = 20.0
LONG = streamed(*[chunk("word"), Pause(LONG_SECONDS / 40)] * 40, chunk(finish="stop"), DONE)


class Reader:
    """Reads streams; knows when each has begun and how it ended."""

    def __init__(self, gateway: Serving, client: httpx.AsyncClient) -> None:
        self._url = f"{gateway.url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {gateway.key}"}
        self._client = client
        self._begun = 0
        self._more = trio.Event()
        self.answers: list[bytes] = []
        self.broken = 0

    async def read(self, words: int) -> None:
        messages = [{"role": "user", "content": "word " * words}]
        await self.ask({"model": "demo/echo", "stream": True, "max_tokens": words, "messages": messages})

    async def ask(self, body: dict[str, Any]) -> None:
        answer = b""
        try:
            async with self._client.stream("POST", self._url, json=body, headers=self._headers) as response:
                async for piece in response.aiter_bytes():
                    if not answer:
                        self._begun += 1
                        self._more.set()
                    answer += piece
            self.answers.append(answer)
        except httpx.HTTPError:
            self.broken += 1

    async def all_begun(self, count: int) -> None:
        with trio.fail_after(SECONDS):
            while self._begun < count:
                await self._more.wait()
                self._more = trio.Event()


@asynccontextmanager
async def reading(gateway: Serving) -> AsyncIterator[Reader]:
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        yield Reader(gateway, client)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name
)
async def test_running_streams_end_properly(home: Path, number: signal.Signals) -> None:
    count = STREAMS if number == signal.SIGTERM else 3
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        port = int(gateway.url.rpartition(":")[2])
        async with reading(gateway) as reader:
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(reader.read, WORDS)
                await reader.all_begun(count)
                gateway.tell(number)
                await refused(port)
                assert f'"event":"stopping","running":{count}' in gateway.said.replace(" ", "")
                assert gateway.process.poll() is None, "it waits for the streams"
            assert await ended(gateway, SECONDS) == 0
    assert reader.broken == 0
    assert len(reader.answers) == count
    for answer in reader.answers:
        assert answer.endswith(b"data: [DONE]\n\n")
        assert answer.count(b'{"content":"word"}') + answer.count(b'{"content":" word"}') == WORDS
    assert user.rows("SELECT outcome, output_tokens, count(*) FROM usage GROUP BY 1, 2") == [
        ("ok", WORDS, count)
    ]


def test_under_nohup_it_survives_its_terminal(home: Path) -> None:
    with User(home).serving("demo", "--port", "0", launcher=("nohup", *COMMAND)) as gateway:
        gateway.tell(signal.SIGHUP)
        assert httpx.get(f"{gateway.url}/health", trust_env=False).status_code == 200
        assert gateway.stop() == 0


async def test_a_second_signal_does_not_wait(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        port = int(gateway.url.rpartition(":")[2])
        async with reading(gateway) as reader, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(reader.read, 2000)
            await reader.all_begun(3)
            gateway.tell(signal.SIGINT)
            await refused(port)  # two signals that nobody has seen yet are one
            assert gateway.process.poll() is None
            assert await ended_at_once(gateway, signal.SIGINT) == 130
    assert reader.broken == 3, "a stream that was cut has no proper end"
    assert user.rows("SELECT outcome, usage_source, count(*) FROM usage") == [("interrupted", "estimated", 3)]
    assert "Traceback" not in gateway.said


@pytest.mark.process
async def test_fifty_long_streams_end_properly(home: Path, models: ModelServer) -> None:
    models.plan(*[LONG] * LONG_STREAMS)
    user = User(home)
    async with (
        served(home, [entry("one", models.url)]) as gateway,
        reading(gateway) as reader,
        trio.open_nursery() as nursery,
    ):
        for _ in range(LONG_STREAMS):
            nursery.start_soon(reader.ask, STREAM)
        await reader.all_begun(LONG_STREAMS)
        port = int(gateway.url.rpartition(":")[2])
        told = trio.current_time()
        gateway.tell(signal.SIGTERM)
        await refused(port)
        assert await ended(gateway, 25.0) == 0
        assert trio.current_time() - told >= LONG_SECONDS * 0.8, "the streams were long"
    assert reader.broken == 0
    assert len(reader.answers) == LONG_STREAMS
    assert all(answer.endswith(DONE) for answer in reader.answers)
    assert user.rows("SELECT outcome, count(*), count(DISTINCT id) FROM usage GROUP BY 1") == [
        ("ok", LONG_STREAMS, LONG_STREAMS)
    ]


@pytest.mark.process
async def test_a_second_signal_cuts_fifty_long_streams(home: Path, models: ModelServer) -> None:
    models.plan(*[LONG] * LONG_STREAMS)
    user = User(home)
    async with (
        served(home, [entry("one", models.url)]) as gateway,
        reading(gateway) as reader,
        trio.open_nursery() as nursery,
    ):
        for _ in range(LONG_STREAMS):
            nursery.start_soon(reader.ask, STREAM)
        await reader.all_begun(LONG_STREAMS)
        gateway.tell(signal.SIGTERM)
        await refused(int(gateway.url.rpartition(":")[2]))
        await trio.sleep(1.0)
        assert gateway.process.poll() is None
        assert await ended_at_once(gateway, signal.SIGTERM) == 130
    assert reader.broken == LONG_STREAMS
    assert user.rows("SELECT outcome, usage_source, count(*) FROM usage GROUP BY 1, 2") == [
        ("interrupted", "estimated", LONG_STREAMS)
    ]


async def ended_at_once(gateway: Serving, number: signal.Signals) -> int:
    """The exit code of an end that waits for no stream."""
    told = trio.current_time()
    gateway.tell(number)
    code = await ended(gateway, SECONDS)
    assert trio.current_time() - told <= AT_ONCE
    return code


async def refused(port: int) -> None:
    """Wait until nobody listens there any more, which must be soon."""
    with trio.fail_after(REFUSED):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return
            await stream.aclose()
            await trio.sleep(0.02)


def test_the_service_manager_hears_of_start_and_stop(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(SECONDS)
        environ = {"NOTIFY_SOCKET": str(home / "notify"), "WATCHDOG_USEC": "200000"}
        with User(home).serving("demo", "--port", "0", environ=environ) as gateway:
            assert manager.recv(1000).startswith(b"READY=1")
            assert httpx.get(f"{gateway.url}/ready", trust_env=False).status_code == 200
            assert manager.recv(1000) == b"WATCHDOG=1"
            gateway.tell(signal.SIGTERM)
            while (message := manager.recv(1000)) == b"WATCHDOG=1":
                pass
            assert message.startswith(b"STOPPING=1")
            assert gateway.process.wait(SECONDS) == 0


# What a service manager does between fork and exec: the sockets from 3 on, and the process id they are for.
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "bluesminds", *sys.argv[2:]])
"""


def test_an_inherited_socket_is_served(home: Path) -> None:
    """A client that connects before the gateway runs is answered by it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        early.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        launcher = (sys.executable, "-c", LAUNCHER, str(listening.fileno()))
        with User(home).serving("demo", launcher=launcher, pass_fds=(listening.fileno(),)) as gateway:
            assert gateway.url == f"http://127.0.0.1:{port}"
            with early:
                assert early.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert gateway.stop() == 0
