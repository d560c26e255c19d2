"""Restarts with a socket that stays open, in the service manager or in the process: no request fails.

RESTARTS sets the number of restarts. tests/load/test_restart.py has a fixed rate of requests.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from json import dumps, loads
from pathlib import Path
from subprocess import TimeoutExpired
from threading import Event

import pytest

from bluesminds.cli import exits
from tests.gateways import ASK
from tests.process.test_shutdown import LAUNCHER
from tests.terminal import POLL, SECONDS, Serving, User, demo_user

RESTARTS = int(os.environ.get("RESTARTS", "3"))
WORKERS = 8
# A port, a key, and a function that restarts the gateway.
Restarts = Callable[[Path], AbstractContextManager[tuple[int, str, Callable[[], None]]]]
BODY = dumps(ASK | {"model": "demo/echo"})


def ask(port: int, key: str) -> str | None:
    """A request on a new connection. Returns what failed."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "connection": "close"}
    connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("POST", "/v1/chat/completions", BODY, headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, HTTPException) as exc:
        return repr(exc)
    finally:
        connection.close()
    return None if answer.status == 200 else f"{answer.status} {body!r}"


@contextmanager
def load_on(port: int, key: str) -> Iterator[Callable[[], tuple[int, list[str]]]]:
    """WORKERS clients that send one request after the other, each on a new connection. Yields a function that
    stops them and returns the number of successful requests, and what failed.
    """
    stop, failures = Event(), list[str]()

    def work() -> int:
        count = 0
        while not stop.is_set():
            failure = ask(port, key)
            count += failure is None
            failures.extend([failure] if failure else [])
        return count

    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(work) for _ in range(WORKERS)]

        def finish() -> tuple[int, list[str]]:
            stop.set()
            return sum(one.result() for one in running), failures

        try:
            yield finish
        finally:
            stop.set()


@contextmanager
def kept_socket(home: Path) -> Iterator[tuple[int, str, Callable[[], None]]]:
    """A gateway behind a socket that this process keeps open: its port, a key, and a function that restarts
    it."""
    user = demo_user(home)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        launcher = (sys.executable, "-c", LAUNCHER, str(listening.fileno()))
        running: list[Serving] = []

        def start() -> None:
            running.append(user.start("demo", launcher=launcher, pass_fds=(listening.fileno(),)))

        def restart() -> None:
            running[-1].send_signal(signal.SIGTERM)
            assert running[-1].process.wait(SECONDS) == 0
            start()

        start()
        try:
            # The key of a demo is only valid until the next start.
            key = loads(user.run("keys", "create", "load", "--json").stdout)["key"]
            yield listening.getsockname()[1], key, restart
        finally:
            running[-1].process.kill()
            running[-1].process.wait(SECONDS)


@contextmanager
def restarting_gateway(home: Path) -> Iterator[tuple[int, str, Callable[[], None]]]:
    """A gateway that keeps its own socket: its port, a key, and a function that restarts it."""
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        key = loads(user.run("keys", "create", "load", "--json").stdout)["key"]

        def restart() -> None:
            done = user.run("restart")
            assert (done.stdout, gateway.process.poll()) == ("restarted\n", None), done.stderr

        yield int(gateway.url.rpartition(":")[2]), key, restart


@pytest.mark.process
def test_restart_with_a_kept_socket_fails_no_request(home: Path) -> None:
    with kept_socket(home) as (port, key, restart), load_on(port, key) as finish:
        for _ in range(RESTARTS):
            restart()
        count, failures = finish()
    assert failures == [] and count > 0


@pytest.mark.process
def test_restart_command_fails_no_request(home: Path) -> None:
    with restarting_gateway(home) as (port, key, restart), load_on(port, key) as finish:
        for _ in range(RESTARTS):
            restart()
        count, failures = finish()
    assert failures == [] and count > 0


@pytest.mark.process
def test_restart_with_a_bad_configuration_is_refused_and_the_gateway_continues(home: Path) -> None:
    user, config = User(home), home / "gateway.toml"
    config.write_text("[server]\nport = 0\n")
    with user.serving("serve") as gateway:
        config.write_text("[server]\nporrt = 0\n")
        refused = user.run("restart")
        assert refused.returncode == exits.CONFIG_INVALID and "gateway.toml:2" in refused.stderr
        gateway.send_signal(signal.SIGUSR2)
        gateway.wait_for("restart_refused")
        assert "gateway.toml:2" in gateway.said
        config.write_text("[server]\nport = 0\n")
        assert user.run("restart").stdout == "restarted\n"
        assert user.run("health").stdout == "ok\n"


@pytest.mark.process
def test_restart_signal_during_the_start_takes_effect_after_it(home: Path) -> None:
    user = demo_user(home)
    gateway = user.launch("demo", "--port", "0")
    try:
        while not (user.state_dir / "admin.sock").exists():  # the local socket opens before the listener
            with suppress(TimeoutExpired):
                gateway.process.wait(POLL)
                pytest.fail(gateway.said)
        gateway.send_signal(signal.SIGUSR2)
        gateway.wait_for('"event":"restarting"')
    finally:
        gateway.process.kill()
        gateway.process.wait(SECONDS)


def test_restart_without_a_gateway_says_how_to_start_it(home: Path) -> None:
    refused = User(home).prepare().call("restart")
    assert refused.returncode == exits.UNAVAILABLE and "start it: bluesminds serve" in refused.stderr
