"""The prompt log: full requests and responses of the user; for administrators, of all users.

Administrators see which requests are kept. The texts are behind a link whose use is in the audit log, and
only if the settings allow it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bluesminds.accounts.prompts import Prompts, ReadPrompt
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.common.crypto import UUID
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.web.api.replay import original_side
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.prompt_log import PromptQuery, PromptSummary

ROWS: Final = 50
FilterName = Annotated[str, Meta(max_length=200, description="at most 200 characters")]


class PromptsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    model: FilterName = ""
    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of an entry")] = ""


class AllPromptsQuery(PromptsQuery, frozen=True, forbid_unknown_fields=True):
    """`user` is the id of a user."""

    user: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a user, or empty")] = ""


class PromptLine(Struct, frozen=True):
    """A request that is kept. `preview` is empty for administrators."""

    row: PromptSummary
    preview: str


class PromptsPages(Struct, frozen=True):
    """`is_on`: by default, without a choice of the account or the key. `days`: how long requests are kept."""

    frame: Frame
    prompts: Prompts
    users: Users
    is_on: bool
    days: int
    usage: UsageReports
    expose_server: bool

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: PromptsQuery
    ) -> HandlerResponse[RawBody]:
        """The prompt log of an account."""
        rows = await self._rows(query, principal.user_id)
        user = await self.users.get(principal.user_id)
        return self.frame.page(
            "prompts.html",
            browser,
            principal,
            lines=[PromptLine(row, self.prompts.preview(row)) for row in rows[:ROWS]],
            choice=user.prompt_log or "",
            is_on=self.is_on,
            days=self.days,
            query=query,
            of_all=False,
            names={},
            more=_more("/prompts", query, rows),
        )

    async def list_all(
        self, principal: Principal, browser: BrowserRequest, query: AllPromptsQuery
    ) -> HandlerResponse[RawBody]:
        """Which requests of all accounts are kept, without their texts."""
        rows = await self._rows(query, query.user or None)
        return self.frame.page(
            "prompts.html",
            browser,
            principal,
            lines=[PromptLine(row, "") for row in rows[:ROWS]],
            choice="",
            is_on=self.is_on,
            days=self.days,
            query=query,
            of_all=True,
            may_read=self.prompts.administrators_read,
            names=await self.users.names({row.user_id for row in rows}),
            more=_more("/admin/prompts", query, rows, user=query.user),
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """A request of the user, with its response."""
        found = await self.prompts.get(principal.user_id, request_id)
        return self._show(principal, browser, found, api="/api/prompt-log", path="/prompts")

    async def one_of_all(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """A request of any user with its answer. The audit log has an entry for each look."""
        found = await self.prompts.get_any(principal.actor, request_id)
        return self._show(principal, browser, found, api="/api/admin/prompt-log", path="/admin/prompts")

    async def replay(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """A form that sends a request of the user again, and shows both responses."""
        found = await self.prompts.get(principal.user_id, request_id)
        return await self._show_replay(principal, browser, found, api="/api/requests", path="/prompts")

    async def replay_of_all(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """A form that sends a request of any user again. The audit log has an entry for each look."""
        found = await self.prompts.get_any(principal.actor, request_id)
        return await self._show_replay(
            principal, browser, found, api="/api/admin/requests", path="/admin/prompts"
        )

    async def _show_replay(
        self, principal: Principal, browser: BrowserRequest, found: ReadPrompt, *, api: str, path: str
    ) -> HandlerResponse[RawBody]:
        row = await self.usage.find(found.row.id)
        return self.frame.page(
            "replay.html",
            browser,
            principal,
            row=found.row,
            usage=row,
            first=original_side(found, row, servers=principal.role == "admin" or self.expose_server),
            prompt=found.prompt,
            of_other=found.row.user_id != principal.user_id,
            api=f"{api}/{found.row.id}/replay",
            back=f"{HOME}{path}",
        )

    def _show(
        self, principal: Principal, browser: BrowserRequest, found: ReadPrompt, *, api: str, path: str
    ) -> HandlerResponse[RawBody]:
        return self.frame.page(
            "prompt.html",
            browser,
            principal,
            row=found.row,
            prompt=found.prompt,
            request_text=_indented(found.prompt.request),
            api=f"{api}/{found.row.id}",
            back=f"{HOME}{path}",
        )

    async def _rows(self, query: PromptsQuery, user_id: str | None) -> Sequence[PromptSummary]:
        """One row more than the page shows."""
        return await self.prompts.list(
            PromptQuery(ROWS + 1, before=query.after, user_id=user_id, model=query.model or None)
        )


def _more(path: str, query: PromptsQuery, rows: Sequence[PromptSummary], **filters: str) -> str:
    given: Mapping[str, str] = {"model": query.model, **filters}
    return link(path, **given, after=rows[ROWS - 1].id) if len(rows) > ROWS else ""


def _indented(text: str) -> str:
    """JSON in lines; another text, or one that was cut, as it is."""
    try:
        return msgspec.json.format(text.encode()).decode()
    except ValueError:
        return text


def routes(pages: PromptsPages) -> list[Route]:
    own, every = f"{HOME}/prompts", f"{HOME}/admin/prompts"
    return [
        route("GET", own, Access.SESSION, pages.list, tag="Pages", media=HTML),
        route("GET", f"{own}/{{request_id}}", Access.SESSION, pages.one, tag="Pages", media=HTML),
        route("GET", f"{own}/{{request_id}}/replay", Access.SESSION, pages.replay, tag="Pages", media=HTML),
        route("GET", every, Access.ADMIN, pages.list_all, tag="Pages", media=HTML),
        route("GET", f"{every}/{{request_id}}", Access.ADMIN, pages.one_of_all, tag="Pages", media=HTML),
        route(
            "GET",
            f"{every}/{{request_id}}/replay",
            Access.ADMIN,
            pages.replay_of_all,
            tag="Pages",
            media=HTML,
        ),
    ]
