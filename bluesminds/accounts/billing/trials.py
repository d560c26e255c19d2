"""Trials: credit for some days, once per person, and referrals: a code for each user, and who used it.

A person is a confirmed address in normal form, so that spellings of one mailbox are the same person.
Referrals are rewarded by settlement.py, after the first payment.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.ledger import CreditMoves, Ledger
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.crypto import token_digest
from bluesminds.common.emails import person_of
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.money import write_usd
from bluesminds.notify.events import EventKind, new_event
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.billing import select_payments
from storage.events import insert_event
from storage.ledger import LedgerRow, lock_ledger_head, post, wallet_account
from storage.trials import (
    ReferralRow,
    TrialRow,
    insert_referral,
    insert_trial,
    put_referral_code,
    select_code_user,
    select_due_trials,
    select_referral,
    select_trial,
    set_trial_due,
    sum_referrals,
)
from storage.users import UserRow, select_user

NOTICE: Final = 86_400_000  # how long before its end a trial is reported
MAX_CHAIN: Final = 1000  # referrals that are followed to find a loop
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_DUE_TRIALS: Final = 100


class OwnReferral(Struct, frozen=True):
    """`earned_nano`: in total. `is_referred`: the user has used a code."""

    code: str
    sign_ups: int
    earned_nano: int
    is_referred: bool


class Trials:
    """`nano` 0: there are no trials. `length`: milliseconds."""

    def __init__(self, store: Store, *, ledger: Ledger, clock: Clock, nano: int, length: int) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self.nano = nano
        self.length = length

    async def find(self, user_id: str) -> TrialRow | None:
        return await self._store.read(select_trial, user_id)

    async def start(self, actor: Actor, user_id: str) -> TrialRow:
        """Raises Conflict without a confirmed address, and for a second trial."""
        if not self.nano:
            raise NotFound("trial_not_available", "This gateway has no trials.")
        now = self._clock.now_ms()
        end = now + self.length
        audit = entry(self._clock, actor, "trial.start", user_id, after={"trial_ends_at": end})
        return await self._ledger.post_entries(_start, user_id, self.nano, now, end, audit)

    async def settle_due(self) -> None:
        """Write the events about trials that end soon or have ended."""
        now = self._clock.now_ms()
        for row in await self._store.read(select_due_trials, now, _DUE_TRIALS):
            await self._store.write(_report, row, now)


class Referrals:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def own(self, user_id: str) -> OwnReferral:
        code = "".join(secrets.choice(_ALPHABET) for _ in range(8))
        return await self._store.write(_own, user_id, code)

    async def use(self, actor: Actor, user_id: str, code: str) -> None:
        """The user was invited with this code. Raises NotFound, Conflict, InvalidRequest."""
        audit = entry(self._clock, actor, "referral.use", user_id, after={"referral": code[:20]})
        await self._store.write(_use, user_id, code.strip().upper(), self._clock.now_ms(), audit)


async def _confirmed(connection: Connection, user_id: str) -> tuple[UserRow, str]:
    """The user, and the address in normal form. Raises Conflict."""
    user = await select_user(connection, user_id)
    if user is None or not user.email or user.email_verified_at is None:
        raise Conflict("email_not_confirmed", "Confirm the e-mail address of the account first.")
    return user, person_of(user.email)


async def _start(
    connection: Connection, user_id: str, nano: int, now: int, end: int, audit: AuditRow
) -> tuple[TrialRow, CreditMoves]:
    await lock_audit_head(connection)
    await lock_ledger_head(connection)
    _, person = await _confirmed(connection, user_id)
    row = TrialRow(token_digest(person), user_id, now, end, max(now + 1, end - NOTICE))
    if not await insert_trial(connection, row):
        raise Conflict("trial_used", "You already had a trial. Buy a plan or credit.")
    grant = LedgerRow(
        id=f"grant:trial:{user_id}",
        at=now,
        kind="grant",
        debit="grants",
        credit=wallet_account(user_id),
        amount_nano=nano,
        user_id=user_id,
        reference="Trial",
        detail=json.encode({"ends_at": end}).decode(),
    )
    wallets = await post(connection, [grant], ends_at=end)
    await insert_audit(connection, audit)
    await _tell(connection, "trial.started", row, now, {"credit_usd": write_usd(nano)})
    return row, {user_id: (nano, wallets[user_id].revision)}


async def _report(connection: Connection, row: TrialRow, now: int) -> None:
    has_ended = now >= row.ends_at
    if await set_trial_due(connection, row.user_id, row.due_at, None if has_ended else row.ends_at):
        await _tell(connection, "trial.ended" if has_ended else "trial.ending", row, now)


async def _tell(
    connection: Connection, kind: EventKind, row: TrialRow, now: int, more: Mapping[str, str] | None = None
) -> None:
    if await select_user(connection, row.user_id) is not None:
        data = {"ends_at": format_time(row.ends_at), **(more or {})}
        await insert_event(connection, new_event(now, kind, row.user_id, data))


async def _own(connection: Connection, user_id: str, code: str) -> OwnReferral:
    sign_ups, earned = await sum_referrals(connection, user_id)
    is_referred = await select_referral(connection, user_id) is not None
    return OwnReferral(await put_referral_code(connection, user_id, code), sign_ups, earned, is_referred)


async def _use(connection: Connection, user_id: str, code: str, now: int, audit: AuditRow) -> None:
    await lock_audit_head(connection)
    _, person = await _confirmed(connection, user_id)
    referrer_id = await select_code_user(connection, code)
    referrer = None if referrer_id is None else await select_user(connection, referrer_id)
    if referrer is None:
        raise NotFound("referral_not_found", "This referral code does not exist.")
    if referrer.id == user_id or person_of(referrer.email or "@") == person:
        raise InvalidRequest("referral_own", "This is your own referral code.", param="code")
    if user_id in await _chain(connection, referrer.id):
        raise InvalidRequest(
            "referral_loop", "You invited this user, so you cannot use their code.", param="code"
        )
    if await select_payments(connection, user_id, "", 1):
        raise Conflict("referral_too_late", "A referral code can only be used before the first payment.")
    if not await insert_referral(connection, ReferralRow(user_id, referrer.id, now)):
        raise Conflict("referral_used", "The account has used a referral code already.")
    await insert_audit(connection, audit)


async def _chain(connection: Connection, user_id: str) -> Sequence[str]:
    """The users who have invited a user, directly or through others."""
    found: list[str] = []
    while len(found) < MAX_CHAIN and (row := await select_referral(connection, user_id)) is not None:
        user_id = row.referrer_id
        found.append(user_id)
    return found
