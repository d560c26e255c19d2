"""Previews of the mails that the gateway sends, and a form for a test mail."""

from typing import Final

from msgspec import Struct

from bluesminds.accounts.mail_suppressions import MailSuppressions
from bluesminds.common.errors import NotFound
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.notify.mail_samples import SAMPLES
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

SUPPRESSED: Final = 200
# A mail has inline styles, and needs nothing else.
PREVIEW_POLICY: Final = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_PREVIEW_HEADERS: Final = (
    ("content-security-policy", PREVIEW_POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
)


class MailPages(Struct, frozen=True):
    """`backend` says how mail is sent. The page shows at most SUPPRESSED suppressed addresses."""

    frame: Frame
    templates: MailTemplates
    backend: str
    suppressions: MailSuppressions

    async def show(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """All mails with their texts."""
        return self.frame.page(
            "mail.html",
            browser,
            principal,
            mails=[self.templates.preview(name) for name in SAMPLES],
            backend=self.backend,
            suppressed=await self.suppressions.list(email=None, after="", limit=SUPPRESSED),
            email=principal.email or "",
        )

    async def preview(self, name: str) -> HandlerResponse[RawBody]:
        """The HTML of a mail with made-up values."""
        if name not in SAMPLES:
            raise NotFound("unknown_url", "There is no such mail.")
        html = self.templates.preview(name).html
        return HandlerResponse(RawBody(html.encode(), HTML), headers=_PREVIEW_HEADERS)


def routes(pages: MailPages) -> list[Route]:
    path = f"{HOME}/admin/mail"
    return [
        route("GET", path, Access.ADMIN, pages.show, tag="Pages", media=HTML),
        route("GET", f"{path}/{{name}}", Access.ADMIN, pages.preview, tag="Pages", media=HTML),
    ]
