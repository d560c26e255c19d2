"""Plans and payments of accounts: orders, subscriptions, refunds, and the state at the payment providers.

An event of a provider only says whose state has changed. The state is then read from the provider and settled
(see settlement.py). The nightly reconciliation does the same for all customers.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio
from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.invoices import Invoices
from bluesminds.accounts.ledger import Ledger
from bluesminds.accounts.plans import MANUAL, BillingPlan, PlanBook, period_end
from bluesminds.accounts.settlement import CENT, BillingRules, Settled, Settlement, settle
from bluesminds.accounts.trials import Referrals, Trials
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, uuid7
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.common.log import Log
from bluesminds.common.money import write_usd
from bluesminds.payments.port import (
    BillingCustomer,
    Checkout,
    CheckoutRequest,
    CustomerState,
    PaymentDeclined,
    PaymentFailed,
    PaymentProvider,
    PaymentState,
    ProviderEvent,
    SubscriptionState,
)
from storage.audit import AuditRow, insert_audit
from storage.base import Connection, StorageBroken, StorageUnavailable, Store
from storage.billing import (
    OrderRow,
    PaymentRow,
    SubscriptionRow,
    count_subscribers,
    delete_plan,
    has_billing_event,
    has_subscribers,
    insert_order,
    put_customer,
    put_plan,
    select_customer_user,
    select_customer_users_after,
    select_customers,
    select_due_users,
    select_open_orders,
    select_order,
    select_orders,
    select_payment,
    select_payments,
    select_plans,
    select_subscriptions,
    set_order,
)
from storage.users import UserRow, select_user

FIRST_SYNC: Final = 300.0  # seconds after the start, because events may have been lost meanwhile
ROUND: Final = 60.0  # seconds between two searches for subscriptions that are due
MAX_OPEN_ORDERS: Final = 20  # of a user; a provider is asked about each of them
_USERS_PER_PAGE: Final = 100
_CALLS: Final = 8  # at the same time, to all providers
_LIVE: Final = ("active", "trialing", "past_due")


class BillingPolicy(Struct, frozen=True):
    """Top-ups in cents. `manual`: users may place orders that an administrator marks as paid, and
    `instructions` say how to pay them. `sync_interval`: seconds between two reconciliations.
    """

    topup_min: int
    topup_max: int
    return_url: str
    manual: bool = False
    instructions: str = ""
    sync_interval: float = 86_400.0


class PlacedOrder(Struct, frozen=True):
    """`url`: where to pay; "" for an order that an administrator marks as paid."""

    order: OrderRow
    url: str


class OwnPlan(Struct, frozen=True):
    """`plan`: what is in force; None for a tier that no plan has. `subscription`: the newest that has not
    ended.
    """

    tier: str | None
    plan: BillingPlan | None
    subscription: SubscriptionRow | None


class SyncReport(Struct, frozen=True):
    """Users whose state was read, and those whose provider could not be asked."""

    users: int
    failed: int


class Billing:
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
        invoices: Invoices,
        trials: Trials,
        referrals: Referrals,
        changed: Callable[[], object],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._log = log
        self._rules = rules
        self.policy = policy
        self.providers = providers
        self.invoices = invoices
        self.trials = trials
        self.referrals = referrals
        self._changed = changed
        self._plans_loaded = False
        self._locks: dict[str, trio.Lock] = {}
        self._calls = trio.CapacityLimiter(_CALLS)

    @property
    def plans(self) -> PlanBook:
        return self._rules.plans

    async def all_plans(self) -> PlanBook:
        await self._load_plans()
        return self.plans

    async def _load_plans(self, *, again: bool = False) -> None:
        if again or not self._plans_loaded:
            rows = await self._store.read(select_plans)
            self.plans.set_stored([json.decode(row, type=BillingPlan) for row in rows])
            self._plans_loaded = True

    async def put_plan(self, actor: Actor, plan: BillingPlan) -> None:
        """Add or change a plan. Raises Conflict for a plan of the configuration, and for a product of another
        plan.
        """
        await self._require_stored(plan.name)
        for provider, product in plan.products.items():
            other = self.plans.of_product(provider, product)
            if other is not None and other.name != plan.name:
                raise Conflict("product_in_use", f"The plan `{other.name}` has this product at {provider}.")
        fields = json.encode(plan).decode()
        audit = entry(self._clock, actor, "plan.put", plan.name, after={"plan": fields})
        await self._store.write(_put_plan, plan.name, fields, audit)
        await self._load_plans(again=True)

    async def delete_plan(self, actor: Actor, name: str) -> None:
        """Raises NotFound, and Conflict for a plan of the configuration or one with subscriptions."""
        await self._require_stored(name)
        plan = self.plans.get(name)
        audit = entry(self._clock, actor, "plan.delete", name, before={"plan": json.encode(plan).decode()})
        await self._store.write(_delete_plan, name, audit)
        await self._load_plans(again=True)

    async def _require_stored(self, name: str) -> None:
        await self._load_plans()
        if self.plans.is_configured(name):
            raise Conflict("plan_configured", "This plan is in the configuration. Change it there.")

    async def subscribers(self) -> Mapping[str, int]:
        """The number of accounts with each plan, by its name."""
        return await self._store.read(count_subscribers)

    async def own_plan(self, user_id: str) -> OwnPlan:
        """Raises NotFound."""
        await self._load_plans()
        user = await self._user(user_id)
        rows = await self._store.read(select_subscriptions, user_id)
        current = next((row for row in rows if row.state != "ended" or row.tier), None)
        in_force = next((row for row in rows if row.tier == user.tier and row.tier), None)
        plan = self.plans.of_tier(user.tier) if in_force is None else self.plans.find(in_force.plan)
        return OwnPlan(user.tier, plan, current)

    async def payments(self, user_id: str, *, before: str, limit: int) -> Sequence[PaymentRow]:
        """Newest first, before the id `before`."""
        return await self._store.read(select_payments, user_id, before, limit)

    async def open_orders(self, *, after: str, limit: int) -> Sequence[OrderRow]:
        """Orders that are not paid yet, oldest first, after the id `after`."""
        return await self._store.read(select_orders, "open", after, limit)

    # Orders

    async def order(
        self,
        actor: Actor,
        user_id: str,
        *,
        plan: str | None,
        cents: int | None,
        provider: str | None,
        as_admin: bool = False,
    ) -> PlacedOrder:
        """Order a plan, or credit of `cents`. Raises NotFound, Conflict, InvalidRequest, and Unavailable if
        the provider cannot be asked.
        """
        await self._load_plans()
        user = await self._user(user_id)
        name = self._provider_name(provider, as_admin=as_admin)
        if (plan is None) == (cents is None):
            raise InvalidRequest("invalid_value", "Send either `plan` or `amount_usd`.", param="plan")
        chosen = None if plan is None else self.plans.get(plan)
        if chosen is not None:
            await self._require_sold(user_id, chosen, name)
        else:
            await self._require_topup(user_id, cents or 0)
        await self._require_few_orders(user_id)
        now = self._clock.now_ms()
        price = chosen.price_cents if chosen is not None else cents or 0
        id_ = uuid7(now)
        checkout_id = id_ if name == MANUAL else ""
        row = OrderRow(id_, user_id, name, chosen.name if chosen else "", price, now, checkout_id)
        after = {"order": row.id, "plan": row.plan, "amount": write_usd(price * CENT), "provider": name}
        await self._store.write(
            _insert_order, row, entry(self._clock, actor, "order.create", user_id, after=after)
        )
        if name == MANUAL:
            return PlacedOrder(row, "")
        try:
            placed = await self._checkout(row, chosen, user)
        except (Unavailable, Conflict):  # it cannot be paid
            await self._store.write(set_order, replace(row, state="expired"))
            raise
        row = replace(row, checkout_id=placed.id)
        await self._store.write(set_order, row)
        return PlacedOrder(row, placed.url)

    async def _checkout(self, row: OrderRow, plan: BillingPlan | None, user: UserRow) -> Checkout:
        provider = self.providers[row.provider]
        with self._asking():
            customer = await self._customer(provider, user)
            return await provider.checkout(
                CheckoutRequest(
                    order_id=row.id,
                    customer=customer,
                    product=plan.products[row.provider] if plan is not None else "",
                    amount_cents=row.amount_cents,
                    title=plan.title if plan is not None else "Credit",
                    return_url=self.policy.return_url,
                )
            )

    async def _customer(self, provider: PaymentProvider, user: UserRow) -> str:
        known = await self._known_customer(user.id, provider.name)
        if known is not None:
            return known
        customer = await provider.create_customer(BillingCustomer(user.id, user.email or "", user.full_name))
        if await self._link(provider.name, customer, user.id) != user.id:
            raise Conflict(
                "customer_taken",
                "The payment provider knows the address of the account as that of another account. Ask your"
                " administrator.",
            )
        return customer

    async def _link(self, provider: str, customer: str, user_id: str) -> str | None:
        """Give a customer to a user, unless it belongs to another one. Returns its user."""
        await self._store.write(put_customer, provider, customer, user_id, self._clock.now_ms())
        return await self._store.read(select_customer_user, provider, customer)

    async def _known_customer(self, user_id: str, provider: str) -> str | None:
        found = await self._store.read(select_customers, user_id)
        return next((customer for name, customer in found if name == provider), None)

    def _provider_name(self, given: str | None, *, as_admin: bool) -> str:
        known = [*self.providers, *([MANUAL] if self.policy.manual or as_admin else [])]
        if not known:
            raise Conflict("plan_not_sold", "Nothing can be bought here. Ask your administrator.")
        if given is None:
            return known[0]
        if given not in known:
            raise InvalidRequest(
                "invalid_value", f"provider must be one of {', '.join(known)}.", param="provider"
            )
        return given

    async def _require_sold(self, user_id: str, plan: BillingPlan, provider: str) -> None:
        if not plan.price_cents or (provider != MANUAL and provider not in plan.products):
            raise Conflict(
                "plan_not_sold", "This plan cannot be bought there. Choose another plan or provider."
            )
        current = (await self.own_plan(user_id)).subscription
        if current is not None and current.state in _LIVE and not (current.provider == provider == MANUAL):
            raise Conflict(
                "subscription_exists",
                "The account has a subscription. Change its plan with POST /api/billing/subscription.",
            )

    async def _require_topup(self, user_id: str, cents: int) -> None:
        low, high = self.policy.topup_min, self.policy.topup_max
        if not low <= cents <= high:
            bounds = f"from {write_usd(low * CENT)} to {write_usd(high * CENT)}"
            raise InvalidRequest("invalid_value", f"amount_usd must be {bounds}.", param="amount_usd")
        plan = (await self.own_plan(user_id)).plan
        if plan is not None and not plan.overage:
            raise Conflict("topup_not_allowed", "The plan of the account does not allow buying credit.")

    async def _require_few_orders(self, user_id: str) -> None:
        if len(await self._store.read(select_open_orders, user_id)) >= MAX_OPEN_ORDERS:
            await self.refresh(user_id)  # some may have expired
            if len(await self._store.read(select_open_orders, user_id)) >= MAX_OPEN_ORDERS:
                raise Conflict(
                    "too_many_orders",
                    "The account has too many open orders. Pay one of them, or ask your administrator.",
                )

    async def mark_paid(self, actor: Actor, order_id: str) -> OrderRow:
        """An administrator confirms that an order was paid. Raises NotFound, and Conflict for an order that
        is not open, or is paid at a provider.
        """
        order = await self._store.read(select_order, order_id) if is_uuid(order_id) else None
        if order is None:
            raise NotFound("order_not_found", "There is no order with this id.")
        if order.provider != MANUAL:
            raise Conflict(
                "order_not_manual", "This order is paid at its provider, which reports the payment."
            )
        if order.state != "open":
            raise Conflict("order_not_open", f"This order is already {order.state}.")
        async with self._lock(order.user_id):
            state = await self._manual_state(order)
            await self._settle(Settlement(order.user_id, MANUAL, state, ("paid:" + order.id, "paid"), actor))
        found = await self._store.read(select_order, order_id)
        return found or order

    async def _manual_state(self, order: OrderRow) -> CustomerState:
        """What a provider would say after the payment of an order."""
        now = self._clock.now_ms()
        payment = PaymentState(order.id, order.amount_cents, "usd", now, checkout=order.id)
        if not order.plan:
            return CustomerState(payments=[payment])
        rows = await self._store.read(select_subscriptions, order.user_id)
        open_rows = [row for row in rows if row.provider == MANUAL and row.state != "ended"]
        states = []
        start, id_ = now, order.id
        for row in open_rows:
            if row.plan == order.plan and id_ == order.id:
                start, id_ = max(row.period_end, now - self._rules.dunning.grace), row.provider_id
            else:
                ended = SubscriptionState(
                    row.provider_id, row.order_id, row.plan, "ended", row.period_start, row.period_end
                )
                states.append(ended)
        plan = (await self.all_plans()).get(order.plan)
        end = period_end(start, plan.period)
        states.append(SubscriptionState(id_, order.id, order.plan, "active", start, end, paid=True))
        payment = PaymentState(order.id, order.amount_cents, "usd", now, checkout=order.id, subscription=id_)
        return CustomerState(states, [payment])

    # Subscriptions

    async def portal(self, user_id: str) -> str:
        """The URL of the provider's page for payment methods. Raises NotFound without a customer."""
        for name, customer in await self._store.read(select_customers, user_id):
            if (provider := self.providers.get(name)) is not None:
                with self._asking():
                    return await provider.portal(customer, self.policy.return_url)
        raise NotFound("customer_not_found", "The account has not paid anything yet.")

    async def change_plan(self, actor: Actor, user_id: str, name: str) -> OwnPlan:
        """A dearer plan is in force at once, a cheaper one from the next period. Raises NotFound,
        Conflict.
        """
        plan, row = (await self.all_plans()).get(name), await self._live(user_id)
        if row.provider == MANUAL or row.provider not in plan.products or not plan.price_cents:
            raise Conflict("plan_not_sold", "The subscription cannot change to this plan. Order it instead.")
        old = self.plans.find(row.plan)
        if old is not None and old.period != plan.period:  # a provider would begin a new period at once
            raise Conflict(
                "plan_not_sold",
                "The plan has another period. Cancel the subscription, and order the plan when it has ended.",
            )
        provider = self.providers[row.provider]
        async with self._lock(user_id):
            with self._asking():
                state = await self._state_of(row)
                upgrade = old is not None and plan.price_cents > old.price_cents
                await provider.change_product(state, plan.products[row.provider], upgrade=upgrade)
        await self.refresh(user_id, actor)
        return await self.own_plan(user_id)

    async def cancel(self, actor: Actor, user_id: str, *, cancel: bool) -> OwnPlan:
        """Cancel the subscription at the end of its period, or take this back. Raises NotFound."""
        row = await self._live(user_id)
        if row.provider == MANUAL:
            state = SubscriptionState(
                row.provider_id,
                row.order_id,
                row.plan,
                "past_due" if row.state == "past_due" else "active",
                row.period_start,
                row.period_end,
                cancel_at_end=cancel,
            )
            async with self._lock(user_id):
                await self._settle(Settlement(user_id, MANUAL, CustomerState([state]), actor=actor))
        else:
            async with self._lock(user_id):
                with self._asking():
                    await self.providers[row.provider].cancel_at_end(row.provider_id, cancel=cancel)
            await self.refresh(user_id, actor)
        return await self.own_plan(user_id)

    async def _live(self, user_id: str) -> SubscriptionRow:
        row = (await self.own_plan(user_id)).subscription
        if row is None or row.state not in _LIVE or (row.provider not in (MANUAL, *self.providers)):
            raise NotFound("subscription_not_found", "The account has no subscription.")
        return row

    async def _state_of(self, row: SubscriptionRow) -> SubscriptionState:
        for name, customer in await self._store.read(select_customers, row.user_id):
            if name != row.provider:
                continue
            state = await self.providers[name].read(customer, ())
            for one in state.subscriptions:
                if one.id == row.provider_id:
                    return one
        raise PaymentFailed("the provider does not know the subscription")

    async def refund(self, actor: Actor, payment_id: str) -> PaymentRow:
        """Refund a payment in full through its provider. A manual payment was refunded by the administrator.
        Raises NotFound, Unavailable.
        """
        row = await self._store.read(select_payment, payment_id) if is_uuid(payment_id) else None
        if row is None:
            raise NotFound("payment_not_found", "There is no payment with this id.")
        if row.reversed_cents >= row.paid_cents:
            return row
        provider = self.providers.get(row.provider)
        if provider is None:
            state = PaymentState(
                row.provider_id, row.paid_cents, row.currency, row.at, reversed_cents=row.paid_cents
            )
            async with self._lock(row.user_id):
                await self._settle(
                    Settlement(row.user_id, row.provider, CustomerState(payments=[state]), actor=actor)
                )
        else:
            with self._asking():
                await provider.refund(row.provider_id)
            await self.refresh(row.user_id, actor)
        return await self._store.read(select_payment, payment_id) or row

    # Reconciliation

    async def handle(self, name: str, headers: Mapping[str, str], body: bytes) -> None:
        """Handle an event of a provider. It is settled when this returns. Raises SignatureInvalid,
        Unavailable if the provider cannot be asked, and StorageError.
        """
        provider = self.providers[name]
        event = provider.read_event(headers, body, self._clock.now_ms())
        if await self._store.read(has_billing_event, name, event.id):
            return
        with self._asking():
            user_id = await self._user_of(provider, event)
            if user_id is None:
                self._log.info("payment_event_ignored", provider=name, kind=event.kind)
                return
            await self._read_and_settle(provider, user_id, (event.id, event.kind))

    async def _user_of(self, provider: PaymentProvider, event: ProviderEvent) -> str | None:
        """The user of the customer, or else of the order, if the provider confirms who paid it."""
        if event.customer:
            found = await self._store.read(select_customer_user, provider.name, event.customer)
            if found is not None:
                return found
        order = await self._store.read(select_order, event.order_id) if is_uuid(event.order_id) else None
        if order is None or order.provider != provider.name or not order.checkout_id:
            return None
        if await self._store.read(select_user, order.user_id) is None:
            return None  # a customer of a deleted account can be that of a new one
        customer = await provider.customer_of(order.checkout_id)
        if not customer:
            return None
        return await self._link(provider.name, customer, order.user_id)

    async def refresh(self, user_id: str, actor: Actor | None = None) -> None:
        """Read the state of a user from all providers. Raises Unavailable."""
        names = {name for name, _ in await self._store.read(select_customers, user_id)}
        with self._asking():
            for name in sorted(names & set(self.providers)):
                await self._read_and_settle(self.providers[name], user_id, None, actor)
        async with self._lock(user_id):
            await self._settle(Settlement(user_id, MANUAL, CustomerState()))

    async def _read_and_settle(
        self,
        provider: PaymentProvider,
        user_id: str,
        event: tuple[str, str] | None,
        actor: Actor | None = None,
    ) -> None:
        """One after the other for each user, so that the state that is read last is settled last."""
        async with self._lock(user_id), self._calls:
            if event is not None and await self._store.read(has_billing_event, provider.name, event[0]):
                return
            orders = await self._store.read(select_open_orders, user_id)
            checkouts = [
                one.checkout_id for one in orders if one.provider == provider.name and one.checkout_id
            ]
            if event is None:  # the customer may have paid with another address
                for checkout in checkouts:
                    if customer := await provider.customer_of(checkout):
                        await self._link(provider.name, customer, user_id)
            state = CustomerState()
            for name, customer in await self._store.read(select_customers, user_id):
                if name == provider.name:
                    state = _joined(state, await provider.read(customer, checkouts))
            asked = Settlement(user_id, provider.name, state, event)
            await self._settle(
                asked if actor is None else Settlement(user_id, provider.name, state, event, actor)
            )

    async def _settle(self, asked: Settlement) -> Settled:
        await self._load_plans()
        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            settled = await self._ledger.post_entries(settle, asked, self._rules, self._clock)
            if settled.tier_changed:
                self._changed()
        for payment in settled.refused:
            self._log.error("payment_refused", provider=asked.provider, user=asked.user_id, payment=payment)
        return settled

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
        next_sync = trio.current_time() + min(FIRST_SYNC, self.policy.sync_interval)
        while True:
            with contextlib.suppress(StorageUnavailable, StorageBroken):
                await self.settle_due()
                await self.trials.settle_due()
                if trio.current_time() >= next_sync:
                    next_sync = trio.current_time() + self.policy.sync_interval
                    report = await self.sync()
                    self._log.info("billing_synced", users=report.users, failed=report.failed)
            await trio.sleep(ROUND)

    async def settle_due(self) -> None:
        """Ends of periods and grace, and reminders. A provider is asked first, if it can be."""
        for user_id in await self._store.read(select_due_users, self._clock.now_ms(), _USERS_PER_PAGE):
            if not await self._refreshed(user_id):
                async with self._lock(user_id):
                    await self._settle(Settlement(user_id, MANUAL, CustomerState()))

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
            self._log.exception("billing_refresh_failed", exc, user=user_id)
            return False
        return True

    # Helpers

    async def _user(self, user_id: str) -> UserRow:
        user = await self._store.read(select_user, user_id) if is_uuid(user_id) else None
        if user is None:
            raise NotFound("user_not_found", "There is no user with this id.")
        return user

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except PaymentDeclined as exc:
            raise Conflict(
                "payment_declined", "The payment was declined. Check the payment method, and try again."
            ) from exc
        except PaymentFailed as exc:
            self._log.warning("payment_provider_failed", reason=str(exc))
            raise Unavailable(
                "payment_provider_unavailable", "The payment provider cannot be reached. Try again later."
            ) from exc

    @contextlib.asynccontextmanager
    async def _lock(self, user_id: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(user_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(user_id, None)


def _joined(one: CustomerState, other: CustomerState) -> CustomerState:
    return CustomerState(
        [*one.subscriptions, *other.subscriptions],
        [*one.payments, *other.payments],
        [*one.expired, *other.expired],
    )


async def _insert_order(connection: Connection, row: OrderRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_order(connection, row)


async def _put_plan(connection: Connection, name: str, fields: str, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await put_plan(connection, name, fields)


async def _delete_plan(connection: Connection, name: str, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    if await has_subscribers(connection, name):
        raise Conflict("plan_in_use", "There are subscriptions of this plan. Wait until they have ended.")
    await delete_plan(connection, name)
