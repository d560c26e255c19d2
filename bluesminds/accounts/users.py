"""User accounts and the first administrator.

API keys created at the command line belong to one user, the local operator. Without an administrator, every
start issues a new bootstrap token, which is shown once, stored as a digest, and can be used once to create
the first administrator. The last enabled administrator cannot be disabled or demoted.

The address of an account that an administrator creates counts as confirmed. An unconfirmed address is not
taken: it can still be used to create another account. When an address is taken, its invitations are deleted.
"""

import hmac
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import trio
from msgspec import UNSET, Struct, UnsetType, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.billing.plans import MANUAL
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, token_digest, uuid7
from bluesminds.common.errors import Conflict, Forbidden, InvalidRequest, NotFound
from bluesminds.notify.events import new_event
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.billing import SubscriptionRow, select_subscriptions
from storage.events import EventRow, insert_event
from storage.prompt_log import PromptLogChoice
from storage.sessions import delete_sessions
from storage.settings import delete_setting, put_setting, select_setting
from storage.single_use_tokens import delete_invites, delete_tokens
from storage.users import (
    Role,
    UserRow,
    UserSearch,
    delete_user,
    has_admin,
    insert_user,
    search_users,
    select_user,
    select_user_by_email,
    select_user_names,
    select_users,
    update_user,
)

BOOTSTRAP = "bootstrap_token_sha256"
LOCAL_USER = "local_user_id"


class UserChanges(Struct, frozen=True):
    """Unset fields stay the same. A tier of None removes the tier."""

    full_name: str | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    tier: str | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET
    prompt_log: PromptLogChoice | UnsetType | None = UNSET


class Users:
    """`changed` is called after every change of the rights of an account, to invalidate cached keys. `tiers`
    are the known names.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        changed: Callable[[], object] = lambda: None,
        tiers: Collection[str] = (),
    ) -> None:
        self._store = store
        self._clock = clock
        self._changed = changed
        self._tiers = tiers

    async def has_admin(self) -> bool:
        return await self._store.read(has_admin)

    async def local_user(self, actor: Actor) -> tuple[str, bool]:
        """The id of the local operator's user, and whether this call created it."""
        return await self._store.write(self._local_user, actor)

    async def new_bootstrap_token(self, actor: Actor) -> str | None:
        """A token that replaces earlier ones and is shown once; None if there is an administrator."""
        token = secrets.token_urlsafe(32)
        audit = entry(self._clock, actor, "bootstrap.issue", BOOTSTRAP)
        issued = await self._store.write(_issue_token, token_digest(token).hex(), audit)
        return token if issued else None

    async def require_token(self, token: str) -> None:
        """Raises Forbidden for a wrong or used token. Call it before expensive work for anonymous clients."""
        expected = await self._store.read(select_setting, BOOTSTRAP)
        if expected is None or not hmac.compare_digest(expected, token_digest(token).hex()):
            raise _bad_token()

    async def claim_admin(self, actor: Actor, *, token: str, email: str, password_hash: str) -> UserRow:
        """Create the first administrator. Raises Forbidden for a wrong or used token, Conflict if the address
        is taken.
        """
        user = self._confirm_allowed("admin", email=email, password_hash=password_hash)
        return await self._store.write(self._claim_admin, actor, user, token_digest(token).hex())

    async def create(
        self,
        actor: Actor,
        *,
        role: Role,
        email: str,
        password_hash: str,
        full_name: str = "",
        tier: str | None = None,
    ) -> UserRow:
        """Create an account with a confirmed address. Without a tier it has no limits; the default tier is
        for accounts that sign up. The first administrator ends the bootstrap token.

        Raises Conflict, InvalidRequest for an unknown tier.
        """
        self._require_tier(tier)
        user = self._confirm_allowed(
            role, email=email, password_hash=password_hash, full_name=full_name, tier=tier
        )
        return await self._store.write(self._create, actor, user)

    async def list(self, *, email: str | None = None, after: str = "", limit: int = 100) -> Sequence[UserRow]:
        """A page of users, oldest first, after the id `after`; or the user with the address `email`."""
        if email is not None:
            found = await self._store.read(select_user_by_email, email)
            return [found] if found is not None and found.id > after else []
        return await self._store.read(select_users, after, limit)

    async def search(self, search: UserSearch, *, after: str, limit: int) -> Sequence[UserRow]:
        """A page of the users that match, oldest first, after the id `after`."""
        return await self._store.read(search_users, search, after, limit)

    async def get(self, user_id: str) -> UserRow:
        """Raises NotFound."""
        return _require(await self._store.read(select_user, user_id) if is_uuid(user_id) else None)

    async def names(self, user_ids: Collection[str]) -> dict[str, str]:
        """The address, or without one the name, of each of these users that exists."""
        return await self._store.read(select_user_names, sorted(user_ids)) if user_ids else {}

    async def update(self, actor: Actor, user_id: str, changes: UserChanges) -> UserRow:
        """Disabling a user or changing the role ends all sessions of the user.

        Raises NotFound, InvalidRequest for an unknown tier, Conflict for the last administrator, and for a
        new administrator without a confirmed address.
        """
        if changes.tier is not UNSET:
            self._require_tier(changes.tier)
        if not is_uuid(user_id):
            raise no_such_user()
        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            try:
                updated = await self._store.write(self._update, actor, user_id, changes)
            finally:
                self._changed()
        return updated

    async def delete(self, actor: Actor, user_id: str) -> None:
        """Delete an account with its sessions, API keys and responses; usage and audit log are kept. In force
        when this returns. Raises NotFound, Conflict for the last administrator and the local operator.
        """
        if not is_uuid(user_id):
            raise no_such_user()
        with trio.CancelScope(shield=True):  # the caches must be emptied, even if the client has disconnected
            try:
                await self._store.write(self._delete, actor, user_id)
            finally:
                self._changed()

    async def _delete(self, connection: Connection, actor: Actor, user_id: str) -> None:
        await lock_audit_head(connection)
        before = _require(await select_user(connection, user_id))
        if await select_setting(connection, LOCAL_USER) == user_id:
            raise Conflict(
                "local_operator", "The local operator owns the keys of commands and cannot be deleted."
            )
        if any(_is_charged(row) for row in await select_subscriptions(connection, user_id)):
            raise Conflict(
                "subscription_active",
                "The account has a subscription, and its payment provider would continue to charge. "
                "Cancel it first.",
            )
        await insert_audit(
            connection, entry(self._clock, actor, "user.delete", user_id, before=audit_fields(before))
        )
        await delete_user(connection, user_id)
        if is_admin(before) and not await has_admin(connection):
            raise Conflict("last_admin", "This is the last enabled administrator. Create another one first.")

    async def change_own(
        self,
        actor: Actor,
        user_id: str,
        full_name: str | UnsetType,
        prompt_log: PromptLogChoice | UnsetType | None,
    ) -> UserRow:
        """Change what users may change themselves. Raises NotFound."""
        changes = UserChanges(full_name=full_name, prompt_log=prompt_log)
        if prompt_log is UNSET:  # no right of the account changes
            return await self._store.write(self._update, actor, user_id, changes)
        return await self.update(actor, user_id, changes)

    def _require_tier(self, tier: str | None) -> None:
        if tier is not None and tier not in self._tiers:
            known = ", ".join(self._tiers)
            raise InvalidRequest("invalid_value", f"tier must be one of {known}, or null.", param="tier")

    def _confirm_allowed(self, role: Role, *, email: str, password_hash: str, **more: str | None) -> UserRow:
        user = new_user(self._clock, role, email=email, password_hash=password_hash, **more)
        return replace(user, email_verified_at=user.created_at)

    async def _update(
        self, connection: Connection, actor: Actor, user_id: str, changes: UserChanges
    ) -> UserRow:
        await lock_audit_head(connection)
        before = _require(await select_user(connection, user_id))
        after = _changed(before, changes, self._clock.now_ms())
        if after == before:
            return before
        if after.role == "admin" and before.role != "admin" and after.email_verified_at is None:
            raise Conflict(
                "email_not_confirmed",
                "An administrator needs a confirmed e-mail address; this account has none.",
            )
        logged = audit_fields(after) | await end_invites(connection, after)
        audit = entry(self._clock, actor, "user.update", user_id, before=audit_fields(before), after=logged)
        await insert_audit(connection, audit)
        await update_user(connection, after)
        if is_admin(before) and not is_admin(after) and not await has_admin(connection):
            raise Conflict("last_admin", "This is the last enabled administrator. Create another one first.")
        if (after.role, after.disabled_at) != (before.role, before.disabled_at):
            await delete_sessions(connection, user_id)
            await delete_tokens(connection, user_id, "reset_password")
        if is_admin(after):
            await delete_setting(connection, BOOTSTRAP)
        return after

    async def _claim_admin(self, connection: Connection, actor: Actor, user: UserRow, digest: str) -> UserRow:
        await lock_audit_head(connection)
        expected = await select_setting(connection, BOOTSTRAP)
        if expected is None or not hmac.compare_digest(expected, digest):
            raise _bad_token()
        return await self._store_user(connection, actor, "admin.claim", user)

    async def _create(self, connection: Connection, actor: Actor, user: UserRow) -> UserRow:
        await lock_audit_head(connection)
        return await self._store_user(connection, actor, "user.create", user)

    async def _store_user(self, connection: Connection, actor: Actor, action: str, user: UserRow) -> UserRow:
        """Insert an account, or overwrite an unconfirmed account with the same address."""
        known = await select_user_by_email(connection, user.email or "")
        if is_taken(known):
            raise email_taken()
        if known is not None:
            user = replace(user, id=known.id, created_at=known.created_at)
        before = None if known is None else audit_fields(known)
        after = audit_fields(user) | await end_invites(connection, user)
        await insert_audit(connection, entry(self._clock, actor, action, user.id, before=before, after=after))
        await (insert_user(connection, user) if known is None else update_user(connection, user))
        await insert_event(connection, created_event(self._clock.now_ms(), user))
        await delete_tokens(connection, user.id, "verify_email")
        await delete_tokens(connection, user.id, "reset_password")
        if user.role == "admin":
            await delete_setting(connection, BOOTSTRAP)
        return user

    async def _local_user(self, connection: Connection, actor: Actor) -> tuple[str, bool]:
        await lock_audit_head(connection)
        existing = await select_setting(connection, LOCAL_USER)
        if existing is not None:
            return existing, False
        user = new_user(self._clock, "user", email=None, password_hash=None, full_name="Local operator")
        await insert_audit(
            connection, entry(self._clock, actor, "user.create", user.id, after=audit_fields(user))
        )
        await put_setting(connection, LOCAL_USER, user.id)
        await insert_user(connection, user)
        return user.id, True


def new_user(
    clock: Clock,
    role: Role,
    *,
    email: str | None,
    password_hash: str | None,
    full_name: str | None = "",
    tier: str | None = None,
) -> UserRow:
    now = clock.now_ms()
    return UserRow(
        id=uuid7(now),
        email=email,
        full_name=full_name or "",
        role=role,
        password_hash=password_hash,
        disabled_at=None,
        created_at=now,
        tier=tier,
    )


def audit_fields(user: UserRow) -> dict[str, object]:
    """The fields of an account for the audit log."""
    return {
        "email": user.email,
        "full_name": user.full_name,
        "role": user.role,
        "tier": user.tier,
        "password": user.password_hash,  # the audit log masks it
        "email_verified": user.email_verified_at is not None,
        "disabled": user.disabled_at is not None,
        "prompt_log": user.prompt_log,
    }


def created_event(at_ms: int, user: UserRow) -> EventRow:
    """The event of an account that can be used from now on."""
    data = {"user_id": user.id, "email": user.email, "full_name": user.full_name, "tier": user.tier}
    return new_event(at_ms, "user.created", user.id, data)


def is_admin(user: UserRow) -> bool:
    return user.role == "admin" and user.disabled_at is None


def is_taken(user: UserRow | None) -> bool:
    """Whether the address of this account cannot be used for another one."""
    return user is not None and (user.email_verified_at is not None or user.disabled_at is not None)


async def end_invites(connection: Connection, user: UserRow) -> dict[str, object]:
    """Delete all invitations to the address of an account if it is taken; fields for the audit log.

    Otherwise they would work again after the account changes its address.
    """
    # Expired invitations too, because the clock may be set back.
    ended = await delete_invites(connection, user.email or "", 0) if is_taken(user) else ()
    return {"ended_invite_ids": [row.id for row in ended]} if ended else {}


def email_taken() -> Conflict:
    return Conflict("email_taken", "An account with this e-mail address already exists.")


def _changed(user: UserRow, changes: UserChanges, now: int) -> UserRow:
    given = {name: value for name, value in structs.asdict(changes).items() if value is not UNSET}
    disabled = given.pop("disabled", user.disabled_at is not None)
    return replace(user, **given, disabled_at=(user.disabled_at or now) if disabled else None)


def _require(user: UserRow | None) -> UserRow:
    if user is None:
        raise no_such_user()
    return user


def _is_charged(row: SubscriptionRow) -> bool:
    """Whether a payment provider charges the next period."""
    is_live = row.state in ("active", "trialing", "past_due") and not row.cancel_at_end
    return is_live and row.provider != MANUAL


def no_such_user(param: str | None = None) -> NotFound:
    return NotFound("user_not_found", "There is no user with this id.", param=param)


def _bad_token() -> Forbidden:
    return Forbidden(
        "invalid_bootstrap_token",
        "The bootstrap token is invalid or already used. The latest start of the gateway printed it.",
    )


async def _issue_token(connection: Connection, digest: str, audit: AuditRow) -> bool:
    await lock_audit_head(connection)
    if await has_admin(connection):
        return False
    await insert_audit(connection, audit)
    await put_setting(connection, BOOTSTRAP, digest)
    return True
