"""Trials and referrals: once per person, rewards, loops, refunds."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec import structs

from bluesminds.accounts.audit import OPERATOR
from bluesminds.common.emails import person_of
from bluesminds.common.errors import GatewayError
from storage.events import select_new_events
from storage.users import UserRow, insert_user
from tests.accounts.billing_sites import DAY, USD, BillingSite, billing_site
from tests.storage.samples import user


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[BillingSite]:
    async with billing_site(tmp_path) as found:
        yield found


async def add_user(site: BillingSite, serial: int, email: str, *, confirmed: bool = True) -> UserRow:
    row = replace(user(serial, email), email_verified_at=1 if confirmed else None)
    await site.store.write(insert_user, row)
    return row


async def pay(site: BillingSite, user_id: str) -> str:
    placed = await site.billing.orders.place(OPERATOR, user_id, plan=None, cents=1000, provider="manual")
    await site.billing.orders.mark_paid(OPERATOR, placed.order.id)
    return (await site.billing.payments.list(user_id, before="", limit=1))[0].id


async def test_trial_of_a_person_is_given_once_and_ends(site: BillingSite) -> None:
    ada = await add_user(site, 2, "Ada.L@gmail.com")
    again = await add_user(site, 3, "adal+2@googlemail.com")
    refused: list[str] = []

    async def start(user_id: str) -> None:
        try:
            await site.billing.trials.start(OPERATOR, user_id)
        except GatewayError as exc:
            refused.append(exc.code)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(start, ada.id)
    await start(again.id)
    assert refused == ["trial_used"] * 10
    assert (await site.balance(ada.id), await site.balance(again.id)) == (10 * USD, None)
    for day in range(4):
        site.clock.now += DAY * (day > 0)
        await site.billing.trials.settle_due()
        await site.billing.trials.settle_due()
    await site.ledger.expire()
    assert await site.balance(ada.id) == 0
    assert await site.events() == ["trial.started", "trial.ending", "trial.ended"]
    started = msgspec.json.decode((await site.store.read(select_new_events, 1))[0].data)
    assert started["credit_usd"] == "10"
    assert await site.proven()


async def test_trial_without_a_confirmed_address_is_refused(site: BillingSite) -> None:
    ada = await add_user(site, 2, "ada2@example.com", confirmed=False)
    with pytest.raises(GatewayError) as refused:
        await site.billing.trials.start(OPERATOR, ada.id)
    assert refused.value.code == "email_not_confirmed"


async def test_first_payment_rewards_both_sides_once(site: BillingSite) -> None:
    ada, bob = await add_user(site, 2, "ada2@example.com"), await add_user(site, 3, "bob@example.com")
    code = (await site.billing.referrals.own(ada.id)).code
    await site.billing.referrals.use(OPERATOR, bob.id, f" {code.lower()}")
    assert await site.balance(ada.id) is None
    first = await pay(site, bob.id)
    await pay(site, bob.id)
    assert (await site.balance(ada.id), await site.balance(bob.id)) == (5 * USD, 24 * USD)
    found = await site.billing.referrals.own(ada.id)
    assert (found.code, found.sign_ups, found.earned_nano) == (code, 1, 5 * USD)
    assert (await site.events()).count("referral.rewarded") == 2
    await site.billing.payments.refund(OPERATOR, first)
    assert (await site.balance(ada.id), await site.balance(bob.id)) == (0, 10 * USD)
    assert (await site.billing.referrals.own(ada.id)).earned_nano == 0
    assert await site.proven()


async def test_payment_below_the_minimum_gives_no_reward(site: BillingSite) -> None:
    ada, bob = await add_user(site, 2, "ada2@example.com"), await add_user(site, 3, "bob@example.com")
    site.context.rules = structs.replace(site.context.rules, referral_min_cents=1001)
    await site.billing.referrals.use(OPERATOR, bob.id, (await site.billing.referrals.own(ada.id)).code)
    await pay(site, bob.id)
    assert "referral.rewarded" not in await site.events()
    site.context.rules = structs.replace(site.context.rules, referral_min_cents=1000)
    await pay(site, bob.id)
    assert (await site.events()).count("referral.rewarded") == 2


async def test_referral_that_is_not_allowed_is_refused(site: BillingSite) -> None:
    names = ("ada2@example.com", "bob@example.com", "eve@example.com", "ada2+x@example.com")
    ada, bob, eve, twin = [await add_user(site, serial, name) for serial, name in enumerate(names, 2)]
    codes = {one.id: (await site.billing.referrals.own(one.id)).code for one in (ada, bob, eve)}
    referrals = site.billing.referrals

    async def code_of(user_id: str, code: str) -> str:
        with pytest.raises(GatewayError) as refused:
            await referrals.use(OPERATOR, user_id, code)
        return refused.value.code

    await referrals.use(OPERATOR, bob.id, codes[ada.id])
    await referrals.use(OPERATOR, eve.id, codes[bob.id])
    assert await code_of(ada.id, codes[ada.id]) == "referral_own"
    assert await code_of(twin.id, codes[ada.id]) == "referral_own"
    assert await code_of(ada.id, codes[eve.id]) == "referral_loop"
    assert await code_of(eve.id, codes[ada.id]) == "referral_used"
    assert await code_of(ada.id, "NOTHING") == "referral_not_found"
    await pay(site, ada.id)
    assert await code_of(ada.id, codes[bob.id]) in ("referral_loop", "referral_too_late")


async def test_refund_takes_bought_credit_before_given_credit(site: BillingSite) -> None:
    ada = await add_user(site, 2, "ada2@example.com")
    await site.billing.trials.start(OPERATOR, ada.id)
    await site.billing.payments.refund(OPERATOR, await pay(site, ada.id))
    wallet = await site.ledger.balance(ada.id)
    assert wallet is not None
    assert [one.left_nano for one in wallet.grants] == [10 * USD]
    assert await site.proven()


def test_person_of_spellings_of_one_mailbox_is_the_same() -> None:
    assert person_of("A.B+c@GoogleMail.com") == person_of("ab@gmail.com") == "ab@gmail.com"
    assert person_of("A.B+c@example.com") == "a.b@example.com"
    assert person_of("+x@example.com") == "+x@example.com"
