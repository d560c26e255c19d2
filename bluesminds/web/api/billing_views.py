"""How plans, orders, subscriptions and payments look in the API."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.billing.catalog import OwnPlan
from bluesminds.accounts.billing.context import BillingPolicy
from bluesminds.accounts.billing.orders import PlacedOrder
from bluesminds.accounts.billing.plans import BillingPlan
from bluesminds.accounts.billing.work import CENT
from bluesminds.common.clock import format_time
from bluesminds.common.money import read_usd, write_usd
from bluesminds.web.routes import Paging
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


class PlanView(Struct, frozen=True):
    """The price and the included credit are for one period. `overage`: accounts may buy credit as well."""

    name: str
    title: str
    tier: str
    price_usd: str
    period: Literal["month", "year"]
    included_usd: str
    overage: bool


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
    """`tier`: null has no limits. `plan`: null for a tier that was set without a plan."""

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


def read_cents(usd: str) -> int:
    return read_usd(usd) // CENT


def checkout_view(placed: PlacedOrder, policy: BillingPolicy) -> CheckoutView:
    instructions = policy.instructions if not placed.url else ""
    return CheckoutView(placed.order.id, placed.url or None, instructions or None)


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


def order_view(row: OrderRow) -> OrderView:
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
