"""The plans that are sold, and the plan of an account."""

from collections.abc import Mapping

from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.plans import BillingPlan, PlanBook
from bluesminds.common.errors import Conflict
from storage.audit import AuditRow, insert_audit
from storage.base import Connection
from storage.billing import (
    SubscriptionRow,
    count_subscribers,
    delete_plan,
    has_subscribers,
    put_plan,
    select_subscriptions,
)


class OwnPlan(Struct, frozen=True):
    """`plan`: what is in force; None for a tier that no plan has. `subscription`: the newest that has not
    ended.
    """

    tier: str | None
    plan: BillingPlan | None
    subscription: SubscriptionRow | None


class PlanCatalog:
    """Plans of the configuration, and those of administrators."""

    def __init__(self, context: BillingContext) -> None:
        self._context = context

    async def all(self) -> PlanBook:
        return await self._context.plans()

    async def put(self, actor: Actor, plan: BillingPlan) -> None:
        """Add or change a plan. Raises Conflict for a plan of the configuration, and for a product of another
        plan.
        """
        plans = await self._require_stored(plan.name)
        for provider, product in plan.products.items():
            other = plans.of_product(provider, product)
            if other is not None and other.name != plan.name:
                raise Conflict("product_in_use", f"The plan `{other.name}` has this product at {provider}.")
        fields = json.encode(plan).decode()
        audit = entry(self._context.clock, actor, "plan.put", plan.name, after={"plan": fields})
        await self._context.store.write(_put, plan.name, fields, audit)
        await self._context.load_plans()

    async def delete(self, actor: Actor, name: str) -> None:
        """Raises NotFound, and Conflict for a plan of the configuration or one with subscriptions."""
        before = {"plan": json.encode((await self._require_stored(name)).get(name)).decode()}
        audit = entry(self._context.clock, actor, "plan.delete", name, before=before)
        await self._context.store.write(_delete, name, audit)
        await self._context.load_plans()

    async def _require_stored(self, name: str) -> PlanBook:
        plans = await self.all()
        if plans.is_configured(name):
            raise Conflict("plan_configured", "This plan is in the configuration. Change it there.")
        return plans

    async def subscribers(self) -> Mapping[str, int]:
        """The number of accounts with each plan, by its name."""
        return await self._context.store.read(count_subscribers)

    async def own(self, user_id: str) -> OwnPlan:
        """Raises NotFound."""
        plans = await self.all()
        user = await self._context.user(user_id)
        rows = await self._context.store.read(select_subscriptions, user_id)
        current = next((row for row in rows if row.state != "ended" or row.tier), None)
        in_force = next((row for row in rows if row.tier == user.tier and row.tier), None)
        plan = plans.of_tier(user.tier) if in_force is None else plans.find(in_force.plan)
        return OwnPlan(user.tier, plan, current)


async def _put(connection: Connection, name: str, fields: str, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await put_plan(connection, name, fields)


async def _delete(connection: Connection, name: str, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    if await has_subscribers(connection, name):
        raise Conflict("plan_in_use", "This plan has subscriptions. Wait until they have ended.")
    await delete_plan(connection, name)
