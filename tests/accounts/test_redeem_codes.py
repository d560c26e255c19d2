"""Redeem codes without HTTP: time, and the form of codes."""

from pathlib import Path

import pytest

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import Ledger
from bluesminds.accounts.redeem_codes import RedeemCodes
from bluesminds.common.errors import Conflict
from storage.store import open_store
from storage.users import insert_user
from tests.storage.samples import NOON, user
from tests.storage.test_ledger import FixedClock


async def test_code_after_its_end_is_refused(tmp_path: Path) -> None:
    clock = FixedClock()
    async with open_store(f"sqlite:{tmp_path / 'one.db'}") as store:
        member = user(1, "ada@example.com")
        await store.write(insert_user, member)
        codes = RedeemCodes(store, ledger=Ledger(store, clock=clock), clock=clock)
        made = await codes.create(OPERATOR, "Launch", 10**9, 2, expires_at=NOON + 1000, ends_at=None)
        first, second = made.codes
        clock.now += 999
        assert (await codes.redeem(OPERATOR, member.id, first.replace("0", "o"))).amount_nano == 10**9
        clock.now += 1
        with pytest.raises(Conflict) as expired:
            await codes.redeem(OPERATOR, member.id, second)
        assert expired.value.code == "redeem_code_expired"
        assert first not in repr(made)
