"""Redeem codes: an administrator makes a batch, and each code gives its amount once, as a grant.

A code is `BM-` and four groups of four characters of Crockford's base32, 80 random bits. It is read in any
case, with or without hyphens, and with O for 0 or I and L for 1. Only SHA-256 of it is stored.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.ledger import Ledger
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, token_digest, uuid7
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.common.money import write_usd
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.ledger import LedgerRow, WalletRow, lock_ledger_head, post, wallet_account
from storage.redeem_codes import (
    RedeemBatchRow,
    RedeemCodeRow,
    RedeemedCodeRow,
    insert_redeem_batch,
    revoke_redeem_batch,
    select_code_batch,
    select_redeem_batch,
    select_redeem_batches,
    select_redeemed_codes,
    use_redeem_code,
)

SOURCE: Final = "redeem_codes"  # the account that redeemed credit comes from
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHARS: Final = 16
_PREFIX: Final = "BM"
_READ: Final = str.maketrans({"O": "0", "I": "1", "L": "1"})


class NewRedeemBatch(Struct, frozen=True):
    """`codes` are shown once."""

    row: RedeemBatchRow
    codes: Sequence[str]

    def __repr__(self) -> str:
        return f"NewRedeemBatch({self.row.id!r})"


class RedeemCodes:
    def __init__(self, store: Store, *, ledger: Ledger, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    async def create(
        self, actor: Actor, name: str, nano: int, count: int, *, expires_at: int | None, ends_at: int | None
    ) -> NewRedeemBatch:
        """Make `count` codes of `nano` each. For the times see RedeemBatchRow."""
        now = self._clock.now_ms()
        batch = RedeemBatchRow(uuid7(now), name, nano, count, now, expires_at, ends_at)
        texts = [_new_code() for _ in range(count)]
        rows = [
            RedeemCodeRow(_digest(text), batch.id, number, text[-4:])
            for number, text in enumerate(texts, start=1)
        ]
        audit = entry(self._clock, actor, "redeem_codes.create", batch.id, after=_audit_fields(batch))
        await self._store.write(_create, batch, rows, audit)
        return NewRedeemBatch(batch, texts)

    async def list(self, *, after: str, limit: int) -> Sequence[RedeemBatchRow]:
        """Batches, oldest first, after the id `after`."""
        return await self._store.read(select_redeem_batches, after, limit)

    async def redeemed(self, batch_id: str, *, after: int, limit: int) -> Sequence[RedeemedCodeRow]:
        """The redeemed codes of a batch, after the number `after`. Raises NotFound."""
        await self.get(batch_id)
        return await self._store.read(select_redeemed_codes, batch_id, after, limit)

    async def revoke(self, actor: Actor, batch_id: str) -> None:
        """Revoke the unused codes of the batch. Raises NotFound."""
        batch = await self.get(batch_id)
        audit = entry(self._clock, actor, "redeem_codes.revoke", batch_id, before=_audit_fields(batch))
        await self._store.write(_revoke, batch_id, self._clock.now_ms(), audit)

    async def redeem(self, actor: Actor, user_id: str, code: str) -> LedgerRow:
        """Give the amount of a code to a user: the entry of the ledger. Raises NotFound for an unknown code,
        and Conflict for one that was redeemed, has expired or is revoked.
        """
        now = self._clock.now_ms()
        audit = entry(self._clock, actor, "redeem_codes.redeem", user_id)
        return await self._ledger.post_with(user_id, _redeem, user_id, _digest(code), now, audit)

    async def get(self, batch_id: str) -> RedeemBatchRow:
        found = await self._store.read(select_redeem_batch, batch_id) if is_uuid(batch_id) else None
        if found is None:
            raise NotFound("redeem_batch_not_found", "There is no batch of redeem codes with this id.")
        return found


async def _create(
    connection: Connection, batch: RedeemBatchRow, codes: Sequence[RedeemCodeRow], audit: AuditRow
) -> None:
    await insert_audit(connection, audit)
    await insert_redeem_batch(connection, batch, codes)


async def _revoke(connection: Connection, batch_id: str, now: int, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await revoke_redeem_batch(connection, batch_id, now)


async def _redeem(
    connection: Connection, user_id: str, digest: bytes, now: int, audit: AuditRow
) -> tuple[WalletRow, LedgerRow]:
    await lock_audit_head(connection)
    await lock_ledger_head(connection)
    batch = await select_code_batch(connection, digest)
    if batch is None:
        raise NotFound("redeem_code_not_found", "This code does not exist. Check it for typing errors.")
    if batch.revoked_at is not None:
        raise Conflict("redeem_code_revoked", "This code is no longer valid.")
    if batch.expires_at is not None and batch.expires_at <= now:
        raise Conflict("redeem_code_expired", "This code has expired.")
    number = await use_redeem_code(connection, digest, user_id, now)
    if number is None:
        raise Conflict("redeem_code_used", "This code was already redeemed.")
    row = LedgerRow(
        id=f"grant:code:{batch.id}:{number}",
        at=now,
        kind="grant",
        debit=SOURCE,
        credit=wallet_account(user_id),
        amount_nano=batch.amount_nano,
        user_id=user_id,
        reference=batch.name,
        detail=json.encode({} if batch.ends_at is None else {"ends_at": batch.ends_at}).decode(),
    )
    wallets = await post(connection, [row], ends_at=batch.ends_at)
    await insert_audit(connection, audit)
    return wallets[user_id], row


def _new_code() -> str:
    text = "".join(secrets.choice(_ALPHABET) for _ in range(_CHARS))
    return "-".join((_PREFIX, *(text[at : at + 4] for at in range(0, _CHARS, 4))))


def _digest(code: str) -> bytes:
    letters = "".join(code.upper().split()).replace("-", "").removeprefix(_PREFIX)
    return token_digest(letters.translate(_READ))


def _audit_fields(batch: RedeemBatchRow) -> dict[str, object]:
    return {
        "name": batch.name,
        "amount": write_usd(batch.amount_nano),
        "codes": batch.codes,
        "expires_at": batch.expires_at,
        "ends_at": batch.ends_at,
    }
