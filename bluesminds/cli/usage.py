"""usage show, logs, export, costs and drift."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import click

from bluesminds.cli.api_client import call, call_paged, download, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import user_names

F = TypeVar("F", bound=Callable[..., Any])
_GROUPS: Final = ("hour", "day", "month", "model", "key", "user", "server", "tag")
_PAGE: Final = 100
_LOG_COLUMNS: Final = (
    "at",
    "request_id",
    "key",
    "model",
    "server",
    "status",
    "outcome",
    "input_tokens",
    "output_tokens",
    "first_byte_ms",
    "duration_ms",
    "cost_usd",
)


class _Time(click.ParamType[str]):
    """A time for the API; a date is its start in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        text = str(value)
        return f"{text}T00:00:00Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else text


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_filters = _options(
    click.option("--since", type=_Time(), help="From this time or date in UTC, such as 2026-02-28."),
    click.option("--until", type=_Time(), help="Before this time or date in UTC."),
    click.option("--user", help="Only the user with this id."),
    click.option("--key", help="Only the key with this id."),
    click.option("--model", help="Only this model."),
    click.option("--server", help="Only requests that this server answered."),
)
_log_filters = _options(
    _filters,
    click.option("--endpoint", help="Only this endpoint, such as chat.completions."),
    click.option("--request-id", help="Only the request with this id."),
    click.option("--status", help="Only this status, or a class of statuses such as 4xx."),
    click.option("--outcome", help="Only this outcome, such as upstream_error."),
    click.option("--failed", is_flag=True, help="Only requests that ended with an error."),
)


@click.group("usage")
def usage_group() -> None:
    """Show requests, tokens and costs."""


@usage_group.command("show")
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="Number of calendar days in UTC.",
)
@click.option(
    "--by",
    "groups",
    type=click.Choice(_GROUPS),
    multiple=True,
    default=("model",),
    show_default=True,
    help="Group the totals by this. Can be given twice.",
)
@click.option("--tag", help="The field in the metadata of keys that --by tag uses.")
@_filters
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    help="Format of the output.",
)
@config_option
@json_option
def show_(
    days: int,
    groups: tuple[str, ...],
    format_: str,
    config: Path | None,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Show usage totals of the last days.

    Today is included. --since and --until select another period.
    """
    query = _given(filters) | {"days": str(days), "group": ",".join(groups)}
    found = call(config, "GET", f"/usage/stats?{urlencode(query)}")
    if as_json or format_ == "json":
        echo_json(found)
        return
    named: Mapping[str, str] = {}
    if "key" in groups or "user" in groups:
        named = _key_names(config) | user_names(config)
        found["data"] = [row | {"name": _name(row, named)} for row in found["data"]]
    columns = (
        *groups,
        *(("name",) if named else ()),
        "requests",
        "errors",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "average_ms",
        "duration_ms.p95",
        "first_byte_ms.p95",
        "cost_usd",
        "unpriced",
    )
    if format_ == "csv":
        click.echo(_csv(found["data"], columns), nl=False)
    else:
        show(found, as_json=False, columns=columns)


@usage_group.command("logs")
@_log_filters
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Number of rows."
)
@config_option
@json_option
def logs(config: Path | None, as_json: bool, limit: int, **filters: str | bool | None) -> None:
    """Show the newest requests."""
    query, rows = _given(filters), list[dict[str, Any]]()
    after: str | None = ""
    while after is not None and len(rows) < limit:
        page_query = query | {"limit": str(min(_PAGE, limit - len(rows))), "after": after}
        page = call(config, "GET", f"/usage/logs?{urlencode(page_query)}")
        rows += page["data"]
        after = page["next_cursor"]
    show({"data": rows}, as_json=as_json, columns=_LOG_COLUMNS)


@usage_group.command("export")
@_log_filters
@click.option(
    "--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", help="Format of the output."
)
@config_option
def export(config: Path | None, format_: str, **filters: str | bool | None) -> None:
    """Write all requests as CSV or JSON lines."""
    download(config, f"/usage/export?{urlencode(_given(filters) | {'format': format_})}")


@usage_group.command("costs")
@click.option("--key", help="Only the key with this id.")
@config_option
@json_option
def costs(config: Path | None, as_json: bool, key: str | None) -> None:
    """Show the costs of this month by key.

    The forecast is for the whole month.
    """
    found = call(config, "GET", "/costs" if key is None else f"/costs/{quote(key, safe='')}")
    if as_json:
        echo_json(found)
        return
    total = {name: found[name] for name in ("month", "cost_usd", "unpriced", "forecast_usd")}
    show({"data": [total]}, as_json=False, columns=tuple(total))
    show({"data": found["by_key"]}, as_json=False, columns=("key", "requests", "cost_usd", "unpriced"))


@usage_group.command("drift")
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="Number of calendar days in UTC.",
)
@click.option("--model", help="Only this model.")
@click.option("--server", help="Only this server.")
@config_option
@json_option
def drift(days: int, config: Path | None, as_json: bool, **filters: str | None) -> None:
    """Compare counts and costs with the servers' reports.

    A ratio is the sum that the server reports, divided by the gateway's sum.
    """
    found = call(config, "GET", f"/drift?{urlencode(_given(filters) | {'days': str(days)})}")
    columns = (
        *("model", "server", "requests", "input_ratio", "output_ratio", "requests_with_cost"),
        *("own_cost_usd", "reported_cost_usd", "cost_ratio", "quarantined", "drifting"),
    )
    show(found, as_json=as_json, columns=columns)


def _given(filters: Mapping[str, str | bool | None]) -> dict[str, str]:
    return {
        name: "true" if value is True else str(value)
        for name, value in filters.items()
        if value is not None and value is not False
    }


def _name(row: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    return names.get(row.get("key", "")) or names.get(row.get("user", ""))


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.replace(".", "_") for column in columns])
    for row in rows:
        writer.writerow([_value(row, column) for column in columns])
    return text.getvalue()


def _value(row: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401
    outer, _, inner = column.partition(".")
    return row.get(outer, {}).get(inner) if inner else row.get(outer)


def _key_names(config: Path | None) -> dict[str, str]:
    return {row["id"]: row["name"] for row in call_paged(config, "/keys")["data"]}
