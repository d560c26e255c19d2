"""The start-up banner: addresses, models, the first key and a working curl command."""

import dataclasses
import ipaddress
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bluesminds.app.first_run import FirstRun
from bluesminds.app.serve import Running
from bluesminds.cli.exits import counted, printable
from bluesminds.cli.hints import command
from bluesminds.common.values import Server
from bluesminds.config import Loaded, Settings
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.providers.vendors import VENDORS

_MAX_MODELS = 4
# The shell prints it, so the token is not in the process list.
_CLAIM = '{"token": "%s", "email": "you@example.com", "password": "..."}'


@dataclasses.dataclass(frozen=True)
class SecretText:
    """A secret as text to read and as a shell word."""

    text: str
    word: str
    is_in_file: bool = False


Show = Callable[[str, str], SecretText]  # (file name, secret)


def show(running: Running, loaded: Loaded, *, journal: bool = False, secrets_in_files: bool = False) -> None:
    """Print the banner to standard error. With `secrets_in_files` it contains no secret: the key and the
    token are written to files in the state directory, and the banner names the files. `journal`: there is no
    keyboard.
    """
    tls = loaded.settings.server.tls_cert is not None
    target = _curl_target(running.addresses[0], loaded.settings, tls=tls)

    def in_file(name: str, secret: str) -> SecretText:
        return _from_file(running.services.state.write_secret(name, secret.encode()))

    format_secret: Show = in_file if secrets_in_files else _plainly
    lines = [
        f"BluesMinds is listening on {', '.join(_url(address, tls=tls) for address in running.addresses)}",
        f"  data      {loaded.settings.state_dir}",
        f"  config    {loaded.path or 'none: defaults and environment'}",
        f"  servers   {_servers(running.servers)}",
        *_detected(running.servers),
        f"  models    {_models(running.models)}",
        "",
        *_missing_models(running, loaded),
        *_example_request(running, loaded, target, format_secret),
        *_dashboard_lines(running, loaded, target, format_secret),
        *_setup_lines(running.first_run, loaded, target, format_secret),
        *([] if journal else ["", "Press Ctrl-C to stop."]),
    ]
    click.echo("\n".join(lines), err=True)
    sys.stderr.flush()


def _plainly(_: str, secret: str) -> SecretText:
    return SecretText(text=secret, word=secret)


def _from_file(path: Path) -> SecretText:
    return SecretText(
        text=f"in {path}; read it once, then delete the file",
        word=f"$(cat {shlex.quote(str(path))})",
        is_in_file=True,
    )


def _servers(servers: list[tuple[Server, ServerStatus]]) -> str:
    return "; ".join(f"{server.name}{_state(status)}" for server, status in servers) or "none"


def _detected(servers: list[tuple[Server, ServerStatus]]) -> list[str]:
    """The line about servers that are not configured, but were found."""
    found = [server for server, _ in servers if server.origin == "environment"]
    if not found:
        return []
    places = [VENDORS[server.vendor].key_variable or server.url for server in found]
    return [f"            found by {', '.join(places)}; [[servers]] in the configuration replaces them"]


def _state(status: ServerStatus) -> str:
    if status.state == "down":
        return f": {printable(status.last_error or 'down')}"
    if status.state == "unknown":
        return ": no response yet"
    return " ok" if status.model_count is None else f" ok ({counted(status.model_count, 'model')})"


def _missing_models(running: Running, loaded: Loaded) -> list[str]:
    if running.models:
        return []
    if running.servers:
        interval = f"{loaded.settings.upstream.probe_interval:g} s"
        found = [
            _unresponsive_vendor(server) for server, _ in running.servers if server.origin == "environment"
        ]
        return [*filter(None, found), f"No server has models yet. The gateway retries every {interval}.", ""]
    add = command("servers add openai --url https://api.openai.com/v1 --api-key-stdin", loaded)
    return ["No models yet. Add a server (its key is read from standard input):", f"  {add}", ""]


def _unresponsive_vendor(server: Server) -> str | None:
    """The line about a server that comes from a variable of its vendor."""
    variable = VENDORS[server.vendor].key_variable if server.vendor else ""
    return f"Found {variable}, but {server.url} does not respond." if variable else None


def _example_request(running: Running, loaded: Loaded, target: str, format_secret: Show) -> list[str]:
    first = running.first_run
    name = "guest-key" if first.is_guest else "first-key"
    key = format_secret(name, first.key) if first.key is not None else None
    if key is None:
        create_command = command("keys create NAME", loaded)
        title = f"Try it with your key (create one: `{create_command}`):"
    elif key.is_in_file:
        title = f"Try it (the key is {key.text}):"
    else:
        title = "Try it (save this key now; it cannot be shown again):"
    word = "$BLUESMINDS_KEY" if key is None else key.word
    body = json.dumps(
        {"model": _example(running.models), "messages": [{"role": "user", "content": "Hello!"}]}
    )
    return [
        title,
        f"  curl {target}/v1/chat/completions \\",
        f'    -H "Authorization: Bearer {word}" -H "Content-Type: application/json" \\',
        f"    -d '{_quoted(body)}'",
    ]


def _dashboard_lines(running: Running, loaded: Loaded, target: str, format_secret: Show) -> list[str]:
    """The address of the dashboard; for the demo with a token, which signs in once."""
    if not loaded.settings.dashboard.enabled or target.startswith("--"):
        return []
    token = running.first_run.sign_in_token
    if token is None:
        return ["", f"Dashboard: {target}/dashboard"]
    link = format_secret("sign-in-link", f"{target}/account/enter#token={token}")
    if link.is_in_file:
        return ["", f"Dashboard (the sign-in link, valid once, is {link.text}): {target}/dashboard"]
    return ["", "Dashboard (this link signs you in once, as an administrator):", f"  {link.text}"]


def _setup_lines(first: FirstRun, loaded: Loaded, target: str, format_secret: Show) -> list[str]:
    """How to create the first administrator who has an address and a password."""
    token = first.bootstrap_token
    if token is None:
        return []
    missing = "administrator" if first.sign_in_token is None else "administrator with a password"
    secret = format_secret("bootstrap-token", token)
    in_browser = [
        "Or open this link (it is valid until the next start):",
        f"  {target}/account/setup#token={token}",
    ]
    if secret.is_in_file or target.startswith("--") or not loaded.settings.dashboard.enabled:
        in_browser = []
    where = f" {secret.text}. It is" if secret.is_in_file else ""
    return [
        "",
        f"No {missing} yet, so the gateway accepts connections from this machine only. Create one:",
        f"  {command('users create --role admin --email you@example.com', loaded)}",
        *in_browser,
        f"Or create one over HTTP (the token is{where} valid until the next start):",
        f"  printf '{_CLAIM}' \"{secret.word}\" \\",
        f'    | curl {target}/api/setup -H "Content-Type: application/json" -d @-',
    ]


def _example(models: list[str]) -> str:
    return "demo/echo" if "demo/echo" in models else (models or ["MODEL"])[0]


def _models(names: list[str]) -> str:
    if not names:
        return "none"
    first = _example(names)
    listed = [first, *(name for name in names if name != first)][:_MAX_MODELS]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return ", ".join(listed) + more


def _curl_target(address: Any, settings: Settings, *, tls: bool) -> str:  # noqa: ANN401 - from getsockname()
    """The base URL for curl on this machine, with curl options if needed."""
    if settings.server.public_url is not None:
        return settings.server.public_url.rstrip("/")
    if not isinstance(address, tuple):
        return f"--unix-socket {address} {'https' if tls else 'http'}://localhost"
    host = ipaddress.ip_address(address[0].partition("%")[0])
    if host.is_unspecified:
        address = ("127.0.0.1" if host.version == 4 else "::1", *address[1:])
    return _url(address, tls=tls)


def _url(address: Any, *, tls: bool) -> str:  # noqa: ANN401
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"


def _quoted(text: str) -> str:
    """Quote for single quotes in a shell; a model name may contain one."""
    return text.replace("'", "'\\''")
