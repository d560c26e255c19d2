"""A gateway with one model server, and callers of a gateway on each engine."""

from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.deployment import Callers, create_callers
from tests.fakes.model_server import ModelServer
from tests.gateway.conftest import gateway, models
from tests.gateways import entry
from tests.storage.conftest import postgres, postgres_url

__all__ = ["gateway", "models", "postgres", "postgres_url"]


@pytest.fixture(params=["sqlite", "postgres"])
async def callers(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer
) -> Callers:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    servers = [entry("one", models.url, api_key="sk-upstream", passthrough=True)]
    vendor_keys = {"urls": {"openai": "http://127.0.0.1:9/v1"}}  # no test calls a real vendor
    billing = {"enabled": True, "manual": True}
    creem = {"api_key": "creem_test_x", "webhook_secret": "secret"}
    mail = {"webhook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    return await create_callers(
        await gateways.start(
            nursery,
            home,
            servers=servers,
            storage=storage,
            vendor_keys=vendor_keys,
            billing=billing,
            creem=creem,
            mail=mail,
        )
    )
