"""The benchmark measures what it says: memory within the window, in a fair order, held to its targets."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bench.__main__ import rotated
from bench.client import Load, Plan
from bench.report import TARGETS, Row, targets
from bench.usage import build_sqlite

ONE = 1024 * 1024


@contextlib.contextmanager
def upstream() -> Iterator[tuple[int, int]]:
    """The benchmark's own upstream: its process id and its port."""
    command = (sys.executable, "-m", "bench.upstream")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def test_phase_reports_memory_of_its_window() -> None:
    with upstream() as (pid, port):
        plan = Plan("c1", port, "none", warm_up=0.05, window=0.2, pids=(pid,))
        report = Load(plan).run()
    assert 5 * ONE < report.rss_bytes < 500 * ONE
    assert report.cpu_seconds > 0
    assert report.answered >= report.requests > 0


def test_every_round_begins_with_another_subject() -> None:
    orders = [rotated("abcd", number) for number in range(5)]
    assert ["".join(order) for order in orders] == ["abcd", "bcda", "cdab", "dabc", "abcd"]


def row(cpu_us: float, rss_mb: float = 1.0) -> Row:
    return Row(rps=1.0, cpu_us=cpu_us, p50_ms=0.0, p99_ms=0.0, rss_mb=rss_mb)


@pytest.mark.parametrize(
    ("gateway", "verdicts"),
    [
        (row(100, 119.9), ["met", "met", "met"]),
        (row(101, 120.0), ["missed", "met", "missed"]),
        (row(401, 1.0), ["missed", "missed", "met"]),
    ],
)
def test_targets_are_met_or_missed(gateway: Row, verdicts: list[str]) -> None:
    lines = list(targets({"c32": {"gateway": gateway, "fastapi": row(700), "nginx": row(20)}}))
    assert [line.split(": ")[1].split()[0] for line in lines] == verdicts


def test_target_without_figure_is_not_judged() -> None:
    assert list(targets({})) == list(targets({"c32": {"nginx": row(1)}})) == []
    assert len(list(targets({"c32": {"gateway": row(1)}}))) == 1
    streams = {"gateway": row(4), "nginx": row(1)}
    lines = list(targets({"s50": streams, "s200": streams}))
    assert [line.split(" CPU")[0] for line in lines[:2]] == ["target s50", "target s200"]
    assert len(TARGETS) == 3


def test_routed_requests_have_a_target() -> None:
    (line, _) = targets({"c32": {"gateway": row(100)}, "r32": {"gateway": row(119)}})
    assert line == "target r32 CPU at most 1.2 x c32: met (1.19)"


def test_usage_benchmark_fills_all_columns_of_the_log(tmp_path: Path) -> None:
    path = tmp_path / "bench.db"
    build_sqlite(path, 100)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (100,)
        assert database.execute("SELECT sum(requests) FROM usage_key_daily").fetchone() == (100,)
