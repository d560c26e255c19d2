"""/api/chats: the stored chats of the playground. Each user sees only own chats."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.chats import (
    Chat,
    ChatChanges,
    ChatFacts,
    ChatMessage,
    ChatParameters,
    Chats,
    PostedMessage,
)
from bluesminds.common.clock import format_time
from bluesminds.common.errors import NotFound
from bluesminds.web.fields import FullName
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Paging, RawBody, Route, route

MAX_EXPORTED = 1000  # chats of one export

_Text = Annotated[str, Meta(max_length=200_000, description="text of at most 200,000 characters")]
_Image = Annotated[
    str,
    Meta(
        pattern=r"^data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}\Z",
        max_length=700_000,
        description="a data URL of a PNG, JPEG, GIF or WebP image of at most 700,000 characters",
    ),
]
_ModelName = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]{0,200}\Z",
        description="at most 200 characters without control characters",
    ),
]
_Number = Annotated[int, Meta(ge=0, le=10**15, description="a whole number from 0 to 10**15")]


class ParametersInput(Struct, forbid_unknown_fields=True):
    """Null is the default of the model."""

    system: _Text | None = None
    temperature: Annotated[float, Meta(ge=0, le=2, description="a number from 0 to 2")] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")] | None = None
    max_tokens: (
        Annotated[int, Meta(ge=1, le=10**7, description="a whole number from 1 to 10,000,000")] | None
    ) = None


class NewChat(Struct, forbid_unknown_fields=True):
    title: FullName = ""
    model: _ModelName = ""
    parameters: ParametersInput = msgspec.field(default_factory=ParametersInput)


class ChatPatch(Struct, forbid_unknown_fields=True):
    """Omitted fields stay the same. `parameters` are replaced as a whole."""

    title: FullName | UnsetType = UNSET
    model: _ModelName | UnsetType = UNSET
    parameters: ParametersInput | UnsetType = UNSET


class MessageInput(Struct, forbid_unknown_fields=True):
    """The fields after `images` describe an answer."""

    role: Literal["user", "assistant"]
    text: _Text
    images: Annotated[list[_Image], Meta(max_length=8, description="a list of at most 8 data URLs")] = []
    model: _ModelName | None = None
    request_id: (
        Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z", description="the id of a request")] | None
    ) = None
    input_tokens: _Number | None = None
    output_tokens: _Number | None = None
    cost_usd: (
        Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?\Z", description="an amount in USD")] | None
    ) = None
    first_byte_ms: _Number | None = None
    duration_ms: _Number | None = None
    stopped: bool = False


class NewMessages(Struct, forbid_unknown_fields=True):
    messages: Annotated[
        list[MessageInput], Meta(min_length=1, max_length=20, description="a list of 1 to 20 messages")
    ]


class ChatQuery(Paging, frozen=True, forbid_unknown_fields=True):
    search: Annotated[str, Meta(max_length=200, description="text of at most 200 characters")] = ""


class ChatView(Struct, frozen=True):
    """`messages` is their number."""

    id: str
    title: str
    model: str
    parameters: ChatParameters
    messages: int
    created_at: str
    updated_at: str


class MessageView(Struct, frozen=True):
    """`position` counts from 0."""

    position: int
    role: str
    text: str
    images: Sequence[str]
    model: str | None
    request_id: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: str | None
    first_byte_ms: int | None
    duration_ms: int | None
    stopped: bool
    created_at: str


class WholeChat(Struct, frozen=True):
    chat: ChatView
    messages: Sequence[MessageView]


class DeletedChats(Struct, frozen=True):
    deleted: int


class ChatHandlers(Struct, frozen=True):
    chats: Chats

    async def list(self, principal: Principal, query: ChatQuery) -> Page[ChatView]:
        """List your chats, the most recently changed first. With `search`, only chats with this text in the
        title or in a message; if a page has `next_cursor`, there is more to search, even if it is empty.
        """
        after = query.after or None
        if query.search:
            found = await self.chats.search(principal.user_id, query.search, after, query.limit)
            return Page([_view(chat) for chat in found.chats], found.next_after)
        rows = await self.chats.list(principal.user_id, after, query.limit + 1)
        return Page.of(rows, query.limit, _view, lambda chat: chat.id)

    async def create(self, principal: Principal, body: NewChat) -> ChatView:
        """Create a chat."""
        facts = ChatFacts(body.title, body.model, _parameters(body.parameters))
        return _view(await self.chats.create(principal.user_id, facts))

    async def get(self, principal: Principal, chat_id: str) -> WholeChat:
        """Show a chat with its messages."""
        return _whole(*await self.chats.get(principal.user_id, chat_id))

    async def change(self, principal: Principal, chat_id: str, body: ChatPatch) -> ChatView:
        """Change the title, the model or the parameters."""
        parameters = body.parameters
        changes = ChatChanges(
            title=body.title,
            model=body.model,
            parameters=UNSET if parameters is UNSET else _parameters(parameters),
        )
        return _view(await self.chats.change(principal.user_id, chat_id, changes))

    async def remove(self, principal: Principal, chat_id: str) -> None:
        """Delete a chat."""
        await self.chats.remove(principal.user_id, chat_id)

    async def remove_all(self, principal: Principal) -> DeletedChats:
        """Delete all your chats."""
        return DeletedChats(await self.chats.remove_all(principal.user_id))

    async def add(self, principal: Principal, chat_id: str, body: NewMessages) -> Page[MessageView]:
        """Add messages at the end of a chat."""
        messages = [
            ChatMessage(**structs.asdict(message) | {"images": tuple(message.images)})
            for message in body.messages
        ]
        posted = await self.chats.add(principal.user_id, chat_id, messages)
        return Page([_message(one) for one in posted])

    async def cut(self, principal: Principal, chat_id: str, position: str) -> None:
        """Delete a message and all messages after it."""
        if not (position.isascii() and position.isdigit() and len(position) < 10):
            raise NotFound("message_not_found", "The chat has no message at this position.")
        await self.chats.cut(principal.user_id, chat_id, int(position))

    async def export(self, principal: Principal) -> HandlerResponse[RawBody]:
        """Download all your chats as JSON Lines: one chat with its messages in each line."""
        lines = []
        for chat in await self.chats.list(principal.user_id, None, MAX_EXPORTED):
            whole = _whole(*await self.chats.get(principal.user_id, chat.id))
            lines.append(msgspec.json.encode(whole) + b"\n")
        name = ("content-disposition", 'attachment; filename="chats.jsonl"')
        return HandlerResponse(RawBody(b"".join(lines), "application/x-ndjson"), headers=(name,))


def routes(handlers: ChatHandlers) -> list[Route]:
    tag, all_chats, one = "Chats", "/api/chats", "/api/chats/{chat_id}"
    messages = f"{one}/messages"
    session = Access.SESSION
    return [
        route("GET", all_chats, session, handlers.list, tag=tag),
        route("POST", all_chats, session, handlers.create, tag=tag, status=201),
        route("DELETE", all_chats, session, handlers.remove_all, tag=tag),
        route("GET", "/api/chats/export", session, handlers.export, tag=tag, media="application/x-ndjson"),
        route("GET", one, session, handlers.get, tag=tag),
        route("PATCH", one, session, handlers.change, tag=tag),
        route("DELETE", one, session, handlers.remove, tag=tag),
        route("POST", messages, session, handlers.add, tag=tag, status=201),
        route("DELETE", f"{messages}/{{position}}", session, handlers.cut, tag=tag),
    ]


def _parameters(body: ParametersInput) -> ChatParameters:
    return ChatParameters(**structs.asdict(body))


def _view(chat: Chat) -> ChatView:
    return ChatView(
        id=chat.id,
        title=chat.facts.title,
        model=chat.facts.model,
        parameters=chat.facts.parameters,
        messages=chat.messages,
        created_at=format_time(chat.created_at),
        updated_at=format_time(chat.updated_at),
    )


def _message(posted: PostedMessage) -> MessageView:
    return MessageView(
        position=posted.position,
        created_at=format_time(posted.created_at),
        **structs.asdict(posted.message),
    )


def _whole(chat: Chat, messages: Sequence[PostedMessage]) -> WholeChat:
    return WholeChat(_view(chat), [_message(posted) for posted in messages])
