"""Identities of accounts at providers: which account an identity opens, and links between them.

An identity is an issuer and a subject. An address alone never opens an account: the provider must have
verified it and answer for it, and the settings must allow links by address. An account with an unconfirmed
address is not taken, so it loses every way to sign in that its creator chose.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import trio
from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.accounts.sessions import NewSession, Sessions
from bluesminds.accounts.users import BOOTSTRAP, audit_fields, created_event, is_admin, new_user
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.emails import read_email
from bluesminds.common.errors import Conflict, Forbidden, NotFound, Unauthenticated
from bluesminds.config import AccountSettings
from bluesminds.identity.external import ExternalIdentity, ProviderPolicy
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.events import insert_event
from storage.identities import (
    IdentityRow,
    delete_identity,
    insert_identity,
    select_identities,
    select_identity,
    touch_identity,
)
from storage.second_factors import delete_second_factor, select_second_factor
from storage.sessions import delete_sessions
from storage.settings import delete_setting
from storage.single_use_tokens import select_invites
from storage.users import (
    Role,
    UserRow,
    has_admin,
    insert_user,
    select_user,
    select_user_by_email,
    update_user,
)


class AddressUnproven(Exception):
    """The user must prove the address: the provider does not answer for it."""


class SignInRequest(Struct, frozen=True, kw_only=True):
    """The request for a session after a sign-in at a provider. `session_token`: of the session to replace."""

    actor: Actor
    policy: ProviderPolicy
    session_token: str
    user_agent: str


class Identities:
    """`changed` is called after a change of a role. `providers`: the names of those in the settings."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        sessions: Sessions,
        verification: EmailVerification,
        settings: AccountSettings,
        providers: Collection[str],
        changed: Callable[[], object],
    ) -> None:
        self._store = store
        self._clock = clock
        self._sessions = sessions
        self._verification = verification
        self._settings = settings
        self._providers = providers
        self._changed = changed

    async def enter(
        self, request: SignInRequest, external: ExternalIdentity
    ) -> tuple[UserRow, NewSession | None]:
        """The account of the identity, which may be new, with a new session; without one if the account has
        a second factor.

        Raises Forbidden, Conflict, Unauthenticated for a disabled account, AddressUnproven.
        """
        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            before, user, session = await self._store.write(self._enter, request, external)
            if user.role != before.role:
                self._changed()
        return user, session

    async def complete(self, request: SignInRequest, user_id: str) -> tuple[UserRow, NewSession]:
        """A new session of an account whose second factor was checked. Raises Unauthenticated."""
        return await self._store.write(self._complete, request, user_id)

    async def link(
        self, actor: Actor, user_id: str, policy: ProviderPolicy, external: ExternalIdentity
    ) -> UserRow:
        """Link an identity to an account. Raises Conflict if it belongs to another one."""
        return await self._store.write(self._link, actor, user_id, policy, external)

    async def list(self, user_id: str) -> Sequence[IdentityRow]:
        """In the order of their links."""
        return await self._store.read(select_identities, user_id)

    async def unlink(self, actor: Actor, user_id: str, identity_id: str) -> None:
        """Raises NotFound, Conflict for the last way to sign in."""
        await self._store.write(self._unlink, actor, user_id, identity_id)

    async def _unlink(self, connection: Connection, actor: Actor, user_id: str, identity_id: str) -> None:
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        linked = await select_identities(connection, user_id)
        found = next((row for row in linked if row.id == identity_id), None)
        if user is None or found is None:
            raise NotFound("identity_not_found", "Your account has no link with this id.")
        # Identities of services that were removed from the settings open nothing.
        usable = {row.id for row in linked if row.provider in self._providers}
        if user.password_hash is None and usable == {identity_id}:
            raise Conflict(
                "last_sign_in",
                "This is your only way to sign in. Set a password first: request a link for a new password.",
            )
        before = identity_audit_fields(found)
        await insert_audit(connection, entry(self._clock, actor, "identity.unlink", user_id, before=before))
        await delete_identity(connection, identity_id)

    async def _enter(
        self, connection: Connection, request: SignInRequest, external: ExternalIdentity
    ) -> tuple[UserRow, UserRow, NewSession | None]:
        """The account before and after its groups are applied, and a new session."""
        actor, policy = request.actor, request.policy
        await lock_audit_head(connection)
        known = await select_identity(connection, external.issuer, external.subject)
        if known is not None:
            user = await select_user(connection, known.user_id)
            if user is None or user.disabled_at is not None:
                raise user_disabled()
            await touch_identity(connection, known.id, external.email, self._clock.now_ms())
        else:
            user = await self._account_for(connection, actor, policy, external)
            await self._insert(connection, actor, user, policy, external)
        as_user = Actor(name=user.id, address=actor.address)
        before, user = user, await self._apply_groups(connection, as_user, policy, external, user)
        factor = await select_second_factor(connection, user.id)
        if factor is not None and factor.confirmed_at is not None:
            return before, user, None
        return before, user, await self._begin_session(connection, request, user)

    async def _complete(
        self, connection: Connection, request: SignInRequest, user_id: str
    ) -> tuple[UserRow, NewSession]:
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        if user is None or user.disabled_at is not None:
            raise user_disabled()
        return user, await self._begin_session(connection, request, user)

    async def _begin_session(
        self, connection: Connection, request: SignInRequest, user: UserRow
    ) -> NewSession:
        actor = Actor(name=user.id, address=request.actor.address)
        session = self._sessions.new(user.id, address=actor.address, user_agent=request.user_agent)
        provider = request.policy.name
        after = {"session_id": session.row.id, "user_agent": request.user_agent, "provider": provider}
        await insert_audit(connection, entry(self._clock, actor, "session.begin", user.id, after=after))
        await self._sessions.announce(connection, session, provider)
        await self._sessions.revoke_token(connection, actor, request.session_token)
        await self._sessions.insert(connection, session)
        return session

    async def _account_for(
        self, connection: Connection, actor: Actor, policy: ProviderPolicy, external: ExternalIdentity
    ) -> UserRow:
        """The account with the address of a new identity, or a new account."""
        email = None if external.email is None else read_email(external.email)
        if email is None:
            return await self._account_without_email(connection, actor, policy, external)
        known = await select_user_by_email(connection, email)
        if known is not None and known.disabled_at is not None:
            raise user_disabled()
        if known is not None and known.email_verified_at is not None:
            # Another user of the provider has the address now, such as a new owner of the mailbox.
            linked = await select_identities(connection, known.id)
            if not policy.link_by_email or any(row.issuer == external.issuer for row in linked):
                raise account_exists(policy)
            if not external.owns_email:
                raise AddressUnproven
            return known
        await self._require_signup(connection, actor, policy, email)
        if not external.owns_email:
            raise AddressUnproven
        if known is None:
            user = new_user(
                self._clock,
                "user",
                email=email,
                password_hash=None,
                full_name=external.name,
                tier=self._settings.default_tier,
            )
            audit = entry(self._clock, actor, "user.signup", user.id, after=audit_fields(user))
            await insert_audit(connection, audit)
            await insert_user(connection, user)
        else:
            user = known
            for row in await select_identities(connection, user.id):
                await delete_identity(connection, row.id)
            await delete_second_factor(connection, user.id)
        owned = replace(user, email=email, full_name=external.name or user.full_name, password_hash=None)
        await delete_sessions(connection, owned.id)
        return await self._verification.confirm(connection, actor, "email.verify", user, owned)

    async def _account_without_email(
        self, connection: Connection, actor: Actor, policy: ProviderPolicy, external: ExternalIdentity
    ) -> UserRow:
        """A new account that only its identity opens. Raises Forbidden."""
        if policy.needs_email:
            raise email_not_verified(policy)
        await self._require_signup(connection, actor, policy, "")
        user = new_user(
            self._clock,
            "user",
            email=None,
            password_hash=None,
            full_name=external.name,
            tier=self._settings.default_tier,
        )
        await insert_audit(
            connection, entry(self._clock, actor, "user.signup", user.id, after=audit_fields(user))
        )
        await insert_user(connection, user)
        await insert_event(connection, created_event(user.created_at, user))
        return user

    async def _require_signup(
        self, connection: Connection, actor: Actor, policy: ProviderPolicy, email: str
    ) -> None:
        """Raises Forbidden. An invitation to a verified address needs no token."""
        signup = policy.signup or self._settings.signup
        if signup == "closed":
            raise Forbidden("signup_closed", "Sign-up is closed. Ask an administrator for an account.")
        if signup == "invite":
            invites = await select_invites(connection, self._clock.now_ms(), email, "", 1)
            if not invites:
                raise Forbidden(
                    "invite_required", "Sign-up needs an invitation. Ask an administrator for one."
                )
            used = {"invite_id": invites[0].id}
            await insert_audit(connection, entry(self._clock, actor, "invite.use", email, before=used))

    async def _insert(
        self,
        connection: Connection,
        actor: Actor,
        user: UserRow,
        policy: ProviderPolicy,
        external: ExternalIdentity,
    ) -> None:
        now = self._clock.now_ms()
        row = IdentityRow(
            id=uuid7(now),
            user_id=user.id,
            provider=policy.name,
            issuer=external.issuer,
            subject=external.subject,
            email=external.email,
            created_at=now,
            last_used_at=now,
        )
        audit = entry(self._clock, actor, "identity.link", user.id, after=identity_audit_fields(row))
        await insert_audit(connection, audit)
        await insert_identity(connection, row)

    async def _link(
        self,
        connection: Connection,
        actor: Actor,
        user_id: str,
        policy: ProviderPolicy,
        external: ExternalIdentity,
    ) -> UserRow:
        """Link an identity to a signed-in account."""
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        if user is None or user.disabled_at is not None:
            raise user_disabled()
        known = await select_identity(connection, external.issuer, external.subject)
        if known is None:
            as_user = Actor(name=user.id, address=actor.address)
            await self._insert(connection, as_user, user, policy, external)
        elif known.user_id != user_id:
            raise Conflict(
                "identity_in_use",
                f"This account at {policy.title} belongs to another account here. Sign in with it instead.",
            )
        return user

    async def _apply_groups(
        self,
        connection: Connection,
        actor: Actor,
        policy: ProviderPolicy,
        external: ExternalIdentity,
        user: UserRow,
    ) -> UserRow:
        """Give or take the role of administrators as the groups say. The last administrator keeps it."""
        if not policy.admin_groups:
            return user
        role: Role = "admin" if external.groups & policy.admin_groups else "user"
        if role == user.role or (role == "admin" and user.email_verified_at is None):
            return user
        changed = replace(user, role=role)
        await update_user(connection, changed)
        if is_admin(user) and not await has_admin(connection):
            await update_user(connection, user)
            return user
        before, after = audit_fields(user), audit_fields(changed)
        audit = entry(self._clock, actor, "user.update", user.id, before=before, after=after)
        await insert_audit(connection, audit)
        await delete_sessions(connection, user.id)
        if is_admin(changed):
            await delete_setting(connection, BOOTSTRAP)
        return changed


def identity_audit_fields(row: IdentityRow) -> dict[str, object]:
    return {"provider": row.provider, "issuer": row.issuer, "subject": row.subject, "email": row.email}


def user_disabled() -> Unauthenticated:
    return Unauthenticated("user_disabled", "This account is disabled. Contact an administrator.")


def email_not_verified(policy: ProviderPolicy) -> Forbidden:
    return Forbidden(
        "email_not_verified",
        f"{policy.title} has not verified your e-mail address. Verify it there, and sign in again.",
    )


def account_exists(policy: ProviderPolicy) -> Conflict:
    return Conflict(
        "account_exists",
        f"An account with your e-mail address exists. Sign in to it and link {policy.title} in its settings.",
    )
