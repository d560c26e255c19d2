"""/plans, /user/plan and /api/billing: the plan, orders and payments of an account. Only with [billing]."""

from msgspec import Struct

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.service import Billing
from bluesminds.web.api.billing_views import (
    CentAmount,
    CheckoutView,
    OrderView,
    OwnPlanView,
    PaymentPage,
    PaymentView,
    PlanView,
    PortalView,
    checkout_view,
    order_view,
    own_plan_view,
    payment_view,
    plan_view,
    read_cents,
)
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route


class CheckoutInput(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan, or an amount to buy credit. Without `provider`: the first one of the settings."""

    plan: Name | None = None
    amount_usd: CentAmount | None = None
    provider: Name | None = None


class PlanInput(Struct, frozen=True, forbid_unknown_fields=True):
    plan: Name


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
            cents=None if body.amount_usd is None else read_cents(body.amount_usd),
            provider=body.provider,
        )
        return checkout_view(placed, self.billing.policy)

    async def orders(self, principal: Principal) -> Page[OrderView]:
        """List your open orders, newest first."""
        return Page([order_view(row) for row in await self.billing.orders.own_open(principal.user_id)])

    async def cancel_order(self, principal: Principal, order_id: str) -> None:
        """Cancel an order that you have not paid."""
        await self.billing.orders.cancel(principal.actor, order_id, principal.user_id)

    async def portal(self, principal: Principal) -> PortalView:
        """Get the page of the payment provider where you manage payment methods."""
        return PortalView(await self.billing.subscriptions.portal(principal.user_id))

    async def change_plan(self, principal: Principal, body: PlanInput) -> OwnPlanView:
        """Change the plan of your subscription. An upgrade is in force at once, a cheaper plan from the
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
        return await payment_page(self.billing, principal.user_id, query)


async def payment_page(billing: Billing, user_id: str, query: PaymentPage) -> Page[PaymentView]:
    rows = await billing.payments.list(user_id, before=query.after, limit=query.limit + 1)
    return Page.of(rows, query.limit, payment_view, cursor=lambda row: row.id)


def routes(handlers: BillingHandlers) -> list[Route]:
    tag, own, access = "Billing", "/api/billing", Access.SESSION
    return [
        route("GET", "/plans", Access.PUBLIC, handlers.plans, tag=tag),
        route("GET", "/user/plan", access, handlers.own_plan, tag=tag),
        route("POST", f"{own}/checkout", access, handlers.checkout, tag=tag, status=201),
        route("GET", f"{own}/orders", access, handlers.orders, tag=tag),
        route("DELETE", own + "/orders/{order_id}", access, handlers.cancel_order, tag=tag),
        route("POST", f"{own}/portal", access, handlers.portal, tag=tag),
        route("GET", f"{own}/subscription", access, handlers.own_plan, tag=tag),
        route("POST", f"{own}/subscription", access, handlers.change_plan, tag=tag),
        route("DELETE", f"{own}/subscription", access, handlers.cancel, tag=tag),
        route("POST", f"{own}/subscription/resume", access, handlers.resume, tag=tag),
        route("POST", f"{own}/refresh", access, handlers.refresh, tag=tag),
        route("GET", f"{own}/payments", access, handlers.payments, tag=tag),
    ]
