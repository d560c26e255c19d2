"""Made-up values for previews of mails, by template."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_KEY: Final = {"name": "laptop", "key": "bm_Ab12...wxyz"}
_AT: Final = "2026-11-28 09:30 UTC"

SAMPLES: Final[Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "account_exists": {},
        "alert_firing": {"rule": "errors", "text": "12 % of requests failed.", "since": _AT},
        "alert_resolved": {"rule": "errors", "text": "1 % of requests failed.", "since": _AT},
        "budget_alert": {
            "subject": "Your account",
            "percent": 80,
            "budget": "November",
            "used": "$80.00",
            "limit": "$100.00",
        },
        "credit_low": {"balance": "$1.50"},
        "email_changed": {},
        "invite": {},
        "invoice": {"title": "Invoice", "number": "2026-000123", "amount": "$29.00"},
        "key_created": {**_KEY, "at": _AT},
        "key_expiring": {**_KEY, "expires_at": "2026-12-05 09:30 UTC"},
        "new_sign_in": {"browser": "Firefox on Linux", "address": "203.0.113.7", "at": _AT},
        "password_changed": {},
        "payment_failed": {"amount": "$29.00", "what": "the plan starter", "until": "2026-12-05"},
        "payment_succeeded": {"amount": "$29.00", "what": "the plan starter"},
        "reset_password": {},
        "server_down": {"server": "one", "reason": "connection refused", "at": _AT},
        "server_recovered": {"server": "one", "at": _AT},
        "sign_in_code": {"code": "12345678", "provider": "Google"},
        "test": {},
        "trial_ended": {},
        "trial_ending": {"ends_at": "2026-12-01 09:30 UTC"},
        "trial_started": {"ends_at": "2026-12-01 09:30 UTC", "credit": "$10.00"},
        "verify_email": {},
        "webhook_disabled": {"url": "https://hooks.example/in", "reason": "The last attempt failed."},
        "weekly_summary": {
            "begins": "2026-11-16",
            "ends": "2026-11-22",
            "requests": "1,234",
            "failed": "5",
            "tokens": "2,345,678",
            "cost": "$12.34",
            "cost_before": "$10.00",
            "models": [("gpt-5", "$8.00"), ("claude-sonnet-5", "$4.34")],
        },
        "welcome": {},
    }
)
OPTIONAL: Final = frozenset(
    (
        *("alert_firing", "alert_resolved", "budget_alert", "credit_low", "key_created", "key_expiring"),
        *("new_sign_in", "server_down", "server_recovered", "weekly_summary"),
    )
)
"""Mails with a link that stops them."""
