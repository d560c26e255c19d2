"""Smooth weighted round robin: nginx's algorithm (ngx_http_upstream_round_robin.c, since version 1.3.1).

With weights 5, 1 and 1 the order is a, a, b, a, c, a, a: requests follow the weights exactly and are spread
evenly.
"""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from bluesminds.common.routes import RouteKey

K = TypeVar("K", bound=Hashable)
TargetName = tuple[str, str]  # server, and its name of the model if the route has one


class WeightedRotation(Generic[K]):
    """The state of one route. The keys may change from one call to the next."""

    __slots__ = ("_current",)

    def __init__(self) -> None:
        self._current: dict[K, int] = {}

    def next(self, weights: Mapping[K, int], *, commit: bool = True) -> K:
        """The key whose turn it is; `weights` must not be empty. Without `commit`, the turn is not used."""
        current = {key: self._current.get(key, 0) + weight for key, weight in weights.items()}
        best = max(current, key=current.__getitem__)
        if commit:
            current[best] -= sum(weights.values())
            self._current.update(current)
        return best


class RotationRegistry:
    """The rotations of all routes, by route."""

    def __init__(self) -> None:
        self._rotations: dict[RouteKey, WeightedRotation[TargetName]] = {}

    def of(self, route: RouteKey) -> WeightedRotation[TargetName]:
        rotation = self._rotations.get(route)
        if rotation is None:
            rotation = self._rotations[route] = WeightedRotation()
        return rotation

    def keep_only(self, routes: set[RouteKey]) -> None:
        """Drop the rotations of routes that no longer exist."""
        for route in self._rotations.keys() - routes:
            del self._rotations[route]
