"""Asking the operator's API, and showing its answers as a table for people or JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import httpx
import trio

from bluesminds.cli import exits
from bluesminds.cli.options import load_settings
from bluesminds.clock import SystemClock
from bluesminds.config import Settings
from bluesminds.log import Log
from bluesminds.operate import operator_client
from bluesminds.state import StateBusy
from storage import StorageError

_CODES = {401: exits.AUTH, 403: exits.AUTH, 404: exits.NOT_FOUND, 409: exits.CONFLICT, 400: exits.USAGE}
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON.")


def ask(config: Path | None, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """The decoded answer. Raises exits.Failure with the API's own sentence."""
    settings = load_settings(config).settings
    try:
        response = trio.run(_send, settings, method, path, body)
    except* StateBusy as busy:
        raise exits.Failure(
            str(_first(busy)), exits.UNAVAILABLE, "wait until it has started, or stop it"
        ) from None
    except* StorageError as failed:
        raise exits.Failure(str(_first(failed)), exits.UNAVAILABLE) from None
    except* (httpx.HTTPError, OSError, ValueError) as failed:
        raise exits.Failure(f"{_first(failed)}", exits.UNAVAILABLE) from None
    return _answer(response)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _send(settings: Settings, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
    clock = SystemClock()
    async with operator_client(settings, clock=clock, log=Log(clock, level="warning", json=False)) as client:
        return await client.request(method, f"/api/admin{path}", json=body)


def _answer(response: httpx.Response) -> Any:  # noqa: ANN401
    if response.is_success:
        return response.json() if response.content else None
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError):
        message = f"the gateway answered {response.status_code}"
    raise exits.Failure(message, _CODES.get(response.status_code, exits.FAILURE))


def show(value: Any, *, as_json: bool, columns: Sequence[str] = ()) -> None:  # noqa: ANN401
    """JSON, or the listing's rows in columns: aligned on a terminal, tab-separated in a pipe."""
    if as_json:
        click.echo(json.dumps(value, indent=2))
        return
    rows = [columns, *([_cell(row.get(column)) for column in columns] for row in value["data"])]
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "(asked)"
    return str(value)
