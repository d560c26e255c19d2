"""Checks of [billing] and [[plans]]."""

from collections import Counter
from collections.abc import Iterator

from bluesminds.common.money import read_usd
from bluesminds.config.fields import display
from bluesminds.config.findings import Finding
from bluesminds.config.settings import CreemSettings, Settings, StripeSettings
from bluesminds.config.values import DeferredSecret


def check_billing(settings: Settings) -> Iterator[Finding]:
    billing = settings.billing
    if read_usd(billing.topup_min_usd) > read_usd(billing.topup_max_usd):
        yield Finding(
            (("billing", "topup_min_usd"), ("billing", "topup_max_usd")),
            "topup_min_usd in [billing] is above topup_max_usd",
            "raise topup_max_usd",
        )
    if settings.plans and not billing.enabled:
        yield Finding(
            (("plans",), ("billing", "enabled")),
            "[[plans]] has no effect while [billing] is not enabled",
            "set enabled = true in [billing], or remove the plans",
            warning=True,
        )
    if billing.enabled and not (billing.manual or settings.stripe.api_key or settings.creem.api_key):
        yield Finding(
            (("billing", "enabled"),),
            "[billing] is enabled, but there is no way to pay",
            "set api_key in [stripe] or [creem], or manual = true in [billing]",
            warning=True,
        )
    for section, found in (("stripe", settings.stripe), ("creem", settings.creem)):
        yield from _check_provider(section, found, enabled=billing.enabled)
    for name, count in sorted(Counter(plan.name for plan in settings.plans).items()):
        if count > 1:
            yield Finding(
                (("plans",),), f"two [[plans]] are named {display(name)}", "give each plan a unique name"
            )


def _check_provider(
    section: str, found: StripeSettings | CreemSettings, *, enabled: bool
) -> Iterator[Finding]:
    key, secret = (section, "api_key"), (section, "webhook_secret")
    given = [(name, getattr(found, name[1])) for name in (key, secret)]
    for name, value in given:
        if value is not None and not isinstance(value, DeferredSecret) and not value.reveal().strip():
            yield Finding(
                (name,),
                f"{name[1]} in [{section}] is empty",
                "copy it from the dashboard of the provider, or remove the setting",
            )
    if found.api_key is not None and found.webhook_secret is None:
        yield Finding(
            (key, secret),
            f"webhook_secret in [{section}] is not set, so the provider cannot report payments",
            "set it; without it, payments are only found by the regular reconciliation",
            warning=True,
        )
    if found.webhook_secret is not None and found.api_key is None:
        yield Finding((secret, key), f"webhook_secret in [{section}] needs api_key", "set api_key")
    if found.api_key is not None and not enabled:
        yield Finding(
            (key, ("billing", "enabled")),
            f"api_key in [{section}] has no effect while [billing] is not enabled",
            "set enabled = true in [billing]",
            warning=True,
        )
