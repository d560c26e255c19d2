"""Events and audit notes about a change of a subscription."""

from bluesminds.accounts.billing.work import SettlementWork
from bluesminds.common.clock import format_time
from bluesminds.notify.events import EventKind
from storage.billing import SubscriptionRow


def report(work: SettlementWork, old: SubscriptionRow | None, new: SubscriptionRow) -> None:
    """Events and audit notes about a change of a subscription."""

    def happened(kind: EventKind, change: str, **more: object) -> None:
        fields = {"subscription": new.id, "plan": new.plan, "period_end": format_time(new.period_end)}
        work.tell(kind, fields | {"change": change} | more)
        work.notes.append(f"subscription {new.id} {change} {new.plan}")

    plan = work.rules.plans.find(new.plan)
    since, grace = new.past_due_since or work.now, work.rules.dunning.grace
    late = {"title": new.plan if plan is None else plan.title, "until": format_time(since + grace)}
    was_tier = None if old is None else old.tier
    if new.tier and not was_tier and (old is None or old.state == "incomplete"):
        happened("subscription.created", "started")
    if old is None:
        return
    if old.plan != new.plan:
        happened("subscription.updated", "changed", plan_before=old.plan)
    elif new.period_start > old.period_start and new.state == "active":
        happened("subscription.updated", "renewed")
    if new.next_plan and new.next_plan != old.next_plan:
        happened("subscription.updated", "change_scheduled", next_plan=new.next_plan)
    if new.cancel_at_end != old.cancel_at_end and new.state != "ended":
        happened("subscription.updated", "cancel_scheduled" if new.cancel_at_end else "resumed")
    if new.state == "past_due" and old.state != "past_due":
        work.tell("payment.failed", {"plan": new.plan, "reason": "unpaid"} | late)
        happened("subscription.past_due", "past_due", reminder=0, **late)
    elif new.state == "past_due" and new.reminders > old.reminders:
        happened("subscription.past_due", "past_due", reminder=new.reminders, **late)
    if was_tier and not new.tier:
        happened("subscription.canceled", "ended")
