"""The JSON body of a request, rendered for one server after the other."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio
from msgspec import Raw, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.routes import Need
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.forms import Headers
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.providers.quirks import (
    ADAPTED,
    MAX_COMPLETION_TOKENS,
    MAX_TOKENS,
    OTHER_BOUND,
    Adapt,
    check_supported,
)
from bluesminds.wire.base import Format, FormatName
from bluesminds.wire.conversation import (
    NO_LINKS,
    ConversationRequest,
    EncodingOptions,
    ReplyLinks,
    TokenForecast,
    unique,
)
from bluesminds.wire.formats import client_codec_of, client_vectors_of, codec_of, vectors_of
from bluesminds.wire.gemini import with_max_output
from bluesminds.wire.json_text import Fields, read_fields, write_fields
from bluesminds.wire.needs import request_needs
from bluesminds.wire.prefill import AnswerPrefill, with_prefill
from bluesminds.wire.prompt_prefix import prompt_prefix
from bluesminds.wire.support import Support
from bluesminds.wire.tool_names import replace_names
from bluesminds.wire.vectors import VectorRequest

STREAM_OPTIONS = "stream_options"
NO_FORECAST: Final = TokenForecast(0, 0)
# The field that limits the length of an answer, by format. Gemini has it in `generationConfig`.
_BOUNDS: Final[Mapping[FormatName, str]] = {
    "chat": MAX_COMPLETION_TOKENS,
    "completions": MAX_TOKENS,
    "messages": MAX_TOKENS,
    "responses": "max_output_tokens",
}
JSON_HEADERS: Final[Headers] = ((b"content-type", b"application/json"),)


class JsonBody:
    """A CallBody of JSON, rendered for one server after the other. At most one untranslated and one
    translated rendering are in memory. `conversation` or `vectors` is the source of translations; `dropped`
    has the fields that the latest translation left out. `release` frees the bodies.
    """

    repeatable = True
    __slots__ = (
        "_adapted",
        "_body",
        "_dropped",
        "_fields",
        "_forecast",
        "_forecasts",
        "_format",
        "_links",
        "_rendered_for",
        "_stream_options",
        "_translated",
        "_translated_for",
        "conversation",
        "dropped",
        "prefill",
        "vectors",
    )

    def __init__(self, format_: Format, fields: Fields, body: Body, links: ReplyLinks = NO_LINKS) -> None:
        self._format = format_
        self._links = links
        self.prefill: AnswerPrefill | None = None  # of a stream that continues at another server
        self._fields = fields  # views into the client's bytes, until the first rendering
        options = fields.get(STREAM_OPTIONS)
        self._stream_options = None if options is None else options.copy()
        self._body = body
        self._rendered_for: tuple[str, bool, Adapt | None] | None = None  # model, usage, adaptation
        self._adapted: Fields | None = None  # the client's fields that an adaptation may have changed
        self._forecast = NO_FORECAST
        self._forecasts: Mapping[str, TokenForecast] = {}  # by the server's model name, if not the client's
        self._translated = b""
        self._translated_for: tuple[Plan, str, Support] | None = None
        self._dropped: tuple[str, ...] = ()
        self.conversation: ConversationRequest | None = None
        self.vectors: VectorRequest | None = None
        self.dropped: tuple[str, ...] = ()

    def prompt_prefix(self) -> bytes:
        return prompt_prefix(self._fields)

    def needs(self) -> frozenset[Need]:
        return request_needs(self._fields)

    def fields(self) -> Fields:
        """The fields of the request, before the first rendering."""
        return self._fields

    def choose(
        self, targets: Sequence[Target], *, at_ms: int, forecast: Callable[[Target], TokenForecast]
    ) -> Sequence[Target]:
        """The targets that support the request's fields, and its format or a translation of it."""
        for target in targets:
            if target.plan.translated or target.plan.unsupported:
                self._forecast = forecast(target)
                self._forecasts = {one.model: forecast(one) for one in targets if one.model}
                return self._choose(targets, at_ms // 1000)
        return targets

    def _choose(self, targets: Sequence[Target], created: int) -> Sequence[Target]:
        refusals: dict[Plan, InvalidRequest] = {}
        for plan in dict.fromkeys(target.plan for target in reversed(targets)):
            try:
                if plan.translated:
                    self._try_translation(plan, created)
                else:
                    check_supported(self._fields, plan.unsupported)
            except InvalidRequest as exc:
                refusals[plan] = self._in_client_words(exc) if plan.translated else exc
        chosen = [target for target in targets if target.plan not in refusals]
        if not chosen:
            raise refusals[targets[0].plan]
        if all(target.plan.translated for target in chosen):
            self._fields = {}
            self._body.data = b""
        return chosen

    def content(self, plan: Plan, model: str, support: Support) -> bytes:
        """Servers with equal bodies share the bytes."""
        data = self._render(plan, model, support)
        return data if self.prefill is None else with_prefill(data, self.prefill)

    def _render(self, plan: Plan, model: str, support: Support) -> bytes:
        if plan.translated and self.conversation is not None:
            return self._translate(plan, self.conversation, model, support)
        if plan.translated and self.vectors is not None:
            return self._translate_vectors(plan, self.vectors, model)
        self.dropped = ()
        if self._rendered_for != (model, support.usage, plan.adapt):
            fields = self._client_fields()
            if plan.adapt is not None:
                self._adapted = {name: fields[name].copy() for name in ADAPTED if name in fields}
                fields = plan.adapt(fields)
            self._body.data = write_fields(self._format.prepare(fields, model, support.usage))
            self._fields = {}
            self._rendered_for = (model, support.usage, plan.adapt)
        return self._body.data

    def bound(self, tokens: int) -> bool:
        name, is_gemini = _BOUNDS.get(self._format.name), self._format.name == "gemini"
        if name is None and not is_gemini:
            return False
        if self._fields and is_gemini:
            self._fields = with_max_output(self._fields, tokens)
        elif self._fields and name is not None:
            others = {key: raw for key, raw in self._fields.items() if key not in ADAPTED}
            self._fields = others | {name: Raw(b"%d" % tokens)}
        if self.conversation is not None:
            self.conversation = structs.replace(self.conversation, max_output=tokens)
            self._translated_for = None
        return True

    @property
    def stores(self) -> bool:
        """A translated request stores nothing at the server."""
        if not (fields := self._client_fields()):
            return False
        stored = bytes(fields.get("store", b""))
        return stored != b"false" if self._format.name == "responses" else stored == b"true"

    def headers(self, model: str) -> Headers:
        return JSON_HEADERS

    def read_conversation(self, at_ms: int) -> ConversationRequest:
        """The request in neutral form. Raises InvalidRequest if it has none. `at_ms`: arrival time."""
        if self.conversation is not None:
            return self.conversation
        return client_codec_of(self._format.name).decode_request(self._client_fields(), at_ms // 1000)

    def estimate(self) -> bytes:
        """The response to a count request that no server supports."""
        estimate = self._format.estimate
        return b"" if estimate is None else estimate(self._fields)

    def release(self) -> None:
        self._fields = {}
        self._translated = b""
        self._body.release()

    def _try_translation(self, plan: Plan, created: int) -> None:
        """Read the request and write it for the first server. Raises InvalidRequest."""
        if self._format.vectors is not None:
            if self.vectors is None:
                vectors = client_vectors_of(self._format.name).decode_request(self._fields)
                self.vectors = structs.replace(vectors, expected_input=self._forecast.input)
            self._translate_vectors(plan, self.vectors, self.vectors.model)
            return
        if self.conversation is None:
            conversation = client_codec_of(self._format.name).decode_request(self._fields, created)
            if not (conversation.turns or conversation.system):
                raise InvalidRequest("invalid_value", "`messages` is empty.", param="messages")
            self.conversation = structs.replace(
                replace_names(conversation),
                links=self._links,
                expected_input=self._forecast.input,
                now=partial(_seconds_since, created, trio.current_time()),
            )
        self._translate(plan, self.conversation, self.conversation.model, Support())

    def _translate(
        self, plan: Plan, conversation: ConversationRequest, model: str, support: Support
    ) -> bytes:
        """Raises InvalidRequest for a field without an equivalent in the server's format."""
        if self._translated_for == (plan, model, support):
            self.dropped = self._dropped
            return self._translated
        forecast = self._forecasts.get(model, self._forecast)
        options = EncodingOptions(
            model=model,
            max_output=forecast.default_output,
            bound=OTHER_BOUND[plan.bound] if support.other_bound else plan.bound,
            usage=support.usage,
            sampling=support.sampling,
            reasoning=support.reasoning,
        )
        encoded = codec_of(plan.format).encode_request(_bounded(conversation, forecast), options)
        check_supported(encoded.fields, plan.unsupported)
        self._translated = write_fields(encoded.fields)
        names = client_codec_of(self._format.name).names
        self.dropped = self._dropped = unique(names.get(name, name) for name in encoded.dropped)
        self._translated_for = (plan, model, support)
        return self._translated

    def _translate_vectors(self, plan: Plan, vectors: VectorRequest, model: str) -> bytes:
        """Raises InvalidRequest for a field that the server does not support."""
        encoded = vectors_of(plan.format).encode_request(vectors, model)
        check_supported(encoded.fields, plan.unsupported)
        self.dropped = encoded.dropped
        return write_fields(encoded.fields)

    def _in_client_words(self, refusal: InvalidRequest) -> InvalidRequest:
        """A server's format may have refused a field by its own name."""
        name, codec = refusal.param or "", self._format.codec
        if codec is None or (mine := codec.names.get(name)) is None:
            return refusal
        return InvalidRequest(refusal.code, refusal.message.replace(f"`{name}`", f"`{mine}`"), param=mine)

    def _client_fields(self) -> Fields:
        if self._rendered_for is None:
            return self._fields
        fields = read_fields(self._body.data)
        if self._adapted is not None:
            fields = {name: raw for name, raw in fields.items() if name not in ADAPTED} | self._adapted
        fields.pop(STREAM_OPTIONS, None)
        return fields if self._stream_options is None else fields | {STREAM_OPTIONS: self._stream_options}


def _seconds_since(created: int, began: float) -> int:
    """The seconds since the epoch. `began`: when they were `created`, on Trio's clock."""
    return created + int(trio.current_time() - began)


def _bounded(request: ConversationRequest, forecast: TokenForecast) -> ConversationRequest:
    """A maximum above the model's is lowered: servers refuse it, and coding agents always send the same."""
    if forecast.max_output is None or (request.max_output or 0) <= forecast.max_output:
        return request
    dropped = (*request.dropped, MAX_TOKENS)
    return structs.replace(request, max_output=forecast.max_output, dropped=dropped)
