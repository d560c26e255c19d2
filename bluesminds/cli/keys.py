"""keys create, list, show, set, rotate, end-previous, revoke, usage."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, call_paged, echo_json, json_option, show
from bluesminds.cli.options import (
    COUNTS,
    SUMS,
    DurationType,
    config_option,
    limit_options,
    limit_values,
)
from bluesminds.cli.users import find_user, user_names
from bluesminds.common.clock import SystemClock, format_time
from bluesminds.common.crypto import is_uuid
from bluesminds.common.durations import read_duration
from bluesminds.common.values import SCOPES

Rule = str | tuple[str, ...] | None
Command = TypeVar("Command", bound=Callable[..., Any])

_ANY: Final = "any"
_NEVER: Final = "never"
_NONE: Final = "none"
_AS_ACCOUNT: Final = "account"
_LISTS: Final = {
    "scopes": ("--scope", f"Allowed endpoint: {', '.join(SCOPES)}."),
    "allowed_models": ("--model", 'Allowed model; "*" at the end matches any suffix.'),
    "allowed_ips": ("--ip", "Allowed client address or network."),
    "allowed_origins": ("--origin", "Allowed web origin, such as https://app.example.com."),
}
_COLUMNS: Final = (
    *("id", "name", "user", "prefix", "last4"),
    *(f"limits.{name}" for name in (*COUNTS, *SUMS)),
    *("created_at", "last_used_at", "expires_at", "revoked_at", "user_id"),
)
_DETAILS: Final = (
    *("id", "user_id", "name", "prefix", "last4", *_LISTS, *COUNTS, *SUMS, "metadata", "prompt_log"),
    *("created_at", "last_used_at", "expires_at", "revoked_at", "rotated_at", "previous_until"),
)


def rule_options(*, is_new: bool) -> Callable[[Command], Command]:
    """Options for the restrictions of a key, passed to the command under their API names."""
    metadata = "Default: none." if is_new else f"`{_NONE}` removes all."
    allowed = "Default: all." if is_new else f"`{_ANY}` removes the restriction."
    default = " (default)" if is_new else ""

    def add(command: Command) -> Command:
        command = limit_options(command)
        command = click.option(
            "--metadata",
            multiple=True,
            metavar="NAME=VALUE",
            help=f"Text to store with the key. Repeatable. {metadata}",
        )(command)
        command = click.option(
            "--prompt-log",
            type=click.Choice(["on", "off", _AS_ACCOUNT]),
            help="Store its requests and responses in full. Default: the setting of its account.",
        )(command)
        command = click.option(
            "--expires", help=f"When it expires: 7d, 12h, 2030-01-31T12:00:00Z, or `{_NEVER}`{default}."
        )(command)
        for name, (option, meaning) in reversed(_LISTS.items()):
            text = f"{meaning} Repeatable. {allowed}"
            command = click.option(option, name, multiple=True, help=text)(command)
        return command

    return add


@click.group("keys")
def keys_group() -> None:
    """Manage API keys. KEY_ID is an id from `keys list`."""


@keys_group.command()
@click.argument("name")
@click.option("--user", help="The owner, by e-mail address or id. Default: the local operator.")
@rule_options(is_new=True)
@config_option
@json_option
def create(name: str, user: str | None, config: Path | None, as_json: bool, **rules: Rule) -> None:
    """Create an API key. It is printed once and cannot be shown again.

    NAME is a label and need not be unique. The limits of its account apply as well.
    """
    body = {"name": name, **_rules(rules)}
    if user is not None:
        body["user_id"] = find_user(config, user)["id"]
    _print_secret(call(config, "POST", "/keys", body), as_json=as_json)


@keys_group.command("list")
@click.option("--user", help="Only keys of this user, by e-mail address or id.")
@click.option(
    "--active/--ended", default=None, help="Only active keys, or only revoked and expired ones. Default: all."
)
@config_option
@json_option
def list_(user: str | None, active: bool | None, config: Path | None, as_json: bool) -> None:
    """List API keys."""
    filters = {} if active is None else {"active": str(active).lower()}
    if user is not None:
        filters["user_id"] = find_user(config, user)["id"]
    found = call_paged(config, "/keys", filters)
    if not as_json:
        names = user_names(config)
        rows = [row | {"user": names.get(row["user_id"])} for row in found["data"]]
        found = found | {"data": rows}
    show(found, as_json=as_json, columns=_COLUMNS)


@keys_group.command("show")
@click.argument("key_id")
@config_option
@json_option
def show_(key_id: str, config: Path | None, as_json: bool) -> None:
    """Show one API key and its restrictions."""
    _show(call(config, "GET", key_path(key_id)), as_json=as_json)


@keys_group.command("set")
@click.argument("key_id")
@click.option("--name", help="New name.")
@rule_options(is_new=False)
@config_option
@json_option
def set_(key_id: str, name: str | None, config: Path | None, as_json: bool, **rules: Rule) -> None:
    """Change an API key, effective immediately.

    Only the given options change. --metadata replaces all metadata. The value `tier` removes a limit of the
    key, so that only the limit of its account applies.
    """
    body = _rules(rules) | ({} if name is None else {"name": name})
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds keys set --help")
    _show(call(config, "PATCH", key_path(key_id), body), as_json=as_json)


@keys_group.command()
@click.argument("key_id")
@click.option(
    "--overlap",
    type=DurationType(604_800),
    default=0,
    help="How long the old secret keeps working, such as 30s, 12h or 7d. Default: not at all.",
)
@config_option
@json_option
def rotate(key_id: str, overlap: int, config: Path | None, as_json: bool) -> None:
    """Rotate a key: issue a new secret, keep id, limits and usage."""
    created = call(config, "POST", f"{key_path(key_id)}/rotate", {"overlap_seconds": overlap})
    _print_secret(created, as_json=as_json)


@keys_group.command("end-previous")
@click.argument("key_id")
@config_option
@json_option
def end_previous(key_id: str, config: Path | None, as_json: bool) -> None:
    """Revoke the secret that the last rotation replaced."""
    call(config, "DELETE", f"{key_path(key_id)}/previous")
    if as_json:
        echo_json({"id": key_id, "previous_until": None})
    else:
        click.echo(f"revoked the previous secret of {key_id}")


@keys_group.command()
@click.argument("key_id")
@config_option
@json_option
def revoke(key_id: str, config: Path | None, as_json: bool) -> None:
    """Revoke an API key immediately."""
    call(config, "DELETE", key_path(key_id))
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
    """Show the usage of a key by day."""
    found = call(config, "GET", f"{key_path(key_id)}/usage?days={days}")
    columns = ("day", "requests", "errors", "input_tokens", "output_tokens", "cost_usd")
    show(found if as_json else {"data": found["days"]}, as_json=as_json, columns=columns)


def key_path(key_id: str) -> str:
    """The API path of a key. Raises exits.Failure for an invalid id."""
    if not is_uuid(key_id):
        raise exits.Failure(f"{key_id!r} is not a key id", exits.USAGE, "bluesminds keys list")
    return f"/keys/{key_id}"


def _rules(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options as an API request body. Raises exits.Failure."""
    body: dict[str, Any] = {
        name: None if given[name] == (_ANY,) else list(given[name]) for name in _LISTS if given[name]
    }
    if given["expires"] is not None:
        body["expires_at"] = None if given["expires"] == _NEVER else _expiry(given["expires"])
    if given["prompt_log"] is not None:
        body["prompt_log"] = None if given["prompt_log"] == _AS_ACCOUNT else given["prompt_log"]
    if given["metadata"]:
        body["metadata"] = {} if given["metadata"] == (_NONE,) else dict(map(_pair, given["metadata"]))
    if limits := limit_values({name: given[name] for name in (*COUNTS, *SUMS)}):
        body["limits"] = limits
    return body


def _expiry(text: str) -> str:
    """A duration from now, or a time, as RFC 3339. Raises exits.Failure."""
    try:
        return format_time(SystemClock().now_ms() + read_duration(text) * 1000)
    except ValueError:
        pass
    try:
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    except ValueError:
        pass
    message = f"--expires must be a duration such as 7d, a time such as 2030-01-31T12:00:00Z, or `{_NEVER}`"
    raise exits.Failure(message, exits.USAGE, "for example --expires 12h")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise exits.Failure(f"{text!r} is not NAME=VALUE", exits.USAGE, "for example --metadata team=blues")
    return name, value


def _print_secret(created: Any, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(created)
    else:
        click.echo(created["key"])
        name = exits.printable(created["name"])
        click.echo(
            f"Save this key now; it cannot be shown again. Name: {name}. Id: {created['id']}.", err=True
        )


def _show(key: Any, *, as_json: bool) -> None:  # noqa: ANN401
    """Print JSON, or one line per field that is set."""
    flat = key | key["limits"] | {"metadata": [f"{name}={text}" for name, text in key["metadata"].items()]}
    rows = [{"name": name, "value": flat[name]} for name in _DETAILS if flat[name] not in (None, [])]
    show(key if as_json else {"data": rows}, as_json=as_json, columns=("name", "value"))
