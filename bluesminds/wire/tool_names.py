"""Names of tools in translated requests. Servers refuse names of more than 64 characters, Google's those
that begin with a digit, and OpenAI's and Anthropic's those with dots and colons. Clients of MCP
servers have such names. They get another form for the server.
"""

import re
from hashlib import sha256
from typing import Final

from msgspec.structs import replace

from bluesminds.wire.conversation import ConversationReply, ConversationRequest, ToolCallPart, Turn

LONGEST_NAME: Final = 64  # characters
_DIGITS: Final = 12
_is_accepted = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]{{0,{LONGEST_NAME - 1}}}").fullmatch
_REFUSED: Final = re.compile(r"^(?=[0-9-])|[^A-Za-z0-9_-]")


def replace_names(request: ConversationRequest) -> ConversationRequest:
    """The request with names that every server accepts; `client_names` has the others."""
    names = [tool.name for tool in request.tools]
    for turn in request.turns:
        names += [part.name for part in turn.parts if isinstance(part, ToolCallPart)]
    short = {name: _shorten(name) for name in names if not _is_accepted(name)}
    if not short:
        return request
    choice = request.tool_choice
    return replace(
        request,
        tools=tuple(replace(tool, name=short.get(tool.name, tool.name)) for tool in request.tools),
        turns=tuple(_shorten_calls(turn, short) for turn in request.turns),
        tool_choice=None if choice is None else replace(choice, name=short.get(choice.name, choice.name)),
        client_names={after: name for name, after in short.items()},
    )


def restore_names(reply: ConversationReply, request: ConversationRequest) -> ConversationReply:
    """The answer with the client's names."""
    names = request.client_names
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
    return f"{_REFUSED.sub('_', name)[: LONGEST_NAME - _DIGITS - 1]}_{digest}"


def _shorten_calls(turn: Turn, short: dict[str, str]) -> Turn:
    parts = (
        replace(part, name=short.get(part.name, part.name)) if isinstance(part, ToolCallPart) else part
        for part in turn.parts
    )
    return replace(turn, parts=tuple(parts))
