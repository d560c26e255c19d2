"""/api/auth/sessions and /api/admin/users/{user_id}/sessions: listing and revoking sessions."""

from msgspec import Struct

from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.users import Users
from bluesminds.common.clock import format_time
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route
from storage.sessions import SessionRow


class SessionView(Struct, frozen=True):
    """`current` is true for the session of this request."""

    id: str
    created_at: str
    expires_at: str
    last_seen_at: str
    address: str
    user_agent: str
    current: bool


class SessionHandlers(Struct, frozen=True):
    sessions: Sessions
    users: Users

    async def list(self, principal: Principal) -> Page[SessionView]:
        """List your sessions, newest first."""
        return await self._list(principal, principal.user_id)

    async def revoke(self, principal: Principal, session_id: str) -> None:
        """Revoke a session."""
        await self.sessions.revoke(principal.actor, principal.user_id, session_id)

    async def revoke_others(self, principal: Principal) -> None:
        """Revoke all other sessions."""
        await self.sessions.revoke_others(principal.actor, principal.user_id, principal.session_id)

    async def list_of_user(self, principal: Principal, user_id: str) -> Page[SessionView]:
        """List the sessions of a user, newest first."""
        return await self._list(principal, (await self.users.get(user_id)).id)

    async def revoke_of_user(self, principal: Principal, user_id: str, session_id: str) -> None:
        """Revoke a session of a user."""
        await self.sessions.revoke(principal.actor, (await self.users.get(user_id)).id, session_id)

    async def revoke_all_of_user(self, principal: Principal, user_id: str) -> None:
        """Revoke all sessions of a user."""
        await self.sessions.revoke_all(principal.actor, (await self.users.get(user_id)).id)

    async def _list(self, principal: Principal, user_id: str) -> Page[SessionView]:
        return Page([session_view(row, principal) for row in await self.sessions.list(user_id)])


def routes(handlers: SessionHandlers) -> list[Route]:
    own, of_user = "/api/auth/sessions", "/api/admin/users/{user_id}/sessions"
    return [
        route("GET", own, Access.SESSION, handlers.list, tag="Accounts"),
        route("DELETE", own, Access.SESSION, handlers.revoke_others, tag="Accounts"),
        route("DELETE", f"{own}/{{session_id}}", Access.SESSION, handlers.revoke, tag="Accounts"),
        route("GET", of_user, Access.ADMIN, handlers.list_of_user, tag="Users"),
        route("DELETE", of_user, Access.ADMIN, handlers.revoke_all_of_user, tag="Users"),
        route("DELETE", f"{of_user}/{{session_id}}", Access.ADMIN, handlers.revoke_of_user, tag="Users"),
    ]


def session_view(row: SessionRow, principal: Principal) -> SessionView:
    return SessionView(
        id=row.id,
        created_at=format_time(row.created_at),
        expires_at=format_time(row.expires_at),
        last_seen_at=format_time(row.last_seen_at),
        address=row.address,
        user_agent=row.user_agent,
        current=row.id == principal.session_id,
    )
