"""prompt-log list, show, export, delete."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, call_paged, download, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import find_user, user_names
from bluesminds.common.crypto import is_uuid

_COLUMNS: Final = (
    *("id", "at", "user", "key_id", "endpoint", "model", "status", "size"),
    *("input_tokens", "output_tokens", "cost_usd"),
)


@click.group("prompt-log")
def prompt_log_group() -> None:
    """Manage the prompt log: requests and responses in full. ID is the id of a request.

    Texts of other accounts can be read only if `administrators` in [prompt_log] allows it. The audit log
    records each access.
    """


@prompt_log_group.command("list")
@click.option("--user", help="Only requests of this user, by e-mail address or id.")
@click.option("--key", help="Only requests of the key with this id.")
@click.option("--model", help="Only requests to this model.")
@config_option
@json_option
def list_(user: str | None, key: str | None, model: str | None, config: Path | None, as_json: bool) -> None:
    """List the stored requests, newest first, without their texts."""
    given = {"key": key, "model": model}
    filters = {name: value for name, value in given.items() if value is not None}
    if user is not None:
        filters["user"] = find_user(config, user)["id"]
    found = call_paged(config, "/prompt-log", filters)
    if not as_json:
        names = user_names(config)
        found = found | {"data": [row | {"user": names.get(row["user_id"])} for row in found["data"]]}
    show(found, as_json=as_json, columns=_COLUMNS)


@prompt_log_group.command("show")
@click.argument("request_id", metavar="ID")
@config_option
@json_option
def show_(request_id: str, config: Path | None, as_json: bool) -> None:
    """Print a request and its response."""
    found = call(config, "GET", f"/prompt-log/{request_path(request_id)}")
    if as_json:
        echo_json(found)
        return
    _print("Request", found["request"])
    _print("Answer", found["answer"] or found["response"] or "(no text)")
    for name in found["cut"]:
        click.echo(f"The {name} is not complete: it was longer than max_bytes in [prompt_log].", err=True)


@prompt_log_group.command("export")
@click.argument("user")
@config_option
def export(user: str, config: Path | None) -> None:
    """Write all stored requests of a user as JSON lines."""
    download(config, f"/users/{find_user(config, user)['id']}/prompt-log")


@prompt_log_group.command("delete")
@click.argument("request_id", metavar="ID", required=False)
@click.option("--user", help="Delete all requests of this user, by e-mail address or id.")
@config_option
@json_option
def delete(request_id: str | None, user: str | None, config: Path | None, as_json: bool) -> None:
    """Delete one request, or all stored requests of a user."""
    if (request_id is None) == (user is None):
        raise exits.Failure("give either ID or --user", exits.USAGE, "bluesminds prompt-log delete --help")
    if user is not None:
        found: dict[str, Any] = call(config, "DELETE", f"/users/{find_user(config, user)['id']}/prompt-log")
    else:
        call(config, "DELETE", f"/prompt-log/{request_path(request_id or '')}")
        found = {"deleted": 1}
    if as_json:
        echo_json(found)
    else:
        click.echo(f"deleted {found['deleted']}")


def request_path(request_id: str) -> str:
    """The id of a request, quoted. Raises exits.Failure for an invalid id."""
    if not is_uuid(request_id):
        raise exits.Failure(
            f"{request_id!r} is not the id of a request", exits.USAGE, "bluesminds usage logs"
        )
    return quote(request_id, safe="")


def _print(title: str, text: str) -> None:
    """Texts are user input, so control characters are replaced; lines stay lines."""
    click.echo(f"{title}:")
    for line in text.split("\n"):
        click.echo(exits.printable(line))
    click.echo()
