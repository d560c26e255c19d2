"""The services are built on one set of resources, and changes of keys reach every subscriber."""

from pathlib import Path

from argon2 import PasswordHasher

from bluesminds.accounts.audit import OPERATOR
from bluesminds.app.resources import KeyChangeNotifier
from bluesminds.app.services import open_services
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.common.values import LimitSet
from bluesminds.config import load


def test_key_change_notifier_several_subscribers_all_are_called() -> None:
    first: list[tuple[bytes, ...]] = []
    second: list[tuple[bytes, ...]] = []
    notifier = KeyChangeNotifier()
    notifier.notify(b"early")
    notifier.subscribe(lambda *digests: first.append(digests))
    notifier.notify(b"one", b"two")
    notifier.subscribe(lambda *digests: second.append(digests))
    notifier.notify()
    assert (first, second) == ([(b"one", b"two"), ()], [()])


async def test_open_services_change_of_an_account_notifies_subscribers(home: Path) -> None:
    settings = load(None, {"BLUESMINDS__STATE_DIR": str(home / "state")}, {}).settings
    calls: list[tuple[bytes, ...]] = []
    clock = SystemClock()
    async with open_services(settings, clock=clock, log=Log(clock)) as services:
        services.key_changes.subscribe(lambda *digests: calls.append(digests))
        user_id, _ = await services.accounts.users.local_user(OPERATOR)
        calls.clear()
        await services.accounts.limits.change(OPERATOR, user_id, lambda _: LimitSet(rpm=1))
    assert calls == [()]


async def test_open_services_other_password_hasher_is_used(home: Path) -> None:
    settings = load(None, {"BLUESMINDS__STATE_DIR": str(home / "state")}, {}).settings
    clock, hasher = SystemClock(), PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    async with open_services(settings, clock=clock, log=Log(clock), password_hasher=hasher) as services:
        stored = await services.accounts.passwords.hash("correct horse battery")
    assert "$m=64,t=1,p=1$" in stored
