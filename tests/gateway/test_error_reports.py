"""Unexpected errors are reported to a Sentry server."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from bluesminds.gateway.error_reports import SentryAddress
from tests import gateways
from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received
from tests.gateways import eventually


@dataclass
class SentryServer:
    status: bytes = b"200 OK"
    received: list[Received] = field(default_factory=list)

    async def play(self, peer: Peer) -> None:
        while True:
            self.received.append(await peer.request())
            await peer.answer(b"{}", status=self.status)


def fail(secret: str) -> None:
    raise ValueError(secret)


async def test_unexpected_error_is_reported_once_without_its_message(
    nursery: trio.Nursery, home: Path
) -> None:
    server = SentryServer()
    upstream = await nursery.start(raw_upstream.serve, server.play)
    dsn = f"http://publickey@127.0.0.1:{upstream.port}/base/42"
    gateway = await gateways.start(nursery, home, servers=[], log={"sentry_dsn": dsn})
    log = gateway.services.log
    await eventually(lambda: log.followers.readers == 1)
    log.error("usage_commit_failed", reason="not a bug")
    for _ in range(2):
        try:
            fail("sk-secret")
        except ValueError as exc:
            log.exception("control_failed", exc, request_id="one", path="/api/keys")
    log.exception("local_failed", KeyError("x"))
    await eventually(lambda: len(server.received) == 2)
    first, second = server.received
    assert first.line.startswith(b"POST /base/api/42/envelope/ ")
    assert b"sentry_key=publickey" in first.values(b"x-sentry-auth")[0]
    head, item, body = (json.loads(line) for line in first.body.splitlines())
    assert item == {"type": "event"} and head["event_id"] == body["event_id"]
    assert body["transaction"] == "control_failed"
    assert body["tags"] == {"request_id": "one", "path": "/api/keys"}
    (error,) = body["exception"]["values"]
    assert error["type"] == "ValueError" and error["stacktrace"]["frames"][-1]["function"] == "fail"
    assert b"sk-secret" not in first.body
    assert b"local_failed" in second.body
    assert "publickey" not in gateway.log


async def test_report_that_is_refused_is_logged_once(nursery: trio.Nursery, home: Path) -> None:
    server = SentryServer(b"403 Forbidden")
    upstream = await nursery.start(raw_upstream.serve, server.play)
    dsn = f"http://publickey@127.0.0.1:{upstream.port}/42"
    gateway = await gateways.start(nursery, home, servers=[], log={"sentry_dsn": dsn})
    log = gateway.services.log
    await eventually(lambda: log.followers.readers == 1)
    log.exception("local_failed", KeyError("x"))
    log.exception("control_failed", KeyError("x"))
    await eventually(lambda: len(server.received) == 2)
    assert [event["reason"] for event in gateway.events("error_not_reported")] == ["403"]


@pytest.mark.parametrize("dsn", ["", "https://host/1", "https://key@host/", "nothing", "https://key@[/1"])
def test_dsn_that_is_malformed_is_refused_without_its_text(dsn: str) -> None:
    with pytest.raises(ValueError, match="a DSN looks like https://KEY@host/PROJECT"):
        SentryAddress.parse(dsn)
