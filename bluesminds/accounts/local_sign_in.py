"""A link that signs the local operator in once, for trials on one machine.

The demo prints it. It makes the local operator an administrator, so that all pages can be seen. This account
has no password; without a new link, it cannot be signed in.
"""

import hmac
import secrets
from dataclasses import replace

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.sessions import NewSession, Sessions
from bluesminds.accounts.users import audit_fields
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import token_digest
from bluesminds.common.errors import Forbidden
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.settings import delete_setting, put_setting, select_setting
from storage.users import UserRow, select_user, update_user

LINK = "local_sign_in_sha256"


class LocalSignIn:
    def __init__(self, store: Store, *, clock: Clock, sessions: Sessions) -> None:
        self._store = store
        self._clock = clock
        self._sessions = sessions

    async def new_token(self, actor: Actor, user_id: str) -> str:
        """A token that signs `user_id` in once, as an administrator. It replaces the earlier one."""
        token = secrets.token_urlsafe(32)
        await self._store.write(self._issue, actor, user_id, token_digest(token).hex())
        return token

    async def sign_in(self, actor: Actor, token: str, *, user_agent: str) -> tuple[UserRow, NewSession]:
        """A new session. Raises Forbidden for a wrong or used token."""
        return await self._store.write(self._use, actor, token_digest(token).hex(), user_agent)

    async def _issue(self, connection: Connection, actor: Actor, user_id: str, digest: str) -> None:
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        if user is None:
            raise _invalid_link()
        after = replace(user, role="admin", full_name=user.full_name or "Local operator")
        audit = entry(
            self._clock,
            actor,
            "local_sign_in.issue",
            user_id,
            before=audit_fields(user),
            after=audit_fields(after),
        )
        await insert_audit(connection, audit)
        await update_user(connection, after)
        await put_setting(connection, LINK, f"{user_id} {digest}")

    async def _use(
        self, connection: Connection, actor: Actor, digest: str, user_agent: str
    ) -> tuple[UserRow, NewSession]:
        await lock_audit_head(connection)
        user_id, _, expected = (await select_setting(connection, LINK) or "").partition(" ")
        user = await select_user(connection, user_id) if hmac.compare_digest(expected, digest) else None
        if user is None or user.disabled_at is not None:
            raise _invalid_link()
        session = self._sessions.new(user.id, address=actor.address, user_agent=user_agent)
        after = {"session_id": session.row.id, "user_agent": user_agent}
        audit_actor = Actor(name=user.id, address=actor.address)
        await insert_audit(connection, entry(self._clock, audit_actor, "session.begin", user.id, after=after))
        await delete_setting(connection, LINK)
        await self._sessions.insert(connection, session)
        return user, session


def _invalid_link() -> Forbidden:
    return Forbidden(
        "invalid_sign_in_link",
        "This link is invalid or already used. The latest start of the gateway printed a new one.",
    )
