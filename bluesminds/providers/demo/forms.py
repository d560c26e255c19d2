"""Reads forms (multipart/form-data): the values of fields, and the sizes of files."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.http.asgi import Receive
from bluesminds.providers.demo.script import DemoError, invalid
from bluesminds.wire.multipart import FormEnd, MultipartScanner, PartHead, read_boundary

_MAX_FIELDS = 1024 * 1024  # bytes of all fields
_FormT = TypeVar("_FormT")


class UploadedForm(Struct):
    """The text of each field, and the sizes of the files of each name."""

    fields: dict[str, str] = {}
    files: dict[str, list[int]] = {}

    def read(self, kind: type[_FormT]) -> _FormT:
        """The fields. Raises DemoError (400) with a sentence that names the field."""
        try:
            return msgspec.convert(self.fields, kind, strict=False)
        except msgspec.ValidationError as exc:
            raise invalid(str(exc)) from exc

    def sizes(self, *names: str) -> list[int]:
        """The sizes of the files with one of these names. Raises DemoError when there are none."""
        found = [size for name in names for size in self.files.get(name, [])]
        if not found:
            raise DemoError(f"{names[0]} must be a file.", names[0])
        return found


async def receive_form(content_type: bytes, receive: Receive) -> UploadedForm:
    """Raises DemoError for a form that is malformed."""
    try:
        return await _receive(MultipartScanner(read_boundary(content_type)), _pieces(receive))
    except InvalidRequest as exc:
        raise DemoError(exc.message) from exc


def _pieces(receive: Receive) -> Callable[[], Awaitable[bytes | None]]:
    ended = False

    async def next_piece() -> bytes | None:
        nonlocal ended
        if ended:
            return None
        message = await receive()
        ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    return next_piece


async def _receive(
    scanner: MultipartScanner, next_piece: Callable[[], Awaitable[bytes | None]]
) -> UploadedForm:
    form = UploadedForm()
    values: dict[str, bytes] = {}
    part: PartHead | None = None
    while (piece := await next_piece()) is not None:
        for event in scanner.feed(piece):
            if isinstance(event, PartHead):
                part = event
                if part.is_file:
                    form.files.setdefault(part.name, []).append(0)
                else:
                    values.setdefault(part.name, b"")
            elif isinstance(event, FormEnd):
                part = None
            elif part is not None and part.is_file:
                form.files[part.name][-1] += len(event)
            elif part is not None:
                values[part.name] += event
                if sum(map(len, values.values())) > _MAX_FIELDS:
                    raise DemoError("The fields of the form are too long.")
    scanner.finish()
    form.fields = {name: value.decode(errors="replace") for name, value in values.items()}
    return form
