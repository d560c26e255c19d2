"""The usage log as CSV or JSON lines, page by page."""

import csv
import io
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import msgspec

from bluesminds.web.api.usage_schemas import LoggedRequest, log_views
from storage.usage_log import LogPage

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_FORMULA_START: Final = ("=", "+", "-", "@", "\t", "\r")


async def export_jsonl(pages: AsyncIterator[LogPage], *, full: bool) -> AsyncIterator[bytes]:
    encoder = msgspec.json.Encoder()
    async for page in pages:
        yield b"".join(encoder.encode(view) + b"\n" for view in log_views(page, full=full))


async def export_csv(pages: AsyncIterator[LogPage], *, full: bool) -> AsyncIterator[bytes]:
    hidden = () if full else ("user", "server", "attempts")
    names = [name for name in LoggedRequest.__struct_fields__ if name not in hidden]
    yield write_csv([names])
    async for page in pages:
        views = map(msgspec.to_builtins, log_views(page, full=full))
        yield write_csv([view[name] for name in names] for view in views)


def write_csv(rows: Iterable[Sequence[object]]) -> bytes:
    """RFC 4180. Clients choose some texts, so none may be a formula for a spreadsheet
    (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    text = io.StringIO()
    csv.writer(text).writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue().encode()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA_START) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
