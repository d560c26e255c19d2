"""API keys: a user's own at /api/keys and /user/api-keys, those of all users at /api/admin/keys."""

from msgspec import Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.users import Users
from bluesminds.web.api.key_schemas import (
    CreatedKey,
    Days,
    KeyFilter,
    KeyFilterForUser,
    KeyPatch,
    KeyUsageView,
    KeyView,
    NewKey,
    NewKeyForUser,
    Rotation,
    created,
    policy_from,
    policy_with,
    usage_view,
    view,
)
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Handler, Page, Route, route


class KeyHandlers(Struct, frozen=True):
    """Handlers for a user's own keys, or with `all_users` for those of all users."""

    keys: Keys
    users: Users
    all_users: bool = False

    def _owner(self, principal: Principal) -> str | None:
        return None if self.all_users else principal.user_id

    async def list(self, principal: Principal, query: KeyFilter) -> Page[KeyView]:
        """List your keys, oldest first."""
        return await self._page(principal.user_id, query)

    async def list_all(self, query: KeyFilterForUser) -> Page[KeyView]:
        """List the keys of all users, or of one user, oldest first."""
        return await self._page(query.user_id, query)

    async def _page(self, owner: str | None, query: KeyFilter) -> Page[KeyView]:
        rows = await self.keys.list(owner, active=query.active, after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, view, cursor=lambda row: row.id)

    async def create(self, principal: Principal, body: NewKey) -> CreatedKey:
        """Create a key. The response contains the secret, which is shown once.

        The limits of the key apply in addition to those of your account.
        """
        return created(*await self.keys.create(principal.actor, principal.user_id, policy_from(body)))

    async def create_for(self, principal: Principal, body: NewKeyForUser) -> CreatedKey:
        """Create a key for a user. The response contains the secret, which is shown once.

        Without `user_id` the key belongs to the caller; on the local socket to the local operator.
        """
        owner = body.user_id or principal.user_id or (await self.users.local_user(principal.actor))[0]
        return created(*await self.keys.create(principal.actor, owner, policy_from(body)))

    async def get(self, principal: Principal, key_id: str) -> KeyView:
        """Show a key."""
        return view(await self.keys.get(self._owner(principal), key_id))

    async def change(self, principal: Principal, key_id: str, body: KeyPatch) -> KeyView:
        """Change a key. Changes take effect with the next request.

        Omitted fields stay the same, also within `limits`. `metadata` is replaced completely.
        """
        changed = await self.keys.change(
            principal.actor, self._owner(principal), key_id, lambda before: policy_with(before, body)
        )
        return view(changed)

    async def rotate(self, principal: Principal, key_id: str, body: Rotation) -> CreatedKey:
        """Replace the secret of a key. The new one is shown once.

        Id, restrictions, limits and usage stay the same. The previous secret works for `overlap_seconds`. If
        there was an earlier previous secret, it is revoked.
        """
        return created(
            *await self.keys.rotate(
                principal.actor, self._owner(principal), key_id, overlap=body.overlap_seconds
            )
        )

    async def end_previous(self, principal: Principal, key_id: str) -> None:
        """Revoke the previous secret of a rotated key. Only the current one is accepted then."""
        await self.keys.end_previous(principal.actor, self._owner(principal), key_id)

    async def revoke(self, principal: Principal, key_id: str) -> None:
        """Revoke a key immediately. It stays in the list."""
        await self.keys.revoke(principal.actor, self._owner(principal), key_id)

    async def usage(self, principal: Principal, key_id: str, query: Days) -> KeyUsageView:
        """Usage of a key over calendar days in UTC.

        `last_used_at` may be up to 30 seconds old.
        """
        return usage_view(await self.keys.usage(self._owner(principal), key_id, days=query.days))


def routes(keys: Keys, users: Users) -> list[Route]:
    own, all_keys = KeyHandlers(keys, users), KeyHandlers(keys, users, all_users=True)
    return [
        *_routes("/api/keys", Access.SESSION, own, own.list, own.create),
        *_routes("/user/api-keys", Access.SESSION, own, own.list, own.create),
        # Clients of other gateways change a key with PUT.
        route("PUT", "/user/api-keys/{key_id}", Access.SESSION, own.change, tag="Keys"),
        *_routes("/api/admin/keys", Access.ADMIN, all_keys, all_keys.list_all, all_keys.create_for),
    ]


def _routes(
    path: str, access: Access, handlers: KeyHandlers, lists: Handler, creates: Handler
) -> list[Route]:
    tag = "Keys"
    one = f"{path}/{{key_id}}"
    return [
        route("GET", path, access, lists, tag=tag),
        route("POST", path, access, creates, tag=tag, status=201),
        route("GET", one, access, handlers.get, tag=tag),
        route("PATCH", one, access, handlers.change, tag=tag),
        route("DELETE", one, access, handlers.revoke, tag=tag),
        route("POST", f"{one}/rotate", access, handlers.rotate, tag=tag, status=201),
        route("DELETE", f"{one}/previous", access, handlers.end_previous, tag=tag),
        route("GET", f"{one}/usage", access, handlers.usage, tag=tag),
    ]
