"""Signals, exit codes and systemd: running streams end properly, a second signal cuts them, and the service
manager is notified.
"""

import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.fakes.model_server import DONE, ModelServer, chunk, streamed
from tests.gateways import ASK, STREAM, entry, eventually
from tests.pressure import port, served, wait_for_exit, wait_until_refused
from tests.terminal import COMMAND, SECONDS, Serving, User

UNLIMITED = {"drain_timeout": 10 * SECONDS}  # only the end of the streams ends the process


class StreamReader:
    """Reads streams. Counts those that have begun and those without an end."""

    def __init__(self, gateway: Serving, client: httpx.AsyncClient) -> None:
        self._url = f"{gateway.url}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {gateway.key}"}
        self._client = client
        self._begun = 0
        self._more = trio.Event()
        self.answers: list[bytes] = []
        self.broken = 0

    async def read(self) -> None:
        answer = b""
        try:
            async with self._client.stream("POST", self._url, json=STREAM, headers=self._headers) as response:
                async for piece in response.aiter_bytes():
                    if not answer:
                        self._begun += 1
                        self._more.set()
                    answer += piece
            self.answers.append(answer)
        except httpx.HTTPError:
            self.broken += 1

    async def wait_until_begun(self, count: int) -> None:
        with trio.fail_after(SECONDS):
            while self._begun < count:
                await self._more.wait()
                self._more = trio.Event()


@asynccontextmanager
async def reading(gateway: Serving, count: int) -> AsyncIterator[StreamReader]:
    """`count` streams that have begun; they have ended when the block has."""
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client, trio.open_nursery() as nursery:
        reader = StreamReader(gateway, client)
        for _ in range(count):
            nursery.start_soon(reader.read)
        await reader.wait_until_begun(count)
        yield reader


@pytest.mark.parametrize(
    ("number", "count"),
    [(signal.SIGTERM, 50), (signal.SIGINT, 3)],
    ids=["SIGTERM", "SIGINT"],
)
async def test_signal_running_streams_end_properly(
    home: Path, models: ModelServer, number: signal.Signals, count: int
) -> None:
    go_on = trio.Event()
    models.plan(*[streamed(chunk("one"), go_on, chunk("two", finish="stop"), DONE)] * count)
    async with served(home, [entry("one", models.url)], server=UNLIMITED) as gateway:
        async with reading(gateway, count) as reader:
            gateway.send_signal(number)
            await trio.to_thread.run_sync(gateway.wait_for, f'"event":"stopping","running":{count}')
            await wait_until_refused(port(gateway))
            assert gateway.process.poll() is None, "it waits for the streams"
            go_on.set()
        assert await wait_for_exit(gateway) == 0
    assert reader.broken == 0
    assert [answer.endswith(DONE) and b'"two"' in answer for answer in reader.answers] == [True] * count
    assert User(home).rows("SELECT outcome, count(*), count(DISTINCT id) FROM usage GROUP BY 1") == [
        ("ok", count, count)
    ]


async def test_second_signal_running_streams_are_cut(home: Path, models: ModelServer) -> None:
    count = 20
    models.plan(*[streamed(chunk("one"), trio.Event())] * count)
    async with served(home, [entry("one", models.url)], server=UNLIMITED) as gateway:
        async with reading(gateway, count) as reader:
            gateway.send_signal(signal.SIGTERM)
            await wait_until_refused(port(gateway))  # two signals in one moment would be one
            assert gateway.process.poll() is None
            gateway.send_signal(signal.SIGTERM)
            assert await wait_for_exit(gateway) == 130
        assert "Traceback" not in gateway.said
    assert reader.broken == count, "a stream that was cut has no proper end"
    assert User(home).rows("SELECT outcome, usage_source, count(*) FROM usage GROUP BY 1, 2") == [
        ("interrupted", "estimated", count)
    ]


def test_hangup_without_terminal_reloads_the_configuration(home: Path) -> None:
    with User(home).serving("demo", "--port", "0", launcher=("nohup", *COMMAND)) as gateway:
        gateway.send_signal(signal.SIGHUP)
        gateway.wait_for('"event":"config_reloaded"')
        assert httpx.get(f"{gateway.url}/health", trust_env=False, timeout=SECONDS).status_code == 200
        assert gateway.stop() == 0


async def test_fifty_hangups_under_load_drop_no_request(home: Path, models: ModelServer) -> None:
    """Good and bad configurations in turn."""
    statuses: list[int] = []
    done = trio.Event()

    async def ask(gateway: Serving) -> None:
        headers = {"authorization": f"Bearer {gateway.key}"}
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS, headers=headers) as client:
            while not done.is_set():
                answer = await client.post(f"{gateway.url}/v1/chat/completions", json=ASK)
                statuses.append(answer.status_code)

    async with served(home, [entry("one", models.url)], server=UNLIMITED) as gateway:
        path = trio.Path(home / "gateway.toml")
        good = await path.read_text()
        async with trio.open_nursery() as clients:
            for _ in range(4):
                clients.start_soon(ask, gateway)
            for number in range(50):
                await path.write_text(good if number % 2 else f"{good}\nprot = {number}\n")
                gateway.send_signal(signal.SIGHUP)
                event = "config_reloaded" if number % 2 else "config_rejected"
                count = number // 2 + 1
                await eventually(lambda event=event, count=count: gateway.said.count(event) == count)
            done.set()
        assert "gateway.toml:" in gateway.said
        gateway.send_signal(signal.SIGTERM)
        assert await wait_for_exit(gateway) == 0
    assert len(statuses) > 4 and set(statuses) == {200}


def test_service_manager_start_and_stop_are_notified(home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(home / "notify"))
        manager.settimeout(SECONDS)
        environ = {"NOTIFY_SOCKET": str(home / "notify"), "WATCHDOG_USEC": "200000"}
        with User(home).serving("demo", "--port", "0", environ=environ) as gateway:
            assert manager.recv(1000).startswith(b"READY=1")
            ready = httpx.get(f"{gateway.url}/ready", trust_env=False, timeout=SECONDS)
            assert ready.status_code == 200
            assert manager.recv(1000) == b"WATCHDOG=1"
            gateway.send_signal(signal.SIGTERM)
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


def test_inherited_socket_early_client_is_answered(home: Path) -> None:
    """The client connects before the gateway runs."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", number), timeout=SECONDS)
        early.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        launcher = (sys.executable, "-c", LAUNCHER, str(listening.fileno()))
        with User(home).serving("demo", launcher=launcher, pass_fds=(listening.fileno(),)) as gateway:
            assert gateway.url == f"http://127.0.0.1:{number}"
            with early:
                assert early.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert gateway.stop() == 0
