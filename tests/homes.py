"""Directories for gateways."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.secrets_found import found_below


@contextmanager
def temporary_home() -> Iterator[Path]:
    """An empty directory with a short path, because it will contain a Unix socket. It must not contain a
    secret in the end.
    """
    with tempfile.TemporaryDirectory(prefix="bm-") as path:
        yield Path(path)
        leaked = found_below(Path(path))
    assert not leaked, leaked
