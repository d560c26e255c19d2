"""/api/vendor-keys: the keys that users store for vendors. Administrators see and change those of a user."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.vendor_keys import (
    LOCKED,
    MAX_NAMED,
    VendorKeyChanges,
    VendorKeys,
    VendorKeyTest,
    require_vendor,
)
from bluesminds.common.clock import format_time
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import OwnKeyMode, Server
from bluesminds.config.settings import VendorName
from bluesminds.gateway.server_test import ServerTest
from bluesminds.providers.profiles import profile_of
from bluesminds.providers.vendors import VENDORS
from bluesminds.web.api.server_schemas import TestStepView, step_views
from bluesminds.web.fields import Name, Secret
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route
from storage.vendor_keys import VendorKeyRow

OwnModels = Annotated[
    tuple[Name, ...],
    Meta(
        max_length=MAX_NAMED,
        description=f"a list of at most {MAX_NAMED} names of 1 to 100 characters without control characters",
    ),
]
StoredSecret = Annotated[Secret, Meta(max_length=4096)]


class NewVendorKey(Struct, frozen=True, forbid_unknown_fields=True):
    """`mode` first: the servers of the gateway are used if the key cannot be; only: they are not. Without
    `models`, the key is used for all models that the vendor lists.
    """

    vendor: VendorName
    api_key: StoredSecret
    mode: OwnKeyMode = "first"
    models: OwnModels = ()


class VendorKeyPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """An empty list of models: those that the vendor lists."""

    api_key: StoredSecret | UnsetType = UNSET
    mode: OwnKeyMode | UnsetType = UNSET
    models: OwnModels | UnsetType = UNSET


class VendorKeyView(Struct, frozen=True):
    """`last4` is empty for a short key. `server`: the name of the key in usage and receipts. `model_count`:
    the models for which it is used. `problem`: what the last test found, or that the key cannot be
    decrypted.
    """

    id: str
    vendor: str
    title: str
    server: str
    last4: str
    mode: OwnKeyMode
    models: tuple[str, ...]
    model_count: int
    problem: str | None
    tested_at: str
    created_at: str
    updated_at: str


class VendorKeyTestResult(Struct, frozen=True):
    """The steps up to the first one that failed."""

    key: VendorKeyView
    ok: bool
    steps: list[TestStepView]


class VendorKeyHandlers(Struct, frozen=True):
    """`run_test` tests a server with this model, or with one of the server's models."""

    keys: VendorKeys
    throttle: Throttle
    run_test: Callable[[Server, str | None], Awaitable[ServerTest]]

    async def list(self, principal: Principal) -> Page[VendorKeyView]:
        """List your keys for vendors, oldest first."""
        return await self.list_of(principal.user_id)

    async def list_of(self, user_id: str) -> Page[VendorKeyView]:
        """List the keys for vendors of a user, oldest first."""
        return Page([vendor_key_view(self.keys, row) for row in await self.keys.list(user_id)])

    async def get(self, principal: Principal, vendor_key_id: str) -> VendorKeyView:
        """Show one of your keys for vendors."""
        return await self.get_of(principal.user_id, vendor_key_id)

    async def get_of(self, user_id: str, vendor_key_id: str) -> VendorKeyView:
        """Show a key for a vendor of a user."""
        return vendor_key_view(self.keys, await self.keys.get(user_id, vendor_key_id))

    async def add(self, principal: Principal, body: NewVendorKey) -> VendorKeyView:
        """Store a key of yours for a vendor. It is tested first, and used from the next request on.

        The test ends with a completion of at most 16 tokens, for which the vendor may charge you. A key that
        the vendor rejects is not stored.
        """
        return await self.add_for(principal, principal.user_id, body)

    async def add_for(self, principal: Principal, user_id: str, body: NewVendorKey) -> VendorKeyView:
        """Store a key for a vendor for a user. It is tested first, and used from the next request on."""
        await self.keys.check_new(user_id, body.vendor)
        server = self.keys.server(body.vendor, body.api_key, body.models)
        test = await self._test_new(user_id, server)
        row = await self.keys.add(
            principal.actor,
            user_id,
            vendor=body.vendor,
            api_key=body.api_key,
            mode=body.mode,
            models=body.models,
            test=test,
        )
        return vendor_key_view(self.keys, row)

    async def change(self, principal: Principal, vendor_key_id: str, body: VendorKeyPatch) -> VendorKeyView:
        """Change a key for a vendor. A new key and new models are tested first."""
        return await self.change_of(principal, principal.user_id, vendor_key_id, body)

    async def change_of(
        self, principal: Principal, user_id: str, vendor_key_id: str, body: VendorKeyPatch
    ) -> VendorKeyView:
        """Change a key for a vendor of a user. A new key and new models are tested first."""
        changes = VendorKeyChanges(body.api_key, body.mode, body.models)
        row = await self.keys.get(user_id, vendor_key_id)
        test = None
        if body.api_key is not UNSET or body.models is not UNSET:
            test = await self._test_new(user_id, self.keys.changed_server(row, changes))
        return vendor_key_view(
            self.keys, await self.keys.update(principal.actor, user_id, vendor_key_id, changes, test)
        )

    async def test(self, principal: Principal, vendor_key_id: str) -> VendorKeyTestResult:
        """Test a key for a vendor again, and read the models that the vendor lists.

        The vendor may charge for a completion of at most 16 tokens.
        """
        return await self.test_of(principal.user_id, vendor_key_id)

    async def test_of(self, user_id: str, vendor_key_id: str) -> VendorKeyTestResult:
        """Test a key for a vendor of a user, and read the models that the vendor lists."""
        row = await self.keys.get(user_id, vendor_key_id)
        server = self.keys.open_server(row)
        found = await self._run(user_id, server)
        row = await self.keys.record_test(user_id, vendor_key_id, _outcome(found))
        steps = step_views(found)
        return VendorKeyTestResult(vendor_key_view(self.keys, row), all(step.ok for step in steps), steps)

    async def remove(self, principal: Principal, vendor_key_id: str) -> None:
        """Delete a key for a vendor. It is not used from the next request on."""
        await self.keys.remove(principal.actor, principal.user_id, vendor_key_id)

    async def remove_of(self, principal: Principal, user_id: str, vendor_key_id: str) -> None:
        """Delete a key for a vendor of a user. It is not used from the next request on."""
        await self.keys.remove(principal.actor, user_id, vendor_key_id)

    async def _run(self, user_id: str, server: Server) -> ServerTest:
        """Raises Forbidden, RateLimited."""
        await self.keys.check_allowed(user_id)
        self.throttle.check_key_test(user_id)
        return await self.run_test(server, None)

    async def _test_new(self, user_id: str, server: Server) -> VendorKeyTest:
        """Raises InvalidRequest for a key that the vendor rejects, and if models must be named."""
        vendor = require_vendor(server.vendor)
        if not server.models and not profile_of(server).lists_models:
            message = f"{vendor.title} does not list its models. Name them in `models`."
            raise InvalidRequest("models_required", message, param="models")
        found = await self._run(user_id, server)
        if any(step.key_refused for step in found.steps):
            message = f"{vendor.title} rejected this key. Copy it again from the vendor's website."
            raise InvalidRequest("vendor_key_rejected", message, param="api_key")
        return _outcome(found)


def routes(handlers: VendorKeyHandlers) -> list[Route]:
    tag, own, every = "Keys for vendors", Access.SESSION, Access.ADMIN
    mine, of_user = "/api/vendor-keys", "/api/admin/users/{user_id}/vendor-keys"
    one = "/{vendor_key_id}"
    return [
        route("GET", mine, own, handlers.list, tag=tag),
        route("POST", mine, own, handlers.add, tag=tag, status=201),
        route("GET", mine + one, own, handlers.get, tag=tag),
        route("PATCH", mine + one, own, handlers.change, tag=tag),
        route("DELETE", mine + one, own, handlers.remove, tag=tag),
        route("POST", f"{mine}{one}/test", own, handlers.test, tag=tag),
        route("GET", of_user, every, handlers.list_of, tag=tag),
        route("POST", of_user, every, handlers.add_for, tag=tag, status=201),
        route("GET", of_user + one, every, handlers.get_of, tag=tag),
        route("PATCH", of_user + one, every, handlers.change_of, tag=tag),
        route("DELETE", of_user + one, every, handlers.remove_of, tag=tag),
        route("POST", f"{of_user}{one}/test", every, handlers.test_of, tag=tag),
    ]


def vendor_key_view(keys: VendorKeys, row: VendorKeyRow) -> VendorKeyView:
    vendor = VENDORS.get(row.vendor)
    return VendorKeyView(
        id=row.id,
        vendor=row.vendor,
        title=row.vendor if vendor is None else vendor.title,
        server=keys.server_name(row),
        last4=row.last4,
        mode=row.mode,
        models=row.models,
        model_count=len(row.models or row.listed),
        problem=LOCKED if keys.is_locked(row) else row.problem,
        tested_at=format_time(row.tested_at),
        created_at=format_time(row.created_at),
        updated_at=format_time(row.updated_at),
    )


def _outcome(found: ServerTest) -> VendorKeyTest:
    problem = next((f"{step.name}: {step.message}" for step in found.steps if not step.ok), None)
    listed = None if found.models is None else tuple(row.id for row in found.models)
    return VendorKeyTest(listed, problem)
