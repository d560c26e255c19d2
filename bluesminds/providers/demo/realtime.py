"""GET /realtime: a session that answers `response.create` with the last message, as text or as sound."""

import base64
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bluesminds.providers.demo.script import DemoError, read
from bluesminds.providers.demo.text import tokens_of, truncate

TONE_BYTES = 480  # of 16-bit samples at 24 kHz: 10 ms of a tone for each token
INPUT_BYTES_PER_TOKEN = 4800  # 100 ms of such samples
_MAX_TOKENS = 4096
_NO_TEXT = "I heard no words."

Event = dict[str, Any]


class _Part(Struct):
    type: str
    text: str = ""
    transcript: str | None = None


class _Item(Struct):
    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: Literal["user", "assistant", "system"] = "user"
    content: list[_Part] = []


class _ResponseOptions(Struct, frozen=True):
    output_modalities: list[Literal["text", "audio"]] | None = None
    max_output_tokens: int | Literal["inf"] | None = None


class _ClientEvent(Struct):
    type: str
    event_id: str | None = None
    session: dict[str, Any] = {}
    item: msgspec.Raw = msgspec.Raw(b"{}")
    audio: str = ""
    response: _ResponseOptions = _ResponseOptions()


class DemoSession:
    """The state of one session. `handle` takes an event of the client and returns those of the server."""

    def __init__(self, model: str) -> None:
        self._session: Event = {
            "id": "sess_demo",
            "object": "realtime.session",
            "type": "realtime",
            "model": model,
            "output_modalities": ["audio"],
            "instructions": "",
            "max_output_tokens": "inf",
        }
        self._ids = 0
        self._audio = 0  # bytes since the last commit
        self._text = ""  # of the last message
        self._context = {"text": 0, "audio": 0}  # tokens of the conversation
        self._cached = 0

    def open(self) -> list[Event]:
        return [self._event("session.created", session=self._session)]

    def handle(self, text: str) -> list[Event]:
        about = None
        try:
            event = read(text.encode(), _ClientEvent)
            about = event.event_id
            return list(self._answer(event))
        except DemoError as exc:
            error = {
                "type": "invalid_request_error",
                "code": exc.code,
                "message": str(exc),
                "param": exc.param,
            }
            return [self._event("error", error=error | {"event_id": about})]

    def _answer(self, event: _ClientEvent) -> Iterator[Event]:
        match event.type:
            case "session.update":
                self._session |= event.session
                yield self._event("session.updated", session=self._session)
            case "conversation.item.create":
                yield from self._add_item(read(bytes(event.item), _Item))
            case "input_audio_buffer.append":
                self._audio += len(_decoded(event.audio))
            case "input_audio_buffer.clear":
                self._audio = 0
                yield self._event("input_audio_buffer.cleared")
            case "input_audio_buffer.commit":
                yield from self._commit_audio()
            case "response.create":
                yield from self._respond(event.response)
            case "response.cancel":
                raise DemoError("There is no active response.", code="response_cancel_not_active")
            case _:
                raise DemoError(f"The demo server has no event {event.type}.", "type", code="unknown_event")

    def _add_item(self, item: _Item) -> Iterator[Event]:
        text = "".join(part.text or part.transcript or "" for part in item.content)
        if text and item.role == "user":
            self._text = text
        self._context["text"] += len(tokens_of(text))
        yield from self._item_events({"id": self._id("item"), **msgspec.to_builtins(item)})

    def _commit_audio(self) -> Iterator[Event]:
        if not self._audio:
            raise DemoError("The audio buffer is empty.", code="input_audio_buffer_commit_empty")
        self._context["audio"] += -(-self._audio // INPUT_BYTES_PER_TOKEN)
        self._audio = 0
        item = {
            "id": self._id("item"),
            "type": "message",
            "role": "user",
            "content": [{"type": "input_audio"}],
        }
        yield self._event("input_audio_buffer.committed", item_id=item["id"])
        yield from self._item_events(item)

    def _item_events(self, item: Event) -> Iterator[Event]:
        yield self._event("conversation.item.added", item=item)
        yield self._event("conversation.item.done", item=item)

    def _respond(self, options: _ResponseOptions) -> Iterator[Event]:
        audio = "audio" in (options.output_modalities or self._session["output_modalities"])
        bound = options.max_output_tokens or self._session["max_output_tokens"]
        limit = min(bound, _MAX_TOKENS) if isinstance(bound, int) else _MAX_TOKENS
        tokens, _ = truncate(self._text or _NO_TEXT, None, limit)
        response = {"id": self._id("resp"), "object": "realtime.response", "status": "in_progress"}
        yield self._event("response.created", response=response | {"output": []})
        item = {"id": self._id("item"), "type": "message", "role": "assistant"}
        yield from self._output_item(response["id"], item, tokens, audio=audio)
        finished = item | {"status": "completed", "content": [_part(tokens, audio=audio)]}
        yield self._event("conversation.item.done", item=finished)
        usage = self._usage(len(tokens), audio=audio)
        complete = {"status": "completed", "output": [finished], "usage": usage}
        yield self._event("response.done", response=response | complete)

    def _output_item(self, response: str, item: Event, tokens: list[str], *, audio: bool) -> Iterator[Event]:
        at = {"response_id": response, "output_index": 0}
        part_at = {**at, "item_id": item["id"], "content_index": 0}
        begun = item | {"status": "in_progress", "content": []}
        part = _part(tokens, audio=audio)
        yield self._event("response.output_item.added", **at, item=begun)
        yield self._event("conversation.item.added", item=begun)
        yield self._event("response.content_part.added", **part_at, part=_part([], audio=audio))
        yield from self._deltas(tokens, part_at, audio=audio)
        yield self._event("response.content_part.done", **part_at, part=part)
        finished = item | {"status": "completed", "content": [part]}
        yield self._event("response.output_item.done", **at, item=finished)

    def _deltas(self, tokens: list[str], at: Event, *, audio: bool) -> Iterator[Event]:
        kind = "response.output_audio_transcript" if audio else "response.output_text"
        for token in tokens:
            yield self._event(f"{kind}.delta", **at, delta=token)
            if audio:
                yield self._event("response.output_audio.delta", **at, delta=_TONE)
        if audio:
            yield self._event("response.output_audio.done", **at)
        yield self._event(f"{kind}.done", **at, **{"transcript" if audio else "text": "".join(tokens)})

    def _usage(self, count: int, *, audio: bool) -> Event:
        """What came before the last response counts as cached. A token of the response counts as one of text,
        and its sound as another.
        """
        input_ = sum(self._context.values())
        cached = min(self._cached, input_)
        output = {"text_tokens": count, "audio_tokens": count if audio else 0}
        details = {"text_tokens": self._context["text"], "audio_tokens": self._context["audio"]}
        self._context["text"] += count
        self._cached = sum(self._context.values())
        total = sum(output.values())
        return {
            "total_tokens": input_ + total,
            "input_tokens": input_,
            "output_tokens": total,
            "input_token_details": details | {"cached_tokens": cached},
            "output_token_details": output,
        }

    def _event(self, kind: str, **fields: Any) -> Event:  # noqa: ANN401
        return {"type": kind, "event_id": self._id("event"), **fields}

    def _id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}_demo_{self._ids}"


def _part(tokens: list[str], *, audio: bool) -> Event:
    kind, field = ("output_audio", "transcript") if audio else ("output_text", "text")
    return {"type": kind, field: "".join(tokens)}


def _decoded(audio: str) -> bytes:
    try:
        return base64.b64decode(audio, validate=True)
    except ValueError as exc:
        raise DemoError("audio must be base64.", "audio") from exc


def _tone() -> str:
    """A square wave of 1 kHz."""
    wave = (b"\x00\x10" * 12 + b"\x00\xf0" * 12) * (TONE_BYTES // 48)
    return base64.b64encode(wave).decode()


_TONE = _tone()
