"""Receipts: how a request was routed, what each attempt did, which limits and which price applied.

A receipt is built once, when the request is settled, from values that the request has anyway. It contains
names, codes and figures, but no URL and no text of a request, a response or an error.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import trio
from msgspec import Struct, structs

from bluesminds.common.money import CostItem
from bluesminds.common.values import is_own_name
from bluesminds.gateway.call import CallBody
from bluesminds.gateway.limits.counters import LimitUse
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.plans import Target, make_plan
from bluesminds.gateway.routing.selection import Dropped, Selection
from bluesminds.gateway.routing.server_keys import AttemptKey

FAILED: Final = "failed"  # the cost class of attempts that a vendor may bill
HEDGED: Final = "hedged"  # the cost class of attempts that another one has overtaken
SHADOW: Final = "shadow"  # the cost class, and the reason, of copies to a shadow target
MAX_BYTES: Final = 2048  # of one receipt
_SHORTER: Final = (8, 2, 0)  # entries of each list, if a receipt is too long
_LONGEST_NAME: Final = 64  # characters of a model in a receipt that was too long


class ReceiptTarget(Struct, frozen=True, gc=False, omit_defaults=True):
    """`model`: the name that the server gets; "" is the client's."""

    server: str
    model: str = ""


class ReceiptAttempt(Struct, frozen=True, gc=False, omit_defaults=True):
    """`at_ms` after the start of the request. `reason`: a status or a kind of failure; "" if it answered.
    `ms`: until it failed, or until the request ended. `keys`: those of a server with several. `cost_class`:
    FAILED, HEDGED or SHADOW if the vendor may bill an attempt that no account is charged for, with its
    estimated cost. A copy has the reason SHADOW, and its end is not known.
    """

    server: str
    at_ms: int
    ms: int
    model: str = ""
    reason: str = ""
    keys: tuple[AttemptKey, ...] = ()
    cost_class: str = ""
    cost_nano: int = 0


class Receipt(Struct, frozen=True, gc=False, omit_defaults=True):
    """`route`: the model of the route, "" without one. `candidates`: the targets that could serve the
    request, those of the first model in the order in which they were to be tried. `translated_to`: the format
    of the request to the server, if it is not the client's. `dropped_fields`: what the translation left out.
    `limits` by their owner: "key", "account" and "tier", or "address". `cost`: the lines of the
    cost, before a markup. `queued_ms`: how long the request waited for servers that were at their caps.
    `replay_of`: the id of the request that was sent again. `shortened`: lists are not complete.
    """

    route: str = ""
    policy: str = ""
    candidates: tuple[ReceiptTarget, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    attempts: tuple[ReceiptAttempt, ...] = ()
    translated_to: str = ""
    dropped_fields: tuple[str, ...] = ()
    reserved_tokens: int = 0
    reserved_nano: int = 0
    limits: Mapping[str, Mapping[str, LimitUse]] = {}
    price_version: str = ""
    cost: tuple[CostItem, ...] = ()
    queued_ms: int = 0
    replay_of: str = ""
    shortened: bool = False


class _Decision(Struct, frozen=True, gc=False):
    """What is known before the first attempt. `selection` is None for a model without a route."""

    catalog: ModelCatalog
    operation: Operation
    targets: Sequence[Target]
    selection: Selection | None
    body: CallBody
    only: frozenset[str] | None

    def outcome(self, model: str) -> "_Outcome":
        """Route, policy, targets and what was left out. `model`: the client's name."""
        selection = self.selection
        if selection is None:
            return "", "priority", self.targets, _left_out(self, model)
        route = selection.groups[0].route if selection.groups else None
        later = [one.target for group in selection.groups[1:] for one in group.everything]
        name, policy = ("", "priority") if route is None else (route.model, route.policy)
        return name, policy, [*self.targets, *later], selection.dropped


_Outcome = tuple[str, str, Sequence[Target], tuple[Dropped, ...]]
NOT_ROUTED: Final[_Outcome] = ("", "", (), ())  # a request to a given server


class RequestTrail:
    """Collects what the receipt of one request needs."""

    __slots__ = ("_attempts", "_current", "_decision", "_ended", "_keys", "_shadow", "queued")

    def __init__(self) -> None:
        self.queued = 0.0  # seconds
        self._decision: _Decision | None = None
        self._attempts: list[tuple[Target, float]] = []
        self._current = -1  # the number of the attempt that began last, or that has answered
        # By the number of the attempt: time, reason, class and amount of the cost.
        self._ended: dict[int, tuple[float, str, str, int]] = {}
        self._shadow: ReceiptAttempt | None = None
        self._keys: dict[int, tuple[AttemptKey, ...]] | None = None  # by the position of the attempt

    def decide(
        self,
        catalog: ModelCatalog,
        operation: Operation,
        targets: Sequence[Target],
        selection: Selection | None,
        body: CallBody,
        only: frozenset[str] | None,
    ) -> None:
        self._decision = _Decision(catalog, operation, targets, selection, body, only)

    def begin(self, target: Target) -> int:
        """An attempt begins. Returns its number."""
        self._attempts.append((target, trio.current_time()))
        self._current = len(self._attempts) - 1
        return self._current

    def note_shadow(self, target: Target, started: float, nano: int) -> None:
        """A copy of the request is sent. `nano`: the estimated cost of its input."""
        at_ms = round((trio.current_time() - started) * 1000)
        self._shadow = ReceiptAttempt(
            target.server.name, at_ms, 0, target.model, SHADOW, cost_class=SHADOW, cost_nano=nano
        )

    def select(self, number: int) -> None:
        """This attempt decides, although another one may have begun later."""
        self._current = number

    def fail(
        self,
        reason: str,
        keys: Sequence[AttemptKey] = (),
        *,
        number: int,
        cost_class: str = "",
        nano: int = 0,
    ) -> None:
        """An attempt has failed."""
        self._ended[number] = trio.current_time(), reason, cost_class, nano
        if keys:
            self.note_keys(keys, number)

    def fail_current(self, reason: str) -> None:
        """The attempt that decides has failed, unless its end is known."""
        self._ended.setdefault(self._current, (trio.current_time(), reason, "", 0))

    def note_keys(self, keys: Sequence[AttemptKey], number: int | None = None) -> None:
        """Without a number: of the attempt that decides."""
        if self._keys is None:
            self._keys = {}
        self._keys[self._current if number is None else number] = tuple(keys)

    def receipt(
        self,
        model: str,
        started: float,
        *,
        reserved: tuple[int, int],
        limits: Mapping[str, Mapping[str, LimitUse]],
        price_version: str,
        cost: tuple[CostItem, ...],
        replay_of: str,
    ) -> Receipt:
        """`model`: the client's name. `started`: Trio's clock. `reserved`: tokens and nano-USD."""
        decision = self._decision
        route, policy, targets, dropped = NOT_ROUTED if decision is None else decision.outcome(model)
        plan = self._attempts[self._current][0].plan if self._attempts else None
        return Receipt(
            route,
            policy,
            tuple([ReceiptTarget(one.server.name, one.model) for one in targets]),
            dropped,
            self._timed(started, trio.current_time()),
            plan.format if plan is not None and plan.translated else "",
            () if decision is None else decision.body.dropped,
            *reserved,
            limits,
            price_version,
            cost,
            round(self.queued * 1000),
            replay_of,
        )

    def _timed(self, started: float, now: float) -> tuple[ReceiptAttempt, ...]:
        found = []
        for at, (target, begun) in enumerate(self._attempts):
            ended, reason, class_, nano = self._ended.get(at, (now, "", "", 0))
            begun_ms = max(0, round((begun - started) * 1000))
            ms = round((ended - begun) * 1000)
            keys = () if self._keys is None else self._keys.get(at, ())
            found.append(
                ReceiptAttempt(target.server.name, begun_ms, ms, target.model, reason, keys, class_, nano)
            )
        if self._shadow is not None:
            found.append(self._shadow)
        return tuple(found)


def _left_out(decision: _Decision, model: str) -> tuple[Dropped, ...]:
    """The servers of a model without a route that did not become targets."""
    offering = decision.catalog.servers_for(model)
    if len(offering) == sum(not target.server.is_own for target in decision.targets):
        return ()
    used = {target.server.name for target in decision.targets}
    own_only = bool(used) and all(map(is_own_name, used))
    dropped = []
    for server in offering:
        if server.name in used:
            continue
        if own_only:
            dropped.append(Dropped(model, server.name, "own_key_only"))
        elif decision.only is not None and server.name not in decision.only:
            dropped.append(Dropped(model, server.name, "other_server"))
        elif make_plan(decision.operation, server) is None:
            dropped.append(Dropped(model, server.name, "no_endpoint"))
        else:
            dropped.append(Dropped(model, server.name, "unsupported"))
    return tuple(dropped)


_encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


def write_receipt(receipt: Receipt) -> str:
    """JSON of at most MAX_BYTES."""
    data = _encode(receipt)
    for entries in _SHORTER:
        if len(data) <= MAX_BYTES:
            break
        data = _encode(_shortened(receipt, entries))
    return data.decode()


def _shortened(receipt: Receipt, entries: int) -> Receipt:
    def cut(name: str) -> str:
        return name[:_LONGEST_NAME]

    return structs.replace(
        receipt,
        shortened=True,
        route=cut(receipt.route),
        candidates=tuple(ReceiptTarget(one.server, cut(one.model)) for one in receipt.candidates[:entries]),
        dropped=tuple(Dropped(cut(one.model), one.server, one.reason) for one in receipt.dropped[:entries]),
        attempts=tuple(
            structs.replace(one, model=cut(one.model), keys=one.keys[:entries])
            for one in receipt.attempts[: entries + 2]
        ),
        dropped_fields=tuple(cut(one) for one in receipt.dropped_fields[:entries]),
        price_version=cut(receipt.price_version),
    )
