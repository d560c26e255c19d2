"""Builds the payment providers that are configured."""

from collections.abc import Mapping

from bluesminds.config import Secret, Settings
from bluesminds.http.client.pool import Pool
from bluesminds.payments.creem import LIVE_URL, TEST_KEY, TEST_URL, CreemProvider
from bluesminds.payments.http import ProviderApi
from bluesminds.payments.port import PaymentProvider
from bluesminds.payments.stripe import StripeProvider, stripe_headers


def payment_providers(settings: Settings, pool: Pool) -> Mapping[str, PaymentProvider]:
    """By name, in the order in which they are preferred. Raises ConfigError for a bad secret."""
    found: dict[str, PaymentProvider] = {}
    if key := _text(settings.stripe.api_key):
        api = ProviderApi.at(pool, settings.stripe.url, stripe_headers(key))
        found["stripe"] = StripeProvider(api, _text(settings.stripe.webhook_secret))
    if key := _text(settings.creem.api_key):
        url = settings.creem.url or (TEST_URL if key.startswith(TEST_KEY) else LIVE_URL)
        api = ProviderApi.at(pool, url, ((b"x-api-key", key.encode()),))
        secret, product = _text(settings.creem.webhook_secret), settings.creem.topup_product or ""
        found["creem"] = CreemProvider(api, secret, product)
    return found


def _text(secret: Secret | None) -> str:
    return "" if secret is None else secret.reveal().strip()
