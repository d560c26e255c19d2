"""Fixtures that every test may use."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory with a short path: a Unix socket will be in it."""
    with tempfile.TemporaryDirectory(prefix="bm-") as path:
        yield Path(path)
