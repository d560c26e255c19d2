"""/api/admin/usage: usage totals over days."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.usage import MAX_DAYS, UsageReports
from bluesminds.common.clock import format_time
from bluesminds.common.money import write_usd
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Route, route
from storage.usage import StatsRow


class UsageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    days: Annotated[int, Meta(ge=1, le=MAX_DAYS, description=f"a whole number from 1 to {MAX_DAYS}")] = 7
    group: Literal["day", "model", "key", "user", "server"] = "model"


class UsageTotals(Struct, frozen=True, omit_defaults=True):
    """Totals of one group. The field with the name of the group contains its label. `images` were made,
    `audio_ms` milliseconds of audio were read, and `characters` were spoken. `cost_usd` does not include the
    `unpriced` responses, whose models have no price for what was used.
    """

    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    images: int
    audio_ms: int
    characters: int
    average_ms: int
    cost_usd: str
    unpriced: int
    day: str | None = None
    model: str | None = None
    key: str | None = None
    user: str | None = None
    server: str | None = None


class UsageHandlers(Struct, frozen=True):
    reports: UsageReports

    async def totals(self, query: UsageQuery) -> Page[UsageTotals]:
        """Usage totals of all users by day, model, key, user or server."""
        rows = await self.reports.totals(days=query.days, group=query.group)
        return Page([_totals(row, query.group) for row in rows])


def routes(handlers: UsageHandlers) -> list[Route]:
    return [route("GET", "/api/admin/usage", Access.ADMIN, handlers.totals, tag="Usage")]


def _totals(row: StatsRow, group: str) -> UsageTotals:
    label = format_time(int(row.label))[:10] if group == "day" else row.label
    return UsageTotals(
        requests=row.requests,
        errors=row.errors,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cache_read_tokens=row.cache_read_tokens,
        cache_write_tokens=row.cache_write_tokens,
        reasoning_tokens=row.reasoning_tokens,
        audio_input_tokens=row.audio_input_tokens,
        audio_output_tokens=row.audio_output_tokens,
        image_input_tokens=row.image_input_tokens,
        image_output_tokens=row.image_output_tokens,
        images=row.images,
        audio_ms=row.audio_ms,
        characters=row.characters,
        average_ms=round(row.duration_ms / row.requests) if row.requests else 0,
        cost_usd=write_usd(row.cost_nano),
        unpriced=row.unpriced,
        **{group: label},
    )
