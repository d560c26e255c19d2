"""/api/admin/health: the servers as requests and health checks see them, and hints for more capacity."""

from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from bluesminds.gateway.routing.fleet import FleetHealth, ServerSummary
from bluesminds.gateway.routing.health import CircuitState
from bluesminds.web.guard import Access
from bluesminds.web.routes import Route, route


class CircuitView(Struct, frozen=True):
    """A model of a server that has failed lately. `open`: it gets requests only if no other target is left,
    for `seconds`. `half_open`: one request at a time is tried. `slow_start`: it has recovered and gets half
    of its share. `failures` in a row. `last_error` is a status or a kind of failure.
    """

    model: str
    state: CircuitState
    failures: int
    seconds: float
    last_error: str | None


class ServerHealthView(Struct, frozen=True):
    """`state` is the result of the last health check. `running`: connections with a request, of at most
    `capacity`.
    """

    name: str
    state: Literal["up", "down", "unknown", "unusable"]
    last_error: str | None
    running: int
    capacity: int
    circuits: list[CircuitView]


class HintView(Struct, frozen=True):
    """`busy`: every server of the model that works uses at least 80 % of its connections. `unavailable`: no
    server of the model works. `queued`: requests wait, because the servers are at their caps; `waiting` is
    their number.
    """

    model: str
    kind: Literal["busy", "unavailable", "queued"]
    servers: list[str]
    waiting: int


class FleetHealthView(Struct, frozen=True):
    servers: list[ServerHealthView]
    hints: list[HintView]


class FleetHealthHandlers(Struct, frozen=True):
    """`probe_now` checks every server."""

    health: Callable[[], FleetHealth]
    probe_now: Callable[[], Awaitable[None]]

    async def show(self) -> FleetHealthView:
        """Show the health of all servers."""
        found = self.health()
        return FleetHealthView(
            [_server(one) for one in found.servers],
            [HintView(hint.model, hint.kind, list(hint.servers), hint.waiting) for hint in found.hints],
        )

    async def probe(self) -> FleetHealthView:
        """Check all servers now, and show their health."""
        await self.probe_now()
        return await self.show()


def _server(one: ServerSummary) -> ServerHealthView:
    circuits = [
        CircuitView(row.model, row.state, row.failures, round(row.seconds, 3), row.last_error)
        for row in one.circuits
    ]
    return ServerHealthView(
        one.name, one.status.state, one.status.last_error, one.running, one.capacity, circuits
    )


def routes(handlers: FleetHealthHandlers) -> list[Route]:
    return [
        route("GET", "/api/admin/health", Access.ADMIN, handlers.show, tag="Servers"),
        route("POST", "/api/admin/health", Access.ADMIN, handlers.probe, tag="Servers"),
    ]
