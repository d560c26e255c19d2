"""What the services of billing share: store, providers, and one lock for each user."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import trio
from msgspec import Struct, json, structs

from bluesminds.accounts.billing.plans import MANUAL, BillingPlan, PlanBook
from bluesminds.accounts.billing.settlement import settle
from bluesminds.accounts.billing.work import BillingRules, Settled, Settlement
from bluesminds.accounts.ledger import Ledger
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import Conflict, NotFound, Unavailable
from bluesminds.common.log import Log
from bluesminds.payments.port import (
    CustomerState,
    PaymentDeclined,
    PaymentFailed,
    PaymentNotFound,
    PaymentProvider,
)
from storage.base import Store
from storage.billing import select_plans
from storage.users import UserRow, select_user

_CALLS: Final = 8  # at the same time, to all providers


class BillingPolicy(Struct, frozen=True):
    """Top-ups in cents. `manual`: users may place orders that an administrator marks as paid, and
    `instructions` say how to pay them within `order_lifetime` milliseconds. `sync_interval`: seconds between
    two reconciliations.
    """

    topup_min: int
    topup_max: int
    return_url: str
    manual: bool = False
    instructions: str = ""
    order_lifetime: int = 14 * 86_400_000
    sync_interval: float = 86_400.0


class BillingContext:
    """`providers` by name. `changed` is called when the tier of an account has changed."""

    def __init__(
        self,
        store: Store,
        *,
        ledger: Ledger,
        clock: Clock,
        log: Log,
        rules: BillingRules,
        policy: BillingPolicy,
        providers: Mapping[str, PaymentProvider],
        changed: Callable[[], object],
    ) -> None:
        self.store = store
        self.ledger = ledger
        self.clock = clock
        self.log = log
        self.rules = rules
        self.policy = policy
        self.providers = providers
        self.calls = trio.CapacityLimiter(_CALLS)
        self._changed = changed
        self._locks: dict[str, trio.Lock] = {}
        self._plans_loaded = False

    async def plans(self) -> PlanBook:
        if not self._plans_loaded:
            await self.load_plans()
        return self.rules.plans

    async def load_plans(self) -> None:
        """Read the plans of administrators."""
        rows = await self.store.read(select_plans)
        self.rules.plans.set_stored([json.decode(row, type=BillingPlan) for row in rows])
        self._plans_loaded = True

    async def user(self, user_id: str) -> UserRow:
        """Raises NotFound."""
        user = await self.store.read(select_user, user_id) if is_uuid(user_id) else None
        if user is None:
            raise NotFound("user_not_found", "There is no user with this id.")
        return user

    async def settle(self, asked: Settlement) -> Settled:
        """Only with the lock of the user."""
        rules = structs.replace(self.rules, plans=(await self.plans()).copy())
        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            settled = await self.ledger.post_entries(settle, asked, rules, self.clock)
            if settled.tier_changed:
                self._changed()
        for payment in settled.refused:
            self.log.error("payment_refused", provider=asked.provider, user=asked.user_id, payment=payment)
        return settled

    async def settle_time(self, user_id: str) -> None:
        """What changes without a provider: ends of periods and grace, reminders."""
        async with self.lock(user_id):
            await self.settle(Settlement(user_id, MANUAL, CustomerState()))

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Calls of a provider. Raises Unavailable, and Conflict for a declined payment."""
        try:
            yield
        except PaymentDeclined as exc:
            raise Conflict(
                "payment_declined", "The payment was declined. Check the payment method, and try again."
            ) from exc
        except PaymentNotFound as exc:
            self.log.warning("payment_provider_failed", reason=str(exc))
            raise Conflict(
                "payment_object_unknown",
                "The payment provider does not know this customer, subscription or product. Choose “Check for"
                " payments” on the billing page, and order again. If that does not help, ask your"
                " administrator.",
            ) from exc
        except PaymentFailed as exc:
            self.log.warning("payment_provider_failed", reason=str(exc))
            raise Unavailable(
                "payment_provider_unavailable", "The payment provider cannot be reached. Try again later."
            ) from exc

    @contextlib.asynccontextmanager
    async def lock(self, user_id: str) -> AsyncIterator[None]:
        """One after the other for each user, so that the state that is read last is settled last."""
        lock = self._locks.setdefault(user_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(user_id, None)
