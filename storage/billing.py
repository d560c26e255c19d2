"""Orders, subscriptions and payments. Amounts are in cents of USD, times in milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection, Row

OrderState = Literal["open", "paid", "expired", "refused", "canceled"]
PaymentStatus = Literal["paid", "refused", "duplicate"]
PlanState = Literal["incomplete", "trialing", "active", "past_due", "paused", "ended"]


@dataclass(frozen=True, slots=True)
class OrderRow:
    """`plan` is "" for credit. `checkout_id`: at the provider; "" until it is known."""

    id: str
    user_id: str
    provider: str
    plan: str
    amount_cents: int
    created_at: int
    checkout_id: str = ""
    state: OrderState = "open"


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """`next_plan`: in force from the next period; "" for no change. `is_paid`: the first payment matches the
    order. `granted_nano`: how much of the included credit of this period is granted, or is not granted
    because the plan changed inside the period. `reminders`: sent since `past_due_since`. `ends_at`: of an
    ended one, until when it is in force. `tier`: what the account has because of it. `due_at`: when something
    changes without an event.
    """

    id: str
    user_id: str
    provider: str
    provider_id: str
    order_id: str
    plan: str
    state: PlanState
    period_start: int
    period_end: int
    created_at: int
    cancel_at_end: bool = False
    next_plan: str = ""
    is_paid: bool = False
    granted_nano: int = 0
    past_due_since: int | None = None
    reminders: int = 0
    ends_at: int | None = None
    tier: str | None = None
    due_at: int | None = None


@dataclass(frozen=True, slots=True)
class PaymentRow:
    """`subscription_id` is "" for credit. `paid_cents` contains the tax. `credit_nano`: what the wallet got.
    `reversed_cents`: refunded or charged back. `state` duplicate: of a second subscription, which is refunded
    and ended.
    """

    id: str
    user_id: str
    provider: str
    provider_id: str
    order_id: str
    subscription_id: str
    title: str
    currency: str
    paid_cents: int
    tax_cents: int
    credit_nano: int
    reversed_cents: int
    state: PaymentStatus
    at: int


@dataclass(frozen=True, slots=True)
class DuplicateRow:
    """The provider's ids of the payment and of its subscription."""

    payment: str
    subscription: str
    is_refunded: bool
    has_ended: bool


async def put_customer(
    connection: Connection, provider: str, customer_id: str, user_id: str, now: int
) -> None:
    """A customer who belongs to a user already stays there."""
    await connection.execute(
        """
        INSERT INTO billing_customers (provider, id, user_id, created_at)
        VALUES (:provider, :customer_id, :user_id, :now) ON CONFLICT (provider, id) DO NOTHING
        """,
        provider=provider,
        customer_id=customer_id,
        user_id=user_id,
        now=now,
    )


async def select_customer_user(connection: Connection, provider: str, customer_id: str) -> str | None:
    found = await connection.value(
        "SELECT user_id FROM billing_customers WHERE provider = :provider AND id = :customer_id",
        provider=provider,
        customer_id=customer_id,
    )
    return None if found is None else str(found)


async def select_customers(connection: Connection, user_id: str) -> Sequence[tuple[str, str]]:
    """Provider and customer id of a user, newest first."""
    rows = await connection.all(
        """
        SELECT provider, id FROM billing_customers WHERE user_id = :user_id
        ORDER BY created_at DESC, id DESC
        """,
        user_id=user_id,
    )
    return [(row[0], row[1]) for row in rows]


async def select_customer_users_after(connection: Connection, user_id: str, limit: int) -> Sequence[str]:
    """Users with a customer at a provider, in the order of their ids."""
    rows = await connection.all(
        """
        SELECT DISTINCT user_id FROM billing_customers WHERE user_id > :user_id
        ORDER BY user_id LIMIT :limit
        """,
        user_id=user_id,
        limit=limit,
    )
    return [row[0] for row in rows]


async def insert_order(connection: Connection, row: OrderRow) -> None:
    await connection.many(
        """
        INSERT INTO orders (id, user_id, provider, plan, amount_cents, created_at, checkout_id, state)
        VALUES (:id, :user_id, :provider, :plan, :amount_cents, :created_at, :checkout_id, :state)
        """,
        [row],
    )


async def set_order(connection: Connection, row: OrderRow) -> None:
    """Store the checkout and the state of an order."""
    await connection.many(
        "UPDATE orders SET checkout_id = :checkout_id, state = :state WHERE id = :id",
        [row],
    )


async def select_order(connection: Connection, order_id: str) -> OrderRow | None:
    row = await connection.one(
        """
        SELECT id, user_id, provider, plan, amount_cents, created_at, checkout_id, state
        FROM orders WHERE id = :order_id
        """,
        order_id=order_id,
    )
    return None if row is None else OrderRow(*row)


async def select_open_orders(connection: Connection, user_id: str) -> Sequence[OrderRow]:
    """Orders of a user that are not paid yet, newest first, at most 100."""
    rows = await connection.all(
        """
        SELECT id, user_id, provider, plan, amount_cents, created_at, checkout_id, state
        FROM orders WHERE user_id = :user_id AND state = 'open' ORDER BY id DESC LIMIT 100
        """,
        user_id=user_id,
    )
    return [OrderRow(*row) for row in rows]


async def expire_orders(connection: Connection, provider: str, before: int) -> None:
    """Orders of a provider that are open since before a time, and those of any that never got a checkout."""
    await connection.execute(
        """
        UPDATE orders SET state = 'expired'
        WHERE state = 'open' AND (provider = :provider OR checkout_id = '') AND created_at < :before
        """,
        provider=provider,
        before=before,
    )


async def select_orders(
    connection: Connection, state: OrderState, after_id: str, limit: int
) -> Sequence[OrderRow]:
    """Orders in a state, oldest first, those with an id above `after_id`."""
    rows = await connection.all(
        """
        SELECT id, user_id, provider, plan, amount_cents, created_at, checkout_id, state
        FROM orders WHERE state = :state AND id > :after_id ORDER BY id LIMIT :limit
        """,
        state=state,
        after_id=after_id,
        limit=limit,
    )
    return [OrderRow(*row) for row in rows]


async def put_subscription(connection: Connection, row: SubscriptionRow) -> None:
    await connection.many(
        """
        INSERT INTO subscriptions (
            id, user_id, provider, provider_id, order_id, plan, state, period_start, period_end, created_at,
            cancel_at_end, next_plan, is_paid, granted_nano, past_due_since, reminders, ends_at, tier, due_at
        ) VALUES (
            :id, :user_id, :provider, :provider_id, :order_id, :plan, :state, :period_start, :period_end,
            :created_at, :cancel_at_end, :next_plan, :is_paid, :granted_nano, :past_due_since, :reminders,
            :ends_at, :tier, :due_at
        ) ON CONFLICT (id) DO UPDATE SET
            plan = excluded.plan, state = excluded.state, period_start = excluded.period_start,
            period_end = excluded.period_end, cancel_at_end = excluded.cancel_at_end,
            next_plan = excluded.next_plan, is_paid = excluded.is_paid, granted_nano = excluded.granted_nano,
            past_due_since = excluded.past_due_since, reminders = excluded.reminders,
            ends_at = excluded.ends_at, tier = excluded.tier, due_at = excluded.due_at
        """,
        [_StoredSubscription(row)],
    )


class _StoredSubscription:
    """A subscription with the parameters of the statement as attributes; booleans are integers."""

    def __init__(self, row: SubscriptionRow) -> None:
        for name in SubscriptionRow.__slots__:
            value = getattr(row, name)
            setattr(self, name, int(value) if isinstance(value, bool) else value)


def _subscription(row: Row) -> SubscriptionRow:
    values = [*row]
    values[10], values[12] = bool(row[10]), bool(row[12])
    return SubscriptionRow(*values)


async def select_subscriptions(connection: Connection, user_id: str) -> Sequence[SubscriptionRow]:
    """Those of a user, newest first, at most 100."""
    rows = await connection.all(
        """
        SELECT id, user_id, provider, provider_id, order_id, plan, state, period_start, period_end,
            created_at, cancel_at_end, next_plan, is_paid, granted_nano, past_due_since, reminders,
            ends_at, tier, due_at
        FROM subscriptions WHERE user_id = :user_id ORDER BY id DESC LIMIT 100
        """,
        user_id=user_id,
    )
    return [_subscription(row) for row in rows]


async def select_due_users(connection: Connection, now: int, limit: int) -> Sequence[str]:
    """Users with a subscription in which something changes without an event."""
    rows = await connection.all(
        "SELECT DISTINCT user_id FROM subscriptions WHERE due_at <= :now LIMIT :limit", now=now, limit=limit
    )
    return [row[0] for row in rows]


async def count_subscribers(connection: Connection) -> dict[str, int]:
    """Subscriptions that give a tier, by plan."""
    rows = await connection.all(
        "SELECT plan, count(*) FROM subscriptions WHERE tier IS NOT NULL GROUP BY plan"
    )
    return {row[0]: row[1] for row in rows}


async def put_payment(connection: Connection, row: PaymentRow) -> None:
    """Insert a payment, or store what was reversed of it."""
    await connection.many(
        """
        INSERT INTO payments (
            id, user_id, provider, provider_id, order_id, subscription_id, title, currency, paid_cents,
            tax_cents, credit_nano, reversed_cents, state, at
        ) VALUES (
            :id, :user_id, :provider, :provider_id, :order_id, :subscription_id, :title, :currency,
            :paid_cents, :tax_cents, :credit_nano, :reversed_cents, :state, :at
        ) ON CONFLICT (id) DO UPDATE SET reversed_cents = excluded.reversed_cents
        """,
        [row],
    )


async def select_payments(
    connection: Connection, user_id: str, before_id: str, limit: int
) -> Sequence[PaymentRow]:
    """Payments of a user, newest first, those with an id below `before_id`; "" starts with the newest."""
    rows = await connection.all(
        """
        SELECT id, user_id, provider, provider_id, order_id, subscription_id, title, currency, paid_cents,
            tax_cents, credit_nano, reversed_cents, state, at
        FROM payments WHERE user_id = :user_id AND id < :before_id ORDER BY id DESC LIMIT :limit
        """,
        user_id=user_id,
        before_id=before_id or "g",  # ids are hexadecimal
        limit=limit,
    )
    return [PaymentRow(*row) for row in rows]


async def select_payment(connection: Connection, payment_id: str) -> PaymentRow | None:
    row = await connection.one(
        """
        SELECT id, user_id, provider, provider_id, order_id, subscription_id, title, currency, paid_cents,
            tax_cents, credit_nano, reversed_cents, state, at
        FROM payments WHERE id = :payment_id
        """,
        payment_id=payment_id,
    )
    return None if row is None else PaymentRow(*row)


async def select_provider_payment(
    connection: Connection, provider: str, provider_id: str
) -> PaymentRow | None:
    row = await connection.one(
        """
        SELECT id, user_id, provider, provider_id, order_id, subscription_id, title, currency, paid_cents,
            tax_cents, credit_nano, reversed_cents, state, at
        FROM payments WHERE provider = :provider AND provider_id = :provider_id
        """,
        provider=provider,
        provider_id=provider_id,
    )
    return None if row is None else PaymentRow(*row)


async def select_refunded_subscriptions(connection: Connection, user_id: str) -> Sequence[str]:
    """Subscriptions of a user whose newest payment was refunded in full."""
    rows = await connection.all(
        """
        SELECT one.subscription_id FROM payments one
        WHERE one.user_id = :user_id AND one.subscription_id <> '' AND one.reversed_cents >= one.paid_cents
            AND NOT EXISTS (
                SELECT 1 FROM payments later WHERE later.user_id = :user_id
                AND later.subscription_id = one.subscription_id AND later.at > one.at
            )
        """,
        user_id=user_id,
    )
    return [row[0] for row in rows]


async def select_duplicates(connection: Connection, user_id: str, provider: str) -> Sequence[DuplicateRow]:
    """Payments of second subscriptions that are not refunded, or whose subscription has not ended."""
    rows = await connection.all(
        """
        SELECT payments.provider_id, subscriptions.provider_id, reversed_cents >= paid_cents,
            subscriptions.state = 'ended'
        FROM payments JOIN subscriptions ON subscriptions.id = payments.subscription_id
        WHERE payments.user_id = :user_id AND payments.provider = :provider AND payments.state = 'duplicate'
            AND (reversed_cents < paid_cents OR subscriptions.state <> 'ended')
        """,
        user_id=user_id,
        provider=provider,
    )
    return [DuplicateRow(row[0], row[1], bool(row[2]), bool(row[3])) for row in rows]


async def insert_billing_event(
    connection: Connection, provider: str, event_id: str, kind: str, now: int
) -> bool:
    """Remember an event. False: it was handled before."""
    changed = await connection.execute(
        """
        INSERT INTO billing_events (provider, id, kind, at) VALUES (:provider, :event_id, :kind, :now)
        ON CONFLICT (provider, id) DO NOTHING
        """,
        provider=provider,
        event_id=event_id,
        kind=kind,
        now=now,
    )
    return changed > 0


async def has_billing_event(connection: Connection, provider: str, event_id: str) -> bool:
    found = await connection.value(
        "SELECT 1 FROM billing_events WHERE provider = :provider AND id = :event_id",
        provider=provider,
        event_id=event_id,
    )
    return found is not None


async def select_plans(connection: Connection) -> Sequence[str]:
    """The plans of administrators as JSON objects, in the order of their names."""
    return [row[0] for row in await connection.all("SELECT fields FROM plans ORDER BY name")]


async def put_plan(connection: Connection, name: str, fields: str) -> None:
    await connection.execute(
        """
        INSERT INTO plans (name, fields) VALUES (:name, :fields)
        ON CONFLICT (name) DO UPDATE SET fields = excluded.fields
        """,
        name=name,
        fields=fields,
    )


async def delete_plan(connection: Connection, name: str) -> bool:
    """False: there is no such plan."""
    return await connection.execute("DELETE FROM plans WHERE name = :name", name=name) > 0


async def has_subscribers(connection: Connection, plan: str) -> bool:
    found = await connection.value(
        "SELECT 1 FROM subscriptions WHERE (plan = :plan OR next_plan = :plan) AND state <> 'ended' LIMIT 1",
        plan=plan,
    )
    return found is not None
