"""Sends alerts to incoming webhooks: those of Slack and Discord, and others, which get plain JSON.

Formats: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
https://docs.discord.com/developers/resources/webhook#execute-webhook
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import Struct

from bluesminds.common.alerts import AlertMessage, ChannelKind
from bluesminds.common.clock import format_time
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin

SECONDS: Final = 10.0  # for one message
MAX_TEXT: Final = 1900  # characters; Discord takes 2000
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=5.0, first_byte=10.0, between_chunks=5.0)
_TITLES: Final = {"firing": "Alert", "resolved": "Resolved", "test": "Test of the alert"}


class AlertChannel(Struct, frozen=True):
    """The URL is a secret: it allows to post."""

    name: str
    kind: ChannelKind
    url: str

    def __repr__(self) -> str:
        return f"AlertChannel({self.name!r}, {self.kind!r})"

    def target(self) -> tuple[UpstreamOrigin, bytes]:
        """Raises ValueError without the URL in its message."""
        base, has_query, query = self.url.partition("?")
        origin, _ = UpstreamOrigin.parse(base)
        return origin, f"{urlsplit(base).path or '/'}{has_query}{query}".encode("ascii")


class AlertSender:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def send(self, channel: AlertChannel, message: AlertMessage) -> str:
        """Why the channel did not take the message; "" if it did."""
        try:
            origin, target = channel.target()
        except ValueError as exc:
            return str(exc)
        with trio.move_on_after(SECONDS):
            try:
                response = await self._pool.request(
                    b"POST",
                    origin,
                    target,
                    ((b"content-type", b"application/json"),),
                    msgspec.json.encode(write_message(channel.kind, message)),
                    timeouts=_TIMEOUTS,
                )
            except UpstreamError as exc:
                return str(exc)
            response.close()
            return "" if 200 <= response.status < 300 else f"it responded with status {response.status}"
        return f"no response within {SECONDS:.0f} seconds"


def write_message(kind: ChannelKind, message: AlertMessage) -> Mapping[str, Any]:
    """The body for a kind of channel."""
    text = f"{_TITLES[message.state]} {message.rule}: {message.text}"[:MAX_TEXT]
    if kind == "slack":
        return {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    if kind == "discord":
        return {"content": text, "allowed_mentions": {"parse": []}}
    return {
        "type": f"alert.{message.state}",
        "timestamp": format_time(message.at),
        "data": write_data(message),
    }


def write_data(message: AlertMessage) -> dict[str, object]:
    return {
        "rule": message.rule,
        "kind": message.kind,
        "text": message.text,
        "value": message.value,
        "above": message.above,
        "since": format_time(message.since),
    }
