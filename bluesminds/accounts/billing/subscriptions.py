"""Changes of a subscription by its user: another plan, cancel, resume, the provider's page."""

from contextlib import suppress

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.catalog import OwnPlan, PlanCatalog
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.plans import MANUAL, BillingPlan
from bluesminds.accounts.billing.reconciliation import Reconciliation
from bluesminds.accounts.billing.states import LIVE
from bluesminds.accounts.billing.work import Settlement
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.payments.port import CustomerState, PaymentFailed, PaymentNotFound, SubscriptionState
from storage.billing import SubscriptionRow, select_customers


class SubscriptionChanges:
    def __init__(self, context: BillingContext, catalog: PlanCatalog, reconciliation: Reconciliation) -> None:
        self._context = context
        self._catalog = catalog
        self._reconciliation = reconciliation

    async def portal(self, user_id: str) -> str:
        """The URL of the provider's page for payment methods. Raises NotFound without a customer."""
        with self._context.asking():
            for name, customer in await self._context.store.read(select_customers, user_id):
                if (provider := self._context.providers.get(name)) is not None:
                    with suppress(PaymentNotFound):
                        return await provider.portal(customer, self._context.policy.return_url)
        raise NotFound("customer_not_found", "The account has not paid anything yet.")

    async def change_plan(self, actor: Actor, user_id: str, name: str) -> OwnPlan:
        """An upgrade is in force at once, a cheaper plan from the next period. Raises NotFound,
        Conflict.
        """
        plans, row = await self._catalog.all(), await self._live(user_id)
        plan, old = plans.get(name), plans.find(row.plan)
        if row.provider == MANUAL or row.provider not in plan.products or not plan.price_cents:
            raise Conflict("plan_not_sold", "The subscription cannot change to this plan. Order it instead.")
        if old is not None and old.period != plan.period:  # a provider would begin a new period at once
            raise Conflict(
                "plan_not_sold",
                "The plan has another period. Cancel the subscription, and order the plan when it has ended.",
            )
        async with self._context.lock(user_id):
            with self._context.asking():
                await self._change_product(row, old, plan)
        await self._reconciliation.refresh(user_id, actor)
        return await self._catalog.own(user_id)

    async def _change_product(self, row: SubscriptionRow, old: BillingPlan | None, plan: BillingPlan) -> None:
        provider, product = self._context.providers[row.provider], plan.products[row.provider]
        state = await self._state_of(row)
        if state.product == product:  # another request changed it
            return
        if old is None or plan.price_cents <= old.price_cents:
            await provider.change_product(state, product, upgrade=False)
            return
        in_force = old.products.get(row.provider, state.product)
        if state.product != in_force:  # a scheduled downgrade; the upgrade is charged from the plan in force
            await provider.change_product(state, in_force, upgrade=False)
        try:
            await provider.change_product(state, product, upgrade=True)
        except PaymentFailed:
            if state.product != in_force:
                await provider.change_product(state, state.product, upgrade=False)
            raise

    async def cancel(self, actor: Actor, user_id: str, *, cancel: bool) -> OwnPlan:
        """Cancel the subscription at the end of its period, or take this back. Raises NotFound."""
        async with self._context.lock(user_id):
            row = await self._live(user_id)
            if row.provider == MANUAL:
                await self._cancel_manual(actor, row, cancel=cancel)
            else:
                with self._context.asking():
                    provider = self._context.providers[row.provider]
                    await provider.cancel_at_end(row.provider_id, cancel=cancel)
        if row.provider != MANUAL:
            await self._reconciliation.refresh(user_id, actor)
        return await self._catalog.own(user_id)

    async def _cancel_manual(self, actor: Actor, row: SubscriptionRow, *, cancel: bool) -> None:
        state = SubscriptionState(
            row.provider_id,
            row.order_id,
            row.plan,
            "past_due" if row.state == "past_due" else "active",
            row.period_start,
            row.period_end,
            cancel_at_end=cancel,
        )
        await self._context.settle(Settlement(row.user_id, MANUAL, CustomerState([state]), actor=actor))

    async def _live(self, user_id: str) -> SubscriptionRow:
        row = (await self._catalog.own(user_id)).subscription
        if row is None or row.state not in LIVE or row.provider not in (MANUAL, *self._context.providers):
            raise NotFound("subscription_not_found", "The account has no subscription.")
        return row

    async def _state_of(self, row: SubscriptionRow) -> SubscriptionState:
        for name, customer in await self._context.store.read(select_customers, row.user_id):
            if name != row.provider:
                continue
            with suppress(PaymentNotFound):
                state = await self._context.providers[name].read(customer, ())
                for one in state.subscriptions:
                    if one.id == row.provider_id:
                        return one
        raise PaymentNotFound("the provider does not know the subscription")
