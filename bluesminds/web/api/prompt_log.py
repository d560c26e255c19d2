"""/api/prompt-log: the requests and responses that are kept in full.

Users see their own. Administrators see which requests are kept, and read texts only if the settings allow it.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.accounts.prompts import Prompts, ReadPrompt
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import first_uuid7
from bluesminds.common.money import write_usd
from bluesminds.web.api.usage import JSON_LINES
from bluesminds.web.api.usage_schemas import FilterName, KeyId, Timestamp, UserId
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Paging, Route, StreamBody, route
from storage.prompt_log import PromptQuery, PromptSummary

_JSON: Final = msgspec.json.Encoder()


class PromptFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    key: KeyId | None = None
    model: FilterName | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None

    def query(self, user_id: str | None) -> PromptQuery:
        """One row more than the page has."""
        since, until = (
            "" if at is None else first_uuid7(round(at.timestamp() * 1000)) for at in (self.since, self.until)
        )
        before = min((one for one in (self.after, until) if one), default="")
        return PromptQuery(self.limit + 1, before, since, user_id, self.key, self.model)


class PromptFilterForAll(PromptFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    user: UserId | None = None


class PromptHead(Struct, frozen=True):
    """A request that is kept. `preview` is the beginning of its last message, null for administrators. `size`
    is in bytes. `status` and what follows is null if the usage log does not have the request any more.
    """

    id: str
    at: str
    user_id: str
    key_id: str
    endpoint: str
    model: str
    preview: str | None
    size: int
    status: int | None
    outcome: str | None
    input_tokens: int | None
    output_tokens: int | None
    duration_ms: int | None
    cost_usd: str | None


class PromptView(Struct, frozen=True):
    """`request` is the body as it was sent. `response` is the body, if it was not streamed. `answer` is the
    text of the answer. `redacted`: number of places that patterns replaced. `cut`: the texts that are
    incomplete, because they were longer than the settings allow.
    """

    id: str
    at: str
    user_id: str
    key_id: str
    endpoint: str
    model: str
    streamed: bool
    request: str
    answer: str
    response: str | None
    redacted: int
    cut: Sequence[str]


class DeletedPrompts(Struct, frozen=True):
    deleted: int


class PromptHandlers(Struct, frozen=True):
    prompts: Prompts

    async def list(self, principal: Principal, query: PromptFilter) -> Page[PromptHead]:
        """List your requests in the prompt log, newest first, without their texts."""
        rows = await self.prompts.list(query.query(principal.user_id))
        return Page.of(
            rows, query.limit, lambda row: _head(row, self.prompts.preview(row)), cursor=lambda row: row.id
        )

    async def list_all(self, query: PromptFilterForAll) -> Page[PromptHead]:
        """List the requests of all users in the prompt log, newest first, without any text."""
        rows = await self.prompts.list(query.query(query.user))
        return Page.of(rows, query.limit, lambda row: _head(row, None), cursor=lambda row: row.id)

    async def get(self, principal: Principal, request_id: str) -> PromptView:
        """Show one of your requests with its answer."""
        return prompt_view(await self.prompts.get(principal.user_id, request_id))

    async def get_any(self, principal: Principal, request_id: str) -> PromptView:
        """Show a request of any user with its answer.

        Only if `administrators` in [prompt_log] allows it. The audit log has an entry for each access.
        """
        return prompt_view(await self.prompts.get_any(principal.actor, request_id))

    async def export(self, principal: Principal) -> HandlerResponse[StreamBody]:
        """Download your prompt log as JSON Lines, newest first."""
        return _download(self.prompts.export(principal.user_id))

    async def export_of(self, principal: Principal, user_id: str) -> HandlerResponse[StreamBody]:
        """Download the prompt log of a user as JSON Lines, newest first.

        Only if `administrators` in [prompt_log] allows it. The audit log has an entry for each export.
        """
        return _download(await self.prompts.export_any(principal.actor, user_id))

    async def remove(self, principal: Principal, request_id: str) -> None:
        """Delete one request from your prompt log."""
        await self.prompts.remove(principal.actor, principal.user_id, request_id)

    async def remove_any(self, principal: Principal, request_id: str) -> None:
        """Delete a request of any user from the prompt log."""
        await self.prompts.remove(principal.actor, None, request_id)

    async def remove_own(self, principal: Principal) -> DeletedPrompts:
        """Delete your prompt log."""
        return DeletedPrompts(await self.prompts.remove_all(principal.actor, principal.user_id))

    async def remove_of(self, principal: Principal, user_id: str) -> DeletedPrompts:
        """Delete the prompt log of a user."""
        return DeletedPrompts(await self.prompts.remove_all(principal.actor, user_id))


def routes(handlers: PromptHandlers) -> list[Route]:
    tag, own, every = "Prompt log", Access.SESSION, Access.ADMIN
    mine, all_, of_user = "/api/prompt-log", "/api/admin/prompt-log", "/api/admin/users/{user_id}/prompt-log"
    one = "/{request_id}"
    return [
        route("GET", mine, own, handlers.list, tag=tag),
        route("DELETE", mine, own, handlers.remove_own, tag=tag),
        route("GET", f"{mine}/export", own, handlers.export, tag=tag, media=JSON_LINES),
        route("GET", mine + one, own, handlers.get, tag=tag),
        route("DELETE", mine + one, own, handlers.remove, tag=tag),
        route("GET", all_, every, handlers.list_all, tag=tag),
        route("GET", all_ + one, every, handlers.get_any, tag=tag),
        route("DELETE", all_ + one, every, handlers.remove_any, tag=tag),
        route("GET", of_user, every, handlers.export_of, tag=tag, media=JSON_LINES),
        route("DELETE", of_user, every, handlers.remove_of, tag=tag),
    ]


def prompt_view(found: ReadPrompt) -> PromptView:
    row, prompt = found.row, found.prompt
    return PromptView(
        id=row.id,
        at=format_time(row.at),
        user_id=row.user_id,
        key_id=row.key_id,
        endpoint=row.endpoint,
        model=row.model,
        streamed=prompt.streamed,
        request=prompt.request,
        answer=prompt.answer,
        response=prompt.response or None,
        redacted=prompt.redacted,
        cut=prompt.cut,
    )


def _head(row: PromptSummary, preview: str | None) -> PromptHead:
    return PromptHead(
        id=row.id,
        at=format_time(row.at),
        user_id=row.user_id,
        key_id=row.key_id,
        endpoint=row.endpoint,
        model=row.model,
        preview=preview,
        size=row.size,
        status=row.status,
        outcome=row.outcome,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        duration_ms=row.duration_ms,
        cost_usd=None if row.cost_nano is None else write_usd(row.cost_nano),
    )


def _download(pages: AsyncIterator[Sequence[ReadPrompt]]) -> HandlerResponse[StreamBody]:
    name = ("content-disposition", 'attachment; filename="prompt-log.jsonl"')
    return HandlerResponse(StreamBody(_lines(pages), JSON_LINES), headers=(name,))


async def _lines(pages: AsyncIterator[Sequence[ReadPrompt]]) -> AsyncIterator[bytes]:
    async for page in pages:
        yield b"".join(_JSON.encode(prompt_view(one)) + b"\n" for one in page)
