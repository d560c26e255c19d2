"""Asking the operator's API, and showing its answers as a table for people or JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import httpx

from bluesminds.app.operator import operator_client
from bluesminds.cli import exits
from bluesminds.cli.failures import run
from bluesminds.cli.options import load_settings
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Settings

_CODES = {
    400: exits.USAGE,
    401: exits.AUTH,
    403: exits.AUTH,
    404: exits.NOT_FOUND,
    409: exits.CONFLICT,
    503: exits.UNAVAILABLE,
}
_REMEDIES = {
    "key_not_found": "bluesminds keys list",
    "server_not_found": "bluesminds servers list",
    "server_exists": "choose another name; those taken: bluesminds servers list",
    "email_taken": "bluesminds users list",
    "invite_not_found": "bluesminds users invites",
    "session_not_found": "bluesminds users sessions USER",
    "user_not_found": "bluesminds users list",
    "signup_closed": "set it in gateway.toml and restart; or bluesminds users create --email ADDRESS",
    "last_admin": "bluesminds users set USER --role admin",
    "email_not_confirmed": "bluesminds users reset-password ADDRESS (the link confirms the address too)",
    "storage_unavailable": "check storage.url and that the database runs",
}
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


def ask(config: Path | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """The decoded answer; `path` is quoted already. Raises exits.Failure with the API's own sentence."""
    loaded = load_settings(config)
    return _answer(run(loaded, _send, loaded.settings, method, path, body))


def ask_all(config: Path | None, path: str, filters: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401
    """The pages of a list as one. `path` has no query. Raises exits.Failure."""
    path = f"{path}?{urlencode({'limit': '100'} | dict(filters or {}))}"
    page = ask(config, "GET", path)
    rows = page["data"]
    while page["next_cursor"] is not None:
        page = ask(config, "GET", f"{path}&{urlencode({'after': page['next_cursor']})}")
        rows += page["data"]
    return page | {"data": rows}


async def _send(settings: Settings, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
    clock = SystemClock()
    async with operator_client(settings, clock=clock, log=Log(clock, level="warning", json=False)) as client:
        return await client.request(method, f"/api/admin{path}", json=body)


def _answer(response: httpx.Response) -> Any:  # noqa: ANN401
    if response.is_success:
        return response.json() if response.content else None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError):
        error = {"message": f"the gateway answered {response.status_code}", "code": ""}
    code = _CODES.get(response.status_code, exits.FAILURE)
    raise exits.Failure(error["message"], code, _REMEDIES.get(error["code"], ""))


def echo_json(value: Any) -> None:  # noqa: ANN401
    click.echo(json.dumps(value, indent=2))


def show(value: Any, *, as_json: bool, columns: Sequence[str] = ()) -> None:  # noqa: ANN401
    """JSON, or the listing's rows in columns: aligned on a terminal, tab-separated in a pipe. A column
    "limits.rpm" is `rpm` of the row's `limits`.
    """
    if as_json:
        echo_json(value)
        return
    titles = [column.rpartition(".")[2] for column in columns]
    rows = [titles, *([_cell(_field(row, column)) for column in columns] for row in value["data"])]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _field(row: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401
    outer, _, inner = column.rpartition(".")
    return (row[outer] if outer else row).get(inner)


def _cell(value: object) -> str:
    """One cell. Names are what people typed: a control character in one must not move the cursor."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            value = ",".join(map(str, value)) or "(asked)"
        case dict():
            value = json.dumps(value)
    return exits.plain(str(value))
