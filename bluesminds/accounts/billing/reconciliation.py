"""Reads the state at the payment providers and settles it: after events, when it is due, and regularly.

An event of a provider only says whose state has changed.
"""

import contextlib
from collections.abc import Mapping
from typing import Final

import trio
from msgspec import Struct, structs

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.plans import MANUAL
from bluesminds.accounts.billing.trials import Trials
from bluesminds.accounts.billing.work import GATEWAY, Settlement
from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import Unavailable
from bluesminds.payments.port import (
    CustomerState,
    PaymentFailed,
    PaymentNotFound,
    PaymentProvider,
    ProviderEvent,
)
from storage.base import StorageBroken, StorageUnavailable
from storage.billing import (
    expire_orders,
    has_billing_event,
    put_customer,
    select_customer_user,
    select_customer_users_after,
    select_customers,
    select_due_users,
    select_duplicates,
    select_open_orders,
    select_order,
    select_provider_payment,
)
from storage.users import select_user

FIRST_SYNC: Final = 300.0  # seconds after the start, because events may have been lost meanwhile
ROUND: Final = 60.0  # seconds between two searches for subscriptions that are due
STALE: Final = 2 * 86_400_000  # milliseconds; longer than a checkout can be paid
_USERS_PER_PAGE: Final = 100


class SyncReport(Struct, frozen=True):
    """Users whose state was read, and those whose provider could not be reached."""

    users: int
    failed: int


class Reconciliation:
    def __init__(self, context: BillingContext, trials: Trials) -> None:
        self._context = context
        self._store = context.store
        self._trials = trials

    async def handle(self, name: str, headers: Mapping[str, str], body: bytes) -> None:
        """Handle an event of a provider. It is settled when this returns. Raises SignatureInvalid,
        Unavailable if the provider cannot be reached, and StorageError.
        """
        provider = self._context.providers[name]
        event = provider.read_event(headers, body, self._context.clock.now_ms())
        if await self._store.read(has_billing_event, name, event.id):
            return
        with self._context.asking():
            user_id = await self._user_of(provider, event)
            if user_id is not None:
                await self._read_and_settle(provider, user_id, event=(event.id, event.kind))
            elif not await self.settle_payment(provider, event.payment, (event.id, event.kind)):
                self._context.log.info("payment_event_ignored", provider=name, kind=event.kind)

    async def settle_payment(
        self,
        provider: PaymentProvider,
        payment_id: str,
        event: tuple[str, str] | None = None,
        actor: Actor = GATEWAY,
    ) -> bool:
        """Settle a payment of a deleted user. False if it is not known."""
        payment = await self._store.read(select_provider_payment, provider.name, payment_id)
        if payment is None:
            return False
        async with self._context.lock(payment.user_id):
            state = CustomerState(payments=[await provider.read_payment(payment_id)])
            asked = Settlement(payment.user_id, provider.name, state, event, actor)
            await self._context.settle(asked)
        return True

    async def _user_of(self, provider: PaymentProvider, event: ProviderEvent) -> str | None:
        """The user of the customer or payment, or else of the order, if the provider confirms who paid it."""
        if event.customer:
            found = await self._store.read(select_customer_user, provider.name, event.customer)
            if found is not None:
                return found
        payment = await self._store.read(select_provider_payment, provider.name, event.payment)
        if payment is not None:
            user = await self._store.read(select_user, payment.user_id)
            return None if user is None else user.id
        order = await self._store.read(select_order, event.order_id) if is_uuid(event.order_id) else None
        if order is None or order.provider != provider.name or not order.checkout_id:
            return None
        if await self._store.read(select_user, order.user_id) is None:
            return None  # a customer of a deleted account can be that of a new one
        customer = await provider.customer_of(order.checkout_id)
        if not customer:
            return None
        return await self.link(provider.name, customer, order.user_id)

    async def link(self, provider: str, customer: str, user_id: str) -> str | None:
        """Give a customer to a user, unless it belongs to another one. Returns its user."""
        await self._store.write(put_customer, provider, customer, user_id, self._context.clock.now_ms())
        return await self._store.read(select_customer_user, provider, customer)

    async def refresh(self, user_id: str, actor: Actor = GATEWAY) -> None:
        """Read the state of a user from all providers. Raises Unavailable."""
        names = {name for name, _ in await self._store.read(select_customers, user_id)}
        with self._context.asking():
            for name in sorted(names & set(self._context.providers)):
                await self._read_and_settle(self._context.providers[name], user_id, actor)
        await self._context.settle_time(user_id)

    async def _read_and_settle(
        self,
        provider: PaymentProvider,
        user_id: str,
        actor: Actor = GATEWAY,
        event: tuple[str, str] | None = None,
    ) -> None:
        async with self._context.lock(user_id), self._context.calls:
            if event is not None and await self._store.read(has_billing_event, provider.name, event[0]):
                return
            state = await self._read(provider, user_id, with_checkouts=event is None)
            await self._context.settle(Settlement(user_id, provider.name, state, event, actor))
            if await self._end_duplicates(provider, user_id):
                state = await self._read(provider, user_id, with_checkouts=False)
                await self._context.settle(Settlement(user_id, provider.name, state))

    async def _end_duplicates(self, provider: PaymentProvider, user_id: str) -> bool:
        """Refund and end subscriptions that were paid although the user had one. A failure is repeated with
        the next reconciliation.
        """
        found = await self._store.read(select_duplicates, user_id, provider.name)
        for one in found:
            try:
                if not one.is_refunded:  # first, because an ended subscription is not looked at again
                    await provider.refund(one.payment)
                if not one.has_ended:
                    await provider.end_now(one.subscription)
            except PaymentFailed as exc:
                self._context.log.warning("payment_provider_failed", reason=str(exc))
        return bool(found)

    async def _read(self, provider: PaymentProvider, user_id: str, *, with_checkouts: bool) -> CustomerState:
        """`with_checkouts`: also look for customers who paid with another address."""
        orders = await self._store.read(select_open_orders, user_id)
        checkouts = [one.checkout_id for one in orders if one.provider == provider.name and one.checkout_id]
        if with_checkouts:
            for checkout in checkouts:
                if customer := await provider.customer_of(checkout):
                    await self.link(provider.name, customer, user_id)
        state, has_unknown = CustomerState(), False
        for name, customer in await self._store.read(select_customers, user_id):
            if name != provider.name:
                continue
            try:
                state = _joined(state, await provider.read(customer, checkouts))
            except PaymentNotFound:  # the key is of another mode, or the customer was deleted
                has_unknown = True
                self._context.log.warning("payment_customer_unknown", provider=name, user=user_id)
        if not has_unknown:
            return state
        stale = self._context.clock.now_ms() - STALE
        expired = [one.checkout_id for one in orders if one.created_at < stale]
        return structs.replace(state, expired=[*state.expired, *expired], is_complete=True)

    async def sync(self) -> SyncReport:
        """Read the state of all customers from the providers."""
        users = failed = 0
        last = ""
        while page := await self._store.read(select_customer_users_after, last, _USERS_PER_PAGE):
            for user_id in page:
                users += 1
                failed += not await self._refreshed(user_id)
            last = page[-1]
        return SyncReport(users, failed)

    async def run(self) -> None:
        """Settle what is due, and reconcile regularly, until cancelled."""
        interval = self._context.policy.sync_interval
        next_sync = trio.current_time() + min(FIRST_SYNC, interval)
        while True:
            with contextlib.suppress(StorageUnavailable, StorageBroken):
                await self.settle_due()
                await self._trials.settle_due()
                if trio.current_time() >= next_sync:
                    next_sync = trio.current_time() + interval
                    report = await self.sync()
                    self._context.log.info("billing_synced", users=report.users, failed=report.failed)
            await trio.sleep(ROUND)

    async def settle_due(self) -> None:
        """Ends of orders, periods and grace, and reminders. Reads the provider first, if possible."""
        now = self._context.clock.now_ms()
        await self._store.write(expire_orders, MANUAL, now - self._context.policy.order_lifetime)
        for user_id in await self._store.read(select_due_users, now, _USERS_PER_PAGE):
            if not await self._refreshed(user_id):
                await self._context.settle_time(user_id)

    async def _refreshed(self, user_id: str) -> bool:
        """Whether the state of the user could be read. An answer that cannot be understood is logged: it must
        not stop the round of all users.
        """
        try:
            await self.refresh(user_id)
        except (StorageUnavailable, StorageBroken):
            raise
        except Unavailable:
            return False
        except Exception as exc:
            self._context.log.exception("billing_refresh_failed", exc, user=user_id)
            return False
        return True


def _joined(one: CustomerState, other: CustomerState) -> CustomerState:
    return CustomerState(
        [*one.subscriptions, *other.subscriptions],
        [*one.payments, *other.payments],
        [*one.expired, *other.expired],
    )
