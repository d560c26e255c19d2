"""Webhooks: the list, and one with its settings and the log of its deliveries. Administrators have the same
pages for the webhooks that get the events of all accounts.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bluesminds.accounts.webhooks import FOR_OPERATORS, Webhooks
from bluesminds.common.crypto import UUID
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.notify.events import EVENT_KINDS
from bluesminds.web.api.webhooks import LAST_ID
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.webhook_deliveries import AttemptRow, DeliveryRow
from storage.webhooks import OPERATORS, WebhookRow

ROWS: Final = 30
KINDS_OF_USERS: Final = tuple(kind for kind in EVENT_KINDS if kind.partition(".")[0] not in FOR_OPERATORS)


class WebhookLogQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`delivery` is shown in full."""

    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a delivery")] = ""
    delivery: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a delivery")] = ""


class ShownDelivery(Struct, frozen=True):
    row: DeliveryRow
    body: str
    attempts: list[AttemptRow]


class WebhookLine(Struct, frozen=True):
    """A webhook with its newest delivery, if it has one."""

    row: WebhookRow
    newest: DeliveryRow | None

    @property
    def state(self) -> tuple[str, str]:
        """The tone and the text."""
        if not self.row.enabled:
            return "bad", "disabled"
        if self.newest is None or self.newest.state == "delivered" or not self.newest.tries:
            return "good", "enabled"
        return "warn", "failing"


async def webhook_lines(webhooks: Webhooks, owner: str) -> list[WebhookLine]:
    """The webhooks of an owner, who has at most a few."""
    lines = []
    for row in await webhooks.list(owner):
        newest = await webhooks.deliveries(owner, row.id, before=LAST_ID, limit=1)
        lines.append(WebhookLine(row, newest[0] if newest else None))
    return lines


class WebhookPages(Struct, frozen=True):
    """`operators`: the webhooks of the operators instead of those of the reader."""

    frame: Frame
    webhooks: Webhooks
    operators: bool = False

    @property
    def _path(self) -> str:
        return "/admin/webhooks" if self.operators else "/webhooks"

    @property
    def _api(self) -> str:
        return f"/api{self._path}"

    def _owner(self, principal: Principal) -> str:
        return OPERATORS if self.operators else principal.user_id

    async def list(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """The webhooks of an account."""
        return self.frame.page(
            "webhooks.html",
            browser,
            principal,
            lines=await webhook_lines(self.webhooks, self._owner(principal)),
            api=self._api,
            home=link(self._path),
            operators=self.operators,
            kinds=self._kinds(),
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: WebhookLogQuery, webhook_id: str
    ) -> HandlerResponse[RawBody]:
        """One webhook."""
        owner, path = self._owner(principal), f"{self._path}/{webhook_id}"
        webhook = await self.webhooks.get(owner, webhook_id)
        rows = await self.webhooks.deliveries(
            owner, webhook_id, before=query.after or LAST_ID, limit=ROWS + 1
        )
        shown = None
        if query.delivery:
            row, attempts = await self.webhooks.delivery(owner, webhook_id, query.delivery)
            shown = ShownDelivery(row, msgspec.json.format(row.body, indent=2), [*attempts])
        return self.frame.page(
            "webhook.html",
            browser,
            principal,
            webhook=webhook,
            is_failing=not query.after and WebhookLine(webhook, rows[0] if rows else None).state[0] == "warn",
            rows=rows[:ROWS],
            more=link(path, after=rows[ROWS - 1].id) if len(rows) > ROWS else "",
            is_first_page=not query.after,
            shown=shown,
            log=path,
            api=f"{self._api}/{webhook_id}",
            home=link(self._path),
            operators=self.operators,
            kinds=self._kinds(),
        )

    def _kinds(self) -> tuple[str, ...]:
        return EVENT_KINDS if self.operators else KINDS_OF_USERS


def routes(frame: Frame, webhooks: Webhooks) -> list[Route]:
    tag, own = "Pages", WebhookPages(frame, webhooks)
    operators = WebhookPages(frame, webhooks, operators=True)
    mine, all_ = f"{HOME}/webhooks", f"{HOME}/admin/webhooks"
    one = "/{webhook_id}"
    return [
        route("GET", mine, Access.SESSION, own.list, tag=tag, media=HTML),
        route("GET", mine + one, Access.SESSION, own.one, tag=tag, media=HTML),
        route("GET", all_, Access.ADMIN, operators.list, tag=tag, media=HTML),
        route("GET", all_ + one, Access.ADMIN, operators.one, tag=tag, media=HTML),
    ]
