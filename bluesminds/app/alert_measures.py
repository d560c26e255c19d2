"""The figures that alerts are about, from what the running gateway knows."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.usage import UsageReports
from bluesminds.app.routing import Routing
from bluesminds.common.alerts import AlertRule
from bluesminds.gateway.traffic import TrafficMonitor

LEAST_REQUESTS: Final = 20  # in the window: a share of fewer says nothing
DRIFT_DAYS: Final = 1


class AlertMeasures(Struct, frozen=True):
    """`queued`: requests that wait for a server."""

    traffic: TrafficMonitor
    routing: Routing
    limits: AccountLimits
    usage: UsageReports
    queued: Callable[[], int]

    async def measure(self, rule: AlertRule) -> float:
        """The figure of a rule, in the unit of its kind."""
        match rule.kind:
            case "budget":
                return await self._budget()
            case "error_share":
                rates = self.traffic.rates(rule.window)
                enough = rates.requests >= LEAST_REQUESTS
                return round(100 * rates.failed / rates.requests, 2) if enough else 0.0
            case "latency":
                rates = self.traffic.rates(rule.window)
                return round(rates.duration, 3) if rates.requests >= LEAST_REQUESTS else 0.0
            case "server":
                return float(
                    sum(
                        status.state == "down" and rule.server in ("", server.name)
                        for server, status in self.routing.statuses()
                    )
                )
            case "drift":
                return await self._drift(rule.server)
            case "queue":
                return float(self.queued())

    async def _budget(self) -> float:
        """The largest used share of the budgets that all accounts of a tier share, in percent."""
        shares = [0.0]
        for budget in (await self.limits.shared_budgets()).values():
            for used, limit in (
                (budget.used_today, budget.per_day),
                (budget.used_this_month, budget.per_month),
            ):
                if limit:
                    shares.append(100 * used / limit)
        return round(max(shares), 2)

    async def _drift(self, server: str) -> float:
        """The largest difference between reported and own costs of a model at a server, in percent."""
        rows = await self.usage.meters(DRIFT_DAYS, "", server)
        return max(
            (
                round(100 * abs(row.reported_cost_nano / row.own_cost_nano - 1), 2)
                for row in rows
                if row.costed >= LEAST_REQUESTS and row.own_cost_nano
            ),
            default=0.0,
        )
