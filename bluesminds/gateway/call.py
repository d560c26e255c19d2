"""A decoded request to a model, and what all bodies for servers have in common."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msgspec import Raw, Struct, json, structs

from bluesminds.common.crypto import scoped
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.routes import Need
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.forms import Headers, MultipartBody
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.operations import Operation, OperationMatch
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.gateway.stand_ins import StandIns
from bluesminds.gateway.stored_responses.links import LinkedRequest
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.conversation import NO_LINKS, ConversationRequest, TokenForecast
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.multipart import is_form
from bluesminds.wire.requests import read_body
from bluesminds.wire.support import Support
from bluesminds.wire.vectors import VectorRequest


class ReplyObserver(Protocol):
    """Sees what the client of one request gets."""

    def feed(self, data: bytes) -> None:
        """The next bytes of a stream."""

    async def finish(self, server: str, *, translated: bool, body: bytes | None = None) -> None:
        """The response is complete: `body`, or the stream."""

    def release(self) -> None:
        """The request has ended."""


class Call(Struct, frozen=True, gc=False):
    """One request to a model. `own_key`: the credential is a key of the server, and is sent to it instead of
    the gateway's key. `markup` on prices is in hundredths of a percent. `stand_ins`: see
    stand_ins.py. `account` is the id of the account, or the address of a client without one.
    """

    context: RequestContext
    operation: Operation
    format: Format  # the client's
    model: str  # as the client names it
    facts: RequestFacts
    own_key: bool = False
    markup: int = 0
    key_id: str = ""
    observer: ReplyObserver | None = None
    stand_ins: StandIns = ()
    account: str = ""


class CallBody(Protocol):
    """The body of a request, rendered for a server. `conversation` or `vectors` is the source of
    translations; `dropped` has the fields that the latest translation left out.
    """

    @property
    def conversation(self) -> ConversationRequest | None: ...

    @property
    def vectors(self) -> VectorRequest | None: ...

    @property
    def dropped(self) -> tuple[str, ...]: ...

    def prompt_prefix(self) -> bytes:
        """The beginning of the prompt, which stays the same when a conversation continues. Call it before
        `choose`.
        """

    def needs(self) -> frozenset[Need]:
        """What the request needs of a model. Call it before `choose`."""

    def choose(
        self, targets: Sequence[Target], *, at_ms: int, forecast: Callable[[Target], TokenForecast]
    ) -> Sequence[Target]:
        """The targets that can serve the request. `at_ms`: arrival time. `forecast` is only
        called for a translation.

        Raises InvalidRequest if there is no such target. Call it before the first `content`.
        """

    @property
    def repeatable(self) -> bool:
        """Whether `content` can be called again. A form that does not fit into memory can be sent once."""

    @property
    def stores(self) -> bool:
        """Whether a server may store the answer. Call it after `choose`."""

    def bound(self, tokens: int) -> bool:
        """Limit the length of each answer. False if the format has no such field, and nothing is changed.
        Call it after `choose` and before the first `content`.
        """

    def headers(self, model: str) -> Headers:
        """Content-Type, and the Content-Length of a body in pieces if it is known."""

    def content(self, plan: Plan, model: str, support: Support) -> bytes | AsyncIterator[bytes]:
        """The body for a server with this plan, model name and support for optional fields."""

    def release(self) -> None:
        """Free the memory of the body. `content` cannot be called afterwards."""


async def receive_body(match: OperationMatch, body: Body) -> MultipartBody | None:
    """Read the body of an operation that takes forms: of a form, which is returned, what must be known before
    it is sent; JSON whole.

    Raises InvalidRequest, Unavailable, and ConnectionResetError when the client disconnects.
    """
    operation = match.operation
    form = FORMATS[operation.format].form
    if form is None or (operation.body != "form" and not is_form(body.content_type)):
        await body.read()
        return None
    multipart = MultipartBody(body, form, match.params)
    await multipart.read_ahead()
    return multipart


def read_call(
    context: RequestContext,
    match: OperationMatch,
    caller: Caller,
    body: Body,
    form: MultipartBody | None = None,
    linked: LinkedRequest | None = None,
) -> tuple[Call, CallBody]:
    """Raises InvalidRequest with the field that is wrong as `param`."""
    operation = match.operation
    format_ = FORMATS[operation.format]
    if form is not None:
        return _new_call(context, operation, caller, form.facts()), form
    if not body.data:
        raise InvalidRequest("empty_body", "The request has no body. Send a JSON object with `model`.")
    fields = read_body(body.data) if linked is None else linked.fields
    if match.params or operation.preset:
        said = {name: Raw(json.encode(text)) for name, text in match.params.items()}
        fields = {**fields, **said, **operation.preset}
    call = _new_call(context, operation, caller, format_.read_request(fields), linked)
    return call, JsonBody(format_, fields, body, NO_LINKS if linked is None else linked.links)


def _new_call(
    context: RequestContext,
    operation: Operation,
    caller: Caller,
    facts: RequestFacts,
    linked: LinkedRequest | None = None,
) -> Call:
    return Call(
        with_scoped_idempotency(context, caller),
        operation,
        FORMATS[operation.format],
        facts.model,
        facts,
        bool(caller.address),
        caller.markup,
        caller.key_id,
        None if linked is None else linked.keeper,
        () if linked is None else linked.stand_ins,
        caller.user_id or caller.address,
    )


def with_scoped_idempotency(context: RequestContext, caller: Caller) -> RequestContext:
    """All callers share the gateway's account at the server. One must not get the response of another."""
    if not context.forward:
        return context
    owner = (context.credential or "") if caller.address else caller.key_id
    forward = tuple(
        (name, scoped(owner, value) if name == b"idempotency-key" else value)
        for name, value in context.forward
    )
    return structs.replace(context, forward=forward)
