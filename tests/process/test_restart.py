"""Restarts with a socket that the service manager keeps open: no request fails.

RESTARTS sets the number of restarts; `make test-load` uses 20 and prints the rate of requests.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from json import dumps, loads
from pathlib import Path
from threading import Event

import pytest

from tests.gateways import ASK
from tests.process.test_shutdown import LAUNCHER
from tests.terminal import SECONDS, Serving, demo_user

RESTARTS = int(os.environ.get("RESTARTS", "3"))
WORKERS = 8
BODY = dumps(ASK | {"model": "demo/echo"})


@contextmanager
def load_on(port: int, key: str) -> Iterator[Callable[[], tuple[int, list[str]]]]:
    """WORKERS clients that send one request after the other, each on a new connection. Yields a function that
    stops them and returns the number of successful requests, and what failed.
    """
    stop, failures = Event(), list[str]()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "connection": "close"}

    def work() -> int:
        count = 0
        while not stop.is_set():
            connection = HTTPConnection("127.0.0.1", port, timeout=SECONDS)
            try:
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    failures.append(f"{answer.status} {body!r}")
                count += 1
            except (OSError, HTTPException) as exc:
                failures.append(repr(exc))
            finally:
                connection.close()
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


def restart_under_load(home: Path, restarts: int) -> tuple[int, list[str], float]:
    """The number of successful requests, what failed, and the seconds that it took."""
    user = demo_user(home)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        port = listening.getsockname()[1]
        launcher = (sys.executable, "-c", LAUNCHER, str(listening.fileno()))

        def start() -> Serving:
            return user.start("demo", launcher=launcher, pass_fds=(listening.fileno(),))

        gateway = start()
        try:
            # The key of a demo is only valid until the next start.
            key = loads(user.run("keys", "create", "load", "--json").stdout)["key"]
            began = time.monotonic()
            with load_on(port, key) as finish:
                for _ in range(restarts):
                    gateway.send_signal(signal.SIGTERM)
                    assert gateway.process.wait(SECONDS) == 0
                    gateway = start()
                count, failures = finish()
            return count, failures, time.monotonic() - began
        finally:
            gateway.process.kill()
            gateway.process.wait(SECONDS)


@pytest.mark.process
def test_restart_with_a_kept_socket_fails_no_request(home: Path) -> None:
    count, failures, _ = restart_under_load(home, RESTARTS)
    assert failures == [] and count > 0


@pytest.mark.load
def test_restarts_print_their_figures(home: Path) -> None:
    count, failures, seconds = restart_under_load(home, 20)
    print(  # noqa: T201
        f"\n20 restarts: {count} requests on new connections in {seconds:.1f} s ({count / seconds:.0f}/s),"
        f" {len(failures)} failed (bound: 0) {failures[:3]}"
    )
