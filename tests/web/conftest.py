"""The gateway of the walk's own tests, and the people around it."""

import pytest

from tests.gateway.conftest import gateway, models
from tests.gateways import Gateway
from tests.web.people import Cast, assemble

__all__ = ["gateway", "models"]


@pytest.fixture
async def cast(gateway: Gateway) -> Cast:
    return await assemble(gateway)
