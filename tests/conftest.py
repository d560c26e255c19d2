"""Fixtures that every test may use."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent

# How long generating and testing an input takes depends on the machine, not on the product.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests in tests/process and tests/load; single tests elsewhere carry the marker themselves."""
    for item in items:
        for tier in ("process", "load"):
            if TESTS / tier in item.path.parents:
                item.add_marker(tier)


@pytest.fixture(scope="session", autouse=True)
def hangup_as_usual() -> None:
    """Under nohup, the tests and the gateways they start would ignore SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory with a short path, because it will contain a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="bm-") as path:
        yield Path(path)
