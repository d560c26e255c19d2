"""/plans, /user/plan, /api/billing and the administration of orders and payments. Only with [billing]."""

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.catalog import OwnPlan
from bluesminds.accounts.billing.orders import PlacedOrder
from bluesminds.accounts.billing.plans import BillingPlan
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.billing.work import CENT
from bluesminds.common.clock import format_time
from bluesminds.common.errors import InvalidRequest, NotFound
from bluesminds.common.money import read_usd, write_usd
from bluesminds.payments.port import SignatureInvalid
from bluesminds.web.api.usage_schemas import UserId
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Paging, RawInput, Route, route
from storage.billing import OrderRow, OrderState, PaymentRow, PaymentStatus, PlanState, SubscriptionRow

CentAmount = Annotated[
    str,
    Meta(
        pattern=r"^(?=[0-9.]*[1-9])[0-9]{1,6}(\.[0-9]{1,2})?\Z",
        description='an amount of USD with at most two decimals in text, such as "12.5"',
    ),
]


Cents = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,2})?\Z",
        description='an amount of USD with at most two decimals in text, such as "29"',
    ),
]
_PLAN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class CheckoutInput(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan, or an amount to buy credit. Without `provider`: the first one of the settings."""

    plan: Name | None = None
    amount_usd: CentAmount | None = None
    provider: Name | None = None


class OrderInput(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan, or an amount to buy credit, which the user pays outside of a payment provider."""

    user_id: UserId
    plan: Name | None = None
    amount_usd: CentAmount | None = None


class StoredPlanInput(Struct, frozen=True, forbid_unknown_fields=True):
    """As in [[plans]] of the settings. Without `title`: the name."""

    tier: Literal["free", "starter", "pro", "enterprise"]
    title: Name | None = None
    price_usd: Cents = "0"
    period: Literal["month", "year"] = "month"
    included_usd: Cents = "0"
    overage: bool = True
    stripe_price: Name | None = None
    creem_product: Name | None = None


class PlanInput(Struct, frozen=True, forbid_unknown_fields=True):
    plan: Name


class PlanView(Struct, frozen=True):
    """The price and the included credit are for one period. `overage`: accounts may buy credit as well."""

    name: str
    title: str
    tier: str
    price_usd: str
    period: Literal["month", "year"]
    included_usd: str
    overage: bool


class AdminPlanView(Struct, frozen=True):
    """`products`: the id of the plan at each provider. `subscribers`: accounts with this plan."""

    plan: PlanView
    products: dict[str, str]
    subscribers: int


class SubscriptionView(Struct, frozen=True):
    """`state` past_due: the plan is in force until the grace period ends. `next_plan`: in force from the end
    of the period.
    """

    id: str
    plan: str
    provider: str
    state: PlanState
    in_force: bool
    period_start: str
    period_end: str
    cancel_at_end: bool
    next_plan: str | None


class OwnPlanView(Struct, frozen=True):
    """`tier`: null has no limits. `plan`: null for a tier that was given without a plan."""

    tier: str | None
    plan: PlanView | None
    subscription: SubscriptionView | None


class CheckoutView(Struct, frozen=True):
    """Open `url` to pay. An order without it is paid as the `instructions` say."""

    order_id: str
    url: str | None
    instructions: str | None


class PortalView(Struct, frozen=True):
    url: str


class OrderView(Struct, frozen=True):
    """`plan` is null for credit."""

    id: str
    user_id: str
    provider: str
    plan: str | None
    amount_usd: str
    created_at: str
    state: OrderState


class PaymentView(Struct, frozen=True):
    """Amounts contain the tax. `state` refused: the payment does not match its order, and bought nothing."""

    id: str
    at: str
    user_id: str
    provider: str
    title: str
    amount: str
    tax: str
    refunded: str
    currency: str
    state: PaymentStatus


class PaymentPage(Paging, frozen=True, forbid_unknown_fields=True):
    """Newest first."""


class SyncView(Struct, frozen=True):
    """Users whose payments were read from their providers, and users for whom this failed."""

    users: int
    failed: int


class ReceivedEvent(Struct, frozen=True):
    """Providers want the status 200."""

    received: bool = True


class BillingHandlers(Struct, frozen=True):
    billing: Billing

    async def plans(self) -> Page[PlanView]:
        """List the plans."""
        return Page([plan_view(plan) for plan in await self.billing.plans.all()])

    async def own_plan(self, principal: Principal) -> OwnPlanView:
        """Get your plan and subscription."""
        return own_plan_view(await self.billing.plans.own(principal.user_id))

    async def checkout(self, principal: Principal, body: CheckoutInput) -> CheckoutView:
        """Order a plan or credit. Nothing is charged before you pay at the provider."""
        placed = await self.billing.orders.place(
            principal.actor,
            principal.user_id,
            plan=body.plan,
            cents=None if body.amount_usd is None else _cents(body.amount_usd),
            provider=body.provider,
        )
        return self._placed(placed)

    async def portal(self, principal: Principal) -> PortalView:
        """Get the page of the payment provider where you manage payment methods."""
        return PortalView(await self.billing.subscriptions.portal(principal.user_id))

    async def change_plan(self, principal: Principal, body: PlanInput) -> OwnPlanView:
        """Change the plan of your subscription. A dearer plan is in force at once, a cheaper one from the
        next period.
        """
        found = await self.billing.subscriptions.change_plan(principal.actor, principal.user_id, body.plan)
        return own_plan_view(found)

    async def cancel(self, principal: Principal) -> OwnPlanView:
        """Cancel your subscription at the end of its period."""
        return await self._set_canceled(principal.actor, principal.user_id, cancel=True)

    async def resume(self, principal: Principal) -> OwnPlanView:
        """Take back the cancellation of your subscription."""
        return await self._set_canceled(principal.actor, principal.user_id, cancel=False)

    async def _set_canceled(self, actor: Actor, user_id: str, *, cancel: bool) -> OwnPlanView:
        return own_plan_view(await self.billing.subscriptions.cancel(actor, user_id, cancel=cancel))

    async def refresh(self, principal: Principal) -> OwnPlanView:
        """Ask the payment provider for your payments now, instead of waiting for its report."""
        await self.billing.reconciliation.refresh(principal.user_id)
        return await self.own_plan(principal)

    async def payments(self, principal: Principal, query: PaymentPage) -> Page[PaymentView]:
        """List your payments, newest first."""
        return await self._payments(principal.user_id, query)

    async def creem_event(self, raw: RawInput) -> ReceivedEvent:
        """Receive an event of Creem."""
        return await self._receive("creem", raw)

    async def event(self, provider: str, raw: RawInput) -> ReceivedEvent:
        """Receive an event of a payment provider, with its signature. What the event is about is settled when
        this returns.
        """
        return await self._receive(provider, raw)

    async def _receive(self, name: str, raw: RawInput) -> ReceivedEvent:
        provider = self.billing.providers.get(name)
        if provider is None or not provider.has_webhook:
            raise NotFound("unknown_url", "There is no such payment provider.")
        try:
            await self.billing.reconciliation.handle(name, raw.headers, raw.content)
        except SignatureInvalid as exc:
            raise InvalidRequest("invalid_signature", f"The event is not accepted: {exc}.") from exc
        return ReceivedEvent()

    async def admin_plans(self) -> Page[AdminPlanView]:
        """List the plans with their product ids and numbers of subscribers."""
        counts = await self.billing.plans.subscribers()
        return Page(
            [
                AdminPlanView(plan_view(plan), dict(plan.products), counts.get(plan.name, 0))
                for plan in await self.billing.plans.all()
            ]
        )

    async def put_plan(self, principal: Principal, name: str, body: StoredPlanInput) -> PlanView:
        """Add or change a plan. Plans of the configuration are changed there."""
        if not _PLAN_NAME.fullmatch(name):
            raise InvalidRequest(
                "invalid_value", 'name must be 1 to 32 of a-z, 0-9, "-" and "_".', param="name"
            )
        products = {"stripe": body.stripe_price, "creem": body.creem_product}
        plan = BillingPlan(
            name=name,
            title=body.title or name.capitalize(),
            tier=body.tier,
            price_cents=_cents(body.price_usd),
            period=body.period,
            included_nano=read_usd(body.included_usd),
            overage=body.overage,
            products={key: product for key, product in products.items() if product},
        )
        await self.billing.plans.put(principal.actor, plan)
        return plan_view(plan)

    async def delete_plan(self, principal: Principal, name: str) -> None:
        """Delete a plan that has no subscriptions."""
        await self.billing.plans.delete(principal.actor, name)

    async def orders(self, query: Paging) -> Page[OrderView]:
        """List open orders, oldest first."""
        rows = await self.billing.orders.open(after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _order, cursor=lambda row: row.id)

    async def create_order(self, principal: Principal, body: OrderInput) -> CheckoutView:
        """Order a plan or credit for a user, who pays outside of a payment provider."""
        placed = await self.billing.orders.place(
            principal.actor,
            body.user_id,
            plan=body.plan,
            cents=None if body.amount_usd is None else _cents(body.amount_usd),
            provider="manual",
            as_admin=True,
        )
        return self._placed(placed)

    async def mark_paid(self, principal: Principal, order_id: str) -> OrderView:
        """Confirm that an order was paid outside of a payment provider. The plan or the credit is there when
        this returns.
        """
        return _order(await self.billing.orders.mark_paid(principal.actor, order_id))

    async def user_payments(self, user_id: str, query: PaymentPage) -> Page[PaymentView]:
        """List the payments of a user, newest first."""
        return await self._payments(user_id, query)

    async def refund(self, principal: Principal, payment_id: str) -> PaymentView:
        """Refund a payment in full. Credit that it bought is taken back. A payment outside of a provider is
        only recorded as refunded.
        """
        return payment_view(await self.billing.payments.refund(principal.actor, payment_id))

    async def sync(self) -> SyncView:
        """Read the payments and subscriptions of all users from the payment providers."""
        report = await self.billing.reconciliation.sync()
        return SyncView(report.users, report.failed)

    async def _payments(self, user_id: str, query: PaymentPage) -> Page[PaymentView]:
        rows = await self.billing.payments.list(user_id, before=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, payment_view, cursor=lambda row: row.id)

    def _placed(self, placed: PlacedOrder) -> CheckoutView:
        instructions = self.billing.policy.instructions if not placed.url else ""
        return CheckoutView(placed.order.id, placed.url or None, instructions or None)


def routes(handlers: BillingHandlers) -> list[Route]:
    tag, own, admin = "Billing", "/api/billing", "/api/admin"
    return [
        *_webhooks(handlers),
        route("GET", "/plans", Access.PUBLIC, handlers.plans, tag=tag),
        route("GET", "/user/plan", Access.SESSION, handlers.own_plan, tag=tag),
        route("POST", f"{own}/checkout", Access.SESSION, handlers.checkout, tag=tag, status=201),
        route("POST", f"{own}/portal", Access.SESSION, handlers.portal, tag=tag),
        route("GET", f"{own}/subscription", Access.SESSION, handlers.own_plan, tag=tag),
        route("POST", f"{own}/subscription", Access.SESSION, handlers.change_plan, tag=tag),
        route("DELETE", f"{own}/subscription", Access.SESSION, handlers.cancel, tag=tag),
        route("POST", f"{own}/subscription/resume", Access.SESSION, handlers.resume, tag=tag),
        route("POST", f"{own}/refresh", Access.SESSION, handlers.refresh, tag=tag),
        route("GET", f"{own}/payments", Access.SESSION, handlers.payments, tag=tag),
        route("GET", f"{admin}/plans", Access.ADMIN, handlers.admin_plans, tag=tag),
        route("PUT", admin + "/plans/{name}", Access.ADMIN, handlers.put_plan, tag=tag),
        route("DELETE", admin + "/plans/{name}", Access.ADMIN, handlers.delete_plan, tag=tag),
        route("GET", f"{admin}/orders", Access.ADMIN, handlers.orders, tag=tag),
        route("POST", f"{admin}/orders", Access.ADMIN, handlers.create_order, tag=tag, status=201),
        route("POST", admin + "/orders/{order_id}/paid", Access.ADMIN, handlers.mark_paid, tag=tag),
        route("GET", admin + "/users/{user_id}/payments", Access.ADMIN, handlers.user_payments, tag=tag),
        route("POST", admin + "/payments/{payment_id}/refund", Access.ADMIN, handlers.refund, tag=tag),
        route("POST", f"{admin}/billing/sync", Access.ADMIN, handlers.sync, tag=tag),
    ]


def _webhooks(handlers: BillingHandlers) -> list[Route]:
    """Only for providers whose events can be verified."""
    tag, path = "Billing", "/api/billing/webhook"
    known = [name for name, one in handlers.billing.providers.items() if one.has_webhook]
    if not known:
        return []
    creem = [route("POST", path, Access.PUBLIC, handlers.creem_event, tag=tag)]
    return [
        *(creem if "creem" in known else []),
        route("POST", path + "/{provider}", Access.PUBLIC, handlers.event, tag=tag),
    ]


def _cents(usd: str) -> int:
    return read_usd(usd) // CENT


def plan_view(plan: BillingPlan) -> PlanView:
    return PlanView(
        name=plan.name,
        title=plan.title,
        tier=plan.tier,
        price_usd=write_usd(plan.price_cents * CENT),
        period=plan.period,
        included_usd=write_usd(plan.included_nano),
        overage=plan.overage,
    )


def own_plan_view(found: OwnPlan) -> OwnPlanView:
    return OwnPlanView(
        tier=found.tier,
        plan=None if found.plan is None else plan_view(found.plan),
        subscription=None if found.subscription is None else _subscription(found.subscription),
    )


def _subscription(row: SubscriptionRow) -> SubscriptionView:
    return SubscriptionView(
        id=row.id,
        plan=row.plan,
        provider=row.provider,
        state=row.state,
        in_force=row.tier is not None,
        period_start=format_time(row.period_start),
        period_end=format_time(row.period_end),
        cancel_at_end=row.cancel_at_end,
        next_plan=row.next_plan or None,
    )


def _order(row: OrderRow) -> OrderView:
    return OrderView(
        id=row.id,
        user_id=row.user_id,
        provider=row.provider,
        plan=row.plan or None,
        amount_usd=write_usd(row.amount_cents * CENT),
        created_at=format_time(row.created_at),
        state=row.state,
    )


def payment_view(row: PaymentRow) -> PaymentView:
    return PaymentView(
        id=row.id,
        at=format_time(row.at),
        user_id=row.user_id,
        provider=row.provider,
        title=row.title,
        amount=_amount(row.paid_cents),
        tax=_amount(row.tax_cents),
        refunded=_amount(row.reversed_cents),
        currency=row.currency.upper(),
        state=row.state,
    )


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"
