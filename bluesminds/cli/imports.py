"""import: takes over servers, users and credit from other gateways. The plan is printed before it is applied.

The tables and the numbers of channel types are those of the public sources of one-api (relay/channeltype) and
new-api (constant/channel.go). Both store quota in units of 1/500,000 USD.
"""

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from msgspec import Struct

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option
from bluesminds.cli.import_litellm import import_litellm
from bluesminds.cli.options import config_option
from bluesminds.common.money import write_usd

Row = Mapping[str, Any]

_COMMON: Final = {1: "openai", 14: "anthropic", 20: "openrouter", 24: "gemini"}
VENDORS: Final = {
    "one-api": _COMMON
    | {28: "mistral", 29: "groq", 30: "ollama", 35: "cohere", 36: "deepseek", 39: "together"},
    "new-api": _COMMON
    | {4: "ollama", 27: "perplexity", 34: "cohere", 42: "mistral", 43: "deepseek", 48: "xai"},
}
"""Vendors by the number of the channel type."""
_CUSTOM: Final = 8  # a server with OpenAI's format at `base_url`
_ENABLED: Final = 1
_ADMINISTRATOR: Final = 10  # the lowest role of administrators
_NANO_PER_QUOTA: Final = 2_000  # 1 USD = 500,000 quota
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


class ImportPlan(Struct, frozen=True):
    """The bodies of requests to the API, and what is not imported. `credit` is by e-mail address."""

    servers: list[dict[str, Any]]
    users: list[dict[str, Any]]
    credit: dict[str, tuple[str, str]]  # amount in USD, idempotency key
    left_out: list[str]


@click.group("import")
def import_group() -> None:
    """Import servers and users from another gateway."""


def _command(product: str) -> click.Command:
    @click.argument("file", type=_FILE)
    @click.option("--apply", "apply_plan", is_flag=True, help="Apply the plan. Without it, nothing changes.")
    @config_option
    @json_option
    def run(file: Path, apply_plan: bool, config: Path | None, as_json: bool) -> None:
        plan = read_plan(product, file)
        show_plan(plan, as_json=as_json)
        if apply_plan:
            for line in apply(plan, config):
                click.echo(line, err=True)
        elif not as_json:
            click.echo("nothing has changed; apply this with --apply")

    run.__doc__ = f"""Import the SQLite database of {product}.

    FILE has channels, users and quotas. Prints the plan, and what cannot be imported. With --apply,
    servers and users are created, and the remaining quotas become prepaid credit. Existing servers and users
    are not changed, so the command can be repeated. Users get a random password; they choose their own with
    a link.
    """
    return click.command(product)(run)


import_group.add_command(_command("one-api"))
import_group.add_command(_command("new-api"))
import_group.add_command(import_litellm)


def read_plan(product: str, file: Path) -> ImportPlan:
    """Raises exits.Failure."""
    if not file.is_file():
        raise exits.Failure(f"{file} does not exist", exits.NOT_FOUND)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            channels, users, tokens = (
                [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY id")]  # noqa: S608
                for table in ("channels", "users", "tokens")
            )
    except sqlite3.Error as exc:
        message = f"{file} is not a database of {product}: {exc}"
        remedy = "for MySQL or PostgreSQL, copy the tables to SQLite"
        raise exits.Failure(message, exits.USAGE, remedy) from None
    return make_plan(VENDORS[product], channels, users, tokens)


def make_plan(
    vendors: Mapping[int, str], channels: Sequence[Row], users: Sequence[Row], tokens: Sequence[Row]
) -> ImportPlan:
    plan = ImportPlan([], [], {}, [])
    # There, a higher number comes first; here, a lower one.
    ranks = sorted({row.get("priority") or 0 for row in channels}, reverse=True)
    for row in channels:
        _add_server(plan, vendors, row, ranks.index(row.get("priority") or 0))
    for row in users:
        _add_user(plan, row)
    if tokens:
        keys = exits.counted(len(tokens), "token")
        plan.left_out.append(f"{keys}: their users create new API keys here")
    plan.left_out.append("groups, ratios, redemption codes, and the log")
    return plan


def _add_server(plan: ImportPlan, vendors: Mapping[int, str], row: Row, priority: int) -> None:
    title = f"channel {row['id']} ({row.get('name') or 'without a name'})"
    vendor, url = vendors.get(row["type"]), (row.get("base_url") or "").rstrip("/")
    if row["type"] != _CUSTOM and vendor is None:
        plan.left_out.append(f"{title}: its type {row['type']} has no vendor here; add it by hand")
        return
    if vendor is None and not url:
        plan.left_out.append(f"{title}: it has no base_url")
        return
    names = {one["name"] for one in plan.servers}
    server: dict[str, Any] = {"name": _server_name(row, names)}
    if url and vendor in (None, "openai"):
        server["url"] = url if re.search(r"/v\d+$", url) else f"{url}/v1"
    else:
        server["vendor"] = vendor
        if url:
            plan.left_out.append(f"{title}: its base_url; the vendor's own is used")
    keys = [line.strip() for line in (row.get("key") or "").splitlines() if line.strip()]
    if keys and vendor != "ollama":
        server["api_keys"] = keys
    models = [name.strip() for name in (row.get("models") or "").split(",") if name.strip()]
    server |= {"models": models, "weight": max(1, row.get("weight") or 1), "priority": priority}
    if row.get("status", _ENABLED) != _ENABLED:
        server["mode"] = "off"
    if (row.get("model_mapping") or "{}").strip() not in ("{}", "null"):
        plan.left_out.append(f"{title}: its model_mapping; see `bluesminds routes add --help`")
    plan.servers.append(server)


def _server_name(row: Row, taken: set[str]) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", (row.get("name") or "").lower()).strip("-")[:48]
    name = name or f"channel-{row['id']}"
    return f"{name}-{row['id']}" if name in taken else name


def _add_user(plan: ImportPlan, row: Row) -> None:
    title, email = f"user {row['id']} ({row['username']})", (row.get("email") or "").strip()
    if not email:
        plan.left_out.append(f"{title}: without an e-mail address")
        return
    if row.get("status", _ENABLED) != _ENABLED:
        plan.left_out.append(f"{title}: disabled")
        return
    role = "admin" if (row.get("role") or 0) >= _ADMINISTRATOR else "user"
    plan.users.append({"email": email, "role": role, "full_name": row.get("display_name") or ""})
    if (quota := row.get("quota") or 0) > 0:
        plan.credit[email] = (write_usd(quota * _NANO_PER_QUOTA), f"import-{row['id']}-{quota}")


def show_plan(plan: ImportPlan, *, as_json: bool) -> None:
    """Without API keys."""
    if as_json:
        servers = [
            {name: value for name, value in one.items() if name != "api_keys"}
            | {"api_keys": len(one.get("api_keys", ()))}
            for one in plan.servers
        ]
        credit = {email: amount for email, (amount, _) in plan.credit.items()}
        echo_json({"servers": servers, "users": plan.users, "credit": credit, "left_out": plan.left_out})
        return
    for one in plan.servers:
        where = one.get("vendor") or one["url"]
        keys = exits.counted(len(one.get("api_keys", ())), "key")
        models = exits.counted(len(one["models"]), "model")
        click.echo(exits.printable(f"server {one['name']}: {where}, {keys}, {models}"))
    for one in plan.users:
        amount = f", {plan.credit[one['email']][0]} USD" if one["email"] in plan.credit else ""
        click.echo(exits.printable(f"user {one['email']}: {one['role']}{amount}"))
    for text in plan.left_out:
        click.echo(exits.printable(f"not imported: {text}"))


def apply(plan: ImportPlan, config: Path | None) -> Iterator[str]:
    """Apply the plan: a line for each change. Existing objects are skipped. Raises exits.Failure."""
    for server in plan.servers:
        yield _create(config, "/servers", server, f"server {server['name']}")
    for user in plan.users:
        body = user | {"password": secrets.token_urlsafe(24)}
        yield _create(config, "/users", body, f"user {user['email']}")
    for email, (amount, key) in plan.credit.items():
        (found,) = call(config, "GET", f"/users?email={quote(email)}")["data"]
        body = {"kind": "topup", "amount_usd": amount, "key": key, "reference": "import"}
        call(config, "POST", f"/users/{found['id']}/credit", body)
        yield f"credit of {email}: {amount} USD"


def _create(config: Path | None, path: str, body: Mapping[str, Any], title: str) -> str:
    try:
        call(config, "POST", path, body)
    except exits.Failure as exc:
        if exc.exit_code == exits.CONFLICT:
            return exits.printable(f"{title}: exists already")
        raise
    return exits.printable(f"{title}: created")
