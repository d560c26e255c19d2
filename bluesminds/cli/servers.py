"""servers add, set, list, test, remove."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.lazy import LazyCommand, LazyGroup
from bluesminds.cli.options import config_option
from bluesminds.common.server_headers import holds_credential
from bluesminds.common.values import ServerMode, ServerOptions
from bluesminds.config.fields import nearest
from bluesminds.config.settings import OnDisconnect
from bluesminds.providers.vendors import VENDORS, Vendor

_TEST_REMEDIES: Final = {
    "dns": "check the host in its url",
    "connect": "check its url, and that it runs and can be reached from here",
    "tls": "check its certificate, or set ca_file in [upstream]",
    "completion": "try another model with --model, or check what the api_key may do",
}
_UNSET_BY_ZERO: Final = frozenset(ServerOptions.__struct_fields__) - {"on_disconnect"}
_NAME: Final = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,63}")


def _option_flags(unset: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options for timeouts and client disconnects. `unset` is added to the help of each."""
    flags = [
        click.option(
            "--connect-timeout", type=click.FloatRange(0), help=f"Maximum seconds to connect.{unset}"
        ),
        click.option(
            "--first-token-timeout",
            type=click.FloatRange(0),
            help=f"Maximum seconds until the first content, while another server is left.{unset}",
        ),
        click.option(
            "--first-byte-timeout",
            type=click.FloatRange(0),
            help=f"Maximum seconds until the first content, if no other server is left.{unset}",
        ),
        click.option(
            "--chunk-timeout",
            type=click.FloatRange(0),
            help=f"Maximum pause within a stream, in seconds.{unset}",
        ),
        click.option(
            "--total-timeout", type=click.FloatRange(0), help=f"Maximum seconds of one attempt.{unset}"
        ),
        click.option(
            "--on-disconnect",
            type=click.Choice(get_args(OnDisconnect)),
            help="If a client disconnects from a stream: cancel it, or read the rest to learn its usage.",
        ),
        click.option(
            "--drain-seconds",
            type=click.FloatRange(0),
            help=f"With drain: maximum seconds to read the rest.{unset}",
        ),
        click.option(
            "--drain-tokens",
            type=click.IntRange(0),
            help=f"With drain: maximum output tokens to read.{unset}",
        ),
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for flag in reversed(flags):
            command = flag(command)
        return command

    return decorate


@click.group(
    "servers",
    cls=LazyGroup,
    lazy={
        "keys": LazyCommand(
            "bluesminds.cli.server_keys:server_keys_group",
            "Manage the API keys of a server, which are used in turn.",
        )
    },
)
def servers_group() -> None:
    """Manage upstream servers."""


@servers_group.command()
@click.argument("name", required=False)
@click.option("--vendor", help="A vendor of `bluesminds vendors`, instead of --url and --dialect.")
@click.option("--url", help="Base URL, e.g. https://api.openai.com/v1.")
@click.option(
    "--dialect",
    type=click.Choice(["openai", "azure", "litellm", "anthropic", "gemini"]),
    help="API dialect of the server. Default: that of the vendor, or openai.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of the server. Repeatable. Default: read from the server.",
)
@click.option("--api-version", help="API version for Azure's URLs with /openai/deployments/.")
@click.option(
    "--header", "headers", multiple=True, help='A header for every request, as "Name: value". Repeatable.'
)
@click.option(
    "--weight",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Share of requests relative to other servers.",
)
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    show_default=True,
    help="Servers with a lower number are used first.",
)
@click.option("--passthrough", is_flag=True, help="Relay requests for files, batches and similar objects.")
@click.option(
    "--passthrough-path", "paths", multiple=True, help="Another path under /v1 to relay. Repeatable."
)
@click.option("--region", help="Region of the server, for requests that require one.")
@click.option("--tag", "tags", multiple=True, help="A tag of the server, such as zdr. Repeatable.")
@click.option(
    "--mode",
    type=click.Choice(get_args(ServerMode)),
    help="draining: no new requests; off: not used and not checked.",
)
@click.option(
    "--max-concurrency", type=click.IntRange(0), help="Maximum number of concurrent requests. 0: no cap."
)
@click.option(
    "--rpm", type=click.IntRange(0), help="Maximum number of requests in any 60 seconds. 0: no cap."
)
@_option_flags()
@click.option("--api-key-stdin", is_flag=True, help="Read the API key of the server from standard input.")
@config_option
@json_option
def add(
    name: str | None,
    vendor: str | None,
    models: tuple[str, ...],
    paths: tuple[str, ...],
    tags: tuple[str, ...],
    headers: tuple[str, ...],
    api_key_stdin: bool,
    config: Path | None,
    as_json: bool,
    **given: str | float | bool | None,
) -> None:
    """Add a server to the database.

    With --vendor, NAME defaults to the name of the vendor, and the API key is read from the vendor's
    environment variable or a prompt. With --api-key-stdin, it is read from standard input. There is no option
    for the key itself, because other users can see command lines.
    """
    row = _vendor(vendor)
    if name is None and row is None:
        raise exits.Failure("NAME is missing", exits.USAGE, "give the server a name, or a --vendor")
    name = name or (row.name if row else "")
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    body |= {"name": name, "models": list(models), "headers": _parse_headers(headers)}
    body |= {"passthrough_paths": list(paths), "tags": list(tags)}
    if row is not None:
        body["vendor"] = row.name
    elif "url" not in body:
        raise exits.Failure("--url is missing", exits.USAGE, "give a --url, or a --vendor")
    body["api_key"] = read_key() if api_key_stdin else _vendor_key(row)
    added = call(config, "POST", "/servers", body)
    if as_json:
        echo_json(added)
    else:
        click.echo(f"added {name}")


def _vendor(name: str | None) -> Vendor | None:
    """Raises exits.Failure for an unknown vendor."""
    if name is None or name in VENDORS:
        return VENDORS[name] if name else None
    close = nearest(name, VENDORS)
    remedy = f'did you mean "{close}"?' if close else "list them: bluesminds vendors"
    raise exits.Failure(f"{name!r} is not a vendor", exits.USAGE, remedy)


def _vendor_key(vendor: Vendor | None) -> str | None:
    """The API key of a hosted vendor, from its environment variable or a prompt; None for other servers."""
    if vendor is None or not vendor.key_variable:
        return None
    if key := os.environ.get(vendor.key_variable, "").strip():
        click.echo(f"using the API key in {vendor.key_variable}", err=True)
        return key
    if sys.stdin.isatty():
        return str(click.prompt(f"API key of {vendor.title}", hide_input=True, err=True)).strip()
    remedy = (
        f"set {vendor.key_variable}, or: bluesminds servers add --vendor {vendor.name} --api-key-stdin < FILE"
    )
    raise exits.Failure(f"the API key of {vendor.title} is missing", exits.USAGE, remedy)


def _parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """Raises exits.Failure."""
    found: dict[str, str] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        name = name.strip()
        if not colon:
            message = f"--header {header!r} is not a header"
            raise exits.Failure(message, exits.USAGE, 'write it like --header "X-Title: Our app"')
        if holds_credential(name):
            remedy = "set it with headers of [[servers]] in gateway.toml, or with /api/admin/servers"
            raise exits.Failure(
                f"--header {name} would show a secret on the command line", exits.USAGE, remedy
            )
        found[name] = value.strip()
    return found


@servers_group.command("set")
@click.argument("name")
@click.option("--url", help="Base URL.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of the server. Repeatable. `any`: read from the server.",
)
@click.option("--api-version", help="API version for Azure's URLs with /openai/deployments/.")
@click.option(
    "--header",
    "headers",
    multiple=True,
    help='A header for every request, as "Name: value". Repeatable. Replaces all; `none` removes all.',
)
@click.option("--weight", type=click.IntRange(1, 10_000), help="Share of requests relative to other servers.")
@click.option(
    "--priority", type=click.IntRange(-1000, 1000), help="Servers with a lower number are used first."
)
@click.option(
    "--passthrough/--no-passthrough",
    default=None,
    help="Relay requests for files, batches and similar objects.",
)
@click.option(
    "--passthrough-path",
    "paths",
    multiple=True,
    help="Another path under /v1 to relay. Repeatable. `none` removes all.",
)
@click.option("--region", help="Region of the server, for requests that require one. `none`: no region.")
@click.option(
    "--tag", "tags", multiple=True, help="A tag of the server, such as zdr. Repeatable. `none` removes all."
)
@click.option(
    "--mode",
    type=click.Choice(get_args(ServerMode)),
    help="draining: no new requests; off: not used and not checked.",
)
@click.option(
    "--max-concurrency", type=click.IntRange(0), help="Maximum number of concurrent requests. 0: no cap."
)
@click.option(
    "--rpm", type=click.IntRange(0), help="Maximum number of requests in any 60 seconds. 0: no cap."
)
@_option_flags(" 0: as in the settings.")
@click.option("--api-key-stdin", is_flag=True, help="Read a new API key from standard input.")
@config_option
@json_option
def set_(
    name: str,
    models: tuple[str, ...],
    paths: tuple[str, ...],
    tags: tuple[str, ...],
    headers: tuple[str, ...],
    api_key_stdin: bool,
    config: Path | None,
    as_json: bool,
    **given: str | float | None,
) -> None:
    """Change a server of the database. Only the given options change."""
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if models:
        body["models"] = [] if models == ("any",) else list(models)
    if paths:
        body["passthrough_paths"] = [] if paths == ("none",) else list(paths)
    if tags:
        body["tags"] = [] if tags == ("none",) else list(tags)
    if body.get("region") == "none":
        body["region"] = None
    for option in _UNSET_BY_ZERO & body.keys():
        body[option] = body[option] or None
    if headers:
        body["headers"] = {} if headers == ("none",) else _parse_headers(headers)
    if api_key_stdin:
        body["api_key"] = read_key()
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds servers set --help")
    changed = call(config, "PATCH", f"/servers/{checked_name(name)}", body)
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"changed {name}")


def read_key(
    remedy: str = "for example: bluesminds servers add NAME --url URL --api-key-stdin < FILE",
) -> str:
    """The first line of standard input. Raises exits.Failure with the remedy."""
    key = sys.stdin.readline().strip()
    if not key:
        raise exits.Failure("standard input contains no key", exits.USAGE, remedy)
    return key


@servers_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List all servers, including those of the configuration."""
    columns = (
        *(
            "name",
            "mode",
            "state",
            "model_count",
            "vendor",
            "dialect",
            "url",
            "has_api_key",
            "models",
            "weight",
        ),
        *(
            "priority",
            "max_concurrency",
            "rpm",
            "region",
            "tags",
            "passthrough",
            "passthrough_paths",
            "origin",
            "last_error",
        ),
    )
    show(call(config, "GET", "/servers"), as_json=as_json, columns=columns)


@servers_group.command()
@click.argument("name")
@click.option("--model", help="The model for the completion. Default: one of the server's models.")
@config_option
@json_option
def test(name: str, model: str | None, config: Path | None, as_json: bool) -> None:
    """Test a server step by step.

    The steps are name, connection, TLS, models, and a small completion. The completion has at most 16
    tokens; the vendor may charge for it. The exit code is 0 if the server works.
    """
    query = "" if model is None else f"?{urlencode({'model': model})}"
    found = call(config, "POST", f"/servers/{checked_name(name)}/test{query}")
    if as_json:
        echo_json(found)
    else:
        for step in found["steps"]:
            if step["ok"]:
                click.echo(
                    exits.printable(f"{step['name']}: ok, {step['ms']} ms: {step['message']}".rstrip(": "))
                )
    if not found["ok"]:
        failed = next((step["name"] for step in found["steps"] if not step["ok"]), "")
        remedy = _TEST_REMEDIES.get(failed, "check its url and api_key")
        raise exits.Failure(f"{name}: {found['problem']}", exits.UNAVAILABLE, remedy)
    if not as_json:
        click.echo(f"{name}: ok, {found['latency_ms']} ms")


@servers_group.command()
@click.argument("name")
@config_option
@json_option
def remove(name: str, config: Path | None, as_json: bool) -> None:
    """Remove a server from the database."""
    call(config, "DELETE", f"/servers/{checked_name(name)}")
    if as_json:
        echo_json({"name": name, "removed": True})
    else:
        click.echo(f"removed {name}")


def checked_name(name: str) -> str:
    """Check a name before it becomes part of a path. Raises exits.Failure."""
    if not _NAME.fullmatch(name):
        raise exits.Failure(f"{name!r} is not a server name", exits.USAGE, "bluesminds servers list")
    return name
