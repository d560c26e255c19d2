"""Routes: which servers get the requests for a model, in which order, and which models replace it.

The most specific route applies: a name before every prefix, and a longer prefix before a shorter one.
"""

from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final, Literal

from msgspec import Struct

WILDCARD: Final = "*"
Policy = Literal["priority", "weighted", "least_latency", "least_busy", "cheapest", "affinity"]
FallbackReason = Literal["error", "limit", "timeout", "context_length", "content_filter"]
FALLBACK_ON: Final[tuple[FallbackReason, ...]] = ("error", "limit", "timeout", "context_length")


class RouteTarget(Struct, frozen=True):
    """A server, and the name that it has for the model ("": the client's name). `weight` and `priority` are
    those of the server if they are None.
    """

    server: str
    model: str = ""
    weight: int | None = None
    priority: int | None = None


class RouteOptions(Struct, frozen=True):
    """How requests of a route are sent. Times are in seconds. None: the setting of [upstream]."""

    first_token_timeout: float | None = None
    chunk_timeout: float | None = None


DEFAULT_OPTIONS: Final = RouteOptions()


class ModelRoute(Struct, frozen=True):
    """`model` is a name, or the start of names followed by "*". Without `targets`, every server that offers
    the model is one. `fallback`: the models that replace it, each by its own route, if its targets fail for a
    reason in `fallback_on`. `id` is "" if nothing refers to the route.
    """

    model: str
    targets: tuple[RouteTarget, ...] = ()
    policy: Policy = "priority"
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[FallbackReason, ...] = FALLBACK_ON
    options: RouteOptions = DEFAULT_OPTIONS
    origin: str = "file"  # or "table" (the database)
    id: str = ""


class RouteTable:
    """Routes by model name. Of several with the same `model`, the first one applies."""

    def __init__(self, routes: Iterable[ModelRoute]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, ModelRoute] = {}
        self._prefixes: dict[str, ModelRoute] = {}
        for route in self.routes:
            by_model = self._prefixes if route.model.endswith(WILDCARD) else self._exact
            by_model.setdefault(route.model.removesuffix(WILDCARD), route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def match(self, model: str) -> ModelRoute | None:
        return next(self.matches(model), None)

    def matches(self, model: str) -> Iterator[ModelRoute]:
        """The routes of a model, the most specific one first."""
        if (route := self._exact.get(model)) is not None:
            yield route
        for length in self._lengths:
            if length <= len(model) and (route := self._prefixes.get(model[:length])) is not None:
                yield route

    def exact_routes(self) -> Iterable[ModelRoute]:
        return self._exact.values()


def find_cycle(routes: Sequence[ModelRoute]) -> tuple[ModelRoute, tuple[str, ...]] | None:
    """Models that replace each other, such as ("a", "b", "a"), and the route that leads from the first to the
    second.
    """
    table = RouteTable(routes)
    names = [route.model for route in table.exact_routes()]
    names += [name for route in routes for name in route.fallback]
    graph = {name: route.fallback if (route := table.match(name)) else () for name in names}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        cycle = tuple(reversed(exc.args[1]))
        route = table.match(cycle[0])
        return None if route is None else (route, cycle)
    return None
