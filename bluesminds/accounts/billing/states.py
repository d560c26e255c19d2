"""The states of a subscription as pure functions: from the row, what a provider says, and the time.

    incomplete -> active <-> past_due -> ended
                  active <-> paused

An unpaid subscription stays in force for the grace period, with reminders. A cancelled one stays in force
until the end of its period. A cheaper plan comes into force with the next period, an upgrade at once.
"""

from dataclasses import replace
from typing import Final

from msgspec import Struct

from bluesminds.accounts.billing.plans import MANUAL, BillingPlan
from bluesminds.payments.port import SubscriptionState
from storage.billing import SubscriptionRow

HOUR: Final = 3_600_000
LIVE: Final = ("active", "trialing", "past_due")
_ASK_AFTER: Final = HOUR  # after the end of a period, the state is read from the provider


class DunningPolicy(Struct, frozen=True):
    """What happens with unpaid subscriptions, in milliseconds."""

    grace: int
    reminder_interval: int


def advanced(
    row: SubscriptionRow, state: SubscriptionState, old: BillingPlan | None, new: BillingPlan, now: int
) -> SubscriptionRow:
    """The row after the provider's state was read. `old` is the plan in force, `new` that of the state."""
    next_period = state.period_start > row.period_start
    later = (
        not next_period
        and row.is_paid
        and old is not None
        and old.name != new.name
        and new.price_cents < old.price_cents
    )
    status = state.status
    if not row.is_paid and status in ("active", "past_due"):
        status = "incomplete"
    past_due = status == "past_due"
    return replace(
        row,
        plan=row.plan if later else new.name,
        next_plan=new.name if later else "",
        state=status,
        period_start=state.period_start,
        period_end=state.period_end,
        cancel_at_end=state.cancel_at_end and status != "ended",
        granted_nano=0 if next_period else row.granted_nano,
        past_due_since=(row.past_due_since or now) if past_due else None,
        reminders=row.reminders if past_due else 0,
        ends_at=state.ends_at if status == "ended" else None,
    )


def at_time(row: SubscriptionRow, now: int, policy: DunningPolicy) -> SubscriptionRow:
    """The row after what happens without a provider: the end of a manual period, reminders."""
    if row.provider == MANUAL and row.state == "active" and now >= row.period_end:
        if row.cancel_at_end:
            return replace(row, state="ended", cancel_at_end=False, ends_at=row.period_end)
        row = replace(row, state="past_due", past_due_since=row.period_end, reminders=0)
    if row.state != "past_due" or row.past_due_since is None:
        return row
    unpaid = now - row.past_due_since
    if row.provider == MANUAL and unpaid >= policy.grace:
        return replace(row, state="ended", ends_at=row.past_due_since + policy.grace, past_due_since=None)
    return replace(row, reminders=min(unpaid, policy.grace) // policy.reminder_interval)


def is_in_force(row: SubscriptionRow, now: int, policy: DunningPolicy) -> bool:
    """Whether the account has the tier of the plan."""
    if row.state == "past_due":
        return row.past_due_since is not None and now < row.past_due_since + policy.grace
    if row.state == "ended":
        return row.is_paid and row.ends_at is not None and now < row.ends_at
    return row.state in ("active", "trialing")


def next_due(row: SubscriptionRow, now: int, policy: DunningPolicy) -> int | None:
    """When the row must be looked at again although no event arrives."""
    if row.state in ("active", "trialing", "incomplete"):
        if row.provider == MANUAL:
            return row.period_end
        is_later = row.period_end > now and row.state != "incomplete"
        return row.period_end + _ASK_AFTER if is_later else now + _ASK_AFTER
    if row.state == "past_due" and row.past_due_since is not None:
        end = row.past_due_since + policy.grace
        reminder = row.past_due_since + (row.reminders + 1) * policy.reminder_interval
        return min(reminder, end) if now < end else None
    if row.state == "ended" and row.ends_at is not None and now < row.ends_at:
        return row.ends_at
    return None
