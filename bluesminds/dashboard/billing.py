"""Billing: the plan, payments and invoices of an account; for administrators, plans and open orders."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.billing.invoices import NEWEST_INVOICE
from bluesminds.accounts.billing.plans import MANUAL, BillingPlan
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.billing.states import LIVE
from bluesminds.accounts.billing.work import CENT
from bluesminds.accounts.users import Users
from bluesminds.common.money import write_usd
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.web.api.billing_views import PaymentView, order_view, own_plan_view, payment_view, plan_view
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.billing import PaymentStatus, SubscriptionRow

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
PAYMENT_STATES: Final[Mapping[PaymentStatus, str]] = {
    "paid": "paid",
    "refused": "does not match its order",
    "duplicate": "second subscription, refunded",
}
SELLERS: Final = {"stripe": "Stripe", "creem": "Creem", MANUAL: "your administrator"}


class BillingQuery(Struct, frozen=True):
    """`order`, `checkout_id`: a payment provider sends the customer back. `pay`: the provider to order with.
    `ref`: a referral code. Links of others have further parameters.
    """

    order: Annotated[str, Meta(max_length=200)] = ""
    pay: Annotated[str, Meta(max_length=200)] = ""
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
        own, policy, plans = await billing.plans.own(user_id), billing.policy, await billing.plans.all()
        row = own.subscription
        sellers = _sellers(billing)
        seller = query.pay if query.pay in sellers else next(iter(sellers), "")
        return self.frame.page(
            "billing.html",
            browser,
            principal,
            own=own_plan_view(own),
            subscription=row,
            state=None if row is None else STATES[row.state],
            is_live=row is not None and row.state in LIVE,
            is_manual=row is not None and row.provider == MANUAL,
            late_until=None
            if row is None or row.past_due_since is None
            else row.past_due_since + billing.grace,
            titles={plan.name: plan.title for plan in plans},
            plans=[(plan_view(plan), _is_sold(plan, row, seller)) for plan in plans],
            sellers=sellers,
            seller=seller,
            takes_topups=own.plan is None or own.plan.overage,
            topup=(write_usd(policy.topup_min * CENT), write_usd(policy.topup_max * CENT)),
            orders=[
                (order_view(one), one.provider == MANUAL) for one in await billing.orders.own_open(user_id)
            ],
            instructions=policy.instructions,
            payments=await self._payments(user_id),
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

    async def _payments(self, user_id: str) -> Sequence[tuple[PaymentView, str]]:
        """The latest payments, and their states in words."""
        rows = await self.billing.payments.list(user_id, before="", limit=ROWS)
        return [(payment_view(row), PAYMENT_STATES[row.state]) for row in rows]

    async def user(
        self, principal: Principal, browser: BrowserRequest, user_id: str
    ) -> HandlerResponse[RawBody]:
        """The plan and the payments of a user, for administrators."""
        user, own = await self.users.get(user_id), await self.billing.plans.own(user_id)
        row = own.subscription
        return self.frame.page(
            "user_billing.html",
            browser,
            principal,
            user=user,
            own=own_plan_view(own),
            subscription=row,
            state=None if row is None else STATES[row.state],
            payments=await self._payments(user_id),
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


def _sellers(billing: Billing) -> Mapping[str, str]:
    """Names of the providers to order with."""
    manual = [MANUAL] if billing.policy.manual else []
    return {name: SELLERS.get(name, name) for name in (*billing.providers, *manual)}


def _is_sold(plan: BillingPlan, row: SubscriptionRow | None, seller: str) -> bool:
    """Whether the subscription can change to the plan, or else the seller has it."""
    if row is not None and row.state in LIVE and row.provider != MANUAL:
        return bool(plan.price_cents) and row.provider in plan.products
    return bool(plan.price_cents) and bool(seller) and (seller == MANUAL or seller in plan.products)


def routes(pages: BillingPages) -> list[Route]:
    own, admin = f"{HOME}/billing", f"{HOME}/admin/plans"
    return [
        route("GET", own, Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", own + "/invoices/{invoice_id}", Access.SESSION, pages.invoice, tag="Pages", media=HTML),
        route(
            "GET",
            f"{HOME}/admin/users/{{user_id}}/billing",
            Access.ADMIN,
            pages.user,
            tag="Pages",
            media=HTML,
        ),
        route("GET", admin, Access.ADMIN, pages.admin, tag="Pages", media=HTML),
    ]
