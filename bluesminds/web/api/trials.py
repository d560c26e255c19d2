"""/trials/start and /api/billing/referral. Only with [billing]."""

from typing import Annotated

from msgspec import Meta, Struct

from bluesminds.accounts.billing.service import Billing
from bluesminds.common.clock import format_time
from bluesminds.common.money import write_usd
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route


class ReferralInput(Struct, frozen=True, forbid_unknown_fields=True):
    code: Annotated[str, Meta(max_length=20, description="a referral code")]


class TrialView(Struct, frozen=True):
    amount_usd: str
    started_at: str
    ends_at: str


class ReferralView(Struct, frozen=True):
    """Share `code` or `link`. `sign_ups`: users who have used the code. `is_referred`: you have used one."""

    code: str
    link: str
    sign_ups: int
    earned_usd: str
    is_referred: bool


class TrialHandlers(Struct, frozen=True):
    billing: Billing

    async def start(self, principal: Principal) -> TrialView:
        """Start your trial: credit for some days. Each person has one."""
        row = await self.billing.trials.start(principal.actor, principal.user_id)
        amount = write_usd(self.billing.trials.nano)
        return TrialView(amount, format_time(row.started_at), format_time(row.ends_at))

    async def referral(self, principal: Principal) -> ReferralView:
        """Get your referral code, and what you have earned with it."""
        found = await self.billing.referrals.own(principal.user_id)
        return ReferralView(
            code=found.code,
            link=f"{self.billing.policy.return_url}?ref={found.code}",
            sign_ups=found.sign_ups,
            earned_usd=write_usd(found.earned_nano),
            is_referred=found.is_referred,
        )

    async def use(self, principal: Principal, body: ReferralInput) -> ReferralView:
        """Say who invited you, before your first payment. After it, both of you get credit."""
        await self.billing.referrals.use(principal.actor, principal.user_id, body.code)
        return await self.referral(principal)


def routes(handlers: TrialHandlers) -> list[Route]:
    tag, path = "Billing", "/api/billing/referral"
    return [
        route("POST", "/trials/start", Access.SESSION, handlers.start, tag=tag, status=201),
        route("GET", path, Access.SESSION, handlers.referral, tag=tag),
        route("POST", path, Access.SESSION, handlers.use, tag=tag, status=201),
    ]
