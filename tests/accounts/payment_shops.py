"""A billing service with the servers of both providers."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.common.networks import Networks
from bluesminds.http.client.pool import AddressPolicy, Pool
from bluesminds.payments.creem import CreemProvider
from bluesminds.payments.http import ProviderApi
from bluesminds.payments.stripe import StripeProvider, stripe_headers
from storage.billing import PaymentRow
from tests.accounts.billing_sites import BillingSite, billing_site
from tests.fakes import payment_server
from tests.fakes.payment_server import KEY, SECRET, CreemServer, StripeServer


@dataclass
class Shop:
    """A billing service and the servers of both providers. `name`: the one that the test is about."""

    site: BillingSite
    stripe: StripeServer
    creem: CreemServer
    name: str = "stripe"

    @property
    def server(self) -> Any:
        return self.stripe if self.name == "stripe" else self.creem

    async def order(self, plan: str | None = None, cents: int | None = None) -> str:
        """The id of a new checkout."""
        placed = await self.site.billing.orders.place(
            OPERATOR, self.site.member.id, plan=plan, cents=cents, provider=self.name
        )
        assert placed.url.startswith("https://")
        return placed.order.checkout_id

    async def deliver(self) -> None:
        """Deliver all events, in order."""
        events, self.server.events[:] = list(self.server.events), []
        for headers, body in events:
            await self.site.billing.reconciliation.handle(self.name, headers, body)

    async def payments(self) -> Sequence[PaymentRow]:
        """Newest first."""
        return await self.site.billing.payments.list(self.site.member.id, before="", limit=100)

    async def buy(self, plan: str | None = None, cents: int | None = None) -> None:
        self.server.pay(await self.order(plan, cents))
        await self.deliver()


@asynccontextmanager
async def open_shop(home: Path, name: str = "stripe", url: str | None = None) -> AsyncIterator[Shop]:
    async with trio.open_nursery() as nursery:
        pool = Pool(policy=AddressPolicy(Networks.read(("127.0.0.0/8",))))
        await nursery.start(pool.run)
        stripe_server = await nursery.start(payment_server.serve_stripe)
        creem_server = await nursery.start(payment_server.serve_creem)
        stripe_api = ProviderApi.at(pool, stripe_server.url, stripe_headers(KEY))
        creem_api = ProviderApi.at(pool, creem_server.url, ((b"x-api-key", KEY.encode()),))
        providers = {
            "stripe": StripeProvider(stripe_api, SECRET),
            "creem": CreemProvider(creem_api, SECRET, "prod_credit"),
        }
        async with billing_site(home, providers, url) as site:
            yield Shop(site, stripe_server, creem_server, name)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["stripe", "creem"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path, request.param) as found:
        yield found
