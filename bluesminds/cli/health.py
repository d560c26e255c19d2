"""health: checks whether the running gateway works, for the health checks of containers."""

import json
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import click

from bluesminds.app.state_dir import StateDir
from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option, operator_settings
from bluesminds.cli.options import config_option

SECONDS: Final = 5.0


class _SocketConnection(HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("local", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


@click.command()
@click.option("--ready", is_flag=True, help="Check whether it can serve requests, not only whether it works.")
@config_option
@json_option
def health(ready: bool, config: Path | None, as_json: bool) -> None:
    """Check whether the running gateway works.

    It sends GET /health, or GET /ready with --ready, through the socket in the state directory. The exit code
    is 0 or 7.
    """
    path = StateDir(operator_settings(config).settings.state_dir).socket_path
    try:
        status, body = ask_gateway(path, "/ready" if ready else "/health")
    except (OSError, HTTPException) as exc:
        why = getattr(exc, "strerror", None) or exc
        remedy = "start it: bluesminds serve"
        raise exits.Failure(f"no gateway responds on {path}: {why}", exits.UNAVAILABLE, remedy) from None
    if as_json:
        echo_json(body)
    if status != 200:
        checks = body.get("checks", {})
        wrong = "; ".join(f"{name}: {text}" for name, text in checks.items() if text != "ok")
        raise exits.Failure(f"the gateway is not ready: {wrong}", exits.UNAVAILABLE, "see its log")
    if not as_json:
        click.echo("ready" if ready else "ok")


def ask_gateway(path: Path, target: str) -> tuple[int, Any]:
    """The status and the body of a GET through the operator's socket. Raises OSError and HTTPException."""
    with closing(_SocketConnection(path)) as connection:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
