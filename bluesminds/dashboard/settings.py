"""Settings of the user's account: profile, password, sessions, keys for vendors, appearance, deletion."""

from zoneinfo import available_timezones

from msgspec import Struct

from bluesminds.accounts.federated import FederatedSignIn
from bluesminds.accounts.identities import Identities
from bluesminds.accounts.mail_preferences import MailPreferences
from bluesminds.accounts.second_factors import SecondFactors
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.users import Users
from bluesminds.accounts.vendor_keys import VendorKeys
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.notify.mail_groups import MAIL_GROUP_TITLES
from bluesminds.providers.own_keys import OWN_KEY_VENDORS
from bluesminds.web.api.identities import identity_view
from bluesminds.web.api.vendor_keys import vendor_key_view
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route


class SettingsPage(Struct, frozen=True):
    frame: Frame
    users: Users
    sessions: Sessions
    vendor_keys: VendorKeys
    second_factors: SecondFactors
    identities: Identities
    federated: FederatedSignIn | None
    mail: MailPreferences

    async def show(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """Settings of the user's account."""
        user = await self.users.get(principal.user_id)
        mail = await self.mail.get(user.id)
        keys = [vendor_key_view(self.vendor_keys, row) for row in await self.vendor_keys.list(user.id)]
        stored = {key.vendor for key in keys}
        providers = [] if self.federated is None else self.federated.providers
        titles = {policy.name: policy.title for policy in providers}
        linked = [identity_view(row, titles) for row in await self.identities.list(user.id)]
        names = {one.provider for one in linked}
        return self.frame.page(
            "settings.html",
            browser,
            principal,
            user=user,
            has_password=user.password_hash is not None,
            second_factor=await self.second_factors.status(user),
            identities=linked,
            providers=[policy for policy in providers if policy.name not in names],
            vendor_keys=keys,
            vendors=[vendor for name, vendor in OWN_KEY_VENDORS.items() if name not in stored],
            takes_vendor_keys=self.vendor_keys.policy.allows(user.tier),
            sessions=await self.sessions.list(user.id),
            current=principal.session_id,
            mail_groups=[
                (name, title, name not in mail.turned_off)
                for name, title in MAIL_GROUP_TITLES.items()
                if self.mail.enabled and (name != "servers" or principal.role == "admin")
            ],
            mail_zone=mail.time_zone,
            zones=sorted(zone for zone in available_timezones() if "/" in zone and zone[:3] != "Etc"),
        )


def routes(page: SettingsPage) -> list[Route]:
    return [route("GET", f"{HOME}/settings", Access.SESSION, page.show, tag="Pages", media=HTML)]
