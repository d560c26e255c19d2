"""A request to a model, decoded: what it asks for, and the body to send for it."""

from msgspec import Struct, structs

from bluesminds.common.crypto import scoped
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.operations import Operation
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.json_text import Fields, read_fields, write_fields
from bluesminds.wire.requests import read_body

STREAM_OPTIONS = "stream_options"


class Call(Struct, frozen=True, gc=False):
    """One request to a model. `own_key`: the credential is the server's, and is sent there instead of the
    gateway's key.
    """

    context: RequestContext
    operation: Operation
    facts: RequestFacts
    own_key: bool = False

    @property
    def format(self) -> Format:
        return FORMATS[self.operation.format]

    @property
    def model(self) -> str:
        return self.facts.model


class JsonBody:
    """The body of a request, rendered for one upstream model after the other. Only one rendering is held in
    memory. `release` frees it.
    """

    __slots__ = ("_body", "_fields", "_format", "_rendered_for", "_stream_options")

    def __init__(self, format_: Format, fields: Fields, body: Body) -> None:
        self._format = format_
        self._fields = fields  # views into the client's bytes, until the first rendering
        options = fields.get(STREAM_OPTIONS)
        self._stream_options = None if options is None else options.copy()
        self._body = body
        self._rendered_for: tuple[str, bool] | None = None

    def content(self, model: str, *, force_usage: bool) -> bytes:
        """The bytes for a server with this name of the model. `force_usage`: a stream asks for its usage even
        if the client did not. Servers that get the same bytes share them.
        """
        if self._rendered_for != (model, force_usage):
            fields = self._client_fields()
            self._body.data = write_fields(self._format.prepare(fields, model, force_usage))
            self._fields = {}
            self._rendered_for = (model, force_usage)
        return self._body.data

    def release(self) -> None:
        self._fields = {}
        self._body.release()

    def _client_fields(self) -> Fields:
        if self._rendered_for is None:
            return self._fields
        fields = read_fields(self._body.data)
        fields.pop(STREAM_OPTIONS, None)
        return fields if self._stream_options is None else fields | {STREAM_OPTIONS: self._stream_options}


def read_call(
    context: RequestContext, operation: Operation, caller: Caller, body: Body
) -> tuple[Call, JsonBody]:
    """Raises InvalidRequest with the field that is wrong as `param`."""
    if not body.data:
        raise InvalidRequest("empty_body", "The request has no body. Send a JSON object with `model`.")
    format_ = FORMATS[operation.format]
    fields = read_body(body.data)
    facts = format_.read_request(fields)
    own_key = bool(caller.address)
    call = Call(_with_scoped_idempotency(context, caller), operation, facts, own_key)
    return call, JsonBody(format_, fields, body)


def _with_scoped_idempotency(context: RequestContext, caller: Caller) -> RequestContext:
    """Callers share the gateway's account at the server: one must not find the response of another."""
    if not context.forward:
        return context
    owner = (context.credential or "") if caller.address else caller.key_id
    forward = tuple(
        (name, scoped(owner, value) if name == b"idempotency-key" else value)
        for name, value in context.forward
    )
    return structs.replace(context, forward=forward)
