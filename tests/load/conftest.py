"""Figures are printed beside the bound of the specification. No test fails because of a figure."""

import resource
from collections.abc import Iterator

import pytest

from tests.gateway.conftest import models

__all__ = ["descriptors", "models"]


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many file descriptors as the system allows, for this process and those that it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
