"""Commands in this process hash passwords at a small cost."""

import inspect

import pytest

from bluesminds.app.services import open_services
from tests.gateways import CHEAP_HASHER


@pytest.fixture(autouse=True)
def cheap_hasher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of the tests have the real cost."""
    monkeypatch.setitem(inspect.unwrap(open_services).__kwdefaults__, "password_hasher", CHEAP_HASHER)
