"""/api/auth/mail: which mails a user gets. /api/mail/unsubscribe: links in mails. /api/admin/mail: tests."""

from html import escape
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.accounts.mail_preferences import MailPreferences
from bluesminds.accounts.mail_suppressions import MailSuppressions
from bluesminds.accounts.mail_tests import MailTests
from bluesminds.common.clock import format_time
from bluesminds.notify.mail_groups import MAIL_GROUP_TITLES, MAIL_GROUPS, OPT_OUT_PATH
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.fields import AddressFilter, Email
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, RawBody, RawInput, Route, route
from storage.mail_preferences import MailPreferencesRow
from storage.mail_suppressions import SuppressionReason, SuppressionRow

RESEND_PATH: Final = "/api/mail/webhook/resend"
HTML: Final = "text/html; charset=utf-8"
_HEADERS: Final = (
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
)
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · BluesMinds</title><link rel="stylesheet" href="/account/style.css"></head>
<body><main><h1>{title}</h1>{content}</main></body></html>
"""

_Switch = Annotated[bool, Meta(description="true or false")]
_Zone = Annotated[str, Meta(max_length=100, description="the name of a time zone, such as Europe/Berlin")]
_Short = Annotated[str, Meta(max_length=100, description="a part of the link")]


class MailSwitches(Struct, forbid_unknown_fields=True):
    """Groups of optional mails. Those that are left out stay as they are."""

    weekly_summary: _Switch | UnsetType = UNSET
    keys: _Switch | UnsetType = UNSET
    sign_ins: _Switch | UnsetType = UNSET
    usage: _Switch | UnsetType = UNSET
    servers: _Switch | UnsetType = UNSET
    time_zone: _Zone | UnsetType = UNSET


class MailPreferencesView(Struct, frozen=True):
    """`time_zone`: empty for that of the settings."""

    weekly_summary: bool
    keys: bool
    sign_ins: bool
    usage: bool
    servers: bool
    time_zone: str


class OptOutQuery(Struct, frozen=True, forbid_unknown_fields=True):
    user: _Short
    group: _Short
    signature: _Short


class NewTestMail(Struct, forbid_unknown_fields=True):
    email: Email


class SuppressionView(Struct, frozen=True):
    """An address that gets no mail, and why."""

    id: str
    email: str
    reason: SuppressionReason
    created_at: str


class ReceivedMailEvent(Struct, frozen=True):
    """The event was stored."""

    received: bool = True


class MailHandlers(Struct, frozen=True):
    tests: MailTests
    preferences: MailPreferences
    suppressions: MailSuppressions

    async def get(self, principal: Principal) -> MailPreferencesView:
        """Which optional mails you get."""
        return _view(await self.preferences.get(principal.user_id))

    async def change(self, principal: Principal, body: MailSwitches) -> MailPreferencesView:
        """Turn optional mails on and off."""
        groups = {name: getattr(body, name) for name in MAIL_GROUPS if getattr(body, name) is not UNSET}
        zone = None if isinstance(body.time_zone, UnsetType) else body.time_zone
        return _view(await self.preferences.change(principal.user_id, groups, zone))

    async def ask(self, query: OptOutQuery, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """A page that asks before it turns off mails: programs that scan mail follow links."""
        self.preferences.check_link(query.user, query.group, query.signature)
        title = MAIL_GROUP_TITLES.get(query.group, query.group)
        action = escape(f"{OPT_OUT_PATH}?{browser.query}")
        return _page(
            "Stop these mails?",
            f"<p>{escape(title)}</p>"
            f'<form method="post" action="{action}"><button>Stop these mails</button></form>',
        )

    async def opt_out(self, query: OptOutQuery) -> HandlerResponse[RawBody]:
        """Turn off the mails of a link, without a sign-in."""
        await self.preferences.opt_out(query.user, query.group, query.signature)
        return _page("Done", "<p>These mails are turned off. You can change this in the settings.</p>")

    async def receive(self, raw: RawInput) -> ReceivedMailEvent:
        """Receive an event of Resend, with its signature. No more mail is sent to an address that bounced or
        complained.
        """
        await self.suppressions.receive(raw.headers, raw.content)
        return ReceivedMailEvent()

    async def list_suppressed(self, query: AddressFilter) -> Page[SuppressionView]:
        """List the addresses that get no mail, oldest first. With `email`, only this address."""
        rows = await self.suppressions.list(email=query.address, after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _suppression, cursor=lambda row: row.id)

    async def unsuppress(self, principal: Principal, suppression_id: str) -> None:
        """Send mail to an address again."""
        await self.suppressions.remove(principal.actor, suppression_id)

    async def test(self, principal: Principal, body: NewTestMail) -> None:
        """Send a test mail and wait for the answer of the mail server."""
        await self.tests.send(principal.actor, email=body.email)


def routes(handlers: MailHandlers) -> list[Route]:
    session, public, admin = Access.SESSION, Access.PUBLIC, Access.ADMIN
    suppressed = "/api/admin/mail/suppressions"
    events = [route("POST", RESEND_PATH, public, handlers.receive, tag="Mail")]
    return [
        *([] if handlers.suppressions.secret is None else events),
        route("GET", suppressed, admin, handlers.list_suppressed, tag="Mail"),
        route("DELETE", f"{suppressed}/{{suppression_id}}", admin, handlers.unsuppress, tag="Mail"),
        route("GET", "/api/auth/mail", session, handlers.get, tag="Mail"),
        route("PATCH", "/api/auth/mail", session, handlers.change, tag="Mail"),
        route("GET", OPT_OUT_PATH, public, handlers.ask, tag="Mail", media=HTML),
        route("POST", OPT_OUT_PATH, public, handlers.opt_out, tag="Mail", media=HTML),
        route("POST", "/api/admin/mail/test", admin, handlers.test, tag="Mail"),
    ]


def _view(row: MailPreferencesRow) -> MailPreferencesView:
    return MailPreferencesView(
        **{name: name not in row.turned_off for name in MAIL_GROUPS}, time_zone=row.time_zone
    )


def _suppression(row: SuppressionRow) -> SuppressionView:
    return SuppressionView(row.id, row.email, row.reason, format_time(row.created_at))


def _page(title: str, content: str) -> HandlerResponse[RawBody]:
    return HandlerResponse(
        RawBody(_PAGE.format(title=title, content=content).encode(), HTML), headers=_HEADERS
    )
