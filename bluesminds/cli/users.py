"""users create, list."""

import sys
from pathlib import Path

import click

from bluesminds.cli.ask import ask, echo_json, json_option, show
from bluesminds.cli.options import config_option


@click.group("users")
def users_group() -> None:
    """Accounts."""


@users_group.command()
@click.option("--email", required=True, help="The address the account signs in with.")
@click.option(
    "--role",
    type=click.Choice(["user", "admin"]),
    default="user",
    show_default=True,
    help="What the account may do.",
)
@click.option(
    "--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
)
@config_option
@json_option
def create(email: str, role: str, password_stdin: bool, config: Path | None, as_json: bool) -> None:
    """Create an account. Without a terminal the password is read from standard input."""
    if password_stdin or not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    made = ask(config, "POST", "/users", {"email": email, "role": role, "password": password})
    if as_json:
        echo_json(made)
    else:
        click.echo(f"created {email} ({role})")


@users_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List accounts."""
    show(
        ask(config, "GET", "/users"),
        as_json=as_json,
        columns=("id", "email", "role", "disabled", "created_at"),
    )
