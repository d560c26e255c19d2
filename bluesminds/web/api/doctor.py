"""/api/admin/doctor: the checks of `bluesminds doctor`."""

from typing import Literal, Protocol

from msgspec import Struct

from bluesminds.web.guard import Access
from bluesminds.web.routes import Route, route


class DoctorCheck(Struct, frozen=True):
    """`message` says what was found, `fix` which command or change fixes it; it may be empty."""

    name: str
    verdict: Literal["ok", "warning", "failed", "skipped"]
    message: str
    fix: str


class DoctorReport(Struct, frozen=True):
    """`ok`: no check failed."""

    ok: bool
    checks: list[DoctorCheck]


class RunDoctor(Protocol):
    """Runs all checks. Raises GatewayError if they cannot be run."""

    async def __call__(self) -> DoctorReport: ...


class DoctorHandlers(Struct, frozen=True):
    run_doctor: RunDoctor

    async def run(self) -> DoctorReport:
        """Check everything that the gateway needs, as `bluesminds doctor` does.

        Every server gets a small request, for which its vendor may charge.
        """
        return await self.run_doctor()


def routes(handlers: DoctorHandlers) -> list[Route]:
    return [route("POST", "/api/admin/doctor", Access.ADMIN, handlers.run, tag="Operation")]
