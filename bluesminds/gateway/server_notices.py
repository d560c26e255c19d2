"""Events of servers that go down and recover.

A server is reported as down when all checks have failed for some time, and as recovered with the next check
that succeeds. What was reported is stored, so that a restart does not report it again.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bluesminds.common.clock import Clock, format_time
from bluesminds.common.values import Server
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.notify.events import EventKind, new_event
from storage.base import Connection, Store
from storage.events import EventRow, insert_events
from storage.rounds import run_rounds
from storage.settings import put_setting, select_setting

INTERVAL: Final = 10.0  # seconds
REPORTED: Final = "servers_reported_down"  # the setting: a JSON object, server to since when, in milliseconds


class ServerNotices:
    """`down_seconds`: how long a server is down before it is reported."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        statuses: Callable[[], Sequence[tuple[Server, ServerStatus]]],
        down_seconds: float,
    ) -> None:
        self._store = store
        self._clock = clock
        self._statuses = statuses
        self._down_ms = round(down_seconds * 1000)
        self._since: dict[str, int] = {}  # since when servers are down
        self._reported: dict[str, int] | None = None  # None: not read yet

    async def run(self) -> None:
        """Run until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.run_once, INTERVAL)

    async def run_once(self) -> None:
        if self._reported is None:
            stored = await self._store.read(select_setting, REPORTED)
            self._reported = msgspec.json.decode(stored or "{}", type=dict[str, int])
        now, statuses = self._clock.now_ms(), {server.name: status for server, status in self._statuses()}
        self._since = {
            name: self._since.get(name, now) for name, status in statuses.items() if status.state == "down"
        }
        reported = {name: since for name, since in self._reported.items() if name in statuses}
        events = []
        for name, since in self._since.items():
            if name not in reported and now - since >= self._down_ms:
                reported[name] = since
                reason = statuses[name].last_error
                events.append(_event(now, "server.down", name, since, reason=(reason or "")[:500]))
        for name in [name for name in reported if statuses[name].state == "up"]:
            since = reported.pop(name)
            events.append(_event(now, "server.recovered", name, since, seconds=(now - since) // 1000))
        if events or reported != self._reported:
            await self._store.write(_report, events, msgspec.json.encode(reported).decode())
            self._reported = reported


def _event(now: int, kind: EventKind, server: str, since: int, **more: object) -> EventRow:
    return new_event(now, kind, None, {"server": server, "since": format_time(since), **more})


async def _report(connection: Connection, events: Sequence[EventRow], reported: str) -> None:
    await insert_events(connection, events)
    await put_setting(connection, REPORTED, reported)
