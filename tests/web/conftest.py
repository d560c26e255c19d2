"""The gateway of the walk's own tests."""

from tests.gateway.conftest import gateway, models

__all__ = ["gateway", "models"]
