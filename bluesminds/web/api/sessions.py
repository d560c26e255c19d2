"""/api/auth/sessions and /api/admin/users/{user_id}/sessions: who is signed in, and ending that."""

from msgspec import Struct

from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.users import Users
from bluesminds.common.clock import format_time
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route
from storage.sessions import SessionRow


class SessionView(Struct, frozen=True):
    """`current` marks the one that asks."""

    id: str
    created_at: str
    expires_at: str
    last_seen_at: str
    address: str
    user_agent: str
    current: bool


class SessionHandlers(Struct, frozen=True):
    sessions: Sessions
    members: Users

    async def list(self, who: Principal) -> Page[SessionView]:
        """List one's sessions, the newest first."""
        return await self._list(who, who.user_id)

    async def end(self, who: Principal, session_id: str) -> None:
        """End one of one's sessions."""
        await self.sessions.end(who.actor, who.user_id, session_id)

    async def end_others(self, who: Principal) -> None:
        """End all of one's sessions but this."""
        await self.sessions.end_others(who.actor, who.user_id, who.session_id)

    async def list_of(self, who: Principal, user_id: str) -> Page[SessionView]:
        """List the sessions of a user, the newest first."""
        return await self._list(who, (await self.members.get(user_id)).id)

    async def end_of(self, who: Principal, user_id: str, session_id: str) -> None:
        """End a session of a user."""
        await self.sessions.end(who.actor, (await self.members.get(user_id)).id, session_id)

    async def end_all_of(self, who: Principal, user_id: str) -> None:
        """Sign a user out everywhere."""
        await self.sessions.end_all(who.actor, (await self.members.get(user_id)).id)

    async def _list(self, who: Principal, user_id: str) -> Page[SessionView]:
        return Page([_view(row, who) for row in await self.sessions.list(user_id)])


def routes(handlers: SessionHandlers) -> list[Route]:
    own, of_user = "/api/auth/sessions", "/api/admin/users/{user_id}/sessions"
    return [
        route("GET", own, Access.SESSION, handlers.list, tag="Accounts"),
        route("DELETE", own, Access.SESSION, handlers.end_others, tag="Accounts"),
        route("DELETE", f"{own}/{{session_id}}", Access.SESSION, handlers.end, tag="Accounts"),
        route("GET", of_user, Access.ADMIN, handlers.list_of, tag="Users"),
        route("DELETE", of_user, Access.ADMIN, handlers.end_all_of, tag="Users"),
        route("DELETE", f"{of_user}/{{session_id}}", Access.ADMIN, handlers.end_of, tag="Users"),
    ]


def _view(row: SessionRow, who: Principal) -> SessionView:
    return SessionView(
        id=row.id,
        created_at=format_time(row.created_at),
        expires_at=format_time(row.expires_at),
        last_seen_at=format_time(row.last_seen_at),
        address=row.address,
        user_agent=row.user_agent,
        current=row.id == who.session_id,
    )
