"""A summary of all servers: what probes and requests say about them, how busy they are, and whether more
capacity is needed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import CircuitStatus, ServerHealthRegistry, ServerStatus

BUSY_SHARE: Final = 0.8  # of the connections that a server may have


class ServerSummary(Struct, frozen=True):
    """`running`: connections with a request, of at most `capacity`: the cap of the server, or the maximum of
    all servers. `circuits`: the models of the server that
    have failed lately.
    """

    name: str
    status: ServerStatus
    running: int
    capacity: int
    circuits: tuple[CircuitStatus, ...] = ()

    @property
    def is_busy(self) -> bool:
        return self.running >= BUSY_SHARE * self.capacity


class ScalingHint(Struct, frozen=True):
    """`busy`: all servers of the model that work are busy. `unavailable`: none of them works. `queued`:
    `waiting` requests wait for the servers, because these are at their caps.
    """

    model: str
    kind: Literal["busy", "unavailable", "queued"]
    servers: tuple[str, ...]
    waiting: int = 0


class FleetHealth(Struct, frozen=True):
    servers: tuple[ServerSummary, ...] = ()
    hints: tuple[ScalingHint, ...] = ()


def summarize(
    catalog: ModelCatalog,
    health: ServerHealthRegistry,
    *,
    status: Callable[[str], ServerStatus],
    running: Callable[[Server], int],
    capacity: int,
    waiting: Mapping[str, tuple[int, Sequence[str]]],
) -> FleetHealth:
    """`running`: the connections of a server that have a request. `capacity`: of a server without a cap.
    `waiting`: the requests in the queue and the servers that they wait for, by model.
    """
    circuits: defaultdict[str, list[CircuitStatus]] = defaultdict(list)
    for circuit in health.circuits():
        circuits[circuit.server].append(circuit)
    servers = tuple(
        ServerSummary(
            server.name,
            status(server.name),
            running(server),
            min(capacity, server.max_concurrency or capacity),
            tuple(circuits[server.name]),
        )
        for server in catalog.servers
    )
    queued = [
        ScalingHint(model, "queued", tuple(names), count) for model, (count, names) in sorted(waiting.items())
    ]
    hints = _hints(catalog, health, {one.name: one for one in servers})
    return FleetHealth(servers, (*queued, *hints))


def _hints(
    catalog: ModelCatalog, health: ServerHealthRegistry, servers: Mapping[str, ServerSummary]
) -> Sequence[ScalingHint]:
    hints = []
    for row in catalog.models():
        names = tuple(server.name for server in catalog.servers_for(row.id))
        if not names:
            continue
        working = [name for name in names if health.is_usable(name, row.id)]
        if not working:
            hints.append(ScalingHint(row.id, "unavailable", names))
        elif all(servers[name].is_busy for name in working):
            hints.append(ScalingHint(row.id, "busy", names))
    return hints
