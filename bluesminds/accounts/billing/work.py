"""The input of a settlement, and its changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import Struct, json

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.invoices import write_cents
from bluesminds.accounts.billing.plans import PlanBook
from bluesminds.accounts.billing.states import LIVE, DunningPolicy
from bluesminds.common.clock import Clock
from bluesminds.notify.events import EventKind, new_event
from bluesminds.payments.port import CustomerState
from storage.base import Connection
from storage.billing import OrderRow, PaymentRow, SubscriptionRow, select_order
from storage.events import EventRow
from storage.ledger import EntryKind, LedgerRow

CENT: Final = 10**7  # nano-USD
CURRENCY: Final = "usd"
GATEWAY: Final = Actor(name="gateway", address="local")


class BillingRules(Struct, frozen=True):
    """`free_tier`: of accounts without a plan in force. `seller`: lines of each invoice. `invoice_prefix`: of
    its number. `referrer_nano` and `referred_nano`: rewards for the first payment of an invited user that is
    at least `referral_min_cents` without tax.
    """

    plans: PlanBook
    dunning: DunningPolicy
    free_tier: str
    seller: Sequence[str] = ()
    invoice_prefix: str = ""
    referrer_nano: int = 0
    referred_nano: int = 0
    referral_min_cents: int = 0


class Settlement(Struct, frozen=True):
    """What to bring an account to. `event`: id and kind of the event that led here; it is handled once."""

    user_id: str
    provider: str
    state: CustomerState
    event: tuple[str, str] | None = None
    actor: Actor = GATEWAY


class Settled(Struct, frozen=True):
    """`tier_changed`: cached keys of the account are outdated. `refused`: the provider's ids of payments that
    do not match their order.
    """

    tier_changed: bool = False
    refused: Sequence[str] = ()


@dataclass
class SettlementWork:
    """The changes of one settlement."""

    connection: Connection
    asked: Settlement
    rules: BillingRules
    clock: Clock
    now: int
    subscriptions: dict[str, SubscriptionRow]
    entries: list[tuple[LedgerRow, int | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        self.events.append(new_event(self.now, kind, self.asked.user_id, data))

    def post(
        self,
        kind: EntryKind,
        key: str,
        debit: str,
        credit: str,
        nano: int,
        reference: str,
        ends_at: int | None = None,
        user_id: str | None = None,
    ) -> None:
        if nano > 0:
            detail = {} if ends_at is None else {"ends_at": ends_at}
            row = LedgerRow(
                id=f"{kind}:{key}",
                at=self.now,
                kind=kind,
                debit=debit,
                credit=credit,
                amount_nano=nano,
                user_id=user_id or self.asked.user_id,
                reference=reference,
                detail=json.encode(detail).decode(),
            )
            self.entries.append((row, ends_at))

    async def own_order(self, order_id: str) -> OrderRow | None:
        """The order, if it is of this account and provider."""
        order = await select_order(self.connection, order_id) if order_id else None
        if order is None or (order.user_id, order.provider) != (self.asked.user_id, self.asked.provider):
            return None
        return order

    def has_other(self, row: SubscriptionRow) -> bool:
        """Whether another subscription is paid, and its provider charges it."""
        states = {(self.asked.provider, one.id): one.status for one in self.asked.state.subscriptions}
        return any(
            one.id != row.id
            and one.is_paid
            and states.get((one.provider, one.provider_id), one.state) in LIVE
            for one in self.subscriptions.values()
        )

    def subscription(self, provider_id: str) -> SubscriptionRow | None:
        for row in self.subscriptions.values():
            if (row.provider, row.provider_id) == (self.asked.provider, provider_id):
                return row
        return None


def payment_fields(row: PaymentRow) -> Mapping[str, object]:
    return {
        "payment": row.id,
        "provider": row.provider,
        "title": row.title,
        "amount": write_cents(row.paid_cents),
        "currency": row.currency,
    }
