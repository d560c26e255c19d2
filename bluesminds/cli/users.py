"""users create, list, show, set, disable, enable, delete, reset-password, sessions, sign-out, invite,
invites, uninvite. USER is an id or an e-mail address.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, call_paged, echo_json, json_option, show
from bluesminds.cli.options import COUNTS, SUMS, config_option
from bluesminds.common.crypto import is_uuid

_COLUMNS: Final = (
    "id",
    "email",
    "full_name",
    "role",
    "tier",
    "email_verified",
    "disabled",
    "prompt_log",
    "created_at",
)
_INVITE_COLUMNS: Final = ("id", "email", "created_at", "expires_at")
_SESSION_COLUMNS: Final = ("id", "address", "user_agent", "created_at", "last_seen_at", "expires_at")
_NO_TIER: Final = "none"
_AS_SETTINGS: Final = "settings"


@click.group("users")
def users_group() -> None:
    """Manage accounts. USER is an e-mail address or an id."""


@users_group.command()
@click.option("--email", required=True, help="E-mail address, used to sign in.")
@click.option(
    "--role",
    type=click.Choice(["user", "admin"]),
    default="user",
    show_default=True,
    help="Role of the account.",
)
@click.option("--name", default="", help="Full name.")
@click.option("--tier", help="Tier that sets its limits. Default: `none`, which means no limits.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input instead of a prompt."
)
@config_option
@json_option
def create(
    email: str,
    role: str,
    name: str,
    tier: str | None,
    password_stdin: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Create an account. Without a terminal the password is read from standard input."""
    call(config, "GET", "/tiers")  # fails before the prompt if there is no gateway and no database
    if password_stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    body = {"email": email, "role": role, "full_name": name, "password": password} | _tier(tier)
    created = call(config, "POST", "/users", body)
    if as_json:
        echo_json(created)
        return
    click.echo(f"created {email} ({role})")
    limits = call(config, "GET", f"/users/{created['id']}/limits")
    own = [f"{name} {limits[name]['limit']}" for name in (*COUNTS, *SUMS) if limits[name]["limit"]]
    click.echo(f"tier: {created['tier'] or 'none'}; limits: {', '.join(own) or 'none'}", err=True)


@users_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List accounts."""
    show(call_paged(config, "/users"), as_json=as_json, columns=_COLUMNS)


@users_group.command("show")
@click.argument("user")
@config_option
@json_option
def show_(user: str, config: Path | None, as_json: bool) -> None:
    """Show one account."""
    _show(find_user(config, user), as_json=as_json)


@users_group.command("set")
@click.argument("user")
@click.option("--role", type=click.Choice(["user", "admin"]), help="Role of the account.")
@click.option("--name", help="Full name.")
@click.option("--tier", help="Tier that sets its limits; `none` removes the tier.")
@click.option(
    "--prompt-log",
    type=click.Choice(["on", "off", _AS_SETTINGS]),
    help="Store its requests and responses in full. A key can override this.",
)
@config_option
@json_option
def set_(
    user: str,
    role: str | None,
    name: str | None,
    tier: str | None,
    prompt_log: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Change an account. Only the given options change. A new role ends all sessions."""
    given = {"role": role, "full_name": name}
    body: dict[str, str | None] = {key: value for key, value in given.items() if value is not None}
    body |= _tier(tier)
    if prompt_log is not None:
        body["prompt_log"] = None if prompt_log == _AS_SETTINGS else prompt_log
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds users set --help")
    _show(_change(config, user, body), as_json=as_json)


@users_group.command()
@click.argument("user")
@config_option
@json_option
def disable(user: str, config: Path | None, as_json: bool) -> None:
    """Disable an account.

    Its sessions end. Its API keys are refused until the account is enabled.
    """
    _print(_change(config, user, {"disabled": True}), "disabled", as_json=as_json)


@users_group.command()
@click.argument("user")
@config_option
@json_option
def enable(user: str, config: Path | None, as_json: bool) -> None:
    """Enable a disabled account. Its API keys work again."""
    _print(_change(config, user, {"disabled": False}), "enabled", as_json=as_json)


@users_group.command()
@click.argument("user")
@config_option
@json_option
def delete(user: str, config: Path | None, as_json: bool) -> None:
    """Delete an account, its keys and its sessions.

    Usage and the audit log are kept.
    """
    found = find_user(config, user)
    call(config, "DELETE", f"/users/{found['id']}")
    _print(found, "deleted", as_json=as_json)


@users_group.command()
@click.argument("email")
@config_option
@json_option
def invite(email: str, config: Path | None, as_json: bool) -> None:
    """Mail an invitation to sign up, and print its link."""
    _print_secret(call(config, "POST", "/invites", {"email": email}), as_json=as_json)


@users_group.command()
@config_option
@json_option
def invites(config: Path | None, as_json: bool) -> None:
    """List open invitations."""
    show(call_paged(config, "/invites"), as_json=as_json, columns=_INVITE_COLUMNS)


@users_group.command()
@click.argument("invitation")
@config_option
@json_option
def uninvite(invitation: str, config: Path | None, as_json: bool) -> None:
    """Withdraw an invitation, or all invitations to an address.

    INVITATION is an id from `users invites`, or an e-mail address.
    """
    if is_uuid(invitation):
        call(config, "DELETE", f"/invites/{invitation}")
        done = {"withdrawn": [invitation]}
    elif "@" in invitation:
        done = call(config, "DELETE", f"/invites?email={quote(invitation)}")
    else:
        message = f"{invitation!r} is neither an e-mail address nor an invitation id"
        raise exits.Failure(message, exits.USAGE, "bluesminds users invites")
    if as_json:
        echo_json(done)
    else:
        click.echo(f"withdrew {len(done['withdrawn'])}: {' '.join(done['withdrawn'])}")


@users_group.command()
@click.argument("user")
@config_option
@json_option
def sessions(user: str, config: Path | None, as_json: bool) -> None:
    """List the sessions of a user."""
    path = f"/users/{find_user(config, user)['id']}/sessions"
    show(call(config, "GET", path), as_json=as_json, columns=_SESSION_COLUMNS)


@users_group.command("sign-out")
@click.argument("user")
@click.option("--session", help="The id of one session. Default: all sessions.")
@config_option
@json_option
def sign_out(user: str, session: str | None, config: Path | None, as_json: bool) -> None:
    """Sign a user out immediately. API keys keep working."""
    if session is not None and not is_uuid(session):
        message = f"{session!r} is not a session id"
        raise exits.Failure(message, exits.USAGE, "bluesminds users sessions USER")
    found = find_user(config, user)
    one = "" if session is None else f"/{session}"
    call(config, "DELETE", f"/users/{found['id']}/sessions{one}")
    _print(found, "signed out" if session is None else f"ended session {session} of", as_json=as_json)


@users_group.command("reset-password")
@click.argument("user")
@config_option
@json_option
def reset_password(user: str, config: Path | None, as_json: bool) -> None:
    """Mail a link to set a new password, and print it."""
    path = f"/users/{find_user(config, user)['id']}/reset-password"
    _print_secret(call(config, "POST", path), as_json=as_json)


def find_user(config: Path | None, user: str) -> Any:  # noqa: ANN401
    """The account with an id or e-mail address. Raises exits.Failure."""
    if is_uuid(user):
        return call(config, "GET", f"/users/{user}")
    if "@" not in user:
        message = f"{user!r} is neither an e-mail address nor a user id"
        raise exits.Failure(message, exits.USAGE, "bluesminds users list")
    found = call(config, "GET", f"/users?email={quote(user)}")["data"]
    if not found:
        raise exits.Failure("No user has this e-mail address.", exits.NOT_FOUND, "bluesminds users list")
    return found[0]


def user_names(config: Path | None) -> dict[str, str]:
    """The e-mail address, or else the name, of each user by id."""
    rows = call_paged(config, "/users")["data"]
    return {row["id"]: row["email"] or row["full_name"] for row in rows}


def _change(config: Path | None, user: str, body: Mapping[str, str | bool | None]) -> Any:  # noqa: ANN401
    return call(config, "PATCH", f"/users/{find_user(config, user)['id']}", body)


def _tier(tier: str | None) -> dict[str, str | None]:
    return {} if tier is None else {"tier": None if tier == _NO_TIER else tier}


def _show(user: Any, *, as_json: bool) -> None:  # noqa: ANN401
    show(user if as_json else {"data": [user]}, as_json=as_json, columns=_COLUMNS)


def _print(user: Any, done: str, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(user)
    else:
        click.echo(f"{done} {user['email'] or user['id']}")


def _print_secret(link: Any, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(link)
    else:
        click.echo(link["url"])
        click.echo(
            f"Save this link now; it cannot be shown again. It was also mailed to {link['email']}.", err=True
        )
