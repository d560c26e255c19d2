"""/api/admin/users: management of user accounts."""

from msgspec import UNSET, Struct, UnsetType

from bluesminds.accounts.password_reset import PasswordReset, ResetLink
from bluesminds.accounts.users import UserChanges, Users
from bluesminds.common.clock import format_time
from bluesminds.common.emails import require_email
from bluesminds.identity.password import Passwords
from bluesminds.web.fields import AddressFilter, Email, FullName, Password, PromptLogSwitch, TierName
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route
from storage.prompt_log import PromptLogChoice
from storage.users import Role, UserRow


class NewUser(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password
    role: Role = "user"
    full_name: FullName = ""
    tier: TierName | None = None


class UserPatch(Struct, forbid_unknown_fields=True):
    full_name: FullName | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    tier: TierName | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    prompt_log: PromptLogSwitch | UnsetType | None = UNSET


class UserView(Struct, frozen=True):
    id: str
    email: str | None
    full_name: str
    role: Role
    tier: str | None
    email_verified: bool
    disabled: bool
    created_at: str
    prompt_log: PromptLogChoice | None


class ResetLinkView(Struct, frozen=True):
    """`url` is shown once."""

    email: str
    url: str
    expires_at: str


class UserHandlers(Struct, frozen=True):
    users: Users
    passwords: Passwords
    password_reset: PasswordReset

    async def list(self, query: AddressFilter) -> Page[UserView]:
        """List users, oldest first. With `email`, find the user with this address."""
        rows = await self.users.list(email=query.address, after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, view, cursor=lambda row: row.id)

    async def create(self, principal: Principal, body: NewUser) -> UserView:
        """Create a user with a confirmed address."""
        email = require_email(body.email)
        password_hash = await self.passwords.hash(body.password)
        user = await self.users.create(
            principal.actor,
            role=body.role,
            email=email,
            password_hash=password_hash,
            full_name=body.full_name,
            tier=body.tier,
        )
        return view(user)

    async def get(self, user_id: str) -> UserView:
        """Show a user."""
        return view(await self.users.get(user_id))

    async def change(self, principal: Principal, user_id: str, body: UserPatch) -> UserView:
        """Change a user. Omitted fields stay the same.

        Changes take effect immediately. Disabling a user or changing the role ends all sessions of the user.
        The API keys of a disabled user are rejected.
        """
        changes = UserChanges(body.full_name, body.role, body.tier, body.disabled, body.prompt_log)
        return view(await self.users.update(principal.actor, user_id, changes))

    async def delete(self, principal: Principal, user_id: str) -> None:
        """Delete a user.

        API keys and sessions of the user stop working at once. Stored responses are deleted. Usage and
        audit log are kept.
        """
        await self.users.delete(principal.actor, user_id)

    async def create_reset_link(self, principal: Principal, user_id: str) -> ResetLinkView:
        """Create a password reset link. It is also mailed to the user."""
        return _link(await self.password_reset.create_link(principal.actor, user_id))


def routes(handlers: UserHandlers) -> list[Route]:
    tag = "Users"
    return [
        route("GET", "/api/admin/users", Access.ADMIN, handlers.list, tag=tag),
        route("POST", "/api/admin/users", Access.ADMIN, handlers.create, tag=tag, status=201),
        route("GET", "/api/admin/users/{user_id}", Access.ADMIN, handlers.get, tag=tag),
        route("PATCH", "/api/admin/users/{user_id}", Access.ADMIN, handlers.change, tag=tag),
        route("DELETE", "/api/admin/users/{user_id}", Access.ADMIN, handlers.delete, tag=tag),
        route(
            "POST",
            "/api/admin/users/{user_id}/reset-password",
            Access.ADMIN,
            handlers.create_reset_link,
            tag=tag,
            status=201,
        ),
    ]


def view(row: UserRow) -> UserView:
    return UserView(
        id=row.id,
        email=row.email,
        full_name=row.full_name,
        role=row.role,
        tier=row.tier,
        email_verified=row.email_verified_at is not None,
        disabled=row.disabled_at is not None,
        created_at=format_time(row.created_at),
        prompt_log=row.prompt_log,
    )


def _link(link: ResetLink) -> ResetLinkView:
    return ResetLinkView(email=link.email, url=link.url, expires_at=format_time(link.expires_at))
