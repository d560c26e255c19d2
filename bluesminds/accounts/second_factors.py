"""The second factor of accounts: one-time codes of an authenticator app, and recovery codes.

A code is accepted once. The secret is encrypted with the master key, and recovery codes are stored as keyed
digests. Attempts are counted before anything is compared.
"""

import base64
import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, is_uuid
from bluesminds.common.errors import Conflict, NotFound, Unauthenticated
from bluesminds.identity.totp import new_secret, provisioning_uri, step_of
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.second_factors import (
    SecondFactorRow,
    confirm_second_factor,
    count_recovery_codes,
    delete_second_factor,
    insert_second_factor,
    replace_recovery_codes,
    select_second_factor,
    use_recovery_code,
    use_step,
)
from storage.sessions import delete_sessions
from storage.users import UserRow, select_user

RECOVERY_CODES: Final = 10
_CODE_BYTES: Final = 10  # 80 random bits


class FactorSetup(Struct, frozen=True):
    """A secret that waits for its first code. `uri` is what an app reads from the QR code."""

    secret: str
    uri: str

    def __repr__(self) -> str:
        return "FactorSetup()"


class FactorStatus(Struct, frozen=True):
    """`setup` is set while the first code is missing."""

    enabled: bool
    recovery_codes: int = 0
    setup: FactorSetup | None = None


class SecondFactors:
    def __init__(
        self, store: Store, *, vault: Vault, pepper: bytes, clock: Clock, throttle: Throttle
    ) -> None:
        self._store = store
        self._vault = vault
        self._digest_key = hmac.digest(pepper, b"bluesminds recovery codes", "sha256")
        self._clock = clock
        self._throttle = throttle

    async def status(self, user: UserRow) -> FactorStatus:
        row = await self._store.read(select_second_factor, user.id)
        if row is None:
            return FactorStatus(enabled=False)
        if row.confirmed_at is None:
            return FactorStatus(enabled=False, setup=self._setup(row, user))
        return FactorStatus(
            enabled=True, recovery_codes=await self._store.read(count_recovery_codes, user.id)
        )

    async def is_on(self, user_id: str) -> bool:
        row = await self._store.read(select_second_factor, user_id)
        return row is not None and row.confirmed_at is not None

    async def begin(self, actor: Actor, user: UserRow) -> FactorSetup:
        """A new secret; it replaces an unconfirmed one. Raises Conflict if the second factor is on."""
        sealed = self._vault.seal(new_secret())
        row = SecondFactorRow(user.id, sealed, None, 0, self._clock.now_ms())
        await self._store.write(self._begin, actor, row)
        return self._setup(row, user)

    async def confirm(self, actor: Actor, user_id: str, code: str, *, session_id: str) -> Sequence[str]:
        """Turn the second factor on. Returns recovery codes, which are shown once. All other sessions end.

        Raises Conflict without a secret that waits, Unauthenticated for a wrong code, RateLimited.
        """
        codes = [_new_code() for _ in range(RECOVERY_CODES)]
        with self._counted(actor, user_id):
            await self._store.write(self._confirm, actor, user_id, code, codes, session_id)
        return codes

    async def check(self, actor: Actor, user_id: str, code: str) -> None:
        """Accept a one-time code or a recovery code, once. Raises Unauthenticated, RateLimited."""
        with self._counted(actor, user_id):
            await self._store.write(self._check, actor, user_id, code)

    async def new_recovery_codes(self, actor: Actor, user_id: str, code: str) -> Sequence[str]:
        """Replace the recovery codes. Raises Conflict, Unauthenticated, RateLimited."""
        codes = [_new_code() for _ in range(RECOVERY_CODES)]
        with self._counted(actor, user_id):
            await self._store.write(self._replace_codes, actor, user_id, code, codes)
        return codes

    async def disable(self, actor: Actor, user_id: str, *, code: str | None = None) -> None:
        """Without `code`, the caller has checked the password. Raises Conflict, Unauthenticated,
        RateLimited.
        """
        with self._counted(actor, user_id):
            await self._store.write(self._disable, actor, user_id, code)

    async def reset(self, actor: Actor, user_id: str) -> None:
        """Remove the factor of a user who has lost it. All sessions of the user end. Raises NotFound."""
        if not is_uuid(user_id):
            raise NotFound("user_not_found", "There is no user with this id.")
        await self._store.write(self._reset, actor, user_id)

    @contextmanager
    def _counted(self, actor: Actor, user_id: str) -> Iterator[None]:
        """An attempt counts as failed until the block ends without an error."""
        self._throttle.count_code_attempt(user_id, actor.address)
        yield
        self._throttle.release_code_attempt(user_id, actor.address)

    def _setup(self, row: SecondFactorRow, user: UserRow) -> FactorSetup:
        secret = self._open(row)
        return FactorSetup(secret, provisioning_uri(secret, user.email or user.full_name or user.id))

    def _open(self, row: SecondFactorRow) -> str:
        try:
            return self._vault.open(row.sealed_secret)
        except ValueError as exc:
            raise Conflict(
                "second_factor_locked",
                "The secret was encrypted with another master key. Ask an administrator to reset it.",
            ) from exc

    def _digest(self, user_id: str, code: str) -> bytes:
        plain = code.replace("-", "").replace(" ", "").lower()
        return hmac.digest(self._digest_key, f"{user_id} {plain}".encode(), "sha256")

    async def _begin(self, connection: Connection, actor: Actor, row: SecondFactorRow) -> None:
        await lock_audit_head(connection)
        known = await select_second_factor(connection, row.user_id)
        if known is not None and known.confirmed_at is not None:
            raise Conflict("second_factor_on", "The second factor is on already. Turn it off first.")
        await insert_audit(connection, entry(self._clock, actor, "second_factor.begin", row.user_id))
        await delete_second_factor(connection, row.user_id)
        await insert_second_factor(connection, row)

    async def _confirm(
        self,
        connection: Connection,
        actor: Actor,
        user_id: str,
        code: str,
        codes: Sequence[str],
        session_id: str,
    ) -> None:
        await lock_audit_head(connection)
        row = await select_second_factor(connection, user_id)
        if row is None or row.confirmed_at is not None:
            raise Conflict(
                "second_factor_not_begun", "Start with a new secret: POST /api/auth/second-factor."
            )
        now = self._clock.now_ms()
        step = step_of(self._open(row), code.replace(" ", ""), now)
        if step is None:
            raise wrong_code()
        await insert_audit(connection, entry(self._clock, actor, "second_factor.enable", user_id))
        await confirm_second_factor(connection, user_id, now, step)
        await replace_recovery_codes(connection, user_id, [self._digest(user_id, one) for one in codes])
        await delete_sessions(connection, user_id, but=session_id)

    async def _check(self, connection: Connection, actor: Actor, user_id: str, code: str) -> None:
        await lock_audit_head(connection)
        row = await select_second_factor(connection, user_id)
        if row is None or row.confirmed_at is None:
            raise Conflict("second_factor_off", "The second factor is off.")
        step = step_of(self._open(row), code.replace(" ", ""), self._clock.now_ms())
        if step is not None and await use_step(connection, user_id, step):
            return
        if step is None and await use_recovery_code(connection, user_id, self._digest(user_id, code)):
            left = {"recovery_codes": await count_recovery_codes(connection, user_id)}
            await insert_audit(
                connection, entry(self._clock, actor, "second_factor.recover", user_id, after=left)
            )
            return
        raise wrong_code()

    async def _replace_codes(
        self, connection: Connection, actor: Actor, user_id: str, code: str, codes: Sequence[str]
    ) -> None:
        await lock_audit_head(connection)
        await self._check(connection, actor, user_id, code)
        await insert_audit(connection, entry(self._clock, actor, "second_factor.new_codes", user_id))
        await replace_recovery_codes(connection, user_id, [self._digest(user_id, one) for one in codes])

    async def _disable(self, connection: Connection, actor: Actor, user_id: str, code: str | None) -> None:
        await lock_audit_head(connection)
        if code is not None:
            await self._check(connection, actor, user_id, code)
        if await select_second_factor(connection, user_id) is None:
            raise Conflict("second_factor_off", "The second factor is off.")
        await insert_audit(connection, entry(self._clock, actor, "second_factor.disable", user_id))
        await delete_second_factor(connection, user_id)

    async def _reset(self, connection: Connection, actor: Actor, user_id: str) -> None:
        await lock_audit_head(connection)
        if await select_user(connection, user_id) is None:
            raise NotFound("user_not_found", "There is no user with this id.")
        await insert_audit(connection, entry(self._clock, actor, "second_factor.reset", user_id))
        await delete_second_factor(connection, user_id)
        await delete_sessions(connection, user_id)


def wrong_code() -> Unauthenticated:
    return Unauthenticated(
        "invalid_code",
        "This code is wrong or already used. Enter the current code of your app, or a recovery code.",
    )


def code_required() -> Unauthenticated:
    return Unauthenticated(
        "second_factor_required", "Enter a code from your authenticator app, or a recovery code."
    )


def _new_code() -> str:
    """16 characters of base32 in groups of four."""
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode().lower()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))
