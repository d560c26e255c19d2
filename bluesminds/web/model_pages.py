"""Pages of Anthropic's list of models: the query parameters `limit`, `before_id` and `after_id`.

The rows are sorted by id, so a page also works if the model that it starts at is gone.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final
from urllib.parse import parse_qs

from msgspec import Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.models import ModelRow

MAX_PAGE: Final = 1000  # rows, as in Anthropic's API; also without a limit, so that no client misses models


class ModelPage(Struct, frozen=True):
    """`has_more`: more rows in the direction of the request."""

    rows: Sequence[ModelRow]
    has_more: bool


def select_page(rows: Sequence[ModelRow], query: bytes) -> ModelPage:
    """The page that a query asks for; other parameters are ignored. Raises InvalidRequest."""
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    limit = _limit(given.get("limit", [str(MAX_PAGE)])[-1])
    before, after = given.get("before_id"), given.get("after_id")
    if before and after:
        raise InvalidRequest("invalid_value", "Send either before_id or after_id.", param="before_id")
    key = attrgetter("id")
    if before:
        end = bisect_left(rows, before[-1], key=key)
        start = max(end - limit, 0)
        return ModelPage(rows[start:end], has_more=start > 0)
    start = bisect_right(rows, after[-1], key=key) if after else 0
    return ModelPage(rows[start : start + limit], has_more=start + limit < len(rows))


def _limit(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE:
        return int(text)
    raise InvalidRequest(
        "invalid_value", f"limit must be a whole number from 1 to {MAX_PAGE}.", param="limit"
    )
