"""The queue for servers at their caps: order, bounds, deadlines and slots."""

from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.common.errors import UpstreamFailed
from bluesminds.gateway.routing.capacity_queue import CapacityQueue, QueuedRequest, QueueLimits
from bluesminds.gateway.routing.load import LoadRegistry, RunningAttempt
from bluesminds.gateway.routing.plans import Plan, Target
from tests.gateway.routing.test_policies import server

LIMITS = QueueLimits(timeout=10.0, size=100, per_account=50)
PLAN = Plan("chat", "/chat/completions")


class Desk:
    """A queue for servers with caps. `granted`: the names of requests that got a slot, in order, and where.
    `observed`: outcomes with their seconds.
    """

    def __init__(self, caps: dict[str, int], *, rpm: int = 0, limits: QueueLimits = LIMITS) -> None:
        self.load = LoadRegistry()
        self.servers = {
            name: structs.replace(server(name), max_concurrency=cap, rpm=rpm) for name, cap in caps.items()
        }
        self.load.set_caps(self.servers.values())
        self.observed: list[tuple[str, float]] = []
        self.queue = CapacityQueue(self.load, limits, lambda *seen: self.observed.append(seen))
        self.granted: list[tuple[str, str]] = []
        self.slots: dict[str, RunningAttempt] = {}
        self.refused: dict[str, UpstreamFailed] = {}

    def targets(self, *names: str) -> list[Target]:
        return [Target(self.servers[name], PLAN) for name in names or self.servers]

    def take(self, name: str) -> RunningAttempt:
        slot = self.queue.begin(self.targets(name)[0], ask("first"))
        assert slot is not None
        return slot

    async def wait(self, name: str, account: str, *servers: str, **options: float) -> None:
        request = structs.replace(ask(account), **options)
        try:
            target, slot = await self.queue.wait(self.targets(*servers), request)
        except UpstreamFailed as exc:
            self.refused[name] = exc
            return
        self.granted.append((name, target.server.name))
        self.slots[name] = slot


def ask(account: str) -> QueuedRequest:
    return QueuedRequest(account, "m", stream=True)


async def begin(nursery: trio.Nursery, desk: Desk, *requests: tuple[str, str]) -> None:
    """Let requests (name, account) wait, one after the other."""
    for name, account in requests:
        nursery.start_soon(desk.wait, name, account)
        await wait_all_tasks_blocked()


async def test_accounts_take_turns_and_each_keeps_its_order(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1})
    slot = desk.take("a")
    await begin(nursery, desk, ("x1", "x"), ("x2", "x"), ("x3", "x"), ("y1", "y"), ("y2", "y"), ("z1", "z"))
    assert desk.queue.length == 6
    for number in range(6):
        slot.end()
        await wait_all_tasks_blocked()
        assert len(desk.granted) == number + 1, "a free slot wakes one request"
        slot = desk.slots[desk.granted[-1][0]]
    assert [name for name, _ in desk.granted] == ["x1", "y1", "z1", "x2", "y2", "x3"]
    assert (desk.queue.length, desk.load.listener) == (0, None)


async def test_free_slot_goes_to_the_next_request_that_can_use_it(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1, "b": 1})
    first, second = desk.take("a"), desk.take("b")
    nursery.start_soon(desk.wait, "only a", "x", "a")
    await wait_all_tasks_blocked()
    nursery.start_soon(desk.wait, "any", "x", "a", "b")
    await wait_all_tasks_blocked()
    second.end()
    await wait_all_tasks_blocked()
    assert desk.granted == [("any", "b")]
    first.end()
    await wait_all_tasks_blocked()
    assert desk.granted == [("any", "b"), ("only a", "a")]


async def test_new_request_does_not_pass_the_waiting_ones(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1})
    slot = desk.take("a")
    await begin(nursery, desk, ("x1", "x"))
    slot.end()
    assert desk.queue.begin(desk.targets()[0], ask("y")) is None
    await wait_all_tasks_blocked()
    assert desk.granted == [("x1", "a")]


async def test_request_without_a_slot_in_time_is_refused(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    desk = Desk({"a": 1})
    slot = desk.take("a")
    begun = trio.current_time()
    await desk.wait("x1", "x")
    assert trio.current_time() - begun == pytest.approx(10)
    await desk.wait("x2", "x", timeout=3.0)
    assert trio.current_time() - begun == pytest.approx(13)
    await desk.wait("x3", "x", timeout=0.0)
    for error in desk.refused.values():
        assert (error.status, error.code) == (503, "servers_busy")
        assert 1 <= int(error.headers["retry-after"]) <= 60
    assert len(desk.refused) == 3 and desk.queue.length == 0
    assert desk.observed == [("timeout", pytest.approx(10)), ("timeout", pytest.approx(3))]
    slot.end()
    assert desk.load.in_flight("a") == 0


async def test_cancelled_request_leaves_the_queue_at_once(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1})
    slot = desk.take("a")
    async with trio.open_nursery() as client:
        await begin(client, desk, ("x1", "x"))
        await begin(nursery, desk, ("y1", "y"))
        client.cancel_scope.cancel()
    assert (desk.queue.length, desk.observed[0][0]) == (1, "left")
    slot.end()
    await wait_all_tasks_blocked()
    assert desk.granted == [("y1", "a")]


async def test_slot_of_a_request_that_is_cancelled_with_it_goes_to_the_next(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1})
    slot = desk.take("a")
    async with trio.open_nursery() as client:
        await begin(client, desk, ("x1", "x"))
        await begin(nursery, desk, ("y1", "y"))
        client.cancel_scope.cancel()
        slot.end()  # before the cancellation is delivered
    await wait_all_tasks_blocked()
    assert desk.load.in_flight("a") == 1
    assert "y1" in desk.slots or desk.granted == [("x1", "a")]
    for held in desk.slots.values():
        held.end()
    await wait_all_tasks_blocked()
    for held in desk.slots.values():
        held.end()
    assert (desk.load.in_flight("a"), desk.queue.length) == (0, 0)


@pytest.mark.parametrize(
    ("limits", "options", "outcome"),
    [
        (QueueLimits(10.0, 2, 50), {}, "full"),
        (QueueLimits(10.0, 50, 2), {}, "account_full"),
        (LIMITS, {"size": 2}, "full"),
    ],
    ids=["all", "account", "route"],
)
async def test_full_queue_refuses_at_once(
    nursery: trio.Nursery, limits: QueueLimits, options: dict[str, int], outcome: str
) -> None:
    desk = Desk({"a": 1}, limits=limits)
    desk.take("a")
    await begin(nursery, desk, ("x1", "x"), ("x2", "x"))
    await desk.wait("x3", "x", **options)
    assert (desk.refused["x3"].status, desk.refused["x3"].code) == (503, "queue_full")
    assert "retry-after" in desk.refused["x3"].headers
    assert desk.observed == [(outcome, 0.0)]
    if outcome == "account_full":
        await begin(nursery, desk, ("y1", "y"))
        assert desk.queue.length == 3, "other accounts can still wait"
    nursery.cancel_scope.cancel()


async def test_cap_per_minute_gives_its_slots_when_the_window_has_room(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    desk = Desk({"a": 0}, rpm=2, limits=QueueLimits(600.0, 100, 50))
    nursery.start_soon(desk.queue.run)
    desk.take("a")
    desk.take("a")
    begun = trio.current_time()
    async with trio.open_nursery() as clients:
        for name in ("x1", "x2", "x3"):
            clients.start_soon(desk.wait, name, "x")
    waits = [seconds for outcome, seconds in desk.observed if outcome == "served"]
    assert [round(seconds / 60) for seconds in sorted(waits)] == [1, 1, 2]
    assert trio.current_time() - begun < 130
    with pytest.raises(UpstreamFailed) as caught:
        await desk.queue.wait(desk.targets(), structs.replace(ask("x"), timeout=0.0))
    assert int(caught.value.headers["retry-after"]) <= 60
    nursery.cancel_scope.cancel()


async def test_raised_cap_serves_the_waiting_requests(nursery: trio.Nursery) -> None:
    desk = Desk({"a": 1})
    desk.take("a")
    await begin(nursery, desk, ("x1", "x"), ("y1", "y"))
    desk.load.set_caps([structs.replace(desk.servers["a"], max_concurrency=2)])
    await wait_all_tasks_blocked()
    assert desk.granted == [("x1", "a")]
    desk.load.set_caps([structs.replace(desk.servers["a"], max_concurrency=0)])
    await wait_all_tasks_blocked()
    assert desk.granted == [("x1", "a"), ("y1", "a")]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("xyz"), st.sampled_from(("a", "b", "ab"))),
        st.tuples(st.just("end"), st.integers(0, 9), st.just("")),
    ),
    max_size=60,
)


@given(actions=ACTIONS, caps=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_any_order_of_requests_is_served_fairly_and_within_the_caps(
    actions: list[tuple[str, str | int, str]], caps: tuple[int, int]
) -> None:
    trio.run(_check_fairness, actions, dict(zip("ab", caps, strict=True)))


async def _check_fairness(actions: list[tuple[str, str | int, str]], caps: dict[str, int]) -> None:
    desk = Desk(caps)
    asked: dict[str, tuple[str, str]] = {}  # account and servers by the name of the request
    passed: Counter[tuple[str, str]] = Counter()  # slots of an account since another one waits for it

    def waiting() -> list[str]:
        return [name for name in asked if name not in dict(desk.granted)]

    def check(before: list[str], granted: list[tuple[str, str]]) -> None:
        for name, at in granted:
            account, servers = asked[name]
            older = [one for one in before if asked[one] == (account, servers)]
            assert not older or older[0] == name, "first come, first served"
            before = [one for one in before if one != name]
            for other in {asked[one][0] for one in before if at in asked[one][1]} - {account}:
                passed[other, account + at] += 1
                assert passed[other, account + at] <= 2, "accounts take turns"
            for key in [key for key in passed if key[0] == account and key[1].endswith(at)]:
                del passed[key]

    async with trio.open_nursery() as nursery:
        for number, (action, what, where) in enumerate(actions):
            before, had = waiting(), len(desk.granted)
            if action == "ask":
                name = f"{what}{number}"
                asked[name] = (str(what), where)
                request, targets = ask(str(what)), desk.targets(*where)
                slots = [(one, slot) for one in targets if (slot := desk.queue.begin(one, request))]
                for _, slot in slots[1:]:
                    slot.end()  # only the first one is used
                if slots:
                    desk.granted.append((name, slots[0][0].server.name))
                    desk.slots[name] = slots[0][1]
                else:
                    nursery.start_soon(desk.wait, name, str(what), *where)
            elif desk.slots:
                desk.slots.pop(sorted(desk.slots)[int(what) % len(desk.slots)]).end()
            await wait_all_tasks_blocked()
            if action == "end":
                check(before, desk.granted[had:])
            for at, cap in caps.items():
                assert desk.load.in_flight(at) <= cap
                idle = desk.load.in_flight(at) < cap
                assert not (idle and [one for one in waiting() if at in asked[one][1]]), "no slot is idle"
        while desk.slots:
            desk.slots.popitem()[1].end()
            await wait_all_tasks_blocked()
    assert not waiting() and not desk.queue.length and not desk.refused
    assert all(desk.load.in_flight(at) == 0 for at in caps)
