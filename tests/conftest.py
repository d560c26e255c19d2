"""Fixtures that every test may use."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings

from tests.homes import temporary_home

TESTS = Path(__file__).resolve().parent
SERVERS = {"chromium", "postgres", "postgres_url"}  # fixtures, and a parameter, that start another process

# How long generating and testing an input takes depends on the machine, not on the product.
settings.register_profile(
    "search",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# The same examples in every run, so that only a change can make a test fail. `make search` tries new ones.
settings.register_profile("repeat", settings.get_profile("search"), derandomize=True)
settings.load_profile("repeat")


def pytest_sessionstart() -> None:
    """Import the tests without garbage collection, which would visit all new objects again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in tests/process and tests/load, and all tests that use Chromium or, outside of
    tests/storage, PostgreSQL. Other tests have the marker in their file.
    """
    for item in items:
        area = _area_of(item.path)
        if area in ("process", "load"):
            item.add_marker(area)
        if _servers_of(item) & ({"chromium"} if area == "storage" else SERVERS):
            item.add_marker("process")


@cache
def _area_of(path: Path) -> str:
    """The directory in tests/, or the module."""
    return path.relative_to(TESTS).parts[0]


def _servers_of(item: pytest.Item) -> set[object]:
    """The fixtures of a test and the values of its parameters."""
    used: set[object] = set(getattr(item, "fixturenames", ()))
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        used.update(value for value in item.callspec.params.values() if isinstance(value, str))
    return used


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show each test that failed and then passed when pytest-rerunfailures ran it again, with the failure."""
    if not config.getoption("reruns"):
        return
    stats = terminalreporter.stats
    passed = {report.nodeid for report in stats.get("passed", [])}
    flaky = [report for report in stats.get("rerun", []) if report.nodeid in passed]
    terminalreporter.section(f"flaky: {len(flaky)}")
    for report in flaky:
        terminalreporter.line(report.longreprtext)
        terminalreporter.line(report.nodeid)


@pytest.fixture(scope="session", autouse=True)
def default_hangup_handler() -> None:
    """Restore the default action of SIGHUP, because nohup makes this process and its children ignore it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as path:
        yield path


class Subtests:
    """`pytest.Subtests` for tests with Trio: when the test is cancelled, because a task of it has failed, the
    cases that are left do not run. pytest would report each of them as failed with trio.Cancelled.
    """

    def __init__(self, subtests: pytest.Subtests) -> None:
        self._subtests = subtests

    @contextmanager
    def test(self, msg: str | None = None, **values: object) -> Iterator[None]:
        __tracebackhide__ = True
        cancelled: BaseException | None = None
        with self._subtests.test(msg, **values):
            try:
                yield
            except (trio.Cancelled, BaseExceptionGroup) as exc:
                if isinstance(exc, BaseExceptionGroup) and exc.subgroup(trio.Cancelled) is None:
                    raise
                cancelled = exc
        if cancelled is not None:
            raise cancelled


@pytest.fixture
def subtests(subtests: pytest.Subtests) -> Subtests:
    return Subtests(subtests)
