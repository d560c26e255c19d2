"""The playground: chats with the models of the gateway, by an own key."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.common.errors import NotFound
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.web.api.chats import ChatHandlers, ChatQuery, WholeChat
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

MAX_KEYS: Final = 100
CHATS: Final = 50
_NO_CHAT_MODELS: Final = ("embed", "moderation", "rerank", "speech", "tts", "whisper", "transcri", "image")


class PlaygroundQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q` finds text in chats."""

    q: Annotated[str, Meta(max_length=200, description="text of at most 200 characters")] = ""
    model: Annotated[str, Meta(max_length=200, description="the name of a model")] = ""


class PlaygroundPages(Struct, frozen=True):
    frame: Frame
    keys: Keys
    chats: ChatHandlers
    catalog: Callable[[], Awaitable[ModelCatalog]]

    async def new(
        self, principal: Principal, browser: BrowserRequest, query: PlaygroundQuery
    ) -> HandlerResponse[RawBody]:
        """The playground with a new chat."""
        return await self._page(principal, browser, query, None)

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: PlaygroundQuery, chat_id: str
    ) -> HandlerResponse[RawBody]:
        """The playground with a stored chat."""
        return await self._page(principal, browser, query, await self.chats.get(principal, chat_id))

    async def _page(
        self,
        principal: Principal,
        browser: BrowserRequest,
        query: PlaygroundQuery,
        found: WholeChat | None,
    ) -> HandlerResponse[RawBody]:
        models = [row.id for row in (await self.catalog()).models()]
        chosen = found.chat.model if found is not None else query.model
        try:
            chats = (await self.chats.list(principal, ChatQuery(limit=CHATS, search=query.q))).data
        except NotFound:
            chats = []
        return self.frame.page(
            "playground.html",
            browser,
            principal,
            chat=None if found is None else found.chat,
            messages=[] if found is None else found.messages,
            chats=chats,
            query=query,
            keys=await self.keys.list(principal.user_id, active=True, limit=MAX_KEYS),
            models=sorted(models, key=lambda name: any(part in name for part in _NO_CHAT_MODELS)),
            chosen=chosen or next((name for name in models if name == "demo/text"), ""),
        )


def routes(pages: PlaygroundPages) -> list[Route]:
    path = f"{HOME}/playground"
    return [
        route("GET", path, Access.SESSION, pages.new, tag="Pages", media=HTML),
        route("GET", f"{path}/{{chat_id}}", Access.SESSION, pages.one, tag="Pages", media=HTML),
    ]
