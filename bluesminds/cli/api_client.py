"""Calls the operator API and prints responses as a table or as JSON."""

import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

import click
import httpx

from bluesminds.app.operator import TIMEOUT, operator_client
from bluesminds.cli import exits
from bluesminds.cli.failures import run
from bluesminds.cli.options import load_settings
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Loaded, Settings

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
    "route_exists": "list the routes: bluesminds routes list",
    "route_not_found": "bluesminds routes list",
    "server_exists": "choose another name; list the used ones: bluesminds servers list",
    "email_taken": "bluesminds users list",
    "invite_not_found": "bluesminds users invites",
    "passphrase_required": "use --passphrase-file FILE, set passphrase in [backup], or use --without-secrets",
    "price_not_found": "bluesminds prices list",
    "prompt_not_found": "bluesminds prompt-log list",
    "replay_key_unusable": "bluesminds keys list --user USER",
    "session_not_found": "bluesminds users sessions USER",
    "webhook_not_found": "bluesminds webhooks list",
    "user_not_found": "bluesminds users list",
    "signup_closed": "set signup in [accounts] and restart, or: bluesminds users create --email ADDRESS",
    "last_admin": "bluesminds users set USER --role admin",
    "email_not_confirmed": "bluesminds users reset-password ADDRESS (the link also confirms the address)",
    "gateway_not_running": "bluesminds serve",
    "storage_unavailable": "check storage.url and that the database runs",
}
_LOADED: Final = "bluesminds.loaded"
_FLAGS: Final = {
    "allowed_ips": "--ip",
    "allowed_models": "--model",
    "allowed_origins": "--origin",
    "expires_at": "--expires",
    "full_name": "--name",
    "metadata": "--metadata",
    "month": "--month",
    "scopes": "--scope",
    "since": "--since",
    "tier": "--tier",
    "until": "--until",
    "after": "--after",
    "url": "--url",
}
_NULL: Final = re.compile(r"null \([^)]*\), or |, or null(?: for none)?")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def call(
    config: Path | None,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    seconds: float | None = TIMEOUT,
) -> Any:  # noqa: ANN401
    """The decoded response. `path` must be quoted. `seconds`: the longest wait for it; None is any. Raises
    exits.Failure with the error message of the API.
    """
    loaded = operator_settings(config)
    return _decode(run(loaded, _send, loaded.settings, method, path, body, seconds))


def call_paged(config: Path | None, path: str, filters: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401
    """All pages of a list as one response. `path` must not have a query. Raises exits.Failure."""
    path = f"{path}?{urlencode({'limit': '100'} | dict(filters or {}))}"
    page = call(config, "GET", path)
    rows = page["data"]
    while page["next_cursor"] is not None:
        page = call(config, "GET", f"{path}&{urlencode({'after': page['next_cursor']})}")
        rows += page["data"]
    return page | {"data": rows}


def download(config: Path | None, path: str) -> None:
    """Write a response to the standard output as it arrives. `path` must be quoted. Raises exits.Failure."""
    loaded = operator_settings(config)
    run(loaded, _download, loaded.settings, path)


def save_download(config: Path | None, path: str, body: Mapping[str, Any], file: Path) -> int:
    """Write a response to a new file with mode 600. Returns its size in bytes. Raises exits.Failure."""
    loaded = operator_settings(config)
    return run(loaded, _save_download, loaded.settings, path, body, file)


def follow(config: Path | None, path: str, handle: Callable[[str, Any], None]) -> None:
    """Call `handle` with the name and the data of each server-sent event, until the gateway ends the stream.
    `path` must be quoted. Raises exits.Failure.
    """
    loaded = operator_settings(config)
    run(loaded, _follow, loaded.settings, path, handle)


def operator_settings(config: Path | None) -> Loaded:
    """The settings, loaded once per command. Secrets are deferred: a running gateway has its own."""
    meta = click.get_current_context().meta
    if _LOADED not in meta:
        meta[_LOADED] = load_settings(config, defer_secrets=True)
    return cast("Loaded", meta[_LOADED])


async def _send(
    settings: Settings, method: str, path: str, body: Mapping[str, Any] | None, seconds: float | None
) -> httpx.Response:
    clock = SystemClock()
    async with operator_client(settings, clock=clock, log=Log(clock, level="warning", json=False)) as client:
        return await client.request(method, f"/api/admin{path}", json=body, timeout=seconds)


@asynccontextmanager
async def _opened(settings: Settings, path: str) -> AsyncIterator[httpx.Response]:
    """A response whose body is read as it arrives."""
    clock = SystemClock()
    log = Log(clock, level="warning", json=False)
    async with (
        operator_client(settings, clock=clock, log=log) as client,
        client.stream("GET", f"/api/admin{path}") as response,
    ):
        if not response.is_success:
            await response.aread()
            _decode(response)
        yield response


async def _download(settings: Settings, path: str) -> None:
    async with _opened(settings, path) as response:
        async for chunk in response.aiter_bytes():
            sys.stdout.buffer.write(chunk)


async def _save_download(settings: Settings, path: str, body: Mapping[str, Any], file: Path) -> int:
    clock = SystemClock()
    log = Log(clock, level="warning", json=False)
    written = 0
    incomplete = file.with_name(f"{file.name}.partial")
    async with (
        operator_client(settings, clock=clock, log=log) as client,
        client.stream("POST", f"/api/admin{path}", json=body, timeout=None) as response,
    ):
        if not response.is_success:
            await response.aread()
            _decode(response)
        try:
            descriptor = os.open(incomplete, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as target:
                async for chunk in response.aiter_bytes():
                    written += target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            incomplete.rename(file)
        except OSError as exc:
            raise exits.Failure(f"cannot write {file}: {exc.strerror}", exits.UNAVAILABLE) from exc
    return written


async def _follow(settings: Settings, path: str, handle: Callable[[str, Any], None]) -> None:
    async with _opened(settings, path) as response:
        name = ""
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                handle(name, json.loads(value))
            elif not line:
                name = ""


def _decode(response: httpx.Response) -> Any:  # noqa: ANN401
    if response.is_success:
        return response.json() if response.content else None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError):
        error = {"message": f"the gateway responded with status {response.status_code}", "code": ""}
    code = _CODES.get(response.status_code, exits.FAILURE)
    message = _with_flag(error["message"], error.get("param") or "")
    raise exits.Failure(message, code, _REMEDIES.get(error["code"], ""))


def _with_flag(message: str, param: str) -> str:
    """The message of the API with the option instead of the field, and without null."""
    flag = _FLAGS.get(param)
    if flag is None or not message.startswith(f"{param} "):
        return message
    return _NULL.sub("", message.replace(param, flag, 1))


def echo_json(value: Any) -> None:  # noqa: ANN401
    click.echo(json.dumps(value, indent=2))


def show(value: Any, *, as_json: bool, columns: Sequence[str] = ()) -> None:  # noqa: ANN401
    """Print JSON, or the rows of a list: aligned on a terminal, else tab-separated. The column "limits.rpm"
    is the field `rpm` of the row's `limits`.
    """
    if as_json:
        echo_json(value)
        return
    short = [column.rpartition(".")[2] for column in columns]
    titles = [
        title if short.count(title) == 1 else column.replace(".", "_")
        for title, column in zip(short, columns, strict=True)
    ]
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
    """The text of a cell. Names are user input, so control characters are replaced."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            value = ",".join(map(str, value)) or "(discovered)"
        case dict():
            value = json.dumps(value)
    return exits.printable(str(value))
