"""kill -9: no answered request is lost.

A recorder keeps the id of every request whose response it has received completely. After each restart each of
these ids must be in the database exactly once.
"""

import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio

from tests.terminal import SECONDS, Serving, User, demo_user

CLIENTS = 8
ROUNDS = 20


@dataclass
class AnswerRecorder:
    """Sends requests until the gateway is gone. `complete` are the ids of complete responses."""

    url: str
    key: str
    complete: list[str] = field(default_factory=list)
    enough: trio.Event = field(default_factory=trio.Event)
    until: int = 0

    def record(self, request_id: str) -> None:
        self.complete.append(request_id)
        if len(self.complete) >= self.until:
            self.enough.set()

    async def wait_for(self, more: int) -> None:
        """Wait for that many more complete responses."""
        self.enough, self.until = trio.Event(), len(self.complete) + more
        with trio.fail_after(SECONDS):
            await self.enough.wait()

    async def ask(self, client: int, name: str) -> None:
        """Even clients read JSON responses, odd ones streams."""
        streamed = client % 2 == 1
        body = {
            "model": "demo/text" if streamed else "demo/echo",
            "stream": streamed,
            "max_tokens": 3 + client,
            "messages": [{"role": "user", "content": "Hello!"}],
        }
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
            for number in range(1_000_000):
                request_id = f"{name}-{client}-{number}"
                headers = {"authorization": f"Bearer {self.key}", "x-request-id": request_id}
                try:
                    answer = await http.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200 and (
                    not streamed or answer.content.endswith(b"data: [DONE]\n\n")
                ):
                    self.record(request_id)


async def work_until_killed(
    gateway: Serving, recorder: AnswerRecorder, name: str, rng: random.Random
) -> None:
    """Kill it after some complete responses, at any moment of the other requests."""
    async with trio.open_nursery() as nursery:
        for client in range(CLIENTS):
            nursery.start_soon(recorder.ask, client, name)
        await recorder.wait_for(rng.randint(10, 100))
        gateway.send_signal(signal.SIGKILL)
    await trio.to_thread.run_sync(gateway.process.wait)


def check(user: User, recorder: AnswerRecorder) -> None:
    recorded = Counter(request_id for (request_id,) in user.rows("SELECT request_id FROM usage"))
    assert [one for one in recorder.complete if recorded[one] != 1] == []
    assert user.rows("PRAGMA integrity_check") == [("ok",)]
    ((rolled_up,),) = user.rows("SELECT sum(requests) FROM usage_daily")
    assert rolled_up == recorded.total(), "the totals agree with the rows"
    counted = user.rows("SELECT total_tokens, day_tokens FROM quota_counters WHERE subject LIKE 'user:%'")
    ((total, day),) = user.rows(
        "SELECT sum(tokens), sum(tokens) FILTER (WHERE day = (SELECT max(day) FROM usage))"
        " FROM (SELECT day, input_tokens + output_tokens AS tokens FROM usage)"
    )
    assert counted == [(total, day)], "the counters of limits agree with the rows"


async def test_usage_gateway_is_killed_no_answered_request_is_lost(home: Path) -> None:
    user = demo_user(home)
    rng = random.Random(ROUNDS)  # noqa: S311 - the same numbers in every run
    gateway = user.start("demo", "--port", "0")
    recorder = AnswerRecorder(gateway.url, gateway.key)
    try:
        for number in range(ROUNDS):
            await work_until_killed(gateway, recorder, f"r{number}", rng)
            gateway = user.start("demo", "--port", "0")
            recorder.url, recorder.key = gateway.url, gateway.key
            async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
                assert (await http.get(f"{gateway.url}/ready")).status_code == 200
            check(user, recorder)
        assert gateway.stop() == 0
    finally:
        gateway.process.kill()
        gateway.process.wait()
    check(user, recorder)


def test_state_dir_gateway_was_killed_can_be_used(home: Path) -> None:
    """The socket file and the lock file stay; neither blocks a command or the next start."""
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        gateway.stop(signal.SIGKILL)
    assert (user.state_dir / "admin.sock").exists()
    assert user.run("keys", "list").returncode == 0
    with user.serving("demo", "--port", "0") as gateway:
        assert user.run("keys", "create", "next").returncode == 0
        assert gateway.stop() == 0
