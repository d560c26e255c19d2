"""/api/admin/reload: read the configuration again."""

from typing import Protocol

from msgspec import Struct

from bluesminds.accounts.audit import Actor
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route


class ConfigProblem(Struct, frozen=True):
    """`where`: file and line, a variable, or empty. `help` says how to fix it."""

    where: str
    message: str
    help: str


class ReloadReport(Struct, frozen=True):
    """`accepted`: the new configuration is in force. If not, the earlier one stays in force, and `problems`
    says why. `restart`: changed settings that only a restart applies. The numbers are those in force.
    """

    accepted: bool
    problems: tuple[ConfigProblem, ...]
    restart: tuple[str, ...]
    servers: int
    routes: int
    prices: int


class Reload(Protocol):
    """Reads the configuration again. Raises GatewayError without a running gateway."""

    async def __call__(self, actor: Actor) -> ReloadReport: ...


class ReloadHandlers(Struct, frozen=True):
    reload: Reload

    async def run(self, principal: Principal) -> ReloadReport:
        """Read the configuration again, and use its servers, routes, prices, tiers and log level.

        Running requests continue. If the configuration is not valid, the earlier one stays in force.
        """
        return await self.reload(principal.actor)


def routes(handlers: ReloadHandlers) -> list[Route]:
    return [route("POST", "/api/admin/reload", Access.ADMIN, handlers.run, tag="Operation")]
