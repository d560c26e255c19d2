"""Checks of `bluesminds doctor` for payment providers and sign-in services."""

from typing import Final

import trio
from msgspec import Struct

from bluesminds.app.identity import sign_in_clients
from bluesminds.app.payments import payment_providers
from bluesminds.common.clock import Clock
from bluesminds.config import Settings
from bluesminds.http.client.pool import Pool, tls_context
from bluesminds.identity.external import ProviderUnavailable, SignInAttempt, SignInClient
from bluesminds.payments.port import PaymentFailed, PaymentProvider

SECONDS: Final = 10.0
_SLOW: Final = f"no response within {SECONDS:g} s"


class ServiceCheck(Struct, frozen=True):
    """`problem` is empty if the service works. `warning` is about settings."""

    name: str
    problem: str
    fix: str
    warning: str = ""


async def check_services(settings: Settings, clock: Clock) -> list[ServiceCheck]:
    """Sends requests that change nothing. Raises ConfigError for a secret that cannot be read."""
    found: list[ServiceCheck] = []
    pool = Pool(tls=tls_context(settings.upstream.ca_file))
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        if settings.billing.enabled:
            found += [await _payments(one) for one in payment_providers(settings, pool).values()]
        for name, client in sign_in_clients(settings.identity, pool, clock).items():
            found.append(await _sign_in_service(name, client))
        nursery.cancel_scope.cancel()
    return found


async def _payments(provider: PaymentProvider) -> ServiceCheck:
    problem = _SLOW
    with trio.move_on_after(SECONDS):
        try:
            await provider.check()
            problem = ""
        except PaymentFailed as exc:
            problem = str(exc)
    warning = "" if provider.has_webhook else "webhook_secret is not set, so payments are found late"
    return ServiceCheck(f"payments {provider.name}", problem, f"correct [{provider.name}]", warning)


async def _sign_in_service(name: str, client: SignInClient) -> ServiceCheck:
    attempt = SignInAttempt(provider=name, state="-", nonce="-", verifier="-", redirect_uri="-", started_at=0)
    problem = _SLOW
    with trio.move_on_after(SECONDS):
        try:
            await client.authorization_url(attempt)
            problem = ""
        except ProviderUnavailable as exc:
            problem = str(exc)
    return ServiceCheck(f"sign-in {name}", problem, f'correct [[identity.providers]] "{name}"')
