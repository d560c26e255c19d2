"""An OpenTelemetry collector for OTLP/HTTP with JSON, on a real socket.

collector = await nursery.start(collector.serve)
"""

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream


@dataclass
class Collector:
    """`statuses` are the next answers, in order; then 200. `spans` are those of accepted requests."""

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    received: list[Received] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    statuses: deque[bytes] = field(default_factory=deque)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1/traces"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            self.received.append(received)
            status = self.statuses.popleft() if self.statuses else b"200 OK"
            if status == b"200 OK":
                for group in json.loads(received.body)["resourceSpans"]:
                    self.resources.append(attributes_of(group["resource"]))
                    self.spans += [span for scope in group["scopeSpans"] for span in scope["spans"]]
            await peer.answer(b"{}", b"Content-Type: application/json", status=status)


def attributes_of(holder: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a span or a resource as plain values; integers are text in OTLP's JSON."""
    found = {}
    for attribute in holder["attributes"]:
        ((kind, value),) = attribute["value"].items()
        found[attribute["key"]] = int(value) if kind == "intValue" else value
    return found


async def serve(*, task_status: trio.TaskStatus[Collector]) -> None:
    """Serve on a free loopback port until cancelled."""
    server = Collector()
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
