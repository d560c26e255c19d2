"""Strategies for conversations that a format can express, and runs of streams through a translation."""

import json
import string
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter
from bluesminds.wire.base import Codec, RequestFacts, Stage
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import (
    ConversationReply,
    ConversationRequest,
    MediaPart,
    Part,
    Reasoning,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolDefinition,
    ToolResultPart,
    Turn,
    join_texts,
    join_turns,
)
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.requests import read_body
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.translation import Translation

texts = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
schemas = st.dictionaries(texts, st.integers() | texts | st.booleans(), max_size=3).map(
    lambda value: json.dumps({"type": "object", "additionalProperties": False, "x": value}).encode()
)
objects = st.dictionaries(texts, texts | st.integers(), max_size=2).map(json.dumps)
base64 = st.sampled_from(["AAAA", "iVBORw0KGgo=", "JVBERi0xLjc="])
urls = st.just("https://example.test/a.png")
images = st.builds(MediaPart, st.just("image"), data=base64, media_type=st.just("image/png")) | st.builds(
    MediaPart, st.just("image"), url=urls
)
documents = st.builds(MediaPart, st.just("document"), data=base64, media_type=st.just("application/pdf"))
sounds = st.builds(MediaPart, st.just("audio"), data=base64, media_type=st.just("audio/wav"))
text_parts = st.builds(TextPart, texts)
calls = st.builds(ToolCallPart, names, names, objects)
penalties = st.none() | st.floats(0.1, 1)
fractions = st.floats(0, 1, exclude_max=True)
optional_flags = st.none() | st.booleans()
tools = st.builds(ToolDefinition, names, st.just("") | texts, schemas, optional_flags)
choices = st.builds(ToolChoice, st.sampled_from(["auto", "required", "none"])) | st.builds(
    ToolChoice, st.just("tool"), names
)


def _turns(user: st.SearchStrategy[Part], answer: st.SearchStrategy[list[Part]]) -> Any:
    turns = st.one_of(
        st.builds(Turn, st.just("user"), st.lists(user, min_size=1, max_size=4).map(tuple)),
        st.builds(Turn, st.just("assistant"), answer.map(tuple)),
        st.builds(Turn, st.just("system"), st.tuples(text_parts)),
    )
    first = st.builds(Turn, st.just("user"), st.tuples(text_parts))
    return st.tuples(first, st.lists(turns, max_size=5)).map(
        lambda drawn: join_turns(_apart([drawn[0], *drawn[1]]))
    )


def _apart(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of the system, and answers, that follow one another would be one."""
    kept: list[Turn] = []
    for turn in turns:
        if turn.parts and not (kept and kept[-1].role == turn.role != "user"):
            kept.append(turn)
    return kept


def _results(parts: st.SearchStrategy[Any], flags: st.SearchStrategy[bool]) -> st.SearchStrategy[Part]:
    return st.builds(ToolResultPart, names, st.lists(parts, max_size=3).map(tuple), flags)


_common = {
    "model": st.just("m"),
    "system": st.just("") | texts,
    "max_output": st.integers(1, 9999),
    "temperature": st.none() | fractions,
    "top_p": st.none() | fractions,
    "stop": st.lists(names, max_size=3).map(tuple),
    "user": st.just("") | names,
    "response_schema": st.just(b"") | schemas,
    "stream": st.booleans(),
}


# Strategies are built here and not where they are drawn from: hypothesis checks each new object, which takes
# longer than drawing from it.
_flags = st.booleans()
_seeds = st.none() | st.integers(0, 99)
_some_tools = st.lists(tools, max_size=2)


@st.composite
def extra_sampling(draw: st.DrawFn) -> dict[str, Any]:
    """What chat completions and Gemini have."""
    seed = draw(_seeds)
    return {"seed": seed, "presence_penalty": draw(penalties), "frequency_penalty": draw(penalties)}


_extra_sampling = extra_sampling()
_thought_lists = st.lists(st.builds(ThinkingPart, texts), max_size=1)
_text_lists = st.lists(text_parts, max_size=1)
_call_lists = st.lists(calls, max_size=3)
_chat_turns = _turns(
    text_parts | images | documents | sounds | _results(text_parts, st.just(False)),
    st.tuples(_thought_lists, _text_lists, _call_lists).map(lambda lists: [*lists[0], *lists[1], *lists[2]]),
)
_efforts = st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh", "max"])
_reasoning = st.none() | st.builds(Reasoning, _efforts)


@st.composite
def chat_requests(draw: st.DrawFn) -> ConversationRequest:
    some = tuple(draw(_some_tools))
    stream = draw(_flags)
    common: dict[str, Any] = {name: draw(strategy) for name, strategy in _common.items()}
    return ConversationRequest(
        **common | {"stream": stream},
        turns=draw(_chat_turns),
        response_json=not common["response_schema"] and draw(_flags),
        tools=some,
        tool_choice=draw(choices) if some and draw(_flags) else None,
        parallel=draw(optional_flags) if some else None,
        reasoning=draw(_reasoning),
        wants_usage=stream,
        **draw(_extra_sampling),
    )


_media = images | documents | st.builds(MediaPart, st.just("document"), url=urls)
_messages_thoughts = st.builds(ThinkingPart, texts, texts) | st.builds(ThinkingPart, redacted=texts)
_messages_turns = _turns(
    text_parts | _media | _results(text_parts | _media, _flags),
    st.lists(text_parts | calls | _messages_thoughts, max_size=5).map(lambda parts: list(join_texts(parts))),
)
_messages_modes = st.sampled_from(["", "enabled", "adaptive", "between_tools", "disabled"])
_messages_efforts = st.sampled_from(["", "low", "medium", "high", "xhigh", "max"])
_budgets = st.integers(1024, 9999)
_top_k = st.none() | st.integers(1, 99)


@st.composite
def messages_requests(draw: st.DrawFn) -> ConversationRequest:
    some = tuple(draw(_some_tools))
    choice = draw(choices) if some and draw(_flags) else None
    mode, effort = draw(_messages_modes), draw(_messages_efforts)
    thinks = mode in ("enabled", "adaptive")
    if thinks and choice is not None and choice.mode in ("required", "tool"):
        choice = None
    budget = draw(_budgets) if mode == "enabled" else None
    bound: dict[str, Any] = {} if budget is None else {"max_output": 10_000}
    unsampled: dict[str, Any] = {"temperature": None, "top_p": None} if thinks else {}
    return ConversationRequest(
        **{name: draw(strategy) for name, strategy in _common.items()} | bound | unsampled,
        turns=draw(_messages_turns),
        tools=some,
        tool_choice=choice,
        parallel=draw(optional_flags) if choice is not None and choice.mode != "none" else None,
        reasoning=Reasoning(effort, mode, budget) if mode or effort else None,  # type: ignore[arg-type]
        top_k=None if thinks else draw(_top_k),
        shows_reasoning=mode not in ("", "disabled"),
    )


_responses_thoughts = st.builds(ThinkingPart, texts) | st.builds(ThinkingPart, texts, names)
_responses_turns = _turns(
    text_parts | _media | sounds | _results(text_parts | _media, st.just(False)),
    st.lists(text_parts | calls | _responses_thoughts, max_size=5).map(lambda parts: list(join_texts(parts))),
)
_functions = st.lists(
    st.builds(ToolDefinition, names, st.just("") | texts, schemas, _flags),
    max_size=2,
    unique_by=lambda tool: tool.name,
)


@st.composite
def responses_requests(draw: st.DrawFn) -> ConversationRequest:
    some = tuple(draw(_functions))
    fields = {name: draw(strategy) for name, strategy in _common.items() if name != "stop"}
    has_schema = bool(fields["response_schema"])
    return ConversationRequest(
        **fields,  # type: ignore[arg-type]
        turns=draw(_responses_turns),
        tools=some,
        tool_choice=draw(choices) if some and draw(_flags) else None,
        parallel=draw(optional_flags) if some else None,
        reasoning=draw(_reasoning),
        response_strict=draw(optional_flags) if has_schema else None,
        response_json=draw(_flags) and not has_schema,
    )


compact_objects = st.dictionaries(texts, texts | st.integers(), max_size=2).map(
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
)
signatures = st.sampled_from(["c2ln", "AAAA", "+/8="])
signed_calls = st.builds(ToolCallPart, names, names, compact_objects, signatures)


_gemini_parts = st.lists(text_parts | signed_calls | st.builds(ThinkingPart, texts, signatures), max_size=5)


@st.composite
def gemini_answers(draw: st.DrawFn) -> list[Part]:
    """Texts with and without signatures, signed thoughts and calls."""
    parts: list[Part] = []
    for part in draw(_gemini_parts):
        parts.append(part)
        if isinstance(part, TextPart) and draw(_flags):
            parts.append(ThinkingPart(signature=draw(signatures)))
    return list(join_texts(parts))


_gemini_answers = gemini_answers()
_gemini_tools = st.lists(tools.map(lambda tool: structs.replace(tool, strict=None)), max_size=2)
_gemini_counts = st.integers(0, 3)
_gemini_images = st.lists(images.filter(lambda image: not image.url), max_size=1)
_gemini_users = st.lists(text_parts | images | documents | sounds, max_size=2)
_gemini_reasoning = (
    st.builds(Reasoning, st.sampled_from(["minimal", "low", "medium", "high"]))
    | st.builds(Reasoning, st.just(""), st.just("enabled"), st.integers(1, 9999))
    | st.just(Reasoning(mode="adaptive"))
)


@st.composite
def gemini_requests(draw: st.DrawFn) -> ConversationRequest:
    """Without system turns. Every result needs a call with its name before it: there is one call in each
    answer, and one result in the turn after it.
    """
    turns = [Turn("user", (draw(text_parts),))]
    some = draw(_gemini_tools)
    for number in range(draw(_gemini_counts)):
        call = structs.replace(draw(signed_calls), id=f"call_{number}")
        turns.append(Turn("assistant", (*draw(_gemini_answers), call)))
        inner: list[Part] = draw(_text_lists) if draw(_flags) else []
        inner += draw(_gemini_images)
        is_error = draw(_flags)
        inner = inner if inner and isinstance(inner[0], TextPart) else [TextPart("{}"), *inner]
        result = ToolResultPart(f"call_{number}", tuple(inner), is_error)
        turns.append(Turn("user", (result, *draw(_gemini_users))))
    reasoning, shown = None, False
    if draw(_flags):
        reasoning = draw(_gemini_reasoning)
        shown = draw(_flags)
    common = {name: draw(strategy) for name, strategy in _common.items()} | {"user": "", "stream": False}
    return ConversationRequest(
        **common,  # type: ignore[arg-type]
        turns=join_turns(turns),
        tools=tuple(some),
        tool_choice=draw(choices) if some and draw(_flags) else None,
        response_json=not common["response_schema"] and draw(_flags),
        reasoning=reasoning,
        top_k=draw(_top_k),
        shows_reasoning=shown,
        **draw(_extra_sampling),
    )


counts = st.integers(1, 9999)


@st.composite
def gemini_replies(draw: st.DrawFn) -> ConversationReply:
    parts = draw(_gemini_answers)
    if draw(_flags):
        parts.append(ThinkingPart(redacted=draw(signatures)))
    called = any(isinstance(part, ToolCallPart) for part in parts)
    stop = draw(st.sampled_from(["length", "filter", "tool" if called else "end"]))
    usage = Usage(draw(counts) + 300, draw(counts) + 99, 200, None, 99, "upstream")
    return ConversationReply("r1", "m", tuple(parts), stop, usage=usage)


@st.composite
def chat_replies(draw: st.DrawFn) -> ConversationReply:
    parts: list[Part] = [
        *draw(_thought_lists),
        *draw(_text_lists),
    ]
    some = draw(_call_lists)
    stops = st.sampled_from(["length", "tool", "filter"] if some else ["end", "length", "filter"])
    usage = Usage(draw(counts) + 300, draw(counts) + 99, 200, 100, 99, "upstream")
    return ConversationReply("r1", "m", (*parts, *some), draw(stops), usage=usage)  # type: ignore[arg-type]


_compact_texts = st.dictionaries(texts, texts, max_size=2).map(
    lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
)
_messages_parts = st.lists(
    text_parts | _messages_thoughts | st.builds(ToolCallPart, names, names, _compact_texts), max_size=5
)


@st.composite
def messages_replies(draw: st.DrawFn) -> ConversationReply:
    parts = join_texts(draw(_messages_parts))
    stop = draw(st.sampled_from(["end", "length", "tool", "filter", "pause", "sequence"]))
    sequence = draw(names) if stop == "sequence" else ""
    usage = Usage(draw(counts) + 300, draw(counts) + 99, 200, 100, 99, "upstream")
    return ConversationReply("r1", "m", parts, stop, sequence, usage)  # type: ignore[arg-type]


_responses_parts = st.lists(
    text_parts | st.builds(ThinkingPart, texts, texts) | st.builds(ThinkingPart, texts) | calls, max_size=5
)


@st.composite
def responses_replies(draw: st.DrawFn) -> ConversationReply:
    parts = join_texts(draw(_responses_parts))
    stops = ["length", "filter", "tool" if any(isinstance(one, ToolCallPart) for one in parts) else "end"]
    stop = draw(st.sampled_from(stops))
    if stop == "filter" and draw(_flags):
        refusal = TextPart(draw(texts), refusal=True)
        parts = (*(one for one in parts if isinstance(one, ThinkingPart)), refusal)
    usage = Usage(draw(counts) + 300, draw(counts) + 99, 200, 100, 99, "upstream")
    return ConversationReply("resp_r1", "m", parts, stop, usage=usage)  # type: ignore[arg-type]


def chat_conversation(**fields: Any) -> ConversationRequest:
    return CHAT_CODEC.decode_request(fields_of({"model": "alias", "messages": []} | fields), 7)


def messages_conversation(**fields: Any) -> ConversationRequest:
    return MESSAGES_CODEC.decode_request(
        fields_of({"model": "alias", "max_tokens": 100, "messages": []} | fields), 7
    )


def responses_conversation(**fields: Any) -> ConversationRequest:
    return RESPONSES_CODEC.decode_request(fields_of({"model": "alias", "input": "Hi"} | fields), 7)


def fields_of(body: Any) -> Any:
    return read_body(json.dumps(body).encode())


def json_of(fields: Any) -> Any:
    return {name: json.loads(bytes(value)) for name, value in fields.items()}


def facts(**more: Any) -> RequestFacts:
    return RequestFacts(model="alias", stream=True, text_bytes=40, **more)


def to_messages(**fields: Any) -> Translation:
    """A chat server's stream for a client of Messages."""
    return Translation(CHAT_CODEC, MESSAGES_CODEC, messages_conversation(**fields), facts())


def to_chat(**fields: Any) -> Translation:
    """A stream of Messages for a client of chat completions."""
    options = {"stream_options": {"include_usage": True}}
    return Translation(MESSAGES_CODEC, CHAT_CODEC, chat_conversation(**options | fields), facts())


def to_responses(server: Codec = CHAT_CODEC, **fields: Any) -> Translation:
    """A server's stream for a client of the Responses API."""
    return Translation(server, RESPONSES_CODEC, responses_conversation(**fields), facts())


def run_stage(stage: Stage, pieces: Sequence[bytes]) -> bytes:
    return b"".join([stage.feed(piece) for piece in pieces]) + stage.finish()


def events_in(stream: bytes) -> list[tuple[str, Any]]:
    """Name and decoded data of every event; comments and [DONE] as texts."""
    splitter = EventSplitter()
    found: list[tuple[str, Any]] = []
    for event in splitter.feed(stream):
        name, data = name_and_data(event)
        try:
            found.append((name.decode(), json.loads(data)))
        except ValueError:
            found.append(("", data.decode() or event.decode()))
    assert not splitter.finish(), "an event without an end"
    return found


def named(kind: str, **fields: Any) -> bytes:
    """One event of a Messages or Responses stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def check_messages_order(events: Sequence[tuple[str, Any]]) -> None:
    """The grammar of a complete Messages stream; blocks follow one another."""
    kinds = [name for name, _ in events if name != "ping"]
    assert all(data["type"] == name for name, data in events)
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    block = -1
    opened = False
    for name, data in events[1:-2]:
        if name == "content_block_start":
            assert not opened and data["index"] == block + 1
            block, opened = block + 1, True
        elif name == "content_block_delta":
            assert opened and data["index"] == block
        elif name == "content_block_stop":
            assert opened and data["index"] == block
            opened = False
    assert not opened


def check_responses_order(events: Sequence[tuple[str, Any]]) -> None:
    """The grammar of a complete Responses stream, and that its last event says the same as the others."""
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(data["type"] == name for name, data in events)
    kinds = [name for name, _ in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    added: list[str] = []
    texts: dict[str, str] = {}
    output: list[Any] = []
    for name, data in events[2:-1]:
        if name == "response.output_item.added":
            assert data["output_index"] == len(added)
            added.append(data["item"]["id"])
            texts[added[-1]] = ""
        elif name == "response.output_item.done":
            assert data["item"]["id"] == added[data["output_index"]]
            output.append(data["item"])
            check_responses_item(data["item"], texts[data["item"]["id"]])
        else:
            assert data["item_id"] == added[data["output_index"]]
            texts[data["item_id"]] += data.get("delta", "")
    response = events[-1][1]["response"]
    assert response["output"] == output and len(set(added)) == len(added) == len(output)
    assert f"response.{response['status']}" == kinds[-1]


def check_responses_item(item: dict[str, Any], text: str) -> None:
    """The item has the text of its deltas."""
    if item["type"] == "message":
        said = "".join([part.get("text", part.get("refusal")) for part in item["content"]])
    elif item["type"] == "reasoning":
        said = "".join([part["text"] for part in item["summary"]])
    else:
        said = item.get("input", item.get("arguments", ""))
    assert said == text or isinstance(said, dict)


CODECS: dict[str, Codec] = {
    "chat": CHAT_CODEC,
    "messages": MESSAGES_CODEC,
    "responses": RESPONSES_CODEC,
    "gemini": GEMINI_CODEC,
}
