"""Plans: tiers with a price. A plan without a price needs no payment and is what accounts fall back to."""

import copy
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from bluesminds.common.errors import NotFound

MANUAL: Final = "manual"  # the provider whose payments an administrator confirms


class BillingPlan(Struct, frozen=True):
    """`price_cents` and `included_nano` are for one period. `overage`: accounts may buy credit as well.
    `products`: the id of the plan at each provider.
    """

    name: str
    title: str
    tier: str
    price_cents: int
    period: Literal["month", "year"] = "month"
    included_nano: int = 0
    overage: bool = True
    products: Mapping[str, str] = {}


class PlanBook:
    """All plans: those of the configuration in their order, then those of administrators."""

    def __init__(self, configured: Sequence[BillingPlan]) -> None:
        self._configured = configured
        self.set_stored(())

    def set_stored(self, stored: Sequence[BillingPlan]) -> None:
        """Replace the plans of administrators. Those with the name of a configured plan do not count."""
        names = {plan.name for plan in self._configured}
        plans = [*self._configured, *(plan for plan in stored if plan.name not in names)]
        self._plans = {plan.name: plan for plan in plans}
        self._products = {
            (provider, product): plan
            for plan in plans
            for provider, product in (*plan.products.items(), (MANUAL, plan.name))
        }

    def copy(self) -> "PlanBook":
        """The plans as they are now, for a unit of work: it runs in another thread."""
        return copy.copy(self)

    def is_configured(self, name: str) -> bool:
        return any(plan.name == name for plan in self._configured)

    def __iter__(self) -> Iterator[BillingPlan]:
        return iter(self._plans.values())

    def find(self, name: str) -> BillingPlan | None:
        return self._plans.get(name)

    def get(self, name: str) -> BillingPlan:
        """Raises NotFound."""
        plan = self._plans.get(name)
        if plan is None:
            raise NotFound("plan_not_found", "There is no plan with this name. GET /plans lists them.")
        return plan

    def of_product(self, provider: str, product: str) -> BillingPlan | None:
        """The plan with this id at a provider."""
        return self._products.get((provider, product))

    def of_tier(self, tier: str | None) -> BillingPlan | None:
        """The first plan of a tier without a price."""
        free = (plan for plan in self._plans.values() if plan.tier == tier and not plan.price_cents)
        return next(free, None)


def period_end(start: int, period: Literal["month", "year"]) -> int:
    """The end of a period in milliseconds: the same day of a later month, or the last of a shorter one."""
    at = datetime.fromtimestamp(start / 1000, UTC)
    months = at.year * 12 + at.month - 1 + (1 if period == "month" else 12)
    year, month = months // 12, months % 12 + 1
    day = min(at.day, monthrange(year, month)[1])
    return int(at.replace(year=year, month=month, day=day).timestamp()) * 1000 + start % 1000
