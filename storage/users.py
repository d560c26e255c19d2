"""Users: the accounts that log in and own keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, LiteralString

from storage.base import Connection
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list
from storage.prompt_log import PromptLogChoice

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account. The e-mail address is unique regardless of case. Without `password_hash` there is no login
    with a password.

    `limits` is a JSON object as text with the limits that differ from the tier.
    """

    id: str
    email: str | None
    full_name: str
    role: Role
    password_hash: str | None
    disabled_at: int | None
    created_at: int
    tier: str | None = None
    email_verified_at: int | None = None
    limits: str | None = None
    prompt_log: PromptLogChoice | None = None


@dataclass(frozen=True, slots=True)
class UserSearch:
    """Users with `text` in the address or the name, regardless of case. None for a filter means that it does
    not apply.
    """

    text: str = ""
    role: Role | None = None
    tier: str | None = None
    disabled: bool | None = None


async def insert_user(connection: Connection, user: UserRow) -> None:
    """Raises IntegrityError if the e-mail address is taken."""
    await connection.many(
        """
        INSERT INTO users (
            id, email, full_name, role, password_hash, disabled_at, created_at, tier, email_verified_at,
            limits, prompt_log
        ) VALUES (
            :id, :email, :full_name, :role, :password_hash, :disabled_at, :created_at, :tier,
            :email_verified_at, :limits, :prompt_log
        )
        """,
        [user],
    )


async def select_user(connection: Connection, user_id: str) -> UserRow | None:
    row = await connection.one(
        """
        SELECT
            id, email, full_name, role, password_hash, disabled_at, created_at, tier, email_verified_at,
            limits, prompt_log
        FROM users WHERE id = :user_id
        """,
        user_id=user_id,
    )
    return None if row is None else UserRow(*row)


async def select_user_by_email(connection: Connection, email: str) -> UserRow | None:
    row = await connection.one(
        """
        SELECT
            id, email, full_name, role, password_hash, disabled_at, created_at, tier, email_verified_at,
            limits, prompt_log
        FROM users WHERE lower(email) = lower(:email)
        """,
        email=email,
    )
    return None if row is None else UserRow(*row)


async def select_users(connection: Connection, after_id: str = "", limit: int = 100) -> Sequence[UserRow]:
    """Users whose ID is above `after_id`, oldest first."""
    rows = await connection.all(
        """
        SELECT
            id, email, full_name, role, password_hash, disabled_at, created_at, tier, email_verified_at,
            limits, prompt_log
        FROM users WHERE id > :after_id ORDER BY id LIMIT :limit
        """,
        after_id=after_id,
        limit=limit,
    )
    return [UserRow(*row) for row in rows]


async def search_users(
    connection: Connection, search: UserSearch, after_id: str, limit: int
) -> Sequence[UserRow]:
    """Users whose ID is above `after_id`, oldest first. It reads every user if few match."""
    given: dict[str, object] = {"after_id": after_id, "limit": limit}
    if search.text:
        escaped = search.text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        given["pattern"] = f"%{escaped}%"
    given |= {name: value for name in ("role", "tier") if (value := getattr(search, name)) is not None}
    rows = await connection.all(_search_statement(search), **given)
    return [UserRow(*row) for row in rows]


def _search_statement(search: UserSearch) -> LiteralString:
    conditions: LiteralString = ""
    if search.text:
        conditions += " AND lower(coalesce(email, '') || ' ' || full_name) LIKE :pattern ESCAPE '\\'"
    if search.role is not None:
        conditions += " AND role = :role"
    if search.tier is not None:
        conditions += " AND tier = :tier"
    if search.disabled is not None:
        conditions += " AND disabled_at IS NOT NULL" if search.disabled else " AND disabled_at IS NULL"
    return (
        "SELECT id, email, full_name, role, password_hash, disabled_at, created_at, tier,"  # noqa: S608 - literals
        " email_verified_at, limits, prompt_log FROM users WHERE id > :after_id"
        + conditions
        + " ORDER BY id LIMIT :limit"
    )


async def select_mailed_admins(connection: Connection) -> Sequence[UserRow]:
    """Enabled administrators with a confirmed address, oldest first, at most 100."""
    rows = await connection.all(
        """
        SELECT
            id, email, full_name, role, password_hash, disabled_at, created_at, tier, email_verified_at,
            limits, prompt_log
        FROM users
        WHERE role = 'admin' AND disabled_at IS NULL AND email IS NOT NULL AND email_verified_at IS NOT NULL
        ORDER BY id LIMIT 100
        """
    )
    return [UserRow(*row) for row in rows]


async def select_user_names(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """The address, or without one the name, of each of these users that exists."""
    statement = _NAMES_SQLITE if connection.engine == "sqlite" else _NAMES_POSTGRES
    return {row[0]: row[1] or row[2] for row in await connection.all(statement, ids=id_list(connection, ids))}


_NAMES = "SELECT id, email, full_name FROM users WHERE id"
_NAMES_SQLITE = _NAMES + IN_SQLITE
_NAMES_POSTGRES = _NAMES + IN_POSTGRES


async def update_user(connection: Connection, user: UserRow) -> bool:
    """Write all columns but ID and creation time. False: no such user. Raises IntegrityError."""
    changed = await connection.execute(
        """
        UPDATE users SET
            email = :email, full_name = :full_name, role = :role,
            password_hash = :password_hash, disabled_at = :disabled_at, tier = :tier,
            email_verified_at = :email_verified_at, limits = :limits,
            prompt_log = :prompt_log
        WHERE id = :id
        """,
        id=user.id,
        email=user.email,
        full_name=user.full_name,
        role=user.role,
        password_hash=user.password_hash,
        disabled_at=user.disabled_at,
        tier=user.tier,
        email_verified_at=user.email_verified_at,
        limits=user.limits,
        prompt_log=user.prompt_log,
    )
    return changed == 1


async def set_password_hash(connection: Connection, user_id: str, before: str, after: str) -> bool:
    """Replace a hash by a stronger one of the same password. False: the password was changed meanwhile."""
    changed = await connection.execute(
        "UPDATE users SET password_hash = :after WHERE id = :user_id AND password_hash = :before",
        user_id=user_id,
        before=before,
        after=after,
    )
    return changed == 1


async def delete_unconfirmed_users(connection: Connection, before: int) -> int:
    """Delete users who signed up before `before`, did not confirm their address and have no valid link left.

    Accounts that an administrator changed stay. Returns how many were deleted.
    """
    return await connection.execute(
        """
        DELETE FROM users
        WHERE email IS NOT NULL AND email_verified_at IS NULL AND created_at < :before
            AND role = 'user' AND disabled_at IS NULL AND limits IS NULL
            AND NOT EXISTS (SELECT 1 FROM one_time_tokens WHERE user_id = users.id)
            AND NOT EXISTS (SELECT 1 FROM api_keys WHERE user_id = users.id)
            AND NOT EXISTS (SELECT 1 FROM sessions WHERE user_id = users.id)
            AND NOT EXISTS (SELECT 1 FROM vendor_keys WHERE user_id = users.id)
            AND NOT EXISTS (SELECT 1 FROM identities WHERE user_id = users.id)
            AND NOT EXISTS (SELECT 1 FROM mail_preferences WHERE user_id = users.id)
        """,
        before=before,
    )


async def delete_user(connection: Connection, user_id: str) -> None:
    """Delete a user with everything that belongs to the account alone: sessions, identities, second factor,
    tokens, API keys, keys for vendors, stored responses, chats, logged prompts, events, webhooks, billing
    details, customers at payment providers and the referral code.

    Usage rows, orders, payments and invoices are kept. Subscriptions end. Objects at servers stay there, and
    belong to no account.
    """
    for statement in (
        "DELETE FROM stored_responses WHERE user_id = :user_id",
        "DELETE FROM chats WHERE user_id = :user_id",
        "DELETE FROM vendor_keys WHERE user_id = :user_id",
        "DELETE FROM prompt_log WHERE user_id = :user_id",
        "DELETE FROM events WHERE account_id = :user_id",
        "DELETE FROM webhooks WHERE owner = :user_id",
        "DELETE FROM mail_preferences WHERE user_id = :user_id",
        "UPDATE server_objects SET user_id = NULL WHERE user_id = :user_id",
        "DELETE FROM billing_details WHERE user_id = :user_id",
        "DELETE FROM referral_codes WHERE user_id = :user_id",
        "DELETE FROM billing_customers WHERE user_id = :user_id",
        "UPDATE subscriptions SET state = 'ended', tier = NULL, due_at = NULL WHERE user_id = :user_id",
        "DELETE FROM sessions WHERE user_id = :user_id",
        "DELETE FROM identities WHERE user_id = :user_id",
        "DELETE FROM recovery_codes WHERE user_id = :user_id",
        "DELETE FROM second_factors WHERE user_id = :user_id",
        "DELETE FROM one_time_tokens WHERE user_id = :user_id",
        "DELETE FROM api_keys WHERE user_id = :user_id",
        "DELETE FROM users WHERE id = :user_id",
    ):
        await connection.execute(statement, user_id=user_id)


async def has_admin(connection: Connection) -> bool:
    """Whether an enabled administrator exists who has an address to sign in with."""
    found = await connection.value(
        "SELECT 1 FROM users WHERE role = 'admin' AND disabled_at IS NULL AND email IS NOT NULL LIMIT 1"
    )
    return found is not None
