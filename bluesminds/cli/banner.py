"""What a person sees when the gateway is up: where it is, and a curl that answers."""

import ipaddress
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from bluesminds.config import Settings
from bluesminds.main import FirstRun, Running

_SHOWN_MODELS = 4


def show(running: Running, settings: Settings, path: Path | None, *, journal: bool = False) -> None:
    """To standard error, so that a terminal gets it and a pipe of the log does not mix with standard
    output. A `journal` keeps what it is told, so there secrets go to files and the text names them.
    """
    if journal:
        running = _with_secrets_in_files(running)
    tls = settings.server.tls_cert is not None
    lines = [
        f"BluesMinds is listening on {', '.join(_url(address, tls=tls) for address in running.addresses)}",
        f"  data      {settings.state_dir}",
        f"  config    {path or 'none: defaults and environment'}",
        f"  models    {_models(running.models)}",
        "",
        *_try_it(running, settings, tls=tls),
        *_claim(running.first_run, settings, tls=tls, address=running.addresses[0]),
        "",
        "Press Ctrl-C to stop.",
    ]
    click.echo("\n".join(lines), err=True)
    sys.stderr.flush()


def _with_secrets_in_files(running: Running) -> Running:
    """First-run secrets as the shell words that read them back."""
    first, keep = running.first_run, running.core.state.keep

    def moved(name: str, secret: str | None) -> str | None:
        return secret and f"$(cat {shlex.quote(str(keep(name, secret.encode())))})"

    first_run = FirstRun(
        key=moved("first-key", first.key), bootstrap_token=moved("bootstrap-token", first.bootstrap_token)
    )
    return msgspec.structs.replace(running, first_run=first_run)


def _try_it(running: Running, settings: Settings, *, tls: bool) -> list[str]:
    if not running.models:
        return [
            "No models yet. Add a server; the key is read from standard input:",
            "  bluesminds servers add openai --url https://api.openai.com/v1 --api-key-stdin",
        ]
    key = running.first_run.key
    body = json.dumps(
        {"model": _example(running.models), "messages": [{"role": "user", "content": "Hello!"}]}
    )
    title = (
        "Try it (this key is shown once):"
        if key
        else "Try it with a key of yours (`bluesminds keys create NAME` makes one):"
    )
    return [
        title,
        f"  curl {_reach(running.addresses[0], settings, tls=tls)}/v1/chat/completions \\",
        f'    -H "Authorization: Bearer {key or "$BLUESMINDS_KEY"}" -H "Content-Type: application/json" \\',
        f"    -d '{_quoted(body)}'",
    ]


def _claim(first_run: FirstRun, settings: Settings, *, tls: bool, address: Any) -> list[str]:  # noqa: ANN401
    if first_run.bootstrap_token is None:
        return []
    return [
        "",
        "There is no administrator yet; until then only this machine can be served.",
        "  bluesminds users create --role admin --email you@example.com",
        f"  or POST {_reach(address, settings, tls=tls)}/api/setup with this token (shown once):",
        f"    {first_run.bootstrap_token}",
    ]


def _example(models: list[str]) -> str:
    return "demo/echo" if "demo/echo" in models else models[0]


def _models(names: list[str]) -> str:
    if not names:
        return "none"
    first = _example(names)
    shown = [first, *(name for name in names if name != first)][:_SHOWN_MODELS]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def _reach(address: Any, settings: Settings, *, tls: bool) -> str:  # noqa: ANN401 - as the operating system names it
    """How curl on this machine gets there."""
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
    """For single quotes in a shell: a model's name may hold one."""
    return text.replace("'", "'\\''")
