"""Orders: a plan or credit, to be paid at a provider or confirmed by an administrator."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from msgspec import Struct, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.billing.catalog import PlanCatalog
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.plans import MANUAL, BillingPlan, period_end
from bluesminds.accounts.billing.reconciliation import Reconciliation
from bluesminds.accounts.billing.states import LIVE
from bluesminds.accounts.billing.work import CENT, Settlement
from bluesminds.common.crypto import is_uuid, uuid7
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.common.money import write_usd
from bluesminds.payments.port import (
    BillingCustomer,
    Checkout,
    CheckoutRequest,
    CustomerState,
    PaymentNotFound,
    PaymentProvider,
    PaymentState,
    SubscriptionState,
)
from storage.audit import AuditRow, insert_audit
from storage.base import Connection
from storage.billing import (
    OrderRow,
    insert_order,
    select_customers,
    select_open_orders,
    select_order,
    select_orders,
    select_subscriptions,
    set_order,
)
from storage.users import UserRow

MAX_OPEN_ORDERS: Final = 20  # of a user; each is read from its provider


class PlacedOrder(Struct, frozen=True):
    """`url`: where to pay; "" for an order that an administrator marks as paid."""

    order: OrderRow
    url: str


class Orders:
    def __init__(self, context: BillingContext, catalog: PlanCatalog, reconciliation: Reconciliation) -> None:
        self._context = context
        self._store = context.store
        self._catalog = catalog
        self._reconciliation = reconciliation

    async def open(self, *, after: str, limit: int) -> Sequence[OrderRow]:
        """Orders that are not paid yet, oldest first, after the id `after`."""
        return await self._store.read(select_orders, "open", after, limit)

    async def place(
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
        the provider cannot be reached.
        """
        plans = await self._catalog.all()
        user = await self._context.user(user_id)
        name = self._provider_name(provider, as_admin=as_admin)
        if (plan is None) == (cents is None):
            raise InvalidRequest("invalid_value", "Send either `plan` or `amount_usd`.", param="plan")
        chosen = None if plan is None else plans.get(plan)
        await self._require_few(user_id)
        async with self._context.lock(user_id):
            if chosen is None:
                await self._require_topup(user_id, cents or 0)
            else:
                await self._require_sold(user_id, chosen, name)
                await self._expire_checkouts(user_id)
            row = await self._insert(actor, user_id, chosen, cents or 0, name)
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

    async def _expire_checkouts(self, user_id: str) -> None:
        """Of plans, so that an account does not pay two. What cannot be expired is found when it is paid."""
        for order in await self._store.read(select_open_orders, user_id):
            if order.plan and order.provider in self._context.providers and order.checkout_id:
                await self._expire_checkout(order)

    async def _expire_checkout(self, order: OrderRow) -> bool:
        """Raises Conflict if it was paid."""
        with self._context.asking():
            status = await self._context.providers[order.provider].expire_checkout(order.checkout_id)
        if status == "paid":
            raise Conflict(
                "order_paid",
                "An earlier order has just been paid. Choose “Check for payments” on the billing page.",
            )
        if status == "expired":
            await self._store.write(set_order, replace(order, state="expired"))
        return status == "expired"

    async def cancel(self, actor: Actor, order_id: str, user_id: str | None = None) -> None:
        """Cancel an open order of a user, or of any without `user_id`. Raises NotFound, and Conflict if it
        can still be paid at its provider.
        """
        order = await self._store.read(select_order, order_id) if is_uuid(order_id) else None
        if order is None or user_id not in (None, order.user_id):
            raise NotFound("order_not_found", "There is no order with this id.")
        async with self._context.lock(order.user_id):
            order = await self._require_open(order)
            if order.provider in self._context.providers and not await self._expire_checkout(order):
                raise Conflict(
                    "order_not_cancelable",
                    "The payment provider cannot cancel this order. Do not pay it; it expires.",
                )
            audit = entry(
                self._context.clock, actor, "order.cancel", order.user_id, before={"order": order.id}
            )
            await self._store.write(_cancel, replace(order, state="canceled"), audit)

    async def _require_open(self, order: OrderRow) -> OrderRow:
        """The order as it is now. Raises Conflict."""
        now = await self._store.read(select_order, order.id)
        if now is None or now.state != "open":
            raise Conflict("order_not_open", f"This order is already {now.state if now else 'deleted'}.")
        return now

    async def _insert(
        self, actor: Actor, user_id: str, plan: BillingPlan | None, cents: int, provider: str
    ) -> OrderRow:
        now = self._context.clock.now_ms()
        price = plan.price_cents if plan is not None else cents
        id_ = uuid7(now)
        checkout_id = id_ if provider == MANUAL else ""
        row = OrderRow(id_, user_id, provider, plan.name if plan else "", price, now, checkout_id)
        after = {"order": row.id, "plan": row.plan, "amount": write_usd(price * CENT), "provider": provider}
        audit = entry(self._context.clock, actor, "order.create", user_id, after=after)
        await self._store.write(_insert, row, audit)
        return row

    async def _checkout(self, row: OrderRow, plan: BillingPlan | None, user: UserRow) -> Checkout:
        provider = self._context.providers[row.provider]
        request = CheckoutRequest(
            order_id=row.id,
            customer="",
            product=plan.products[row.provider] if plan is not None else "",
            amount_cents=row.amount_cents,
            title=plan.title if plan is not None else "Credit",
            return_url=self._context.policy.return_url,
        )
        with self._context.asking():
            for name, customer in await self._store.read(select_customers, user.id):
                if name == provider.name:
                    try:
                        return await provider.checkout(structs.replace(request, customer=customer))
                    except PaymentNotFound:  # the customer, or the product
                        if await provider.has_customer(customer):
                            raise
                        self._context.log.warning("payment_customer_unknown", provider=name, user=user.id)
            customer = await self._new_customer(provider, row.id, user)
            return await provider.checkout(structs.replace(request, customer=customer))

    async def _new_customer(self, provider: PaymentProvider, key: str, user: UserRow) -> str:
        customer = await provider.create_customer(
            BillingCustomer(key, user.id, user.email or "", user.full_name)
        )
        if await self._reconciliation.link(provider.name, customer, user.id) != user.id:
            raise Conflict(
                "customer_taken",
                "The payment provider has another account with this e-mail address. Ask your administrator.",
            )
        return customer

    def _provider_name(self, given: str | None, *, as_admin: bool) -> str:
        with_manual = self._context.policy.manual or as_admin
        known = [*self._context.providers, *([MANUAL] if with_manual else [])]
        if not known:
            raise Conflict(
                "plan_not_sold", "This gateway does not sell plans or credit. Ask your administrator."
            )
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
                "plan_not_sold", "This provider does not sell this plan. Choose another plan or provider."
            )
        await self._require_unsold(user_id, provider)

    async def _require_unsold(self, user_id: str, provider: str) -> None:
        current = (await self._catalog.own(user_id)).subscription
        if current is not None and current.state in LIVE and not (current.provider == provider == MANUAL):
            raise Conflict(
                "subscription_exists",
                "The account has a subscription. Change its plan with POST /api/billing/subscription.",
            )

    async def _require_topup(self, user_id: str, cents: int) -> None:
        low, high = self._context.policy.topup_min, self._context.policy.topup_max
        if not low <= cents <= high:
            bounds = f"from {write_usd(low * CENT)} to {write_usd(high * CENT)}"
            raise InvalidRequest("invalid_value", f"amount_usd must be {bounds}.", param="amount_usd")
        plan = (await self._catalog.own(user_id)).plan
        if plan is not None and not plan.overage:
            raise Conflict("topup_not_allowed", "The plan of the account does not allow buying credit.")

    async def _require_few(self, user_id: str) -> None:
        if len(await self._store.read(select_open_orders, user_id)) >= MAX_OPEN_ORDERS:
            await self._reconciliation.refresh(user_id)  # some may have expired
            if len(await self._store.read(select_open_orders, user_id)) >= MAX_OPEN_ORDERS:
                raise Conflict(
                    "too_many_orders",
                    "The account has too many open orders. Pay one of them, or ask your administrator.",
                )

    async def own_open(self, user_id: str) -> Sequence[OrderRow]:
        """Orders of a user that are not paid yet, newest first."""
        return await self._store.read(select_open_orders, user_id)

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
        async with self._context.lock(order.user_id):
            order = await self._require_open(order)
            if order.plan:
                await self._require_unsold(order.user_id, MANUAL)
            state = await self._manual_state(order)
            event = ("paid:" + order.id, "paid")
            await self._context.settle(Settlement(order.user_id, MANUAL, state, event, actor))
        found = await self._store.read(select_order, order_id)
        return found or order

    async def _manual_state(self, order: OrderRow) -> CustomerState:
        """What a provider would say after the payment of an order."""
        now = self._context.clock.now_ms()
        payment = PaymentState(order.id, order.amount_cents, "usd", now, checkout=order.id)
        if not order.plan:
            return CustomerState(payments=[payment])
        rows = await self._store.read(select_subscriptions, order.user_id)
        open_rows = [row for row in rows if row.provider == MANUAL and row.state != "ended"]
        states = []
        start, id_ = now, order.id
        for row in open_rows:
            if row.plan == order.plan and id_ == order.id:
                grace = self._context.rules.dunning.grace
                start, id_ = max(row.period_end, now - grace), row.provider_id
            else:
                ended = SubscriptionState(
                    row.provider_id, row.order_id, row.plan, "ended", row.period_start, row.period_end
                )
                states.append(ended)
        plan = (await self._catalog.all()).get(order.plan)
        end = period_end(start, plan.period)
        states.append(SubscriptionState(id_, order.id, order.plan, "active", start, end, paid=True))
        payment = PaymentState(order.id, order.amount_cents, "usd", now, checkout=order.id, subscription=id_)
        return CustomerState(states, [payment])


async def _cancel(connection: Connection, row: OrderRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await set_order(connection, row)


async def _insert(connection: Connection, row: OrderRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_order(connection, row)
