"""webhooks add, list, deliveries, rotate, remove, trigger, listen."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import trio

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import find_user
from bluesminds.http.asgi import Receive, Scope, Send
from bluesminds.http.server.limits import ListenerLimits, ListenerStats
from bluesminds.http.server.serve import bind_tcp, serve
from bluesminds.notify.events import EVENT_KINDS
from bluesminds.notify.webhook_format import BadSignature, verify

_COLUMNS: Final = ("id", "url", "events", "enabled", "disabled_reason", "last_success_at")
_MAX_BODY: Final = 65_536  # bytes


@click.group("webhooks")
def webhooks_group() -> None:
    """Manage the webhooks of the operators.

    They get the events of all accounts. Needs `enabled = true` in [webhooks].
    """


@webhooks_group.command()
@click.argument("url")
@click.option("--event", "events", multiple=True, help="A kind, or a group such as payment.*. Repeatable.")
@click.option("--description", default="", help="A label.")
@config_option
@json_option
def add(url: str, events: tuple[str, ...], description: str, config: Path | None, as_json: bool) -> None:
    """Send events to URL. The secret is printed once. Default: all events."""
    body = {"url": url, "events": list(events or ("*",)), "description": description}
    _show_secret(call(config, "POST", "/webhooks", body), as_json=as_json)


@webhooks_group.command("list")
@click.option("--user", help="The webhooks of this user: an e-mail address or id.")
@config_option
@json_option
def list_(user: str | None, config: Path | None, as_json: bool) -> None:
    """List the webhooks of the operators, or of a user."""
    path = "/webhooks" if user is None else f"/users/{find_user(config, user)['id']}/webhooks"
    show(call(config, "GET", path), as_json=as_json, columns=_COLUMNS)


@webhooks_group.command()
@click.argument("webhook")
@config_option
@json_option
def deliveries(webhook: str, config: Path | None, as_json: bool) -> None:
    """List the last deliveries of a webhook, newest first."""
    columns = ("id", "event", "state", "created_at", "next_at")
    show(call(config, "GET", f"/webhooks/{webhook}/deliveries"), as_json=as_json, columns=columns)


@webhooks_group.command()
@click.argument("webhook")
@click.option(
    "--overlap",
    type=int,
    default=86_400,
    show_default=True,
    help="Seconds during which deliveries are also signed with the old secret.",
)
@config_option
@json_option
def rotate(webhook: str, overlap: int, config: Path | None, as_json: bool) -> None:
    """Replace the secret of a webhook. The new one is printed once."""
    body = {"overlap_seconds": overlap}
    _show_secret(call(config, "POST", f"/webhooks/{webhook}/rotate", body), as_json=as_json)


@webhooks_group.command()
@click.argument("webhook")
@config_option
def remove(webhook: str, config: Path | None) -> None:
    """Delete a webhook with its deliveries."""
    call(config, "DELETE", f"/webhooks/{webhook}")
    click.echo(f"removed {webhook}")


@webhooks_group.command()
@click.argument("webhook")
@click.option(
    "--event", type=click.Choice(EVENT_KINDS), default="webhook.test", help="The kind of the event."
)
@config_option
@json_option
def trigger(webhook: str, event: str, config: Path | None, as_json: bool) -> None:
    """Send a test event to a webhook. Its data contains `"test": true`."""
    sent = call(config, "POST", f"/webhooks/{webhook}/test", {"event": event})
    if as_json:
        echo_json(sent)
    else:
        click.echo(f"sent {event} as {sent['event_id']}; see: bluesminds webhooks deliveries {webhook}")


@webhooks_group.command()
@click.option("--port", type=click.IntRange(0, 65535), default=4040, show_default=True, help="0: a free one.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after this number of events.")
def listen(port: int, count: int | None) -> None:
    """Receive webhooks on this machine, and print them.

    This is for development. It verifies the signatures. The secret is read from standard input. The
    gateway must allow the address: set allow_http = true and allowed_networks = ["127.0.0.0/8"] in
    [webhooks].
    """
    if sys.stdin.isatty():
        click.echo("Secret of the webhook (whsec_...):", err=True)
    secret = sys.stdin.readline().strip()
    try:
        verify(secret, "", "0", "", b"", now=0)
    except ValueError as exc:
        raise exits.Failure(str(exc), exits.USAGE, "copy the secret that `webhooks add` printed") from exc
    except BadSignature:
        pass
    trio.run(_listen, secret, port, count)


async def _listen(secret: str, port: int, count: int | None) -> None:
    receiver = _WebhookReceiver(secret, count)
    try:
        sockets = bind_tcp("127.0.0.1", port)
    except OSError as exc:
        raise exits.Failure(f"cannot listen on port {port}: {exc.strerror}", exits.UNAVAILABLE) from exc
    listener = partial(
        serve,
        receiver.app,
        sockets,
        ListenerLimits(body_bytes=_MAX_BODY, drain_timeout=1.0),
        on_error=lambda exc: None,
        shutdown=receiver.enough,
        stats=ListenerStats(),
    )
    async with trio.open_nursery() as nursery:
        addresses: Any = await nursery.start(listener)
        click.echo(f"listening on http://127.0.0.1:{addresses[0][1]}/", err=True)


class _WebhookReceiver:
    """Answers 204 to an event with a valid signature, and 401 to all others."""

    def __init__(self, secret: str, count: int | None) -> None:
        self._secret = secret
        self._left = count
        self.enough = trio.Event()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status = 204 if self._accept(dict(scope["headers"]), body) else 401
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        if status == 204 and self._left is not None:
            self._left -= 1
            if not self._left:
                self.enough.set()

    def _accept(self, headers: dict[bytes, bytes], body: bytes) -> bool:
        event, timestamp, signature = (
            headers.get(b"webhook-" + name, b"").decode("latin-1")
            for name in (b"id", b"timestamp", b"signature")
        )
        try:
            verify(self._secret, event, timestamp, signature, body, now=int(time.time()))
        except BadSignature as exc:
            click.echo(f"rejected: {exc}", err=True)
            return False
        text = msgspec.json.format(body, indent=2).decode()
        for line in (event, *text.splitlines()):
            click.echo(exits.printable(line))
        return True


def _show_secret(made: Any, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(made)
        return
    click.echo(f"webhook {made['webhook']['id']}; save its secret now; it cannot be shown again:", err=True)
    click.echo(made["secret"])
