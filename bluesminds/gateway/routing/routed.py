"""The targets of one request whose model has a route: model after model."""

from collections.abc import Sequence

from msgspec import structs

from bluesminds.common.routes import FallbackReason, ModelRoute
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest
from bluesminds.gateway.routing.selection import ModelCandidates, Selection


class RoutedTargets:
    """Gives the targets of the first model, and those of the next one after a failure for which the route
    allows it. Targets are ordered when they are needed, so that a rotation counts only what is used.
    """

    __slots__ = (
        "_balancer",
        "_context",
        "_groups",
        "_reasons",
        "_request",
        "name",
        "options",
        "selection",
        "shadow",
    )

    def __init__(
        self, route: ModelRoute, selection: Selection, balancer: Balancer, request: RoutedRequest
    ) -> None:
        if "error" in route.fallback_on:
            health = balancer.health  # a server at a limit is healthy
            usable = health.is_usable if "limit" in route.fallback_on else health.is_healthy
            selection = selection.prefer_usable(
                lambda target: usable(target.server.name, target.model or request.model)
            )
        self.selection = selection
        self._groups = list(selection.groups)
        self.name = route.model
        self.options = route.options
        self.shadow: Target | None = None  # gets a copy of the request
        self._reasons = route.fallback_on
        self._balancer = balancer
        self._request = request
        self._context: int | None = None  # of the model whose targets were given last

    def targets(self) -> Sequence[Target]:
        """The targets that are left, in no particular order."""
        return [one.target for group in self._groups for one in group.everything]

    def preview(self) -> Sequence[tuple[ModelCandidates, Sequence[Target]]]:
        """The models that are left with their targets, best first. It uses no turn of a rotation."""
        return [(group, self._balancer.order(group, self._request, commit=False)) for group in self._groups]

    def first(self) -> Sequence[Target]:
        """The targets of the first model, best first. Empty if there is none at all."""
        if not self._groups:
            return ()
        group = self._groups.pop(0)
        self._context = group.context
        return self._balancer.order(group, self._request)

    def has_more(self, reason: FallbackReason) -> bool:
        """Whether `take` has targets."""
        return bool(self._groups) and reason in self._reasons

    def take(self, reason: FallbackReason) -> Sequence[Target]:
        """The targets of the next model, after a failure for `reason`. Empty if there is none."""
        if reason not in self._reasons:
            return ()
        if reason == "context_length":
            self._groups = [group for group in self._groups if self._is_larger(group)]
        return self.first()

    def _is_larger(self, group: ModelCandidates) -> bool:
        """Whether the model may take a longer request than the last one."""
        return group.context is None or self._context is None or group.context > self._context

    def keep_own(self) -> bool:
        """Give up the targets that are not of the caller's own keys. False if a kind is missing."""
        if not any(group.own for group in self._groups) or not any(one.candidates for one in self._groups):
            return False
        self._groups = [structs.replace(group, candidates=()) for group in self._groups if group.own]
        return True

    def drop_last_model(self) -> bool:
        """Give up the last fallback model. False if there is none."""
        if len(self._groups) < 2:
            return False
        self._groups.pop()
        return True
