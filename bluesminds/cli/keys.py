"""keys create, list, show, set, rotate, end-previous, revoke, usage."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import ask, ask_all, echo_json, json_option, show
from bluesminds.cli.options import COUNTS, SUMS, config_option, figures, limit_options
from bluesminds.cli.users import find_user
from bluesminds.common.crypto import is_uuid

Rule = str | tuple[str, ...] | None
Command = TypeVar("Command", bound=Callable[..., Any])

_ANY: Final = "any"
_NEVER: Final = "never"
_NONE: Final = "none"
_LISTS: Final = {
    "scopes": ("--scope", "What the key may be used for: chat.completions, models."),
    "allowed_models": ("--model", 'A model it may use; "*" at the end of a name is any ending.'),
    "allowed_ips": ("--ip", "An address or network it may be used from."),
    "allowed_origins": ("--origin", "An origin whose pages may use it, such as https://app.example.com."),
}
_COLUMNS: Final = (
    *("id", "name", "prefix", "last4", "limits.rpm", "limits.concurrency"),
    *("created_at", "last_used_at", "expires_at", "revoked_at", "user_id"),
)
_DETAILS: Final = (
    *("id", "user_id", "name", "prefix", "last4", *_LISTS, *COUNTS, *SUMS, "metadata"),
    *("created_at", "last_used_at", "expires_at", "revoked_at", "rotated_at", "previous_until"),
)


def rule_options(command: Command) -> Command:
    """What a key may be used for, handed to the command by the names of the API."""
    command = limit_options(command)
    command = click.option(
        "--metadata",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"A text of yours to keep with it. May be repeated; {_NONE} is without any.",
    )(command)
    command = click.option("--expires", help=f"When it ends, such as 2030-01-31T12:00:00Z, or {_NEVER}.")(
        command
    )
    for name, (option, meaning) in reversed(_LISTS.items()):
        text = f"{meaning} May be repeated; {_ANY} is without a rule."
        command = click.option(option, name, multiple=True, help=text)(command)
    return command


@click.group("keys")
def keys_group() -> None:
    """API keys."""


@keys_group.command()
@click.argument("name")
@click.option("--user", help="The account it is for, by address or id. Default: the local operator's.")
@rule_options
@config_option
@json_option
def create(name: str, user: str | None, config: Path | None, as_json: bool, **rules: Rule) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    body = {"name": name, **_rules(rules)}
    if user is not None:
        body["user_id"] = find_user(config, user)["id"]
    _hand_over(ask(config, "POST", "/keys", body), as_json=as_json)


@keys_group.command("list")
@click.option("--user", help="Only those of this account, by address or id.")
@click.option("--active/--ended", default=None, help="Only those that work, or only those that do not.")
@config_option
@json_option
def list_(user: str | None, active: bool | None, config: Path | None, as_json: bool) -> None:
    """List keys."""
    filters = {} if active is None else {"active": str(active).lower()}
    if user is not None:
        filters["user_id"] = find_user(config, user)["id"]
    show(ask_all(config, "/keys", filters), as_json=as_json, columns=_COLUMNS)


@keys_group.command("show")
@click.argument("key_id")
@config_option
@json_option
def show_(key_id: str, config: Path | None, as_json: bool) -> None:
    """Show what a key may be used for."""
    _show(ask(config, "GET", key_path(key_id)), as_json=as_json)


@keys_group.command("set")
@click.argument("key_id")
@click.option("--name", help="Another name.")
@rule_options
@config_option
@json_option
def set_(key_id: str, name: str | None, config: Path | None, as_json: bool, **rules: Rule) -> None:
    """Change what is given, in force at once. Metadata is replaced as a whole."""
    body = _rules(rules) | ({} if name is None else {"name": name})
    if not body:
        raise exits.Failure("there is nothing to set", exits.USAGE, "bluesminds keys set --help")
    _show(ask(config, "PATCH", key_path(key_id), body), as_json=as_json)


@keys_group.command()
@click.argument("key_id")
@click.option(
    "--overlap",
    type=click.IntRange(0, 604_800),
    default=0,
    show_default=True,
    help="Seconds for which the previous secret is still accepted.",
)
@config_option
@json_option
def rotate(key_id: str, overlap: int, config: Path | None, as_json: bool) -> None:
    """Replace the secret of a key; the new one is printed once. ID, rules and usage stay."""
    made = ask(config, "POST", f"{key_path(key_id)}/rotate", {"overlap_seconds": overlap})
    _hand_over(made, as_json=as_json)


@keys_group.command("end-previous")
@click.argument("key_id")
@config_option
@json_option
def end_previous(key_id: str, config: Path | None, as_json: bool) -> None:
    """End the previous secret of a rotated key."""
    ask(config, "DELETE", f"{key_path(key_id)}/previous")
    if as_json:
        echo_json({"id": key_id, "previous_until": None})
    else:
        click.echo(f"only the current secret of {key_id} is accepted now")


@keys_group.command()
@click.argument("key_id")
@config_option
@json_option
def revoke(key_id: str, config: Path | None, as_json: bool) -> None:
    """End a key at once."""
    ask(config, "DELETE", key_path(key_id))
    if as_json:
        echo_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"revoked {key_id}")


@keys_group.command()
@click.argument("key_id")
@click.option(
    "--days", type=click.IntRange(1, 366), default=30, show_default=True, help="Calendar days in UTC."
)
@config_option
@json_option
def usage(key_id: str, days: int, config: Path | None, as_json: bool) -> None:
    """Sum up what a key was used for, by day."""
    found = ask(config, "GET", f"{key_path(key_id)}/usage?days={days}")
    columns = ("day", "requests", "errors", "input_tokens", "output_tokens", "cost_usd")
    show(found if as_json else {"data": found["days"]}, as_json=as_json, columns=columns)


def key_path(key_id: str) -> str:
    """Where the operator's API has a key. Raises exits.Failure for what is not the id of one."""
    if not is_uuid(key_id):
        raise exits.Failure(f"{key_id!r} is not the id of a key", exits.USAGE, "bluesminds keys list")
    return f"/keys/{key_id}"


def _rules(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as the API takes it. Raises exits.Failure."""
    body: dict[str, Any] = {
        name: None if given[name] == (_ANY,) else list(given[name]) for name in _LISTS if given[name]
    }
    if given["expires"] is not None:
        body["expires_at"] = None if given["expires"] == _NEVER else given["expires"]
    if given["metadata"]:
        body["metadata"] = {} if given["metadata"] == (_NONE,) else dict(map(_pair, given["metadata"]))
    if limits := figures({name: given[name] for name in (*COUNTS, *SUMS)}):
        body["limits"] = limits
    return body


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise exits.Failure(f"{text!r} is not NAME=VALUE", exits.USAGE, "for example --metadata team=blues")
    return name, value


def _hand_over(made: Any, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(made)
    else:
        click.echo(made["key"])
        message = (
            f"This is the only time the key of {exits.plain(made['name'])} is shown. Its id is {made['id']}."
        )
        click.echo(message, err=True)


def _show(key: Any, *, as_json: bool) -> None:  # noqa: ANN401
    """JSON, or a line for each thing that can be said of a key."""
    flat = key | key["limits"] | {"metadata": [f"{name}={text}" for name, text in key["metadata"].items()]}
    rows = [{"name": name, "value": flat[name]} for name in _DETAILS if flat[name] not in (None, [])]
    show(key if as_json else {"data": rows}, as_json=as_json, columns=("name", "value"))
