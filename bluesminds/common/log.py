"""Structured logging: one line per event, as JSON or text.

Values are encoded, never interpolated, so control characters in client text cannot start a new line. Callers
name each field; no function takes whole headers, bodies or settings, so that no secret is logged by accident.
"""

import contextlib
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

import msgspec
from msgspec import Struct

from bluesminds.common.broadcast import Broadcast
from bluesminds.common.clock import Clock

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# DEL and the C1 control characters: JSON does not escape them, and some terminals interpret them.
_TERMINAL_CONTROLS = dict.fromkeys(range(0x7F, 0xA0), "\ufffd")
_MAX_TEXT = 2000  # characters per field
RECENT_EVENTS = 1000

Write = Callable[[bytes], object]


def write_stderr(line: bytes) -> None:
    """One system call per line, for commands. Ignores a closed stderr."""
    with contextlib.suppress(OSError):
        os.write(2, line)


class LineWriter:
    """Writes lines in a separate thread, so that a slow or closed reader does not block the event loop.

    A context manager; at exit the queued lines are written, for at most FLUSH_SECONDS. When MAX_LINES are
    queued, new lines are dropped, and a `log_lines_dropped` event reports their number. Lines wait up to
    BATCH_SECONDS, so that one system call writes many.
    """

    MAX_LINES = 10_000
    BATCH_SECONDS = 0.02
    FLUSH_SECONDS = 2.0

    def __init__(self, descriptor: int = 2) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._work = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def __call__(self, line: bytes) -> None:
        if len(self._lines) >= self.MAX_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if not self._work.is_set():
            self._work.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._work.set()
        self._thread.join(self.FLUSH_SECONDS)

    def _run(self) -> None:
        while self._lines or not self._closing.is_set():
            self._work.wait()
            self._closing.wait(self.BATCH_SECONDS)
            self._work.clear()
            self._write_all()

    def _write_all(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines.append(b'{"level":"warning","event":"log_lines_dropped","count":%d}\n' % dropped)
        rest = memoryview(b"".join(lines))
        with contextlib.suppress(OSError):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class LogEvent(Struct, frozen=True):
    """One event. `at_ms` is Unix time in milliseconds."""

    at_ms: int
    level: str
    name: str
    fields: dict[str, object]

    def to_json(self) -> bytes:
        """One line."""
        return _json_line(self.at_ms, self.level, self.name, self.fields)


class Log:
    """`log.info("request", status=200)`. Levels: debug, info, warning, error. Any thread may log. `followers`
    get each new event.
    """

    def __init__(
        self, clock: Clock, *, level: str = "info", json: bool = True, write: Write = write_stderr
    ) -> None:
        self._clock = clock
        self._threshold = LEVELS[level]
        self._render = _json_line if json else _text_line
        self._write = write
        self._recent: deque[LogEvent] = deque(maxlen=RECENT_EVENTS)
        self.followers: Broadcast[LogEvent] = Broadcast()

    @property
    def recent(self) -> Sequence[LogEvent]:
        """The last events. A copy, because a thread may log while it is read."""
        return tuple(self._recent)

    def set_level(self, level: str) -> None:
        self._threshold = LEVELS[level]

    def debug(self, event: str, **fields: object) -> None:
        self._emit("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._emit("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._emit("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._emit("error", event, fields)

    def exception(self, event: str, exc: BaseException, **fields: object) -> None:
        """An unexpected error with the file, line and function of each frame.

        The exception's message is not logged, because libraries put their arguments into it.
        """
        frames = [
            f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}:{frame.name}"
            for frame in traceback.extract_tb(exc.__traceback__)
        ]
        self._emit("error", event, {**fields, "error": type(exc).__name__, "frames": frames[-20:]})

    def _emit(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS[level] >= self._threshold:
            found = LogEvent(self._clock.now_ms(), level, event, fields)
            self._write(self._render(found.at_ms, level, event, fields))
            self._recent.append(found)
            self.followers.publish(found)


_encoder = msgspec.json.Encoder(enc_hook=str)


def _json_line(now_ms: int, level: str, event: str, fields: dict[str, object]) -> bytes:
    record: dict[str, object] = {"time": _timestamp(now_ms), "level": level, "event": event}
    for name, value in fields.items():
        if type(value) is int or (type(value) is str and len(value) <= _MAX_TEXT and value.isascii()):
            record[name] = value
        else:
            record[name] = _bounded(value)
    return _encoder.encode(record) + b"\n"


def _text_line(now_ms: int, level: str, event: str, fields: dict[str, object]) -> bytes:
    pairs = " ".join(
        f"{name}={_encoder.encode(_bounded(value)).decode()}"
        for name, value in fields.items()
        if value is not None
    )
    line = f"{_timestamp(now_ms)[11:23]} {level:<7} {event} {pairs}".rstrip()
    return line.translate(_TERMINAL_CONTROLS).encode() + b"\n"


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return value[:_MAX_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, list | tuple):
        return [_bounded(item) for item in value]
    if isinstance(value, dict):
        return {_bounded(name): _bounded(item) for name, item in value.items()}
    return value


def _timestamp(now_ms: int) -> str:
    second, thousandths = divmod(now_ms, 1000)
    return f"{_date_and_time(second)}.{thousandths:03}Z"


@lru_cache(maxsize=1)
def _date_and_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


class LibraryLog(logging.Handler):
    """Forwards the warnings of libraries from the standard logging module.

    Only the message and the logger's name are logged: the text of an exception may contain a secret.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(level=logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.warning("library", logger=record.name, message=record.getMessage())
