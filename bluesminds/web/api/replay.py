"""POST /api/requests/{id}/replay: send a request of the prompt log again, and compare both answers."""

from collections.abc import Awaitable
from typing import Annotated, Protocol

from msgspec import Meta, Struct, structs

from bluesminds.accounts.prompts import Prompts, ReadPrompt
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import format_time
from bluesminds.common.errors import NotFound
from bluesminds.common.money import write_usd
from bluesminds.common.prompts import LoggedPrompt
from bluesminds.gateway.replay import ReplayResult
from bluesminds.web.guard import Access, Principal
from bluesminds.web.playground import CHAT_PATH, PLAYGROUND_PATH
from bluesminds.web.routes import Route, route
from storage.prompt_log import PromptRow
from storage.usage import UsageRow

ReplayModel = Annotated[
    str, Meta(min_length=1, max_length=200, description="the name of a model, of at most 200 characters")
]


class SendReplay(Protocol):
    """`Replayer.replay` of the running gateway."""

    def __call__(
        self, kept: PromptRow, prompt: LoggedPrompt, *, path: str, model: str | None, client: str
    ) -> Awaitable[ReplayResult]: ...


class NewReplay(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: instead of the model of the request."""

    model: ReplayModel | None = None


class ReplayError(Struct, frozen=True):
    """The error that a client would get."""

    status: int
    code: str
    message: str


class ReplaySide(Struct, frozen=True):
    """A request with its response. `answer` is the text, `response` the JSON if it was not streamed.
    Times are milliseconds. `server`, `status` and the figures are null if the usage log does not have the
    request any more. `cut`: the answer is not complete, because it was too long.
    """

    id: str
    at: str
    model: str
    answer: str
    response: str | None
    cut: bool
    server: str | None = None
    status: int | None = None
    outcome: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_byte_ms: int | None = None
    duration_ms: int | None = None
    cost_usd: str | None = None


class ReplayView(Struct, frozen=True):
    """`original` is the request of the prompt log. `error` is null if a server answered the replay.
    `redacted`: places of the request that patterns have replaced, so that the replay is another request.
    """

    original: ReplaySide
    replay: ReplaySide
    error: ReplayError | None
    redacted: int


class ReplayHandlers(Struct, frozen=True):
    """`expose_server`: users see the names of servers."""

    prompts: Prompts
    usage: UsageReports
    send: SendReplay
    expose_server: bool

    async def replay(self, principal: Principal, request_id: str, body: NewReplay) -> ReplayView:
        """Send a request of the prompt log again, to the same or to another model, and compare both answers.

        It is charged to the API key of the request, with its limits. Users replay their own requests.
        Administrators replay all, if `administrators` in [prompt_log] allows it.
        """
        try:
            found = await self.prompts.get(principal.user_id, request_id)
        except NotFound:
            if principal.role != "admin":
                raise
            found = await self._of_other(principal, request_id)
        return await self._compare(principal, found, body.model)

    async def replay_any(self, principal: Principal, request_id: str, body: NewReplay) -> ReplayView:
        """Send a request of any user again, and compare both answers.

        It is charged to the API key of the request. Only if `administrators` in [prompt_log] allows it. The
        audit log has an entry.
        """
        return await self._compare(principal, await self._of_other(principal, request_id), body.model)

    async def _of_other(self, principal: Principal, request_id: str) -> ReadPrompt:
        return await self.prompts.get_any(principal.actor, request_id, "prompt_log.replay")

    async def _compare(self, principal: Principal, found: ReadPrompt, model: str | None) -> ReplayView:
        row, prompt = found.row, found.prompt
        path = CHAT_PATH if prompt.path == PLAYGROUND_PATH else prompt.path
        before = await self.usage.find(row.id)
        result = await self.send(row, prompt, path=path, model=model, client=principal.address)
        servers = principal.role == "admin" or self.expose_server
        error, again = result.error, result.row
        return ReplayView(
            original=original_side(found, before, servers=servers),
            replay=_side(
                again.id,
                again.at,
                again.model,
                again,
                servers=servers,
                answer=result.answer,
                response=result.response,
                cut=result.is_cut,
            ),
            error=None if error is None else ReplayError(error.status, error.code, error.message),
            redacted=prompt.redacted,
        )


def original_side(found: ReadPrompt, row: UsageRow | None, *, servers: bool) -> ReplaySide:
    """`row` is None if the usage log does not have the request any more."""
    kept, prompt = found.row, found.prompt
    return _side(
        kept.id,
        kept.at,
        kept.model,
        row,
        servers=servers,
        answer=prompt.answer,
        response=prompt.response,
        cut="answer" in prompt.cut or "response" in prompt.cut,
    )


def _side(
    id_: str,
    at: int,
    model: str,
    row: UsageRow | None,
    *,
    servers: bool,
    answer: str,
    response: str,
    cut: bool,
) -> ReplaySide:
    side = ReplaySide(id_, format_time(at), model, answer=answer, response=response or None, cut=cut)
    if row is None:
        return side
    return structs.replace(
        side,
        server=(row.server or None) if servers else None,
        status=row.status,
        outcome=row.outcome,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        first_byte_ms=row.first_byte_ms,
        duration_ms=row.duration_ms,
        cost_usd=None if row.cost_nano is None else write_usd(row.cost_nano),
    )


def routes(handlers: ReplayHandlers) -> list[Route]:
    own, every = "/api/requests/{request_id}/replay", "/api/admin/requests/{request_id}/replay"
    return [
        route("POST", own, Access.SESSION, handlers.replay, tag="Prompt log"),
        route("POST", every, Access.ADMIN, handlers.replay_any, tag="Prompt log"),
    ]
