"""Checks of [billing] and [[plans]]."""

from collections import Counter
from collections.abc import Iterator

from bluesminds.common.money import read_usd
from bluesminds.config.fields import display
from bluesminds.config.findings import Finding
from bluesminds.config.settings import Settings


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
    for name, count in sorted(Counter(plan.name for plan in settings.plans).items()):
        if count > 1:
            yield Finding(
                (("plans",),), f"two [[plans]] are named {display(name)}", "give each plan a unique name"
            )
