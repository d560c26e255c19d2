"""Every event is one line, whatever its values are."""

import json
import os
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.log import LineWriter, Log

HELLO = """
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import LineWriter, Log
Log(SystemClock()).info("hello", a="b")
"""


class Noon:
    def now_ms(self) -> int:
        return 1_800_000_000_123


def logged(*, as_json: bool = True, level: str = "info") -> tuple[Log, list[bytes]]:
    lines: list[bytes] = []
    return Log(Noon(), level=level, json=as_json, write=lines.append), lines


any_text = st.text() | st.sampled_from(
    ["\n", "\r\n", "\x1b[2J", "\x00", "\u2028", "\ud800", "\x85", "a" * 5000]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(values)
def test_log_any_value_is_one_line_of_json(value: object) -> None:
    log, lines = logged()
    log.info("event", value=value, other=1)
    (line,) = lines
    assert line.endswith(b"\n")
    assert not any(byte < 32 for byte in line[:-1])
    record = json.loads(line)
    assert record["time"] == "2027-01-15T08:00:00.123Z"
    assert (record["level"], record["event"], record["other"]) == ("info", "event", 1)
    assert len(line) < 10_000 * (1 + str(value).count("a" * 5000))


@given(values)
def test_log_any_value_is_one_line_of_text(value: object) -> None:
    log, lines = logged(as_json=False)
    log.warning("event", value=value)
    (line,) = lines
    assert line.startswith(b"08:00:00.123 warning event")
    assert not any(unicodedata.category(char) == "Cc" for char in line[:-1].decode())
    assert line.endswith(b"\n")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_log_level_drops_lower_levels(level: str, count: int) -> None:
    log, lines = logged(level=level)
    for emit in (log.debug, log.info, log.warning, log.error):
        emit("event")
    assert len(lines) == count


def test_log_grows_while_its_recent_events_are_read() -> None:
    log, _ = logged()
    log.info("first")
    for event in log.recent:
        log.info(f"after {event.name}")
    assert [event.name for event in log.recent] == ["first", "after first"]


def test_log_exception_has_frames_and_no_message() -> None:
    log, lines = logged()
    secret = "sk-secret"
    try:
        int(secret)
    except ValueError as exc:
        log.exception("failed", exc, request_id="r")
    assert b"sk-secret" not in lines[0]
    record = json.loads(lines[0])
    assert (record["error"], record["request_id"]) == ("ValueError", "r")
    assert record["frames"][0].startswith("test_log.py:")
    assert record["frames"][0].endswith("test_log_exception_has_frames_and_no_message")
    assert not any(os.sep in frame for frame in record["frames"])


def test_log_long_text_is_truncated() -> None:
    log, lines = logged()
    log.info("event", value="x" * 100_000)
    assert len(lines[0]) < 3000


@pytest.mark.process
def test_write_stderr_process_gets_whole_lines() -> None:
    done = subprocess.run([sys.executable, "-c", HELLO], capture_output=True, check=True)
    assert json.loads(done.stderr)["a"] == "b"
    assert done.stdout == b""


def test_line_writer_many_lines_arrive_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineWriter, "FLUSH_SECONDS", 60)  # the machine may be slow
    reader, writer = os.pipe()
    with open(reader, "rb") as arrived:
        with LineWriter(writer) as write:
            for n in range(5000):
                write(b"%d\n" % n)
            os.set_blocking(reader, True)
            collector = threading.Thread(target=lambda: lines.extend(arrived))
            lines: list[bytes] = []
            collector.start()
        os.close(writer)
        collector.join(60)
    assert lines == [b"%d\n" % n for n in range(5000)]


def wait_until(check: Callable[[], bool]) -> None:
    """Poll for at most 60 s; the log's thread has no event to wait for."""
    give_up = time.monotonic() + 60
    while not check():
        assert time.monotonic() < give_up
        threading.Event().wait(0.001)


def test_line_writer_closed_reader_is_ignored() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with LineWriter(writer) as write:
        for _ in range(3):  # the thread continues after an error
            write(b"lost\n")
            wait_until(lambda: not write._lines)
    os.close(writer)


def test_line_writer_stalled_reader_gets_the_number_of_dropped_lines() -> None:
    reader, writer = os.pipe()
    line = b"x" * 1000 + b"\n"
    got: list[bytes] = []

    def collect() -> None:
        with open(reader, "rb") as arrived:
            got.extend(arrived)

    with LineWriter(writer) as write:
        # The thread blocks in a full pipe after it has taken at most one batch from the queue.
        for _ in range(2 * LineWriter.MAX_LINES + 2000):
            write(line)
        assert len(write._lines) <= LineWriter.MAX_LINES
        collector = threading.Thread(target=collect)
        collector.start()
        wait_until(lambda: any(b"log_lines_dropped" in entry for entry in got))
    os.close(writer)
    collector.join(60)
