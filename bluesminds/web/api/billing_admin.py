"""/api/admin/plans, orders, payments and billing. Only with [billing]."""

import re
from typing import Final, Literal

from msgspec import Struct

from bluesminds.accounts.billing.plans import BillingPlan
from bluesminds.accounts.billing.service import Billing
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import read_usd
from bluesminds.web.api.billing import payment_page
from bluesminds.web.api.billing_views import (
    CentAmount,
    Cents,
    CheckoutView,
    OrderView,
    PaymentPage,
    PaymentView,
    PlanView,
    checkout_view,
    order_view,
    payment_view,
    plan_view,
    read_cents,
)
from bluesminds.web.api.usage_schemas import UserId
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Paging, Route, route

_PLAN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


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


class AdminPlanView(Struct, frozen=True):
    """`products`: the id of the plan at each provider. `subscribers`: accounts with this plan."""

    plan: PlanView
    products: dict[str, str]
    subscribers: int


class SyncView(Struct, frozen=True):
    """Users whose payments were read from their providers, and users for whom this failed."""

    users: int
    failed: int


class BillingAdminHandlers(Struct, frozen=True):
    billing: Billing

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
            price_cents=read_cents(body.price_usd),
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
        return Page.of(rows, query.limit, order_view, cursor=lambda row: row.id)

    async def create_order(self, principal: Principal, body: OrderInput) -> CheckoutView:
        """Order a plan or credit for a user, who pays outside of a payment provider."""
        placed = await self.billing.orders.place(
            principal.actor,
            body.user_id,
            plan=body.plan,
            cents=None if body.amount_usd is None else read_cents(body.amount_usd),
            provider="manual",
            as_admin=True,
        )
        return checkout_view(placed, self.billing.policy)

    async def mark_paid(self, principal: Principal, order_id: str) -> OrderView:
        """Confirm that an order was paid outside of a payment provider. The plan or the credit is there when
        this returns.
        """
        return order_view(await self.billing.orders.mark_paid(principal.actor, order_id))

    async def cancel_order(self, order_id: str, principal: Principal) -> None:
        """Cancel an open order of a user."""
        await self.billing.orders.cancel(principal.actor, order_id)

    async def user_payments(self, user_id: str, query: PaymentPage) -> Page[PaymentView]:
        """List the payments of a user, newest first."""
        return await payment_page(self.billing, user_id, query)

    async def refund(self, principal: Principal, payment_id: str) -> PaymentView:
        """Refund a payment in full. Credit that it bought is taken back. A payment outside of a provider is
        only recorded as refunded.
        """
        return payment_view(await self.billing.payments.refund(principal.actor, payment_id))

    async def sync(self) -> SyncView:
        """Read the payments and subscriptions of all users from the payment providers."""
        report = await self.billing.reconciliation.sync()
        return SyncView(report.users, report.failed)


def routes(handlers: BillingAdminHandlers) -> list[Route]:
    tag, admin, access = "Billing", "/api/admin", Access.ADMIN
    return [
        route("GET", f"{admin}/plans", access, handlers.admin_plans, tag=tag),
        route("PUT", admin + "/plans/{name}", access, handlers.put_plan, tag=tag),
        route("DELETE", admin + "/plans/{name}", access, handlers.delete_plan, tag=tag),
        route("GET", f"{admin}/orders", access, handlers.orders, tag=tag),
        route("POST", f"{admin}/orders", access, handlers.create_order, tag=tag, status=201),
        route("DELETE", admin + "/orders/{order_id}", access, handlers.cancel_order, tag=tag),
        route("POST", admin + "/orders/{order_id}/paid", access, handlers.mark_paid, tag=tag),
        route("GET", admin + "/users/{user_id}/payments", access, handlers.user_payments, tag=tag),
        route("POST", admin + "/payments/{payment_id}/refund", access, handlers.refund, tag=tag),
        route("POST", f"{admin}/billing/sync", access, handlers.sync, tag=tag),
    ]
