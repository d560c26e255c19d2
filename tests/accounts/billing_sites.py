"""A billing service on a real store, with a clock that tests set."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bluesminds.accounts.billing.context import BillingContext, BillingPolicy
from bluesminds.accounts.billing.invoices import Invoices
from bluesminds.accounts.billing.plans import BillingPlan, PlanBook
from bluesminds.accounts.billing.service import Billing
from bluesminds.accounts.billing.states import DunningPolicy
from bluesminds.accounts.billing.trials import Referrals, Trials
from bluesminds.accounts.billing.work import BillingRules
from bluesminds.accounts.ledger import Ledger
from bluesminds.common.log import Log
from bluesminds.notify.events import EventKind
from bluesminds.payments.port import PaymentProvider
from storage.base import Connection, Store
from storage.events import select_new_events
from storage.store import open_store
from storage.users import UserRow, insert_user, select_user
from tests.databases import create_sqlite
from tests.storage.samples import user
from tests.storage.test_ledger import FixedClock

DAY = 86_400_000
USD = 10**9
PLANS = (
    BillingPlan("free", "Free", "free", 0),
    BillingPlan(
        "starter", "Starter", "starter", 2900, products={"stripe": "price_starter", "creem": "prod_starter"}
    ),
    BillingPlan(
        "pro",
        "Pro",
        "pro",
        9900,
        included_nano=20 * USD,
        products={"stripe": "price_pro", "creem": "prod_pro"},
    ),
    BillingPlan(
        "business",
        "Business",
        "enterprise",
        19_900,
        products={"stripe": "price_business", "creem": "prod_business"},
    ),
    BillingPlan("fixed", "Fixed", "pro", 5000, overage=False),
)


@dataclass
class BillingSite:
    """`changes` counts the calls that invalidate cached keys."""

    store: Store
    clock: FixedClock
    ledger: Ledger
    context: BillingContext
    billing: Billing
    member: UserRow
    lines: list[bytes]
    changes: list[int] = field(default_factory=list)

    async def tier(self, user_id: str | None = None) -> str | None:
        found = await self.store.read(select_user, user_id or self.member.id)
        assert found is not None
        return found.tier

    async def balance(self, user_id: str | None = None) -> int | None:
        wallet = await self.ledger.balance(user_id or self.member.id)
        return None if wallet is None else wallet.balance_nano

    async def events(self) -> list[str]:
        return await self.store.read(_event_kinds)

    async def data_of(self, kind: EventKind) -> str:
        """The data of the first event of a kind."""
        return next(one.data for one in await self.store.read(select_new_events, 100) if one.kind == kind)

    async def proven(self) -> bool:
        proof = await self.ledger.verify()
        return proof.problem is None and sum(proof.sums.values()) == 0


async def _event_kinds(connection: Connection) -> list[str]:
    return [row[0] for row in await connection.all("SELECT kind FROM events ORDER BY id")]


@asynccontextmanager
async def billing_site(
    home: Path, providers: Mapping[str, PaymentProvider] | None = None, url: str | None = None
) -> AsyncIterator[BillingSite]:
    """`url`: of the database; default, a new SQLite file in `home`."""
    clock, lines, changes = FixedClock(), list[bytes](), list[int]()
    if url is None:
        create_sqlite(home / "one.db")
    async with open_store(url or f"sqlite:{home / 'one.db'}") as store:
        member = user(1, "ada@example.com")
        await store.write(insert_user, member)
        ledger = Ledger(store, clock=clock)
        context = BillingContext(
            store,
            ledger=ledger,
            clock=clock,
            log=Log(clock, level="info", json=True, write=lines.append),
            rules=BillingRules(
                PlanBook(PLANS),
                DunningPolicy(7 * DAY, 2 * DAY),
                "free",
                ("Example Ltd",),
                "INV-",
                5 * USD,
                4 * USD,
            ),
            policy=BillingPolicy(500, 50_000, "https://ai.example.com/dashboard/billing", manual=True),
            providers=providers or {},
            changed=lambda: changes.append(1),
        )
        billing = Billing(
            context,
            trials=Trials(store, ledger=ledger, clock=clock, nano=10 * USD, length=3 * DAY),
            referrals=Referrals(store, clock=clock),
            invoices=Invoices(store, prefix="INV-"),
        )
        yield BillingSite(store, clock, ledger, context, billing, member, lines, changes)
