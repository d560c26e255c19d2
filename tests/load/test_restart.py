"""Restarts with an open socket at a fixed rate of requests. Prints figures and judges none."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.process.test_restart import Restarts, ask, kept_socket, restarting_gateway

pytestmark = pytest.mark.load
RESTARTS, RATE, BETWEEN = 20, 100, 1.0  # requests a second; seconds between two restarts


@pytest.mark.parametrize("restarts", [kept_socket, restarting_gateway], ids=["manager", "command"])
def test_restarts_at_a_fixed_rate_print_what_failed(home: Path, restarts: Restarts) -> None:
    stop, outcomes = Event(), []

    def one(port: int, key: str) -> None:
        began = time.monotonic()
        outcomes.append((ask(port, key), time.monotonic() - began))

    with restarts(home) as (port, key, restart), ThreadPoolExecutor(1000) as pool:

        def send() -> None:
            began, sent = time.monotonic(), 0
            while not stop.wait(1 / RATE):
                while sent < (time.monotonic() - began) * RATE:
                    pool.submit(one, port, key)
                    sent += 1

        began = time.monotonic()
        sender = Thread(target=send)
        sender.start()
        for _ in range(RESTARTS):
            stop.wait(BETWEEN)
            restart()
        stop.set()
        sender.join()
        pool.shutdown(wait=True)
        seconds = time.monotonic() - began
    failed = [failure for failure, _ in outcomes if failure is not None]
    longest = max(delay for _, delay in outcomes)
    print(  # noqa: T201
        f"\n{RESTARTS} restarts in {seconds:.0f} s: {len(outcomes)} requests on new connections"
        f" ({len(outcomes) / seconds:.0f}/s), {len(failed)} failed (bound: 0), longest"
        f" {longest:.1f} s {failed[:3]}"
    )
