"""Routes: which servers get the requests for a model, in which order, and which models replace it.

The most specific route whose conditions hold applies: a name before every prefix, a longer prefix before a
shorter one, and of equal ones a route with conditions before one without.
"""

from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Final, Literal

from msgspec import Struct

WILDCARD: Final = "*"
Policy = Literal[
    "priority", "weighted", "least_latency", "least_busy", "cheapest", "affinity", "region", "pinned"
]
Recovery = Literal["restart", "continue", "error"]
# How a target continues a text that is the last message: with a mark in the message (`prefix`: Mistral), with
# a field of the request (`continue_final_message`: vLLM), or without a mark.
Prefill = Literal["message", "prefix", "continue_final_message"]
FallbackReason = Literal["error", "limit", "timeout", "context_length", "content_filter"]
Need = Literal["tools", "images", "audio"]
FALLBACK_ON: Final[tuple[FallbackReason, ...]] = ("error", "limit", "timeout", "context_length")


class RouteTarget(Struct, frozen=True):
    """A server, and the name that it has for the model ("": the client's name). `weight` and `priority` are
    those of the server if they are None. `prefill`: how it takes the beginning of an answer, if it does.
    """

    server: str
    model: str = ""
    weight: int | None = None
    priority: int | None = None
    prefill: Prefill | None = None


class RouteTraits(Struct, frozen=True, gc=False):
    """What conditions see of a request. `key_tags`: of the API key. `regions` and `tags`: what the request
    requires of servers. `prompt_tokens` is an estimate.
    """

    tier: str = ""
    key_tags: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    needs: frozenset[Need] = frozenset()
    prompt_tokens: int = 0


NO_TRAITS: Final = RouteTraits()


class RouteCondition(Struct, frozen=True, omit_defaults=True):
    """All parts must hold; an empty one always does. `needs` must all be needed, of the others one must
    match.
    """

    tier: tuple[str, ...] = ()
    key_tag: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    prompt_tokens_over: int | None = None

    def holds(self, traits: RouteTraits) -> bool:
        return (
            (not self.tier or traits.tier in self.tier)
            and (not self.key_tag or not traits.key_tags.isdisjoint(self.key_tag))
            and (not self.region or not traits.regions.isdisjoint(self.region))
            and (not self.tag or not traits.tags.isdisjoint(self.tag))
            and traits.needs.issuperset(self.needs)
            and (self.prompt_tokens_over is None or traits.prompt_tokens > self.prompt_tokens_over)
        )


class RouteOptions(Struct, frozen=True):
    """How requests of a route are sent. Times are in seconds. None: the setting of [upstream].
    `recovery`: what happens if a server fails after the first content of a stream. `repeat_accepted`: whether
    a request is sent again that a server may have accepted and may bill. `queue_timeout` and `queue_size`:
    how long requests wait for servers that are at their caps, and how many. `hedge_after`: if a stream has no
    content so long, the request is also sent to the next target; None: it is not. `hedge_share`: of requests,
    at most. `hedge_daily_usd`: the estimated cost in each UTC day, at most. `shadow`: a server that gets
    copies of requests; None: there are no copies. `shadow_model`: its name of the model, "" for the client's.
    `shadow_share` and `shadow_daily_usd` bound them as those of hedged requests. `prefer_regions`: of the
    policy `region`, the best one first.
    """

    first_token_timeout: float | None = None
    chunk_timeout: float | None = None
    recovery: Recovery = "restart"
    repeat_accepted: bool = True
    queue_timeout: float | None = None
    queue_size: int | None = None
    hedge_after: float | None = None
    hedge_share: float = 0.05
    hedge_daily_usd: str = "1"
    shadow: str | None = None
    shadow_model: str = ""
    shadow_share: float = 0.05
    shadow_daily_usd: str = "1"
    prefer_regions: tuple[str, ...] = ()


DEFAULT_OPTIONS: Final = RouteOptions()


class ModelRoute(Struct, frozen=True):
    """`model` is a name, or a prefix followed by "*". Without `targets`, every server that offers
    the model is one. `fallback`: the models that replace it, each by its own route, if its targets fail for a
    reason in `fallback_on`. `when`: None for a route without conditions. `id` is "" if nothing refers to the
    route.
    """

    model: str
    targets: tuple[RouteTarget, ...] = ()
    policy: Policy = "priority"
    fallback: tuple[str, ...] = ()
    fallback_on: tuple[FallbackReason, ...] = FALLBACK_ON
    options: RouteOptions = DEFAULT_OPTIONS
    when: RouteCondition | None = None
    origin: str = "file"  # or "table" (the database)
    id: str = ""

    @property
    def key(self) -> "RouteKey":
        """No two routes that apply have the same."""
        return self.model, self.when


RouteKey = tuple[str, RouteCondition | None]


class RouteTable:
    """Routes by model name. Of several with the same `model` and conditions, the first one applies.
    `conditional`: whether a route has conditions.
    """

    def __init__(self, routes: Iterable[ModelRoute]) -> None:
        self.routes = tuple(routes)
        self.conditional = any(route.when is not None for route in self.routes)
        self._exact: dict[str, list[ModelRoute]] = {}
        self._prefixes: dict[str, list[ModelRoute]] = {}
        for route in sorted(self.routes, key=lambda route: route.when is None):
            by_model = self._prefixes if route.model.endswith(WILDCARD) else self._exact
            by_model.setdefault(route.model.removesuffix(WILDCARD), []).append(route)
        self._lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def match(self, model: str, traits: RouteTraits = NO_TRAITS) -> ModelRoute | None:
        for route in self.matches(model):
            if route.when is None or route.when.holds(traits):
                return route
        return None

    def matches(self, model: str) -> Iterator[ModelRoute]:
        """The routes of a model, the most specific one first, whether their conditions hold or not."""
        yield from self._exact.get(model, ())
        for length in self._lengths:
            if length <= len(model):
                yield from self._prefixes.get(model[:length], ())

    def possible(self, model: str) -> Iterator[ModelRoute]:
        """The routes of a model that can apply: up to the first one without conditions."""
        for route in self.matches(model):
            yield route
            if route.when is None:
                return

    def exact_routes(self) -> Iterable[ModelRoute]:
        """One route for each name."""
        return [routes[-1] for routes in self._exact.values()]


def find_cycle(routes: Sequence[ModelRoute]) -> tuple[ModelRoute, tuple[str, ...]] | None:
    """Models that replace each other, such as ("a", "b", "a"), and the route that leads from the first to the
    second.
    """
    table = RouteTable(routes)
    names = [route.model for route in table.exact_routes()]
    names += [name for route in routes for name in route.fallback]
    graph = {name: [one for route in table.possible(name) for one in route.fallback] for name in names}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        cycle = tuple(reversed(exc.args[1]))
        for route in table.possible(cycle[0]):
            if cycle[1] in route.fallback:
                return route, cycle
    return None
