"""Child processes of the benchmark: where they run, what they cost, how they end.

CPU time is read from the kernel's own clock of each process (nanoseconds, every thread, ended ones too),
because the counters in /proc move in steps of 10 ms.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

STOP_SECONDS = 40.0
_POLL_SECONDS = 0.02
_CPUCLOCK_SCHED = 2  # Linux: low bits of a process's clock id, above them the inverted process id


class BenchError(Exception):
    """The run cannot give a figure; the message says why."""


@contextlib.contextmanager
def pinned(position: int) -> Iterator[None]:
    """Keep processes started inside on one CPU, the `position`th we may use; without support, do nothing."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[position % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def start(
    command: Sequence[str], *, log: Path, environ: dict[str, str] | None = None, piped: bool = False
) -> subprocess.Popen[str]:
    """Start a child; standard error, and output unless `piped`, go to the end of `log`."""
    with log.open("a") as sink:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else sink,
            stderr=sink,
            env={**os.environ, **(environ or {})},
            text=True,
        )


def start_module(
    module: str, *arguments: str, log: Path, environ: dict[str, str] | None = None, piped: bool = False
) -> subprocess.Popen[str]:
    return start([sys.executable, "-m", module, *arguments], log=log, environ=environ, piped=piped)


def stop(process: subprocess.Popen[str]) -> int:
    """Ask with SIGTERM, insist with SIGKILL; the exit code."""
    process.terminate()
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    return code


def pause(process: subprocess.Popen[str], seconds: float = _POLL_SECONDS) -> None:
    """Wait a moment; BenchError as soon as the process has ended."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return
    raise BenchError(f"{process.args!r} ended with exit code {code}")


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time these processes have used so far."""
    return sum(_cpu_seconds(pid) for pid in pids)


def _cpu_seconds(pid: int) -> float:
    if sys.platform.startswith("linux"):
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    else:  # noqa: RET505 - the type checker skips the branch of the other platform only when it is a branch
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def rss_bytes(pids: Sequence[int]) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)
