"""Sends unexpected errors to a Sentry server, as envelopes (https://develop.sentry.dev/sdk/foundations/envelopes/).

A report contains what the log line of the error contains: event, type, frames and ids. The log has no secrets
and no messages of exceptions, and the report has none either.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio
from msgspec import Struct

from bluesminds import __version__
from bluesminds.common.log import Log, LogEvent
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin

REPEAT: Final = 60.0  # seconds until the same error is reported again
KNOWN: Final = 1000  # errors
WAIT: Final = 3600.0  # seconds
LIMIT: Final = 65_536  # bytes of an answer
OWNER: Final = "error reports"
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=10.0, first_byte=10.0, between_chunks=10.0)
_TAGS: Final = ("request_id", "path", "task", "server", "model")


class SentryAddress(Struct, frozen=True):
    """Where reports are sent."""

    origin: UpstreamOrigin
    path: bytes
    auth: bytes

    @classmethod
    def parse(cls, dsn: str) -> "SentryAddress":
        """`https://KEY@host/PROJECT`. Raises ValueError without the DSN in its message."""
        try:
            parts = urlsplit(dsn)
            key, project = parts.username, parts.path.rpartition("/")[2]
            host = parts.netloc.rpartition("@")[2]
        except ValueError:
            key = project = host = ""
        if not (key and project and host and key.isalnum() and project.isalnum()):
            raise ValueError("a DSN looks like https://KEY@host/PROJECT")
        origin, base = UpstreamOrigin.parse(f"{parts.scheme}://{host}{parts.path.rpartition('/')[0]}")
        auth = f"Sentry sentry_version=7, sentry_client=bluesminds/{__version__}, sentry_key={key}"
        return cls(origin, f"{base}/api/{project}/envelope/".encode(), auth.encode())


class ErrorReporter:
    """Reads the log. Each error is reported once in REPEAT seconds."""

    def __init__(self, pool: Pool, address: SentryAddress, log: Log) -> None:
        self._pool = pool
        self._address = address
        self._log = log
        self._reported: dict[tuple[object, ...], float] = {}
        self._failing = False

    async def run(self) -> None:
        """Report until the log ends."""
        subscription = self._log.followers.subscribe(OWNER, _is_unexpected)
        try:
            while (received := await subscription.receive(WAIT)) is not None:
                for event in received[0]:
                    if self._is_new(event):
                        await self._send(event)
        finally:
            subscription.close()

    def _is_new(self, event: LogEvent) -> bool:
        frames = event.fields.get("frames")
        same = (
            event.name,
            event.fields.get("error"),
            frames[-1] if isinstance(frames, list) and frames else "",
        )
        now = trio.current_time()
        if now - self._reported.get(same, -REPEAT) < REPEAT:
            return False
        if len(self._reported) >= KNOWN:
            self._reported.clear()
        self._reported[same] = now
        return True

    async def _send(self, event: LogEvent) -> None:
        reason = ""
        try:
            response = await self._pool.request(
                b"POST",
                self._address.origin,
                self._address.path,
                ((b"content-type", b"application/x-sentry-envelope"), (b"x-sentry-auth", self._address.auth)),
                write_envelope(event, uuid.uuid4().hex),
                timeouts=_TIMEOUTS,
            )
            try:
                await response.read(LIMIT)
            finally:
                response.close()
            if response.status >= 300:
                reason = str(response.status)
        except UpstreamError as exc:
            reason = type(exc).__name__
        if reason and not self._failing:
            self._log.warning("error_not_reported", reason=reason)
        self._failing = bool(reason)


def write_envelope(event: LogEvent, event_id: str) -> bytes:
    """`event_id`: 32 hexadecimal digits."""
    frames = event.fields.get("frames")
    fields: Mapping[str, object] = event.fields
    body: dict[str, Any] = {
        "event_id": event_id,
        "timestamp": event.at_ms / 1000,
        "platform": "python",
        "level": "error",
        "logger": "bluesminds",
        "release": f"bluesminds@{__version__}",
        "transaction": event.name,
        "tags": {name: str(fields[name])[:200] for name in _TAGS if fields.get(name)},
        "exception": {
            "values": [
                {
                    "type": str(fields.get("error", event.name)),
                    "value": event.name,
                    "stacktrace": {
                        "frames": [_frame(one) for one in (frames if isinstance(frames, list) else ())]
                    },
                }
            ]
        },
    }
    encode = msgspec.json.encode
    return b"\n".join((encode({"event_id": event_id}), encode({"type": "event"}), encode(body), b""))


def _frame(text: str) -> dict[str, object]:
    """Of `file:line:function`."""
    file, _, rest = text.partition(":")
    line, _, function = rest.partition(":")
    return {"filename": file, "lineno": int(line) if line.isdigit() else None, "function": function}


def _is_unexpected(event: LogEvent) -> bool:
    return event.level == "error" and "frames" in event.fields
