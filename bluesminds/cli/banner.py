"""What a person sees when the gateway is up: where it is, and a curl that answers."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from bluesminds.config import Settings
from bluesminds.main import Running


def show(running: Running, settings: Settings, path: Path | None) -> None:
    """To standard error, so that a terminal gets it and a pipe of the log does not mix with standard
    output.
    """
    base = settings.server.public_url or _url(running.addresses[0], tls=settings.server.tls_cert is not None)
    first = running.first_run
    lines = [
        f"BluesMinds is listening on {base}",
        f"  data      {settings.state_dir}",
        f"  config    {path or 'none: defaults and environment'}",
        f"  models    {_models(running.models)}",
    ]
    if first.bootstrap_token:
        lines += [f"  admin     POST {base}/api/setup with this token, shown once: {first.bootstrap_token}"]
    lines += ["", *_try_it(base, running, first.key), "", "Press Ctrl-C to stop."]
    click.echo("\n".join(lines), err=True)
    sys.stderr.flush()


def _try_it(base: str, running: Running, key: str | None) -> list[str]:
    if not running.models:
        return [
            "No models yet. Add a server:",
            "  bluesminds servers add NAME --url https://api.openai.com/v1 --api-key-stdin",
        ]
    shown = key or "$BLUESMINDS_KEY"
    model = next((name for name in running.models if name == "demo/echo"), running.models[0])
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello!"}]})
    title = (
        "Try it (this key is shown once):"
        if key
        else "Try it with a key of yours (`bluesminds keys create NAME` makes one):"
    )
    return [
        title,
        f"  curl {base}/v1/chat/completions \\",
        f'    -H "Authorization: Bearer {shown}" -H "Content-Type: application/json" \\',
        f"    -d '{body}'",
    ]


def _models(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _url(address: Any, *, tls: bool) -> str:  # noqa: ANN401 - as the operating system names it
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{'https' if tls else 'http'}://{host}:{address[1]}"
