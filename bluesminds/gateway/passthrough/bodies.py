"""The body of a request that is relayed: JSON in memory, or a form piece by piece.

Other types are refused: some servers read JSON whatever its type says, and it could hold ids that were not
checked.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.passthrough.references import (
    NO_IDS,
    FoundIds,
    canonical_json,
    ids_in_field,
    ids_in_json,
)
from bluesminds.wire.multipart import FormEnd, MultipartScanner, PartHead, read_boundary, write_content_type

MAX_JSON: Final = 8 * 1024 * 1024  # bytes
MAX_FIELD: Final = 64 * 1024  # bytes of a form's field that is not a file
JSON_TYPE: Final = b"application/json"
_WITH_BODY: Final = frozenset(("POST", "PUT", "PATCH"))
# Of the client's request; with those of RequestContext.forward.
_PASSED_HEADERS: Final = frozenset(
    (b"accept", b"range", b"if-match", b"if-none-match", b"if-modified-since", b"if-range")
)

CheckIds = Callable[[FoundIds], Awaitable[None]]


class ClientRequest(Struct, frozen=True):
    """What the relay needs besides the context. `headers` have lower-case names."""

    headers: list[tuple[bytes, bytes]]
    query: bytes
    body: Body

    def header(self, name: bytes) -> bytes:
        """The last value; b"" without one."""
        found = b""
        for key, value in self.headers:
            if key == name:
                found = value
        return found

    def passed_headers(self) -> list[tuple[bytes, bytes]]:
        return [header for header in self.headers if header[0] in _PASSED_HEADERS]


class RelayBody(Struct, frozen=True):
    """`boundary` is that of a form, whose bytes `form_pieces` gives; else `content` is the body, and `ids`
    are those in it. `headers` belong to the body.
    """

    headers: list[tuple[bytes, bytes]] = []
    content: bytes = b""
    ids: FoundIds = NO_IDS
    boundary: bytes = b""


async def read_relay_body(method: str, request: ClientRequest) -> RelayBody:
    """Raises InvalidRequest, and what reading the body raises."""
    if method not in _WITH_BODY:
        return RelayBody()
    content_type = request.header(b"content-type")
    if content_type.lower().startswith(b"multipart/"):
        return _form_body(request, content_type)
    await request.body.read()
    body = request.body.data
    if not body:
        return RelayBody()
    media = content_type.partition(b";")[0].strip().lower()
    if media != JSON_TYPE and not media.endswith(b"+json"):
        raise InvalidRequest(
            "unsupported_content_type",
            "Send the body as application/json or multipart/form-data.",
            status=415,
        )
    if len(body) > MAX_JSON:
        message = f"A JSON body of this endpoint may have at most {MAX_JSON} bytes. Upload a file instead."
        raise InvalidRequest("body_too_large", message, status=413)
    content = canonical_json(body)
    return RelayBody([(b"content-type", JSON_TYPE)], content, ids_in_json(content))


def _form_body(request: ClientRequest, content_type: bytes) -> RelayBody:
    request.body.check_coding()
    boundary = read_boundary(content_type)
    headers = [(b"content-type", write_content_type(boundary))]
    headers += [header for header in request.headers if header[0] == b"content-length"]
    return RelayBody(headers, boundary=boundary)


async def form_pieces(
    request: ClientRequest, boundary: bytes, check: CheckIds
) -> AsyncGenerator[bytes, None]:
    """The form as it arrives. `check` raises for ids that the client may not use; then the rest is not sent,
    so that the server has an incomplete form. Raises InvalidRequest.
    """
    scanner = MultipartScanner(boundary)
    name, value, is_field = "", b"", False
    while piece := await request.body.receive():
        for event in scanner.feed(piece):
            if isinstance(event, PartHead | FormEnd):
                if is_field:
                    await check(_ids_in(name, value))
                value = b""
                is_field = isinstance(event, PartHead) and not event.is_file
                name = event.name if isinstance(event, PartHead) else ""
                yield event.raw
                continue
            if is_field:
                value += event
                if len(value) > MAX_FIELD:
                    raise InvalidRequest("invalid_multipart", f"A field has more than {MAX_FIELD} bytes.")
            yield event
    scanner.finish()


def _ids_in(name: str, value: bytes) -> FoundIds:
    """A field may hold JSON, such as a list of ids."""
    text = value.decode(errors="replace").strip()
    if text.startswith(("{", "[", '"')):
        found = ids_in_json(value)
        return found.with_ids(ids_in_field(name, text.strip('"')))
    return ids_in_field(name, text)
