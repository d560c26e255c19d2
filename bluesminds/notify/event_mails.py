"""Mails that events cause: to the user of the event, or to all administrators.

A consumer of the dispatcher of events: the mails are inserted in the transaction that marks the event, so
that each event causes its mails once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from bluesminds.common.clock import zone_or_utc
from bluesminds.notify.mail_groups import MailGroup, OptOutLinks
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from storage.base import Connection
from storage.events import EventRow
from storage.mail_preferences import select_mail_preferences
from storage.users import UserRow, select_mailed_admins, select_user

Data = Mapping[str, Any]
Values = Mapping[str, object]


class EventMail(Struct, frozen=True):
    """`group` is None for a mail that cannot be turned off. `values` gives the variables of the template, or
    None for an event that causes no mail. It gets the data of the event, the base URL, and a function that
    formats times for the recipient. `attachment`: what is attached, see `Mail`.
    """

    template: str
    group: MailGroup | None
    values: Callable[[Data, str, Callable[[object], str]], Values | None]
    attachment: Callable[[Data], str] | None = None


class EventMails:
    """`zone` is the time zone of users that have chosen none."""

    def __init__(
        self, outbox: MailOutbox, templates: MailTemplates, links: OptOutLinks, *, zone: str
    ) -> None:
        self._outbox = outbox
        self._templates = templates
        self._links = links
        self._zone = zone

    async def consume(self, connection: Connection, event: EventRow) -> None:
        """Part of a transaction."""
        mail = EVENT_MAILS.get(event.kind)
        if mail is None:
            return
        data = msgspec.json.decode(event.data) | {"at": _iso(event.at)}
        for user in await _recipients(connection, event):
            await self._insert(connection, mail, user, data)

    async def _insert(self, connection: Connection, mail: EventMail, user: UserRow, data: Data) -> None:
        preferences = await select_mail_preferences(connection, user.id)
        if mail.group in preferences.turned_off or user.email is None:
            return
        zone = zone_or_utc(preferences.time_zone or self._zone)
        values = mail.values(data, self._templates.base_url, lambda text: format_mail_time(text, zone))
        if values is None:
            return
        opt_out = "" if mail.group is None else self._links.url(user.id, mail.group)
        rendered = self._templates.render(mail.template, user.email, {**values, "opt_out": opt_out})
        if mail.attachment is not None:
            rendered = structs.replace(rendered, attachment=mail.attachment(data))
        await self._outbox.insert(connection, rendered)


async def _recipients(connection: Connection, event: EventRow) -> Sequence[UserRow]:
    if event.account_id is None:
        return await select_mailed_admins(connection)
    user = await select_user(connection, event.account_id)
    if user is None or user.email is None or user.email_verified_at is None or user.disabled_at is not None:
        return ()
    return (user,)


def format_mail_time(text: object, zone: tzinfo) -> str:
    """Minutes of a time in the format of the API, with its zone. "" without a time."""
    if not isinstance(text, str):
        return ""
    try:
        return f"{datetime.fromisoformat(text).astimezone(zone):%Y-%m-%d %H:%M %Z}"
    except ValueError:
        return text


def format_mail_usd(text: object) -> str:
    """Two decimals of an amount such as "1.5". "" without an amount."""
    try:
        return "" if text is None else f"${Decimal(str(text)):,.2f}"
    except InvalidOperation:
        return str(text)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat()


def _nothing(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {}


def _key(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {
        "name": data["name"],
        "key": f"{data['prefix']}...{data['last4']}",
        "at": time(data["at"]),
        "expires_at": time(data.get("expires_at")),
    }


def _sign_in(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {"browser": data["user_agent"], "address": data["address"], "at": time(data["at"])}


def _limit(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    is_money = str(data["limit_name"]).startswith("usd_")
    write = format_mail_usd if is_money else lambda value: f"{value:,}"
    return {
        "subject": "An API key of your account" if data.get("key_id") else "Your account",
        "percent": data["share"],
        "budget": f"{data['limit_name']} {data['period']}",
        "used": write(data["used"]),
        "limit": write(data["limit"]),
    }


def _credit(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {"balance": format_mail_usd(data.get("balance_usd"))}


def _payment(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    amount = f"{data['amount']} {str(data.get('currency', '')).upper()}".strip() if "amount" in data else ""
    return {
        "amount": amount,
        "what": data.get("title") or data.get("plan") or "",
        "until": time(data.get("until")),
    }


def _failed_payment(data: Data, base_url: str, time: Callable[[object], str]) -> Values | None:
    # A payment of another amount than the order is for operators: the user cannot correct it. A second
    # subscription is refunded.
    return None if data.get("reason") in ("mismatch", "duplicate") else _payment(data, base_url, time)


def _reminder(data: Data, base_url: str, time: Callable[[object], str]) -> Values | None:
    """The failure itself has caused a mail already."""
    if not data.get("reminder"):
        return None
    return _payment(data, base_url, time)


def _trial(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {"ends_at": time(data.get("ends_at")), "credit": format_mail_usd(data.get("credit_usd"))}


def _invoice(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    cents, currency = data.get("total_cents"), str(data.get("currency", "")).upper()
    amount = "" if cents is None else f"{Decimal(cents) / 100:,.2f} {currency}".strip()
    return {
        "title": "Credit note" if data.get("kind") == "credit_note" else "Invoice",
        "number": data.get("number", ""),
        "amount": amount,
        "link": f"{base_url}/dashboard/billing",
    }


def _server(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {"server": data["server"], "reason": data.get("reason", ""), "at": time(data["at"])}


def _week(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {
        **{name: data[name] for name in ("begins", "ends")},
        **{name: f"{data[name]:,}" for name in ("requests", "failed", "tokens")},
        "cost": format_mail_usd(data["cost_usd"]),
        "cost_before": format_mail_usd(data["cost_before_usd"]),
        "models": [(one["model"], format_mail_usd(one["cost_usd"])) for one in data["models"]],
    }


def _webhook(data: Data, base_url: str, time: Callable[[object], str]) -> Values:
    return {"url": data["url"], "reason": data["reason"]}


def _alert(data: Data, base_url: str, time: Callable[[object], str]) -> Values | None:
    if not data.get("mail"):
        return None
    return {"rule": data["rule"], "text": data["text"], "since": time(data.get("since"))}


EVENT_MAILS: Final[Mapping[str, EventMail]] = MappingProxyType(
    {
        "user.created": EventMail("welcome", None, _nothing),
        "key.created": EventMail("key_created", "keys", _key),
        "key.expiring": EventMail("key_expiring", "keys", _key),
        "sign_in.new": EventMail("new_sign_in", "sign_ins", _sign_in),
        "usage.threshold": EventMail("budget_alert", "usage", _limit),
        "usage.weekly": EventMail("weekly_summary", "weekly_summary", _week),
        "budget.alert": EventMail("budget_alert", "usage", _limit),
        "credit.low": EventMail("credit_low", "usage", _credit),
        "payment.succeeded": EventMail("payment_succeeded", None, _payment),
        "payment.failed": EventMail("payment_failed", None, _failed_payment),
        "subscription.past_due": EventMail("payment_failed", None, _reminder),
        "trial.started": EventMail("trial_started", None, _trial),
        "trial.ending": EventMail("trial_ending", None, _trial),
        "trial.ended": EventMail("trial_ended", None, _trial),
        "invoice.created": EventMail("invoice", None, _invoice, lambda data: f"invoice:{data['invoice']}"),
        "webhook.disabled": EventMail("webhook_disabled", None, _webhook),
        "server.down": EventMail("server_down", "servers", _server),
        "server.recovered": EventMail("server_recovered", "servers", _server),
        "alert.firing": EventMail("alert_firing", "servers", _alert),
        "alert.resolved": EventMail("alert_resolved", "servers", _alert),
    }
)
