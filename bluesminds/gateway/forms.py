"""Forwards a form (multipart/form-data): reads ahead until the model is known, then forwards at the server's
speed.

What was read ahead is kept: up to 1 MiB in memory, the rest in a temporary file. A form is forwarded byte for
byte, except for the field `model`, which gets the server's name of the model.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from msgspec import structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.routes import Need
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.gateway.spool import MEMORY_BYTES
from bluesminds.wire.base import FormFields, RequestFacts
from bluesminds.wire.conversation import ConversationRequest, TokenForecast
from bluesminds.wire.forms import MAX_FIELD, check_name, read_form
from bluesminds.wire.multipart import (
    MultipartScanner,
    PartHead,
    read_boundary,
    write_content_type,
    write_field,
)
from bluesminds.wire.support import Support
from bluesminds.wire.vectors import VectorRequest

Headers = tuple[tuple[bytes, bytes], ...]
MODEL = "model"
NO_FIELDS: Final[Mapping[str, str]] = MappingProxyType({})


class MultipartBody:
    """A CallBody of a form. `read_ahead` comes first. Fields that come after a large file are checked, but
    `facts` does not have them. `implied`: fields that the path says; they replace those of the form.
    """

    conversation: ConversationRequest | None = None
    vectors: VectorRequest | None = None
    dropped: tuple[str, ...] = ()

    def __init__(self, body: Body, form: FormFields, implied: Mapping[str, str] = NO_FIELDS) -> None:
        """Raises InvalidRequest for a Content-Type without a boundary, and for a compressed body."""
        body.check_coding()
        self._body = body
        self._form = form
        self._implied = {name: value.encode() for name, value in implied.items()}
        self._boundary = read_boundary(body.content_type)
        self._scanner = MultipartScanner(self._boundary)
        self._spool = body.open_spool()
        self._values: dict[str, bytes] = {}
        self._part: PartHead | None = None  # the one that is being read
        self._part_size = 0
        self._text_bytes = 0  # of all fields that are not files
        self._model_at = -1  # the position of the field in the spool
        self._model_size = 0  # bytes of the client's field
        self._complete = False
        self._passed_on = False  # bytes that are not kept were forwarded

    @property
    def repeatable(self) -> bool:
        return not self._passed_on

    @property
    def stores(self) -> bool:
        return False

    async def read_ahead(self) -> None:
        """Read all fields, or as many as come before a file that is too large to keep in memory; without the
        model, read and keep such files too.

        Raises InvalidRequest, Unavailable and ConnectionResetError.
        """
        while not (self._complete or self._can_flow()):
            if kept := self._take(await self._body.receive()):
                await self._spool.append(kept)
        if self._model_at < 0 and MODEL in self._implied:
            self._model_at = 0

    def facts(self) -> RequestFacts:
        """Raises InvalidRequest with the field that is wrong as `param`."""
        facts = read_form(self._form, self._values | self._implied)
        size = self._body.length or self._spool.size
        per_token = self._form.bytes_per_token
        return structs.replace(
            facts, text_bytes=self._text_bytes, media_tokens=size // per_token if per_token else 0
        )

    def prompt_prefix(self) -> bytes:
        return b""

    def needs(self) -> frozenset[Need]:
        return frozenset()

    def choose(
        self, targets: Sequence[Target], *, at_ms: int, forecast: Callable[[Target], TokenForecast]
    ) -> Sequence[Target]:
        """All targets: forms are not translated."""
        return targets

    def bound(self, tokens: int) -> bool:
        """Forms have no such field."""
        return False

    def headers(self, model: str) -> Headers:
        content_type = (b"content-type", write_content_type(self._boundary))
        length = self._spool.size + self._model_size if self._complete else self._body.length
        if length is None:
            return (content_type,)
        length += len(self._model_field(model)) - self._model_size
        return (content_type, (b"content-length", b"%d" % length))

    def content(self, plan: Plan, model: str, support: Support) -> bytes | AsyncIterator[bytes]:
        field, spool, at = self._model_field(model), self._spool, self._model_at
        if self._complete and spool.in_memory:
            return spool.contents(0, at) + field + spool.contents(at, spool.size)
        return _FormStream(self, field)

    def release(self) -> None:
        self._body.release()

    async def piece(self, start: int, *, before_model: bool) -> bytes:
        """The next bytes from `start` on; b"" at the place of the model's field, and at the end. `start`
        does not count the bytes of this field.
        """
        spool = self._spool
        if kept := await spool.read(start, self._model_at if before_model else spool.size):
            return kept
        while not (before_model or self._complete):
            self._passed_on = True
            if passed := self._take(await self._body.receive()):
                return passed
        return b""

    def _can_flow(self) -> bool:
        """Whether the form is inside a file, and more of it need not be kept."""
        inside = self._part is not None and (self._part.is_file or self._part_size > MEMORY_BYTES)
        return inside and self._model_at >= 0 and self._spool.size >= MEMORY_BYTES

    def _take(self, data: bytes) -> bytes:
        """Scan the next bytes; b"" is the end of the request. Returns the bytes to forward. Raises
        InvalidRequest.
        """
        if not data:
            self._scanner.finish()
            self._complete = True
            return b""
        passed = []
        kept = self._spool.size
        for event in self._scanner.feed(data):
            if isinstance(event, bytes):
                if self._take_content(event):
                    passed.append(event)
                continue
            self._end_part()
            if isinstance(event, PartHead) and self._is_model(event):
                self._model_at = kept + sum(map(len, passed))
                self._model_size = len(event.raw)
            else:
                passed.append(event.raw)
        return b"".join(passed)

    def _is_model(self, part: PartHead) -> bool:
        """Start a part. Returns whether it is the field `model`. Raises InvalidRequest."""
        self._part, self._part_size = part, 0
        name = part.name
        check_name(self._form, name)
        if name not in self._form.kinds:
            return False
        if part.is_file:
            raise InvalidRequest("invalid_value", f"Send `{name}` as a field, not as a file.", param=name)
        if name in self._values:
            raise InvalidRequest("invalid_value", f"The form has `{name}` more than once.", param=name)
        self._values[name] = b""
        return name == MODEL

    def _take_content(self, content: bytes) -> bool:
        """Read content of the part. Returns whether it is forwarded unchanged."""
        part = self._part
        if part is None:  # white space after the form
            return True
        self._part_size += len(content)
        if part.is_file:
            return True
        self._text_bytes += len(content)
        if part.name not in self._form.kinds:
            return True
        self._values[part.name] += content
        if len(self._values[part.name]) > MAX_FIELD:
            raise InvalidRequest("invalid_value", f"`{part.name}` is too long.", param=part.name)
        return part.name != MODEL

    def _end_part(self) -> None:
        if self._part is not None and self._part.name == MODEL:
            self._model_size += self._part_size
        self._part = None

    def _model_field(self, model: str) -> bytes:
        field = write_field(self._boundary, MODEL, model.encode(), first=self._model_at == 0)
        return field if self._model_size else field + b"\r\n"  # the form has no such field


class _FormStream:
    """The bytes of a form for one server."""

    __slots__ = ("_at", "_body", "_field")

    def __init__(self, body: MultipartBody, field: bytes) -> None:
        self._body = body
        self._field = field  # the model's, until it is sent
        self._at = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._body.piece(self._at, before_model=bool(self._field))
        if not piece:
            piece, self._field = self._field, b""
            if not piece:
                raise StopAsyncIteration
            return piece
        self._at += len(piece)
        return piece
