"""kill -9: no answered request is lost, none counts twice, and money and limits are exact after each restart.

`make test-crash` kills more often than `make test-process` does, and prints figures.
"""

import random
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

from bluesminds.common.money import read_usd
from tests.process.crashes import KILLS, AnswerRecorder, CrashSite
from tests.process.killed_at import POINTS
from tests.storage.conftest import postgres, postgres_url
from tests.terminal import SECONDS, User, demo_user

__all__ = ["postgres", "postgres_url"]

ANSWERS = 20
BETWEEN = (10, 400)  # complete responses before a kill
ANSWERED = """
    SELECT request_id, key_id, cost_nano, input_tokens + output_tokens, day, at + duration_ms FROM usage
"""
BEFORE_CHECKPOINT = 12  # at most so many pages are copied before a checkpoint is killed


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, home: Path) -> Iterator[CrashSite]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    site = CrashSite(home, url)
    yield site
    site.close()


async def add_members(site: CrashSite) -> None:
    for name, prepaid in (("measured", False), ("first", True), ("second", True), ("third", True)):
        await site.add_member(name, prepaid=prepaid)


async def report(site: CrashSite, recorder: AnswerRecorder, kills: int) -> None:
    outcomes = await site.rows("SELECT outcome, count(*) FROM usage GROUP BY outcome ORDER BY outcome")
    entries = await site.rows("SELECT kind, count(*) FROM ledger GROUP BY kind ORDER BY kind")
    starts = sorted(site.starts)
    print(  # noqa: T201
        f"\n{kills} kills, {len(recorder.complete)} answered requests, usage {dict(outcomes)},"
        f" ledger {dict(entries)}; ready after {median(starts):.2f} s, at most {starts[-1]:.2f} s,"
        f" within 2 s in {sum(one <= 2 for one in starts)} of {len(starts)} starts"
    )


async def test_gateway_is_killed_under_load_answers_money_and_limits_are_exact(site: CrashSite) -> None:
    rng = random.Random(KILLS)  # noqa: S311 - the same numbers in every run
    site.start()
    await add_members(site)
    recorder = AnswerRecorder()
    for _ in range(KILLS):
        async with recorder.clients(site):
            await recorder.wait_for(rng.randint(*BETWEEN))
            await site.kill()
        site.start()
        await site.check(recorder.complete)
    assert User(site.home).run("ledger", "verify", "--config", "gateway.toml").returncode == 0
    assert site.gateway.stop() == 0
    await report(site, recorder, KILLS)


async def test_gateway_is_killed_at_each_point_answers_money_and_limits_are_exact(site: CrashSite) -> None:
    """At the moments between which a reservation, a usage row or an answer could be lost or counted twice."""
    rng = random.Random(KILLS)  # noqa: S311
    each = max(1, KILLS // 5)
    site.start()
    await add_members(site)
    assert site.gateway.stop() == 0
    recorder = AnswerRecorder()
    launchers: list[list[str]] = []
    for point in POINTS:
        program = [sys.executable, "-m", "tests.process.killed_at", point]
        launchers += [[*program, str(rng.randint(5, 60))] for _ in range(each)]
    if not site.url and (strace := shutil.which("strace")):
        launchers += [in_checkpoint(strace, site, rng.randint(1, BEFORE_CHECKPOINT)) for _ in range(each)]
    for launcher in launchers:
        site.start(launcher)
        await site.check(recorder.complete)
        async with recorder.clients(site):
            assert await site.ended() == -signal.SIGKILL
    site.start()
    await site.check(recorder.complete)
    assert site.gateway.stop() == 0
    await report(site, recorder, len(launchers))


def in_checkpoint(strace: str, site: CrashSite, pages: int) -> list[str]:
    """Only a checkpoint writes to the file of the database. Kill the process at one of its writes."""
    kill = f"inject=pwrite64:signal=SIGKILL:when={pages}"
    options = ["-f", "-qq", "-o", "/dev/null", "-P", str(User(site.home).database)]
    return [strace, *options, "-e", "trace=pwrite64", "-e", kill, sys.executable, "-m", "bluesminds"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_twenty_answers_and_a_signal_usage_budgets_and_limits_are_exact(
    site: CrashSite, number: signal.Signals
) -> None:
    site.start()
    await add_members(site)
    measured, prepaid, *_ = site.members
    answered = []
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        for serial in range(ANSWERS):
            member = (measured, prepaid)[serial % 2]
            body = {
                "model": "demo/text",
                "stream": serial % 4 > 1,
                "max_tokens": 5,
                "messages": [{"role": "user", "content": "Hello!"}],
            }
            headers = {"authorization": f"Bearer {member.key}", "x-request-id": f"answer-{serial}"}
            url = f"{site.gateway.url}/v1/chat/completions"
            answer = await client.post(url, json=body, headers=headers)
            assert answer.status_code == 200
            answered.append(f"answer-{serial}")
        site.gateway.send_signal(number)
    assert await site.ended() == (0 if number is signal.SIGTERM else -number)
    rows = await site.rows(ANSWERED)
    assert sorted(row[0] for row in rows) == sorted(answered)
    site.start()
    await site.check(answered)
    for member in (measured, prepaid):
        await check_limits(site, member.key_id, [row for row in rows if row[1] == member.key_id])


async def check_limits(site: CrashSite, key_id: str, rows: list[tuple[Any, ...]]) -> None:
    """`rows`: id, key, nano-USD, tokens, day, and when the request ended, in milliseconds."""
    assert len(rows) == ANSWERS // 2
    began = now()
    limits = await site.operate("GET", f"/keys/{key_id}/limits")
    ended = now()
    nano, tokens = (sum(row[column] for row in rows) for column in (2, 3))
    assert limits["concurrency"]["used"] == 0
    assert read_usd(limits["usd_total"]["used"]) == nano
    if {row[4] for row in rows} == {began.date().isoformat(), ended.date().isoformat()}:
        assert limits["tokens_per_day"]["used"] == tokens
        assert read_usd(limits["usd_per_day"]["used"]) == read_usd(limits["usd_per_month"]["used"]) == nano
    # The last minute counts whole requests, which may leave it while this test runs.
    recent = [row for row in rows if row[5] > ended.timestamp() * 1000 - 60_000]
    assert len(recent) <= limits["rpm"]["used"] <= len(rows)
    assert sum(row[3] for row in recent) <= limits["tpm"]["used"] <= tokens


def now() -> datetime:
    return datetime.now(UTC)


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
