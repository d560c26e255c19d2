"""Names of tools in translated requests. OpenAI's and Google's servers refuse names of more than 64
characters, and clients with MCP servers have longer ones. Such a name gets a short form for the server.
"""

from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from bluesminds.wire.conversation import ConversationReply, ConversationRequest, ToolCallPart, Turn

LONGEST_NAME: Final = 64  # characters
_DIGITS: Final = 12


def shorten_names(request: ConversationRequest) -> ConversationRequest:
    """The request with short names; `long_names` has the client's."""
    names = [tool.name for tool in request.tools]
    for turn in request.turns:
        names += [part.name for part in turn.parts if isinstance(part, ToolCallPart)]
    short = {name: _shorten(name) for name in names if len(name) > LONGEST_NAME}
    if not short:
        return request
    choice = request.tool_choice
    return replace(
        request,
        tools=tuple(replace(tool, name=short.get(tool.name, tool.name)) for tool in request.tools),
        turns=tuple(_shorten_calls(turn, short) for turn in request.turns),
        tool_choice=None if choice is None else replace(choice, name=short.get(choice.name, choice.name)),
        long_names={after: name for name, after in short.items()},
    )


def restore_names(reply: ConversationReply, request: ConversationRequest) -> ConversationReply:
    """The answer with the client's names."""
    names = request.long_names
    if not names:
        return reply
    parts = (
        replace(part, name=names.get(part.name, part.name)) if isinstance(part, ToolCallPart) else part
        for part in reply.parts
    )
    return replace(reply, parts=tuple(parts))


def _shorten(name: str) -> str:
    """The beginning of the name, and a hash of all of it."""
    digest = sha256(name.encode(errors="replace")).hexdigest()[:_DIGITS]
    return f"{name[: LONGEST_NAME - _DIGITS - 1]}_{digest}"


def _shorten_calls(turn: Turn, short: dict[str, str]) -> Turn:
    parts = (
        replace(part, name=short.get(part.name, part.name)) if isinstance(part, ToolCallPart) else part
        for part in turn.parts
    )
    return replace(turn, parts=tuple(parts))
