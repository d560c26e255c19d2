"""Killed in the middle of its work, the gateway has forgotten nothing it answered.

A witness keeps the id of every request whose answer it has wholly received. After each kill and restart
every one of them must be in the database exactly once.
"""

import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import trio

from tests.terminal import SECONDS, Serving, User, demo_user

CLIENTS = 8
READY_SECONDS = 2.0  # of CPU time, which other work on the machine does not lengthen


@dataclass
class Witness:
    """Asks until the gateway is gone. `whole` is what was wholly answered."""

    url: str
    key: str
    whole: list[str] = field(default_factory=list)
    enough: trio.Event = field(default_factory=trio.Event)
    until: int = 0

    def tell(self, request_id: str) -> None:
        self.whole.append(request_id)
        if len(self.whole) >= self.until:
            self.enough.set()

    async def see(self, more: int) -> None:
        """Wait for that many more whole answers."""
        self.enough, self.until = trio.Event(), len(self.whole) + more
        with trio.fail_after(SECONDS):
            await self.enough.wait()

    async def ask(self, client: int, name: str) -> None:
        """Even clients read plain answers, odd ones streams."""
        streamed = client % 2 == 1
        model = "demo/text" if streamed else "demo/echo"
        body = {
            "model": model,
            "stream": streamed,
            "max_tokens": 3 + client,
            "messages": [_message("Hello!")],
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
                    self.tell(request_id)


def _message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def work_until_killed(gateway: Serving, witness: Witness, name: str, dice: random.Random) -> None:
    """Killed as soon as some answers are through, at any moment of the others."""
    async with trio.open_nursery() as nursery:
        for client in range(CLIENTS):
            nursery.start_soon(witness.ask, client, name)
        await witness.see(dice.randint(10, 100))
        await trio.sleep(dice.uniform(0, 0.03))
        gateway.tell(signal.SIGKILL)
    await trio.to_thread.run_sync(gateway.process.wait)


def check(user: User, witness: Witness) -> None:
    recorded = Counter(request_id for (request_id,) in user.rows("SELECT request_id FROM usage"))
    assert [one for one in witness.whole if recorded[one] != 1] == []
    assert user.rows("PRAGMA integrity_check") == [("ok",)]
    ((rolled_up,),) = user.rows("SELECT sum(requests) FROM usage_daily")
    assert rolled_up == recorded.total(), "the totals agree with the rows"
    counted = user.rows("SELECT total_tokens, day_tokens FROM quota_counters WHERE subject LIKE 'user:%'")
    ((total, day),) = user.rows(
        "SELECT sum(tokens), sum(tokens) FILTER (WHERE day = (SELECT max(day) FROM usage))"
        " FROM (SELECT day, input_tokens + output_tokens AS tokens FROM usage)"
    )
    assert counted == [(total, day)], "so do the counters of limits"


@pytest.mark.parametrize("rounds", [3, pytest.param(25, marks=pytest.mark.process)])
async def test_nothing_answered_is_lost(home: Path, rounds: int) -> None:
    user = demo_user(home)
    dice = random.Random(rounds)  # noqa: S311 - the same moments in every run
    gateway = user.start("demo", "--port", "0")
    witness = Witness(gateway.url, gateway.key)
    try:
        for number in range(rounds):
            await work_until_killed(gateway, witness, f"r{number}", dice)
            gateway = user.start("demo", "--port", "0")
            times = psutil.Process(gateway.process.pid).cpu_times()
            assert times.user + times.system <= READY_SECONDS
            witness.url, witness.key = gateway.url, gateway.key
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{gateway.url}/ready")).status_code == 200
            check(user, witness)
        assert gateway.stop() == 0
    finally:
        gateway.process.kill()
        gateway.process.wait()
    check(user, witness)


def test_a_killed_gateway_leaves_nothing_in_the_way(home: Path) -> None:
    """Its socket file and its lock file stay behind; neither keeps a command or the next start waiting."""
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        gateway.stop(signal.SIGKILL)
    assert (user.state_dir / "admin.sock").exists()
    assert user.run("keys", "list").returncode == 0
    with user.serving("demo", "--port", "0") as gateway:
        assert user.run("keys", "create", "next").returncode == 0
        assert gateway.stop() == 0
