"""Writes the Response object: the whole answer of the Responses API, which repeats its request.

Format: OpenAI API reference, the response object; the specification of Open Responses says which fields it
must have, null or not.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.wire.conversation import NO_LINKS, ConversationRequest, ReplyLinks, StopReason
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, is_set, read_fields, write_fields

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
_NULL: Final = Raw(b"null")
# What an answer repeats of a request, and what it says in its place.
_DEFAULTS: Final[dict[str, Raw]] = {
    "background": Raw(b"false"),
    "frequency_penalty": Raw(b"0"),
    "instructions": _NULL,
    "max_output_tokens": _NULL,
    "max_tool_calls": _NULL,
    "metadata": Raw(b"{}"),
    "parallel_tool_calls": Raw(b"true"),
    "presence_penalty": Raw(b"0"),
    "prompt_cache_key": _NULL,
    "reasoning": Raw(b"{}"),
    "safety_identifier": _NULL,
    "service_tier": Raw(b'"default"'),
    "temperature": Raw(b"1.0"),
    "text": Raw(b"{}"),
    "tool_choice": Raw(b'"auto"'),
    "tools": Raw(b"[]"),
    "top_logprobs": Raw(b"0"),
    "top_p": Raw(b"1.0"),
    "truncation": Raw(b'"disabled"'),
    "user": _NULL,
}
_REASONING: Final[Fields] = {"effort": _NULL, "summary": _NULL}
_FORMAT: Final[Fields] = {"description": _NULL, "strict": Raw(b"false")}
_FUNCTION: Final[Fields] = {"description": _NULL, "parameters": _NULL, "strict": _NULL}
_INCOMPLETE: Final[dict[StopReason, str]] = {"length": "max_output_tokens", "filter": "content_filter"}
_tools = msgspec.json.Decoder(list[Fields])


def write_echo(fields: Fields) -> bytes:
    """The members of an answer that repeat its request, without braces."""
    echo = {
        name: value if bytes(value := fields.get(name, ABSENT)) not in (b"", b"null") else default
        for name, default in _DEFAULTS.items()
    }
    if bytes(echo["service_tier"]) == b'"auto"':
        echo["service_tier"] = _DEFAULTS["service_tier"]
    echo["reasoning"] = _completed(echo["reasoning"], _REASONING)
    echo["text"] = _complete_text(echo["text"])
    echo["tools"] = _complete_tools(echo["tools"])
    return write_fields(echo)[1:-1]


def _completed(raw: Raw, defaults: Fields) -> Raw:
    """The object with the fields that it must have."""
    try:
        return Raw(write_fields(defaults | read_fields(bytes(raw))))
    except NOT_JSON:
        return raw


def _complete_text(raw: Raw) -> Raw:
    try:
        text = read_fields(bytes(raw))
        form = read_fields(bytes(text.get("format", Raw(b'{"type":"text"}'))))
    except NOT_JSON:
        return raw
    if bytes(form.get("type", ABSENT)) == b'"json_schema"':
        form = _FORMAT | {name: value for name, value in form.items() if is_set(value)}
    return Raw(write_fields(text | {"format": Raw(write_fields(form))}))


def _complete_tools(raw: Raw) -> Raw:
    try:
        tools = _tools.decode(raw)
    except NOT_JSON:
        return raw
    completed = [
        _FUNCTION | tool if bytes(tool.get("type", ABSENT)) == b'"function"' else tool for tool in tools
    ]
    return Raw(b"[%b]" % b",".join([write_fields(tool) for tool in completed]))


DEFAULT_ECHO: Final = write_echo({})


def write_responses_usage(usage: Usage) -> dict[str, Any] | None:
    """In the spelling of the Responses API; None for a usage that is not known."""
    if usage == NO_USAGE:
        return None
    input_, output = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": input_,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens or 0,
            "cache_write_tokens": usage.cache_write_tokens or 0,
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": input_ + output,
    }


def write_response_error(error: ErrorDetail) -> dict[str, Any]:
    """The `error` of a response that failed."""
    code = "server_error" if error.code is None else str(error.code)
    return {"code": code, "message": error.message or "The request failed."}


def status_of(stop: StopReason, *, refused: bool = False) -> ResponseStatus:
    """A model that refuses has completed its answer."""
    return (
        "completed" if refused and stop == "filter" else "incomplete" if stop in _INCOMPLETE else "completed"
    )


class ResponseHead(Struct, frozen=True):
    """What all Response objects of one answer have in common. `echo`: see `write_echo`. `now`: see
    ConversationRequest.
    """

    id: str
    model: str
    created: int
    echo: bytes
    links: ReplyLinks = NO_LINKS
    now: Callable[[], int] | None = None

    @classmethod
    def of(cls, id_: str, model: str, request: ConversationRequest) -> "ResponseHead":
        echo = request.echo or DEFAULT_ECHO
        links = request.links
        id_ = links.stored_id or response_id(id_)
        return cls(id_, model or request.model, request.created, echo, links, request.now)

    def write(
        self,
        status: ResponseStatus,
        output: Sequence[dict[str, Any]] = (),
        *,
        usage: Usage = NO_USAGE,
        stop: StopReason = "end",
        error: ErrorDetail | None = None,
    ) -> Raw:
        """The object."""
        completed_at = self.now() if status == "completed" and self.now is not None else None
        head = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": completed_at,
            "status": status,
            "error": None if error is None else write_response_error(error),
            "incomplete_details": {"reason": _INCOMPLETE[stop]} if status == "incomplete" else None,
            "model": self.model,
            "output": output,
            "usage": write_responses_usage(usage),
            "previous_response_id": self.links.previous_id or None,
            "store": bool(self.links.stored_id),
        }
        return Raw(b"%b,%b}" % (msgspec.json.encode(head)[:-1], self.echo))


def response_id(id_: str) -> str:
    return id_ if id_.startswith("resp_") else f"resp_{id_}"
