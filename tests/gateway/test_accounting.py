"""A request is settled once, whichever exit comes first; an internal error is a 500."""

import json
import random
from datetime import UTC
from typing import Any, cast

import msgspec
import pytest
import trio

from bluesminds.common.broadcast import Broadcast
from bluesminds.common.clock import Calendar, SystemClock
from bluesminds.common.log import Log
from bluesminds.common.values import NO_LIMITS, Caller, LimitSet, Usage
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.admission import Admission
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.observer import RequestObserver
from bluesminds.gateway.passthrough.handler import PassthroughHandler
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.relay import Relay
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.gateway.routing.policies import Balancer
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.gateway.sockets.realtime import RealtimeSessions
from bluesminds.gateway.stored_responses.handler import StoredResponseHandler
from bluesminds.gateway.stored_responses.links import RequestLinks
from bluesminds.gateway.stream_relay import StreamRelay
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.gateway.upstream.shadow import ShadowTraffic
from bluesminds.http.asgi import Disconnect, Message
from bluesminds.web.data_plane import DataPlane
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.chat import CHAT
from bluesminds.wire.stages import Passthrough
from storage.base import Store
from storage.keys import KeyHolder
from tests.fakes.model_server import chunk
from tests.gateway.routing.test_policies import server
from tests.gateway.test_authenticate import KEY, PEPPER
from tests.gateway.test_estimate import call
from tests.gateway.test_recorder import FakeStore
from tests.gateways import body_memory
from tests.prices import registry, token_price
from tests.storage.samples import key as key_row
from tests.storage.samples import user

CALLER = Caller(
    key_id="k",
    user_id="u",
    key_limits=LimitSet(rpm=5, concurrency=1),
    user_limits=NO_LIMITS,
    expires_at=None,
)
PRICE = token_price(2_000_000, 8_000_000, 1_000_000, max_output=100)


async def no_origins() -> frozenset[str]:
    return frozenset()


class AccountingSetup:
    """The accounting of a gateway on a store that the test controls."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.log = Log(SystemClock(), write=self.lines.append)
        self.metrics = Metrics()
        self.store = FakeStore()
        self.recorder = Recorder(
            cast(Store, self.store), max_rows=10, timeout=1, log=self.log, metrics=self.metrics
        )
        self.limiter = RateLimiter(SystemClock(), Calendar(UTC), lambda: True)
        for subject in ("key:k", "user:u"):
            self.limiter.open_account(subject, None)
        self.estimator = Estimator(registry({"m": PRICE}), default_completion=10)
        self.accounting = UsageAccounting(
            recorder=self.recorder,
            estimator=self.estimator,
            observer=RequestObserver(self.metrics, self.log, log_requests=True, followers=Broadcast()),
            strict=True,
        )

    def open(self) -> UsageEntry:
        self.recorder.reserve()
        return self.accounting.open(CALLER, call(size=40), self.limiter.reserve(CALLER, Estimate(20, 0)))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for line in self.lines if (event := json.loads(line))["event"] == name]


async def test_request_is_settled_by_its_first_exit_only(nursery: trio.Nursery) -> None:
    setup = AccountingSetup()
    nursery.start_soon(setup.recorder.run)
    entry = setup.open()
    entry.try_target(Target(server("one"), Plan("chat", "/chat/completions")))
    assert setup.limiter.running == 1
    entry.finish(200, "ok", Usage(input_tokens=3, output_tokens=4, usage_source="upstream"))
    assert setup.limiter.running == 0 and setup.metrics.cost["m", "one"] == entry.cost == 38
    entry.finish(500, "internal", Usage())
    entry.close(499, "client_gone")
    await entry.wait_durable()
    assert [len(commit) for commit in setup.store.commits] == [1]
    (event,) = setup.events("request")
    assert (event["status"], event["outcome"], event["input_tokens"]) == (200, "ok", 3)
    assert setup.recorder.held == 0
    setup.limiter.reserve(CALLER, Estimate(20, 0))


async def test_failing_log_makes_no_second_row(nursery: trio.Nursery) -> None:
    setup = AccountingSetup()

    def broken(line: bytes) -> None:
        raise BrokenPipeError

    observer = msgspec.structs.replace(setup.accounting.observer, log=Log(SystemClock(), write=broken))
    setup.accounting = msgspec.structs.replace(setup.accounting, observer=observer)
    entry = setup.open()
    with pytest.raises(BrokenPipeError):
        entry.finish(200, "ok", Usage())
    entry.close(500, "internal")
    nursery.start_soon(setup.recorder.run)
    await entry.wait_durable()
    assert [len(commit) for commit in setup.store.commits] == [1]
    assert (setup.recorder.held, setup.limiter.running) == (0, 0)


async def test_closing_asks_what_was_used_so_far(nursery: trio.Nursery) -> None:
    setup = AccountingSetup()
    nursery.start_soon(setup.recorder.run)
    entry = setup.open()
    stage = Passthrough(CHAT, RequestFacts(model="m", stream=True, text_bytes=4))
    entry.begin_response(stage)
    stage.feed(chunk("12345678"))
    entry.close(499, "client_gone")
    await entry.wait_durable()
    (event,) = setup.events("request")
    assert (event["outcome"], event["output_tokens"]) == ("client_gone", 2)


async def test_usage_so_far_includes_earlier_attempts() -> None:
    """A crash must not lose what a server has used whose stream went on elsewhere."""
    setup = AccountingSetup()
    entry = setup.open()
    target = Target(server("one"), Plan("chat", "/chat/completions"))
    entry.try_target(target)
    entry.begin_response(Passthrough(CHAT, RequestFacts(model="m", stream=True, text_bytes=4)))
    following = Passthrough(CHAT, RequestFacts(model="m", stream=True, text_bytes=4))
    following.feed(chunk("12345678"))
    entry.replace_stage(following, target, Usage(input_tokens=3, output_tokens=4, usage_source="upstream"))
    row = entry.so_far()
    assert (row.input_tokens, row.output_tokens, row.outcome) == (4, 6, "crashed")
    assert row.cost_nano == 4 * 2 + 6 * 8
    entry.close(499, "client_gone")
    assert entry.cost == row.cost_nano


@pytest.mark.parametrize("prepaid", [True, False])
async def test_usage_so_far_charges_more_than_is_reserved(prepaid: bool) -> None:
    """A reservation that lags behind the cost must not make a crash cheaper."""
    setup = AccountingSetup()
    if prepaid:
        setup.limiter.credit_changed("u", 10**9, 1)
    entry = setup.open()
    stage = Passthrough(CHAT, RequestFacts(model="m", stream=True, text_bytes=4))
    entry.begin_response(stage)
    stage.feed(chunk("word" * 100))
    assert entry.reservation.reserved[1] == 0
    row = entry.so_far()
    assert row.cost_nano == 1 * 2 + 100 * 8
    assert row.charged_nano == (row.cost_nano if prepaid else None)


async def test_settled_usage_is_recorded_and_learned(nursery: trio.Nursery) -> None:
    setup = AccountingSetup()
    nursery.start_soon(setup.recorder.run)
    entry = setup.open()
    entry.finish(
        200, "ok", Usage(input_tokens=20, output_tokens=5, cache_read_tokens=8, usage_source="upstream")
    )
    assert entry.cost == 12 * 2 + 8 + 5 * 8
    assert setup.limiter.in_use("user:u").tpm == 25
    assert setup.estimator.estimate(call(size=160)).tokens > 100 + 160 // 4 + 1
    await entry.wait_durable()


class Broken:
    """A sender with a fault."""

    async def send(self, *_: object) -> None:
        raise ValueError("canary-in-the-message")


async def test_bug_in_gateway_is_500_without_detail(nursery: trio.Nursery) -> None:
    setup = AccountingSetup()
    nursery.start_soon(setup.recorder.run)
    holder = KeyHolder(key_row(user()), None, None, None, None)

    async def look_up(_: bytes) -> KeyHolder | None:
        setup.limiter.open_account(f"key:{holder.key.id}", None)
        setup.limiter.open_account(f"user:{holder.key.user_id}", None)
        return holder

    class NoLinks:
        def concerns(self, *_: object) -> bool:
            return False

    class OneServer:
        catalog = ModelCatalog([server("one")], {})
        keyless = ModelCatalog([], {})

    keys = KeyAuthenticator(
        look_up,
        pepper=PEPPER,
        clock=SystemClock(),
        cache_seconds=5,
        tiers={},
        is_open=setup.limiter.is_open,
    )
    gateway = Gateway(
        keys=keys,
        admission=Admission(
            OneServer(),
            Balancer(
                ServerHealthRegistry(eject_after=5, eject_seconds=30),
                LoadRegistry(),
                RotationRegistry(),
                random.random,
            ),
            setup.limiter,
            setup.accounting,
        ),
        limiter=setup.limiter,
        sender=cast(Sender, Broken()),
        relay=Relay(cast(StreamRelay, None), cast(AttemptOutcomes, None), expose_server=True),
        accounting=setup.accounting,
        links=cast(RequestLinks, NoLinks()),
        shadow=cast(ShadowTraffic, None),
        total_timeout=5,
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"model":"m","messages":[]}', "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"x-api-key", KEY.encode())],
        "client": None,
        "extensions": {"disconnect": Disconnect()},
    }
    edge = DataPlane(
        gateway,
        cast(PassthroughHandler, None),
        cast(StoredResponseHandler, None),
        cast(RealtimeSessions, None),
        cast(Any, None),
        cast(Any, None),
        cast(Any, None),
        origins=BrowserOrigins((), gateway.keys, no_origins, cache_seconds=1),
        bodies=body_memory(1000),
        clock=SystemClock(),
        log=setup.log,
    )
    with trio.fail_after(60):
        await edge(scope, receive, send)
    assert sent[0]["status"] == 500
    told = msgspec.json.decode(sent[1]["body"])["error"]
    assert (told["code"], told["type"]) == ("internal_error", "server_error")
    assert [event["outcome"] for event in setup.events("request")] == ["internal"]
    (event,) = setup.events("request_failed")
    assert (event["error"], event["request_id"]) == ("ValueError", told["request_id"])
    assert "canary" not in b"".join(setup.lines).decode() + str(sent)
    assert setup.limiter.running == 0
