"""A conversation in a neutral form: codecs read requests, replies and streams into it and write them from it.

It is built only when a request is translated from one format to another. JSON that passes through (schemas,
arguments of calls) keeps its bytes. Codecs read into a canonical form: adjacent turns have different roles,
turns and texts are not empty, tool results come first in a turn, and adjacent texts of the assistant are
joined.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.json_text import Fields

Role = Literal["user", "assistant", "system"]
StopReason = Literal["end", "length", "sequence", "tool", "filter", "pause"]
PartKind = Literal["text", "refusal", "thinking", "redacted", "tool"]
SAMPLING: Final = ("temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
CacheLife = Literal["", "5m", "1h"]
# Formats with one place for encrypted reasoning say with these what it is.
SIGNATURE: Final = "signature:"
REDACTED: Final = "redacted:"
# Tokens: a smaller budget is a low effort, and a larger one a high effort.
_SMALL_BUDGET: Final = 4096
_LARGE_BUDGET: Final = 16384


class TextPart(Struct, frozen=True):
    """`refusal`: the model refuses, in an answer. `cache`: how long the server should cache the prompt up to
    here.
    """

    text: str
    refusal: bool = False
    cache: CacheLife = ""


class MediaPart(Struct, frozen=True):
    """An image, document or audio: a URL, or base64 data with its media type."""

    kind: Literal["image", "document", "audio"]
    url: str = ""
    data: str = ""
    media_type: str = ""
    cache: CacheLife = ""


class ThinkingPart(Struct, frozen=True):
    """Reasoning. `signature`: the server's proof that it wrote the text. `redacted`: encrypted reasoning
    instead of a text.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""


class ToolCallPart(Struct, frozen=True):
    """`arguments`: JSON as it was generated; incomplete if the answer was cut. `signature`: as that of
    reasoning; Gemini signs calls.
    """

    id: str
    name: str
    arguments: str = "{}"
    signature: str = ""


class ToolResultPart(Struct, frozen=True):
    call_id: str
    parts: tuple[TextPart | MediaPart, ...] = ()
    is_error: bool = False
    cache: CacheLife = ""


Part = TextPart | MediaPart | ThinkingPart | ToolCallPart | ToolResultPart


class Turn(Struct, frozen=True):
    role: Role
    parts: tuple[Part, ...]


class ToolDefinition(Struct, frozen=True):
    """`schema`: the JSON schema of the arguments; empty if the client sent none."""

    name: str
    description: str = ""
    schema: bytes = b""
    strict: bool | None = None
    cache: CacheLife = ""


class ToolChoice(Struct, frozen=True):
    """`name`: the tool, in the mode "tool"."""

    mode: Literal["auto", "required", "none", "tool"]
    name: str = ""


class ClientTool(Struct, frozen=True):
    """How the client calls a tool that is not a plain function for it. `name`: of the function here. `kind`:
    "custom", whose input is a text; "search", which finds more tools; or a function in a namespace.
    """

    name: str
    kind: Literal["function", "custom", "search"]
    client_name: str
    namespace: str = ""


class Reasoning(Struct, frozen=True):
    """How much the model may reason. `effort`: none, minimal, low, medium, high, xhigh or max. `mode`: the
    type of Anthropic's `thinking`. `budget`: tokens.
    """

    effort: str = ""
    mode: Literal["", "enabled", "adaptive", "between_tools", "disabled"] = ""
    budget: int | None = None


class ReplyLinks(Struct, frozen=True):
    """For formats whose answers can be stored. `stored_id`: the id of the answer; "" if the gateway does not
    store it. `previous_id`: the id of the answer that it continues; "" if there is none.
    """

    stored_id: str = ""
    previous_id: str = ""


NO_LINKS: Final = ReplyLinks()


class ConversationRequest(Struct, frozen=True):
    """`dropped`: names of the client's fields that are left out and do not change the meaning. `echo`: the
    fields of the request that a response in the client's format repeats. `expected_input`: the gateway's
    estimate of the input, in tokens. `now`: seconds since the epoch, for formats whose answers say when they
    were completed.
    """

    model: str
    turns: tuple[Turn, ...]
    system: str = ""
    system_cache: tuple[int, CacheLife] = (0, "")  # of the first characters of `system`
    cache: CacheLife = ""  # of the whole prompt
    tools: tuple[ToolDefinition, ...] = ()
    client_tools: tuple[ClientTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel: bool | None = None  # whether several tools may be called at once
    response_schema: bytes = b""  # JSON schema of the answer's text
    response_strict: bool | None = None  # whether the schema must be followed exactly
    response_json: bool = False  # the answer's text is a JSON object of any schema
    max_output: int | None = None  # tokens
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    reasoning: Reasoning | None = None
    user: str = ""  # the client's name for its end user
    stream: bool = False
    wants_usage: bool = True  # a stream ends with its usage
    shows_reasoning: bool = True  # the client accepts reasoning in answers
    created: int = 0  # seconds since the epoch, for formats with a creation time in answers
    dropped: tuple[str, ...] = ()
    echo: bytes = b""
    links: ReplyLinks = NO_LINKS
    expected_input: int = 0
    now: Callable[[], int] | None = None
    client_names: Mapping[str, str] = {}  # the client's names of tools, by those that the server gets


class EncodingOptions(Struct, frozen=True):
    """What the server of a translated request supports."""

    model: str  # the server's name of the model
    max_output: int | None = None  # maximum tokens, for formats that require a maximum
    bound: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # chat: the field of the maximum
    usage: bool = True  # chat: streams can report usage
    sampling: bool = True  # the fields of SAMPLING
    reasoning: bool = True  # an effort or a budget
    reasoning_content: bool = False  # chat: reasoning in earlier answers
    system_turns: bool = False  # messages: the role "system" inside the conversation


class TokenForecast(Struct, frozen=True, gc=False):
    """What a translation needs to know, in tokens. `input` is an estimate. `default_output`: for servers that
    require a maximum, if the client sets none. `max_output`: what the model supports; None if it is unknown.
    """

    input: int
    default_output: int
    max_output: int | None = None


class EncodedRequest(Struct, frozen=True):
    """`dropped`: all fields that the server does not get, including those of the decoder."""

    fields: Fields
    dropped: tuple[str, ...]


class ConversationReply(Struct, frozen=True):
    """A complete answer. `dropped`: types of content that are left out."""

    id: str
    model: str
    parts: tuple[Part, ...]
    stop: StopReason = "end"
    stop_sequence: str = ""
    usage: Usage = NO_USAGE
    dropped: tuple[str, ...] = ()


class StreamStarted(Struct, frozen=True, gc=False):
    id: str
    model: str


class PartOpened(Struct, frozen=True, gc=False):
    """`id` and `name` of a tool call; `data`: redacted reasoning, or the signature of a tool call."""

    index: int
    kind: PartKind
    id: str = ""
    name: str = ""
    data: str = ""


class PartDelta(Struct, frozen=True, gc=False):
    """A piece of text, reasoning, or a call's arguments."""

    index: int
    text: str


class PartClosed(Struct, frozen=True, gc=False):
    """`signature` of reasoning."""

    index: int
    signature: str = ""


class StreamStopped(Struct, frozen=True, gc=False):
    """The answer is complete; its usage may follow."""

    stop: StopReason
    sequence: str = ""


class UsageReported(Struct, frozen=True, gc=False):
    """The usage that the server has reported so far. None: an impossible report."""

    usage: Usage | None


class StreamFailed(Struct, frozen=True, gc=False):
    error: ErrorDetail


class StreamFinished(Struct, frozen=True, gc=False):
    """The last event."""


StreamEvent = (
    StreamStarted
    | PartOpened
    | PartDelta
    | PartClosed
    | StreamStopped
    | UsageReported
    | StreamFailed
    | StreamFinished
)


def effort_of(reasoning: Reasoning) -> str:
    """In OpenAI's words; a budget of tokens has the effort that is next to it."""
    if reasoning.effort or (budget := reasoning.budget) is None:
        return reasoning.effort
    return "low" if budget < _SMALL_BUDGET else "medium" if budget < _LARGE_BUDGET else "high"


def unsupported(param: str, reason: str) -> InvalidRequest:
    """The error for a field that changes the meaning of a request and cannot be translated."""
    return InvalidRequest(
        "unsupported_by_server",
        f"`{param}` cannot be translated for the servers of this model: {reason}",
        param=param,
    )


def write_sampling(
    request: ConversationRequest,
    options: EncodingOptions,
    names: Mapping[str, str],
    body: dict[str, Any],
    dropped: list[str],
) -> None:
    """Write the fields of SAMPLING. `names`: what the server calls those that it supports."""
    for field in SAMPLING:
        if (value := getattr(request, field)) is None:
            continue
        if options.sampling and field in names:
            body[names[field]] = value
        else:
            dropped.append(field)


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in the order of first use."""
    return tuple(dict.fromkeys(names))


def join_turns(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """The turns in canonical form."""
    joined: list[tuple[Role, list[Part]]] = []
    for turn in turns:
        parts = [part for part in turn.parts if not (isinstance(part, TextPart) and not part.text)]
        if not parts:
            continue
        if joined and joined[-1][0] == turn.role:
            joined[-1][1].extend(parts)
        else:
            joined.append((turn.role, parts))
    return tuple(
        Turn(role, join_texts(parts) if role == "assistant" else _results_first(parts))
        for role, parts in joined
    )


def join_texts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Join adjacent texts and remove empty ones. Servers that cite sources split texts anywhere."""
    joined: list[Part] = []
    for part in parts:
        if (
            isinstance(part, TextPart)
            and joined
            and isinstance(last := joined[-1], TextPart)
            and part.refusal is last.refusal
            and not last.cache
        ):
            joined[-1] = TextPart(last.text + part.text, part.refusal, part.cache)
        elif not (isinstance(part, TextPart) and not part.text):
            joined.append(part)
    return tuple(joined)


def _results_first(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: not isinstance(part, ToolResultPart)))


def events_of_reply(reply: ConversationReply) -> list[StreamEvent]:
    """The reply as a stream of events."""
    events: list[StreamEvent] = [StreamStarted(reply.id, reply.model)]
    for index, part in enumerate(reply.parts):
        if isinstance(part, TextPart):
            kind: PartKind = "refusal" if part.refusal else "text"
            events += [PartOpened(index, kind), PartDelta(index, part.text), PartClosed(index)]
        elif isinstance(part, ThinkingPart) and part.redacted:
            events += [PartOpened(index, "redacted", data=part.redacted), PartClosed(index)]
        elif isinstance(part, ThinkingPart):
            events += [
                PartOpened(index, "thinking"),
                PartDelta(index, part.text),
                PartClosed(index, part.signature),
            ]
        elif isinstance(part, ToolCallPart):
            events += [
                PartOpened(index, "tool", part.id, part.name, part.signature),
                PartDelta(index, part.arguments),
                PartClosed(index),
            ]
    events += [StreamStopped(reply.stop, reply.stop_sequence), UsageReported(reply.usage), StreamFinished()]
    return events


class _PartInProgress:
    def __init__(self, opened: PartOpened) -> None:
        self.opened = opened
        self.texts: list[str] = []
        self.signature = ""

    def part(self) -> Part:
        text, opened = "".join(self.texts), self.opened
        if opened.kind in ("text", "refusal"):
            return TextPart(text, opened.kind == "refusal")
        if opened.kind == "tool":
            return ToolCallPart(opened.id, opened.name, text or "{}", opened.data)
        return ThinkingPart(text, self.signature, opened.data)


def reply_of_events(events: Iterable[StreamEvent]) -> ConversationReply:
    """The complete answer of a stream. Raises ValueError if the stream is incomplete."""
    parts: dict[int, _PartInProgress] = {}
    started, stopped, usage = StreamStarted("", ""), None, NO_USAGE
    for event in events:
        match event:
            case PartDelta():
                parts[event.index].texts.append(event.text)
            case PartOpened():
                parts[event.index] = _PartInProgress(event)
            case PartClosed():
                parts[event.index].signature = event.signature
            case StreamStarted():
                started = event
            case StreamStopped():
                stopped = event
            case UsageReported():
                usage = event.usage or usage
            case StreamFailed():
                raise ValueError("a stream that failed")
            case StreamFinished():
                break
    if stopped is None:
        raise ValueError("a stream without an end")
    joined = join_texts(one.part() for one in parts.values())
    return ConversationReply(started.id, started.model, joined, stopped.stop, stopped.sequence, usage)


def text_of_parts(parts: Iterable[Part], between: str = "") -> str:
    return between.join([part.text for part in parts if isinstance(part, TextPart)])
