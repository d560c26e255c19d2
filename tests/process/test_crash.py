"""kill -9: no answered request is lost, none counts twice, and money and limits are exact after each restart.

KILLS=100 in the environment kills more often. `pytest -s` shows the figures.
"""

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.process.crashes import KILLS, AnswerRecorder, CrashSite
from tests.terminal import User, demo_user

BETWEEN = (10, 400)  # complete responses before a kill


@pytest.fixture
def site(home: Path) -> Iterator[CrashSite]:
    site = CrashSite(home)
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
