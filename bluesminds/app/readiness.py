"""Whether the gateway can take traffic: the checks behind /ready."""

from collections.abc import Callable

import trio

from bluesminds.app.services import Services
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.supervision import TaskSupervisor
from storage.base import StorageError
from storage.users import has_admin

STORE_SECONDS = 2.0  # how long /ready waits for the store


class ReadinessCheck:
    def __init__(
        self,
        services: Services,
        registry: ServerRegistry,
        *,
        recorder: Recorder,
        tasks: TaskSupervisor,
        lease: Lease,
        status: Callable[[str], ServerStatus],
    ) -> None:
        self._status = status
        self._services = services
        self._registry = registry
        self._recorder = recorder
        self._tasks = tasks
        self._lease = lease

    async def check(self) -> dict[str, str]:
        """A short text per part; anything but "ok" means that the gateway is not ready."""
        down = sorted(self._tasks.down)
        return {
            "store": "failing" if self._recorder.failing else await self._check_store(),
            "limits": "ok" if self._lease.held() else "the lease on the database is lost or not confirmed",
            "tasks": ", ".join(down) + " down" if down else "ok",
            "servers": "ok" if self._registry.has_usable() else self._describe_unavailability(),
        }

    def _describe_unavailability(self) -> str:
        locked = len(self._services.accounts.servers.locked)
        servers = self._registry.catalog.servers
        down = [server.name for server in servers if self._status(server.name).state == "down"]
        text = f"no usable server; {len(down)} down: {', '.join(down)}" if down else "no usable server"
        return text + (f"; {locked} with secrets that another master key encrypted" if locked else "")

    async def _check_store(self) -> str:
        try:
            with trio.fail_after(STORE_SECONDS):
                await self._services.store.read(has_admin)
        except (StorageError, trio.TooSlowError):
            return "does not respond"
        return "ok"
