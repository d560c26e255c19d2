"""Alerts: their states, on both engines, and the messages that channels get."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bluesminds.accounts import alerts as module
from bluesminds.accounts.alerts import AlertChanges, Alerts, step
from bluesminds.accounts.audit import OPERATOR
from bluesminds.common.alerts import AlertRule, AlertState
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.http.client.pool import Pool
from bluesminds.notify.alert_channels import AlertChannel, AlertSender
from storage import Store
from storage.alerts import select_alert_states
from storage.base import StorageUnavailable
from storage.events import select_new_events
from tests import gateways
from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import NOON

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]

RULE = AlertRule("errors", "error_share", 5.0, hold=60.0, quiet=600.0, channels=("mail", "s", "d", "w"))
MINUTE = 60_000


@dataclass
class Chats:
    """Slack, Discord and another receiver, by path. They answer as the real ones do."""

    port: int = 0
    failing: bool = False
    got: list[tuple[str, Any]] = field(default_factory=list)

    async def play(self, peer: Peer) -> None:
        while True:
            received: Received = await peer.request()
            path = received.line.split(b" ")[1].decode()
            if self.failing:
                await peer.answer(b"no_service", status=b"503 Service Unavailable")
                continue
            self.got.append((path, msgspec.json.decode(received.body)))
            if path.startswith("/api/webhooks/"):
                await peer.answer(b"", status=b"204 No Content")
            else:
                await peer.answer(b"ok")


class Site:
    def __init__(self, store: Store, pool: Pool, chats: Chats) -> None:
        self.store, self.chats = store, chats
        self.now, self.value = NOON, 0.0
        self.lines: list[bytes] = []
        base = f"http://127.0.0.1:{chats.port}"
        self.channels = [
            AlertChannel("s", "slack", f"{base}/services/T0/B0/secret"),
            AlertChannel("d", "discord", f"{base}/api/webhooks/1/secret?wait=false"),
            AlertChannel("w", "webhook", f"{base}/in"),
        ]
        self.sender = AlertSender(pool)
        self.restart()

    def restart(self) -> None:
        self.alerts = Alerts(
            self.store,
            clock=self,
            log=Log(self, write=self.lines.append),
            configured=[RULE],
            channels=self.channels,
            sender=self.sender,
        )

    def now_ms(self) -> int:
        return self.now

    async def measure(self, rule: AlertRule) -> float:
        return self.value

    async def after(self, minutes: float, value: float) -> int:
        """Evaluate once; the number of messages so far."""
        self.now += round(minutes * MINUTE)
        self.value = value
        await self.alerts.evaluate(self.measure)
        return len(self.chats.got)

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        found = await self.store.read(select_new_events, 100)
        assert all(event.account_id is None for event in found)
        return [(event.kind, msgspec.json.decode(event.data)) for event in found]


@pytest.fixture
async def site(store: Store, nursery: trio.Nursery) -> AsyncIterator[Site]:
    chats = Chats()
    upstream = await nursery.start(raw_upstream.serve, chats.play)
    chats.port = upstream.port
    pool = Pool()
    await nursery.start(pool.run)
    yield Site(store, pool, chats)


async def test_alert_that_holds_is_sent_once_to_each_channel_and_so_is_its_end(site: Site) -> None:
    assert await site.after(0, 9.5) == 0
    assert await site.after(1, 9.5) == 3
    assert await site.after(120, 8.0) == 3
    text = "errors: 9.5% of the requests fail; the limit is 5."
    assert dict(site.chats.got) == {
        "/services/T0/B0/secret": {"text": f"Alert {text}"},
        "/api/webhooks/1/secret?wait=false": {
            "content": f"Alert {text}",
            "allowed_mentions": {"parse": []},
        },
        "/in": {
            "type": "alert.firing",
            "timestamp": "2027-01-15T12:01:00.000Z",
            "data": {
                "rule": "errors",
                "kind": "error_share",
                "text": "9.5% of the requests fail; the limit is 5.",
                "value": 9.5,
                "above": 5.0,
                "since": "2027-01-15T12:00:00.000Z",
            },
        },
    }
    assert await site.after(1, 1.0) == await site.after(1, 1.0) == 6
    assert dict(site.chats.got[3:])["/services/T0/B0/secret"] == {
        "text": "Resolved errors: 1% of the requests fail; the limit is 5."
    }
    assert [(kind, data["mail"]) for kind, data in await site.events()] == [
        ("alert.firing", True),
        ("alert.resolved", True),
    ]


async def test_figure_that_is_too_high_for_a_moment_is_not_sent(site: Site) -> None:
    for _ in range(3):
        assert await site.after(0.5, 9.0) == 0
        assert await site.after(0.5, 5.0) == 0
    assert await site.events() == []


async def test_alert_that_comes_and_goes_is_quiet_for_a_time(site: Site) -> None:
    await site.after(0, 9.0)
    assert await site.after(1, 9.0) == 3
    assert await site.after(1, 0.0) == 6
    await site.after(1, 9.0)
    assert await site.after(2, 9.0) == 6  # within the quiet time
    assert await site.after(1, 0.0) == 6  # and so is its end
    await site.after(1, 9.0)
    assert await site.after(5, 9.0) == 9


async def test_state_survives_a_restart(site: Site) -> None:
    await site.after(0, 9.0)
    site.restart()
    assert await site.after(1, 9.0) == 3
    site.restart()
    assert await site.after(1, 9.0) == 3
    assert await site.after(1, 0.0) == 6


async def test_message_that_a_channel_does_not_take_is_sent_again_for_an_hour(site: Site) -> None:
    site.chats.failing = True
    await site.after(0, 9.0)
    assert await site.after(1, 9.0) == 0
    (status,) = await site.alerts.list()
    assert status.state.unsent == ("s", "d", "w")
    site.restart()
    site.chats.failing = False
    assert await site.after(1, 9.0) == await site.after(1, 9.0) == 3
    site.chats.failing = True
    await site.after(1, 0.0)
    await site.after(61, 0.0)
    site.chats.failing = False
    assert await site.after(1, 0.0) == 3
    lines = [msgspec.json.decode(line) for line in site.lines]
    assert [(line["event"], line["channel"]) for line in lines] == [
        ("alert_not_sent", name) for name in ("s", "d", "w")
    ]
    assert b"secret" not in b"".join(site.lines)


async def test_alerts_of_administrators_are_added_listed_and_removed(site: Site) -> None:
    rule = AlertRule("queue", "queue", 10.0, channels=("mail",))
    await site.alerts.add(OPERATOR, rule)
    with pytest.raises(Conflict):
        await site.alerts.add(OPERATOR, rule)
    with pytest.raises(Conflict):
        await site.alerts.add(OPERATOR, RULE)
    with pytest.raises(InvalidRequest):
        await site.alerts.add(OPERATOR, AlertRule("other", "queue", 1.0, channels=("none",)))
    await site.after(0, 11.0)
    found = await site.alerts.list()
    assert [(one.rule.name, one.origin, one.state.phase, one.value) for one in found] == [
        ("errors", "file", "pending", 11.0),
        ("queue", "table", "pending", 11.0),
    ]
    changes = AlertChanges(above=20.0, channels=("s",))
    changed = await site.alerts.change(OPERATOR, "queue", changes)
    assert changed == AlertRule("queue", "queue", 20.0, channels=("s",))
    await site.after(0, 15.0)
    (_, queue) = await site.alerts.list()
    assert (queue.rule, queue.state.phase) == (changed, "ok")
    with pytest.raises(Conflict):
        await site.alerts.change(OPERATOR, "errors", changes)
    with pytest.raises(InvalidRequest):
        await site.alerts.change(OPERATOR, "queue", AlertChanges(channels=("none",)))
    await site.alerts.remove(OPERATOR, "queue")
    for again in (site.alerts.remove(OPERATOR, "queue"), site.alerts.change(OPERATOR, "queue", changes)):
        with pytest.raises(NotFound):
            await again
    with pytest.raises(Conflict):
        await site.alerts.remove(OPERATOR, "errors")
    assert len(await site.alerts.list()) == 1


async def test_rules_of_other_settings_replace_those_before(site: Site) -> None:
    await site.alerts.add(OPERATOR, AlertRule("queue", "queue", 10.0))
    await site.after(0, 11.0)
    site.alerts.configure([AlertRule("queue", "queue", 50.0)], site.channels)
    (only,) = await site.alerts.list()
    assert (only.origin, only.rule.above) == ("file", 50.0)
    await site.after(0, 11.0)
    assert list(await site.store.read(select_alert_states)) == ["queue"], "the state of errors is deleted"


async def test_add_of_too_many_alerts_is_rejected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RULES", 0)
    with pytest.raises(Conflict):
        await site.alerts.add(OPERATOR, AlertRule("queue", "queue", 10.0))
    assert len(await site.alerts.list()) == 1


async def test_test_of_an_alert_says_what_is_wrong_with_each_channel(site: Site) -> None:
    assert await site.alerts.test("errors") == {"mail": "", "s": "", "d": "", "w": ""}
    assert len(site.chats.got) == 3
    site.chats.failing = True
    found = await site.alerts.test("errors")
    assert found["s"] == "it responded with status 503"
    assert [data["test"] for _, data in await site.events()] == [True, True]
    with pytest.raises(NotFound):
        await site.alerts.test("unknown")


async def test_database_that_fails_while_alerts_are_sent_is_no_other_error(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in a group of tasks would be another error than that of the database."""
    await site.after(0, 9.0)
    site.chats.failing = True
    await site.after(1, 9.0)
    site.chats.failing = False

    async def fails(*args: object) -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(site.store, "write", fails)
        assert await site.after(1, 9.0) == 3
        with pytest.raises(StorageUnavailable):
            await site.alerts.test("errors")
    assert await site.after(1, 9.0) == 9  # three for the test, and three that were sent again


@pytest.mark.parametrize(
    ("state", "value", "phase"),
    [
        (AlertState(), 5.0, "ok"),
        (AlertState(), 5.1, "pending"),
        (AlertState(phase="pending", since=NOON - MINUTE + 1), 6.0, "pending"),
        (AlertState(phase="pending", since=NOON - MINUTE), 6.0, "firing"),
        (AlertState(phase="firing", notified=True), 6.0, "firing"),
        (AlertState(phase="firing", notified=True), 0.0, "ok"),
        (AlertState(phase="firing"), float("nan"), "ok"),
    ],
)
def test_step_follows_the_figure(state: AlertState, value: float, phase: str) -> None:
    assert step(RULE, state, value, NOON).phase == phase


def test_channel_does_not_show_its_url() -> None:
    assert "secret" not in repr(AlertChannel("s", "slack", "https://hooks.example/secret"))


async def test_gateway_sends_an_alert_about_a_server_that_is_down(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    chats = Chats()
    upstream = await nursery.start(raw_upstream.serve, chats.play)
    channel = {"name": "team", "kind": "slack", "url": f"http://127.0.0.1:{upstream.port}/services/x"}
    rules = [
        {"name": "servers", "kind": "server", "above": 0.0, "hold": 0.0, "channels": ["team"]},
        *(
            {"name": kind, "kind": kind.replace("-", "_"), "above": 0.0, "channels": ["mail"]}
            for kind in ("budget", "error-share", "latency", "drift", "queue")
        ),
    ]
    servers = [gateways.entry("one", "http://127.0.0.1:9/v1")]
    sections = {"alerts": {"channels": [channel], "rules": rules}}
    gateway = await gateways.start(nursery, home, servers=servers, **sections)
    await gateways.eventually(lambda: bool(chats.got))
    assert chats.got == [("/services/x", {"text": "Alert servers: 1 server(s) down; the limit is 0."})]
    async with gateway.operator() as operator:
        listed = (await operator.get("/api/admin/alerts")).json()["data"]
        states = {row["name"]: row["state"] for row in listed}
        assert states == dict.fromkeys(states, "ok") | {"servers": "firing"}
        page = await operator.get("/dashboard/admin/alerts")
        assert page.status_code == 200 and "firing" in page.text
        body = {"name": "more", "kind": "queue", "above": 100}
        assert (await operator.post("/api/admin/alerts", json=body)).status_code == 201
        assert (await operator.post("/api/admin/alerts/servers/test")).json()["channels"] == {"team": ""}
        assert (await operator.delete("/api/admin/alerts/more")).status_code == 204
        assert (await operator.delete("/api/admin/alerts/servers")).status_code == 409
    assert gateway.events("background_task_failed") == []
