"""A decoded request to a model, and the body to send to a server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Raw, Struct, json, structs

from bluesminds.common.crypto import scoped
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.operations import Operation, OperationMatch
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.providers.quirks import ADAPTED, Adapt, check_supported
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.conversation import ConversationRequest, EncodingOptions
from bluesminds.wire.formats import FORMATS, codec_of
from bluesminds.wire.json_text import Fields, read_fields, write_fields
from bluesminds.wire.messages import estimate_count
from bluesminds.wire.prompt_prefix import prompt_prefix
from bluesminds.wire.requests import read_body

STREAM_OPTIONS = "stream_options"


class Call(Struct, frozen=True, gc=False):
    """One request to a model. `own_key`: the credential is a key of the server, and is sent to it instead of
    the gateway's key.
    """

    context: RequestContext
    operation: Operation
    format: Format  # the client's
    model: str  # as the client names it
    facts: RequestFacts
    own_key: bool = False


class CallBody(Protocol):
    """The body of a request, rendered for a server. `conversation` is the source of translations; `dropped`
    has the fields that the latest translation left out.
    """

    @property
    def conversation(self) -> ConversationRequest | None: ...

    @property
    def dropped(self) -> tuple[str, ...]: ...

    def prompt_prefix(self) -> bytes:
        """The beginning of the prompt, which stays the same when a conversation continues. Call it before
        `choose`.
        """

    def choose(
        self, targets: Sequence[Target], *, at_ms: int, max_output: Callable[[str], int]
    ) -> Sequence[Target]:
        """The targets that can serve the request. `at_ms`: arrival time; `max_output` returns the maximum
        tokens for servers that require a maximum, if the client sets none, by the `priced_as` of a target.

        Raises InvalidRequest if there is no such target. Call it before the first `content`.
        """

    def content(self, plan: Plan, model: str, *, force_usage: bool) -> bytes:
        """The body for a server with this plan and model name. `force_usage`: request the usage of a stream
        even if the client did not.
        """

    def estimate(self) -> bytes:
        """The response to a count request that no server supports."""

    def release(self) -> None:
        """Free the memory of the body. `content` cannot be called afterwards."""


class JsonBody:
    """A CallBody of JSON, rendered for one server after the other. At most one untranslated and one
    translated rendering are in memory. `conversation` is the source of translations; `dropped` has the fields
    that the latest translation left out. `release` frees the bodies.
    """

    __slots__ = (
        "_adapted",
        "_body",
        "_dropped",
        "_fields",
        "_format",
        "_max_output",
        "_max_outputs",
        "_rendered_for",
        "_stream_options",
        "_translated",
        "_translated_for",
        "conversation",
        "dropped",
    )

    def __init__(self, format_: Format, fields: Fields, body: Body) -> None:
        self._format = format_
        self._fields = fields  # views into the client's bytes, until the first rendering
        options = fields.get(STREAM_OPTIONS)
        self._stream_options = None if options is None else options.copy()
        self._body = body
        self._rendered_for: tuple[str, bool, Adapt | None] | None = None
        self._adapted: Fields | None = None  # the client's fields that an adaptation may have changed
        self._max_output = 0
        self._max_outputs: Mapping[str, int] = {}  # by the server's model name, if it is not the client's
        self._translated = b""
        self._translated_for: tuple[Plan, str, bool] | None = None
        self._dropped: tuple[str, ...] = ()
        self.conversation: ConversationRequest | None = None
        self.dropped: tuple[str, ...] = ()

    def prompt_prefix(self) -> bytes:
        return prompt_prefix(self._fields)

    def choose(
        self, targets: Sequence[Target], *, at_ms: int, max_output: Callable[[str], int]
    ) -> Sequence[Target]:
        """The targets that support the request's fields, and its format or a translation of it."""
        for target in targets:
            if target.plan.translated or target.plan.unsupported:
                self._max_output = max_output("")
                self._max_outputs = {one.model: max_output(one.priced_as) for one in targets if one.model}
                return self._choose(targets, at_ms=at_ms)
        return targets

    def _choose(self, targets: Sequence[Target], *, at_ms: int) -> Sequence[Target]:
        refusals: dict[Plan, InvalidRequest] = {}
        for plan in dict.fromkeys(target.plan for target in reversed(targets)):
            try:
                if plan.translated:
                    self._try_translation(plan, at_ms // 1000)
                else:
                    check_supported(self._fields, plan.unsupported)
            except InvalidRequest as exc:
                refusals[plan] = exc
        chosen = [target for target in targets if target.plan not in refusals]
        if not chosen:
            raise refusals[targets[0].plan]
        if all(target.plan.translated for target in chosen):
            self._fields = {}
            self._body.data = b""
        return chosen

    def content(self, plan: Plan, model: str, *, force_usage: bool) -> bytes:
        """Servers with equal bodies share the bytes."""
        if plan.translated and self.conversation is not None:
            return self._translate(plan, self.conversation, model, force_usage=force_usage)
        self.dropped = ()
        if self._rendered_for != (model, force_usage, plan.adapt):
            fields = self._client_fields()
            if plan.adapt is not None:
                self._adapted = {name: fields[name].copy() for name in ADAPTED if name in fields}
                fields = plan.adapt(fields)
            self._body.data = write_fields(self._format.prepare(fields, model, force_usage))
            self._fields = {}
            self._rendered_for = (model, force_usage, plan.adapt)
        return self._body.data

    def estimate(self) -> bytes:
        return estimate_count(self._fields)

    def release(self) -> None:
        self._fields = {}
        self._translated = b""
        self._body.release()

    def _try_translation(self, plan: Plan, created: int) -> None:
        """Read the conversation and write it for the first server. Raises InvalidRequest."""
        if self.conversation is None:
            self.conversation = codec_of(self._format.name).decode_request(self._fields, created)
        self._translate(plan, self.conversation, self.conversation.model, force_usage=True)

    def _translate(
        self, plan: Plan, conversation: ConversationRequest, model: str, *, force_usage: bool
    ) -> bytes:
        """Raises InvalidRequest for a field without an equivalent in the server's format."""
        if self._translated_for == (plan, model, force_usage):
            self.dropped = self._dropped
            return self._translated
        max_output = self._max_outputs.get(model, self._max_output)
        options = EncodingOptions(model=model, max_output=max_output, bound=plan.bound, usage=force_usage)
        encoded = codec_of(plan.format).encode_request(conversation, options)
        check_supported(encoded.fields, plan.unsupported)
        self._translated = write_fields(encoded.fields)
        self.dropped = self._dropped = encoded.dropped
        self._translated_for = (plan, model, force_usage)
        return self._translated

    def _client_fields(self) -> Fields:
        if self._rendered_for is None:
            return self._fields
        fields = read_fields(self._body.data)
        if self._adapted is not None:
            fields = {name: raw for name, raw in fields.items() if name not in ADAPTED} | self._adapted
        fields.pop(STREAM_OPTIONS, None)
        return fields if self._stream_options is None else fields | {STREAM_OPTIONS: self._stream_options}


def read_call(
    context: RequestContext, match: OperationMatch, caller: Caller, body: Body
) -> tuple[Call, CallBody]:
    """Raises InvalidRequest with the field that is wrong as `param`."""
    operation = match.operation
    if not body.data:
        raise InvalidRequest("empty_body", "The request has no body. Send a JSON object with `model`.")
    format_ = FORMATS[operation.format]
    fields = read_body(body.data)
    if match.params or operation.preset:
        said = {name: Raw(json.encode(text)) for name, text in match.params.items()}
        fields = {**fields, **said, **operation.preset}
    facts = format_.read_request(fields)
    own_key = bool(caller.address)
    context = _with_scoped_idempotency(context, caller)
    call = Call(context, operation, format_, facts.model, facts, own_key)
    return call, JsonBody(format_, fields, body)


def _with_scoped_idempotency(context: RequestContext, caller: Caller) -> RequestContext:
    """All callers share the gateway's account at the server. One must not get the response of another."""
    if not context.forward:
        return context
    owner = (context.credential or "") if caller.address else caller.key_id
    forward = tuple(
        (name, scoped(owner, value) if name == b"idempotency-key" else value)
        for name, value in context.forward
    )
    return structs.replace(context, forward=forward)
