"""Billing: the plan, payments and invoices of an account; for administrators, plans and open orders."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.billing.invoices import NEWEST_INVOICE
from bluesminds.accounts.billing.plans import MANUAL
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.billing.work import CENT
from bluesminds.accounts.users import Users
from bluesminds.common.money import write_usd
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.web.api.billing_views import order_view, own_plan_view, payment_view, plan_view
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

ROWS: Final = 20
MAX_CODE: Final = 20  # characters of a referral code
STATES: Final = {
    "incomplete": "waits for its payment",
    "trialing": "trial",
    "active": "active",
    "past_due": "payment is late",
    "paused": "paused",
    "ended": "ended",
}


class BillingQuery(Struct, frozen=True):
    """`order`, `checkout_id`: a payment provider sends the customer back. `ref`: a referral code. Links of
    others have further parameters.
    """

    order: Annotated[str, Meta(max_length=200)] = ""
    checkout_id: Annotated[str, Meta(max_length=200)] = ""
    ref: Annotated[str, Meta(max_length=200)] = ""


class BillingPages(Struct, frozen=True):
    frame: Frame
    billing: Billing
    users: Users

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: BillingQuery
    ) -> HandlerResponse[RawBody]:
        """The plan, payments and invoices of an account."""
        user_id, billing = principal.user_id, self.billing
        own = await billing.plans.own(user_id)
        policy = billing.policy
        return self.frame.page(
            "billing.html",
            browser,
            principal,
            own=own_plan_view(own),
            subscription=own.subscription,
            state=None if own.subscription is None else STATES[own.subscription.state],
            plans=[plan_view(plan) for plan in await billing.plans.all()],
            sells=bool(billing.providers) or policy.manual,
            takes_topups=own.plan is None or own.plan.overage,
            topup=(write_usd(policy.topup_min * CENT), write_usd(policy.topup_max * CENT)),
            is_manual=own.subscription is not None and own.subscription.provider == MANUAL,
            orders=[
                (order_view(row), row.provider == MANUAL) for row in await billing.orders.own_open(user_id)
            ],
            instructions=policy.instructions,
            payments=[
                payment_view(row) for row in await billing.payments.list(user_id, before="", limit=ROWS)
            ],
            invoices=await billing.invoices.list(user_id, before=NEWEST_INVOICE, limit=ROWS),
            details=await billing.invoices.details(user_id),
            has_returned=bool(query.order or query.checkout_id),
            trial=await billing.trials.find(user_id),
            trial_usd=write_usd(billing.trials.nano),
            trial_lasts=words.lasting(billing.trials.length),
            referral=await billing.referrals.own(user_id),
            link=f"{policy.return_url}?ref=",
            ref=query.ref[:MAX_CODE],
        )

    async def invoice(
        self, principal: Principal, browser: BrowserRequest, invoice_id: str
    ) -> HandlerResponse[RawBody]:
        """An invoice, to print."""
        found = await self.billing.invoices.get(invoice_id, principal.user_id)
        return self.frame.page("invoice.html", browser, principal, invoice=found)

    async def admin(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """Plans, open orders and the latest invoices."""
        orders = await self.billing.orders.open(after="", limit=100)
        invoices = await self.billing.invoices.list(None, before=NEWEST_INVOICE, limit=ROWS)
        users = {row.user_id for row in orders} | {one.row.user_id for one in invoices}
        return self.frame.page(
            "plans.html",
            browser,
            principal,
            plans=[(plan_view(plan), plan.products) for plan in await self.billing.plans.all()],
            subscribers=await self.billing.plans.subscribers(),
            providers=[*self.billing.providers, *([MANUAL] if self.billing.policy.manual else [])],
            orders=[(row, write_usd(row.amount_cents * CENT), row.provider == MANUAL) for row in orders],
            invoices=invoices,
            names=await self.users.names(users),
        )


def routes(pages: BillingPages) -> list[Route]:
    own, admin = f"{HOME}/billing", f"{HOME}/admin/plans"
    return [
        route("GET", own, Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", own + "/invoices/{invoice_id}", Access.SESSION, pages.invoice, tag="Pages", media=HTML),
        route("GET", admin, Access.ADMIN, pages.admin, tag="Pages", media=HTML),
    ]
