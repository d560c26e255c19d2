"""Checks of [alerts]."""

from collections import Counter
from collections.abc import Iterator

from bluesminds.common.alerts import MAIL
from bluesminds.config.fields import display
from bluesminds.config.findings import Finding
from bluesminds.config.settings import Settings


def check_alerts(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    alerts = settings.alerts
    for key, names in (
        ("rules", [rule.name for rule in alerts.rules]),
        ("channels", [MAIL, *(channel.name for channel in alerts.channels)]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                message = f"{key} in [alerts]: two are named {display(name)}"
                yield Finding((("alerts", key),), message, "give each a unique name other than mail")
    known = {MAIL, *(channel.name for channel in alerts.channels)}
    for rule in alerts.rules:
        for name in rule.channels:
            if name not in known:
                message = f"rules in [alerts] {display(rule.name)}: there is no channel {display(name)}"
                yield Finding((("alerts", "rules"),), message, "add it to channels in [alerts], or use mail")
