"""The playground: chats with models, and the list of the stored ones."""

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from bluesminds.accounts.chats import Chat, ChatFacts, ChatMessage, Chats, PostedMessage
from bluesminds.accounts.keys import Keys
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import UUID
from bluesminds.common.errors import NotFound
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from bluesminds.wire.models import ModelRow
from storage.keys import KeyRow

LISTED: Final = 50  # chats
MAX_KEYS: Final = 100  # to choose from
NO_TITLE: Final = "Untitled chat"
_OTHER_TASKS: Final = re.compile("embed|moderation|rerank|speech|tts|whisper|transcri|image|realtime")
_SCOPE: Final = "chat.completions"
_DAY_MS: Final = 86_400_000


class PlaygroundQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`search` and `after` are those of the list of chats. `model` is chosen in a new chat. A
    `temporary` chat is not stored.
    """

    search: Annotated[str, Meta(max_length=200, description="text of at most 200 characters")] = ""
    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a chat")] = ""
    model: Annotated[str, Meta(max_length=200, description="the name of a model")] = ""
    temporary: Annotated[Literal["", "1"], Meta(description="1 or empty")] = ""


class ChatEntry(Struct, frozen=True):
    id: str
    title: str
    href: str


class PlaygroundKey(Struct, frozen=True):
    """A key to choose. `models` is the JSON of its allowed models, "" for all."""

    id: str
    name: str
    models: str


class AnswerOnPage(Struct, frozen=True):
    model: str
    text: str
    facts: str
    request_id: str


class ChatTurn(Struct, frozen=True):
    """A message of the user and the answers to it. `position` is that of the message, `images` a number."""

    position: int
    text: str
    images: int
    answers: Sequence[AnswerOnPage]


class PlaygroundPages(Struct, frozen=True):
    frame: Frame
    chats: Chats
    keys: Keys
    clock: Clock
    catalog: Callable[[], Awaitable[ModelCatalog]]

    async def new(
        self, principal: Principal, browser: BrowserRequest, query: PlaygroundQuery
    ) -> HandlerResponse[RawBody]:
        """A new chat, with the model and the parameters of the newest one."""
        return await self._page(principal, browser, query, None, ())

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: PlaygroundQuery, chat_id: str
    ) -> HandlerResponse[RawBody]:
        """A stored chat."""
        chat, messages = await self.chats.get(principal.user_id, chat_id)
        return await self._page(principal, browser, query, chat, messages)

    async def _page(
        self,
        principal: Principal,
        browser: BrowserRequest,
        query: PlaygroundQuery,
        chat: Chat | None,
        messages: Sequence[PostedMessage],
    ) -> HandlerResponse[RawBody]:
        listed, more = await self._list(principal.user_id, query)
        facts = chat.facts if chat is not None else await self._newest(principal.user_id)
        keys = await self.keys.list(principal.user_id, active=True, limit=MAX_KEYS)
        models = _for_chats((await self.catalog()).models())
        is_temporary = chat is None and query.temporary == "1"
        return self.frame.page(
            "playground.html",
            browser,
            principal,
            chat=chat,
            title=_title(chat) if chat else "Temporary chat" if is_temporary else "New chat",
            turns=_turns(messages),
            days=self._days(listed, browser, query),
            search=query.search,
            more=link(_path(chat), search=query.search, after=more),
            has_more=bool(more),
            is_first_page=not query.after,
            is_temporary=is_temporary,
            keys=[_key(row) for row in keys if row.scopes is None or _SCOPE in row.scopes],
            models=[row.id for row in models],
            model=_default_model(models, query.model or facts.model),
            parameters=facts.parameters,
        )

    async def _newest(self, user_id: str) -> ChatFacts:
        """Those of the chat that changed last."""
        try:
            newest = await self.chats.list(user_id, None, 1)
        except NotFound:  # encrypted with a master key that is missing
            newest = ()
        return newest[0].facts if newest else ChatFacts()

    async def _list(self, user_id: str, query: PlaygroundQuery) -> tuple[Sequence[Chat], str]:
        """Chats, and the id after which there are more."""
        after = query.after or None
        try:
            if query.search:
                found = await self.chats.search(user_id, query.search, after, LISTED)
                return found.chats, found.next_after or ""
            rows = await self.chats.list(user_id, after, LISTED + 1)
        except NotFound:
            return (), ""
        return rows[:LISTED], rows[LISTED - 1].id if len(rows) > LISTED else ""

    def _days(
        self, chats: Sequence[Chat], browser: BrowserRequest, query: PlaygroundQuery
    ) -> list[tuple[str, list[ChatEntry]]]:
        """The chats of each day, by the time of their last change."""
        now = self.clock.now_ms()
        times = words.Times(browser.zone, now)
        names = {times.day(now - _DAY_MS): "Yesterday", times.day(now): "Today"}

        def day(chat: Chat) -> str:
            written = times.day(chat.updated_at)
            return names.get(written, written)

        def entry(chat: Chat) -> ChatEntry:
            return ChatEntry(chat.id, _title(chat), link(_path(chat), search=query.search))

        return [(name, [entry(chat) for chat in found]) for name, found in groupby(chats, day)]


def _path(chat: Chat | None) -> str:
    return f"/playground/{chat.id}" if chat else "/playground"


def _title(chat: Chat) -> str:
    return chat.facts.title or NO_TITLE


def _key(row: KeyRow) -> PlaygroundKey:
    models = "" if row.allowed_models is None else msgspec.json.encode(row.allowed_models).decode()
    return PlaygroundKey(row.id, row.name, models)


def _for_chats(rows: Sequence[ModelRow]) -> list[ModelRow]:
    """Models that write text; those for another task by their name are last."""
    found = [row for row in rows if "text" in (row.details.output_modalities or ("text",))]
    return sorted(found, key=lambda row: _OTHER_TASKS.search(row.id) is not None)


def _default_model(models: Sequence[ModelRow], wanted: str) -> str:
    """The wanted one if it is available, else the cheapest one."""
    names = [row.id for row in models]
    if wanted in names or not names:
        return wanted
    if "demo/text" in names:
        return "demo/text"
    rates = [(row.price.rates.output, row.id) for row in models if row.price is not None]
    priced = [(rate, name) for rate, name in rates if rate and not _OTHER_TASKS.search(name)]
    return min(priced)[1] if priced else names[0]


def _turns(messages: Sequence[PostedMessage]) -> list[ChatTurn]:
    """The messages by turn. Answers before the first message of the user are left out."""
    turns: list[ChatTurn] = []
    for posted in messages:
        message = posted.message
        if message.role == "user":
            turns.append(ChatTurn(posted.position, message.text, len(message.images), []))
        elif turns:
            answer = AnswerOnPage(
                message.model or "Model", message.text, _facts(message), message.request_id or ""
            )
            turns[-1] = msgspec.structs.replace(turns[-1], answers=[*turns[-1].answers, answer])
    return turns


def _facts(message: ChatMessage) -> str:
    """Tokens, cost and times of an answer. playground.js writes the same."""
    found = ["stopped"] if message.stopped else []
    if message.duration_ms is None:
        return " · ".join(found)
    if message.input_tokens is not None:
        found.append(f"{message.input_tokens:,} in, {message.output_tokens or 0:,} out")
    found.append("no price" if message.cost_usd is None else f"${message.cost_usd}")
    if message.first_byte_ms is not None:
        found.append(f"first byte {words.span(message.first_byte_ms)}")
    return " · ".join([*found, words.span(message.duration_ms)])


def routes(pages: PlaygroundPages) -> list[Route]:
    path = f"{HOME}/playground"
    return [
        route("GET", path, Access.SESSION, pages.new, tag="Pages", media=HTML),
        route("GET", f"{path}/{{chat_id}}", Access.SESSION, pages.one, tag="Pages", media=HTML),
    ]
