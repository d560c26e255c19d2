"""Stripe (API version 2026-10-28.endive): checkout sessions, subscriptions, invoices, charges, webhooks.

Requests are forms with brackets for nested values. A payment is known by its payment intent, which checkout
sessions, invoices and charges name. Formats: https://docs.stripe.com/api and
https://docs.stripe.com/webhooks#verify-manually.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import structs

from bluesminds.payments.http import Json, ProviderApi, id_of, text_of
from bluesminds.payments.port import (
    BillingCustomer,
    Checkout,
    CheckoutRequest,
    CheckoutStatus,
    CustomerState,
    PaymentFailed,
    PaymentNotFound,
    PaymentState,
    ProviderEvent,
    SignatureInvalid,
    SubscriptionState,
    SubscriptionStatus,
)

URL: Final = "https://api.stripe.com"
VERSION: Final = "2026-10-28.endive"
TOLERANCE: Final = 300_000  # milliseconds
_PAGES: Final = 10  # of 100 objects, newest first
_STATES: Final[Mapping[str, SubscriptionStatus]] = {
    "incomplete": "incomplete",
    "incomplete_expired": "ended",
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "unpaid": "past_due",
    "canceled": "ended",
    "paused": "paused",
}
_LOST: Final = ("needs_response", "under_review", "lost", "appeal_needs_response", "appeal_under_review")


class StripeProvider:
    """`secret` of the webhook; "": there is no webhook."""

    name = "stripe"

    def __init__(self, api: ProviderApi, secret: str) -> None:
        self._api = api
        self._secret = secret

    @property
    def has_webhook(self) -> bool:
        return bool(self._secret)

    async def check(self) -> None:
        await self._api.get("/v1/subscriptions", {"limit": "1"})

    async def create_customer(self, customer: BillingCustomer) -> str:
        fields = {"email": customer.email, "name": customer.full_name, "metadata": {"user": customer.user_id}}
        return text_of(await self._post("/v1/customers", fields, key=f"customer:{customer.key}"), "id")

    async def has_customer(self, customer: str) -> bool:
        try:
            found = await self._api.get(_path("/v1/customers", customer))
        except PaymentNotFound:
            return False
        return not found.get("deleted")

    async def checkout(self, request: CheckoutRequest) -> Checkout:
        metadata = {"order": request.order_id}
        fields: Json = {
            "customer": request.customer,
            "client_reference_id": request.order_id,
            "success_url": f"{request.return_url}?order={request.order_id}",
            "cancel_url": request.return_url,
            "metadata": metadata,
        }
        if request.product:
            line: Json = {"price": request.product, "quantity": 1}
            fields |= {"mode": "subscription", "subscription_data": {"metadata": metadata}}
        else:
            price = {
                "currency": "usd",
                "unit_amount": request.amount_cents,
                "product_data": {"name": request.title},
            }
            line = {"price_data": price, "quantity": 1}
            fields |= {"mode": "payment", "payment_intent_data": {"metadata": metadata}}
        fields["line_items"] = [line]
        made = await self._post(
            "/v1/checkout/sessions", fields, key=f"checkout:{request.order_id}:{request.customer}"
        )
        return Checkout(text_of(made, "id"), text_of(made, "url"))

    async def expire_checkout(self, checkout_id: str) -> CheckoutStatus:
        session = await self._session(checkout_id)
        if session is not None and session.get("status") == "open":
            try:
                session = await self._post(_path("/v1/checkout/sessions", checkout_id) + "/expire", {})
            except PaymentFailed:  # it was paid or has expired meanwhile
                session = await self._session(checkout_id)
        status = "expired" if session is None else session.get("status")
        return "paid" if status == "complete" else "open" if status == "open" else "expired"

    async def customer_of(self, checkout_id: str) -> str:
        session = await self._session(checkout_id)
        return "" if session is None else id_of(session.get("customer"))

    async def _session(self, checkout_id: str) -> Json | None:
        try:
            return await self._api.get(_path("/v1/checkout/sessions", checkout_id))
        except PaymentNotFound:
            return None

    async def portal(self, customer: str, return_url: str) -> str:
        fields = {"customer": customer, "return_url": return_url}
        return text_of(await self._post("/v1/billing_portal/sessions", fields), "url")

    async def change_product(self, subscription: SubscriptionState, product: str, *, upgrade: bool) -> None:
        path = _path("/v1/subscriptions", subscription.id)
        items = _items(await self._api.get(path))
        fields: Json = {
            "items": [{"id": text_of(items[0], "id") if items else "", "price": product}],
            "proration_behavior": "always_invoice" if upgrade else "none",
        }
        if upgrade:  # without a payment the plan stays as it is
            fields["payment_behavior"] = "error_if_incomplete"
        await self._post(path, fields)

    async def cancel_at_end(self, subscription_id: str, *, cancel: bool) -> None:
        fields = {"cancel_at_period_end": "true" if cancel else "false"}
        await self._post(_path("/v1/subscriptions", subscription_id), fields)

    async def end_now(self, subscription_id: str) -> None:
        with suppress(PaymentNotFound):  # it has ended
            await self._api.call("DELETE", _path("/v1/subscriptions", subscription_id), b"", ())

    async def refund(self, payment_id: str) -> None:
        await self._post("/v1/refunds", {"payment_intent": payment_id}, key=f"refund:{payment_id}")

    async def read(self, customer: str, checkouts: Sequence[str]) -> CustomerState:
        found = {"customer": customer}
        charges = [one for one in await self._list("/v1/charges", found) if one.get("paid")]
        states = [await self._payment(one) for one in charges if id_of(one.get("payment_intent"))]
        payments = {payment.id: payment for payment in states}
        expand = {"expand[]": "data.payments"}
        for invoice in await self._list("/v1/invoices", found | {"status": "paid"} | expand):
            tax = sum(int(one.get("amount") or 0) for one in invoice.get("total_taxes") or ())
            for intent in _intents(invoice):
                _add(payments, intent, subscription=_invoice_subscription(invoice), tax_cents=tax)
        expired = []
        for checkout_id in checkouts:
            session = await self._session(checkout_id)
            if session is None or session.get("status") == "expired":
                expired.append(checkout_id)
            elif session.get("mode") == "payment" and session.get("payment_status") == "paid":
                tax = int((session.get("total_details") or {}).get("amount_tax") or 0)
                _add(payments, id_of(session.get("payment_intent")), checkout=checkout_id, tax_cents=tax)
        options = found | {"status": "all", "expand[]": "data.latest_invoice"}
        subscriptions = [_subscription(one) for one in await self._list("/v1/subscriptions", options)]
        return CustomerState(subscriptions, list(payments.values()), expired)

    async def read_payment(self, payment_id: str) -> PaymentState:
        for charge in await self._list("/v1/charges", {"payment_intent": payment_id}):
            if charge.get("paid"):
                return await self._payment(charge)
        raise PaymentNotFound("the payment has no charge")

    async def _payment(self, charge: Json) -> PaymentState:
        """`amount_refunded` does not contain what was disputed."""
        reversed_cents = int(charge.get("amount_refunded") or 0)
        if charge.get("disputed"):  # also after the dispute was won
            disputes = await self._list("/v1/disputes", {"charge": text_of(charge, "id")})
            lost = (one for one in disputes if one.get("status") in _LOST)
            reversed_cents += sum(int(one.get("amount") or 0) for one in lost)
        amount = int(charge.get("amount") or 0)
        return PaymentState(
            id=id_of(charge.get("payment_intent")),
            paid_cents=amount,
            currency=str(charge.get("currency")),
            at=int(charge.get("created") or 0) * 1000,
            reversed_cents=min(reversed_cents, amount),
        )

    async def _list(self, path: str, query: Mapping[str, str]) -> list[Json]:
        rows: list[Json] = []
        for _ in range(_PAGES):
            more = {"starting_after": text_of(rows[-1], "id")} if rows else {}
            page = await self._api.get(path, {**query, "limit": "100", **more})
            rows += page.get("data") or ()
            if not page.get("has_more"):
                break
        return rows

    async def _post(self, path: str, fields: Json, *, key: str = "") -> Json:
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        if key:
            headers.append((b"idempotency-key", key.encode()))
        return await self._api.call("POST", path, urlencode(list(_form(fields))).encode(), headers)

    def read_event(self, headers: Mapping[str, str], body: bytes, now: int) -> ProviderEvent:
        self._verify(headers.get("stripe-signature", ""), body, now)
        try:
            event = msgspec.json.decode(body, type=Json)
            about = event["data"]["object"]
            customer = about["id"] if about.get("object") == "customer" else id_of(about.get("customer"))
            order = (about.get("metadata") or {}).get("order") or ""
            payment = id_of(about.get("payment_intent"))
            return ProviderEvent(str(event["id"]), str(event["type"]), customer, str(order), payment)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as exc:
            raise SignatureInvalid("the event has an unknown format") from exc

    def _verify(self, header: str, body: bytes, now: int) -> None:
        """Raises SignatureInvalid."""
        parts = [part.strip().partition("=") for part in header.split(",")]
        at = next((value for name, _, value in parts if name == "t"), "")
        if not self._secret or not at.isdigit() or len(at) > 12:
            raise SignatureInvalid("the signature is missing")
        expected = hmac.new(self._secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
        given = [value for name, _, value in parts if name == "v1"]
        if not any(hmac.compare_digest(expected.encode(), value.encode()) for value in given):
            raise SignatureInvalid("the signature is wrong")
        if abs(now - int(at) * 1000) > TOLERANCE:
            raise SignatureInvalid("the event is too old")


def stripe_headers(api_key: str) -> Sequence[tuple[bytes, bytes]]:
    return ((b"authorization", f"Bearer {api_key}".encode()), (b"stripe-version", VERSION.encode()))


def _form(fields: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as pairs of a name with brackets and a value. Empty values are left out."""
    if isinstance(fields, dict | list):
        pairs = fields.items() if isinstance(fields, dict) else enumerate(fields)
        for key, value in pairs:
            yield from _form(value, f"{name}[{key}]" if name else str(key))
    elif fields not in ("", None):
        yield name, str(fields)


def _path(path: str, id_: str) -> str:
    return f"{path}/{quote(id_, safe='')}"


def _add(payments: dict[str, PaymentState], intent: str, **fields: Any) -> None:  # noqa: ANN401
    """Say what a payment was for."""
    if (payment := payments.get(intent)) is not None:
        payments[intent] = structs.replace(payment, **fields)


def _intents(invoice: Json) -> Iterator[str]:
    for one in (invoice.get("payments") or {}).get("data") or ():
        if intent := id_of((one.get("payment") or {}).get("payment_intent")):
            yield intent


def _invoice_subscription(invoice: Json) -> str:
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return id_of(details.get("subscription"))


def _items(subscription: Json) -> list[Json]:
    return list((subscription.get("items") or {}).get("data") or ())


def _subscription(found: Json) -> SubscriptionState:
    items = _items(found)
    item: Json = items[0] if items else {}
    invoice = found.get("latest_invoice")
    ended = found.get("ended_at")
    return SubscriptionState(
        id=text_of(found, "id"),
        order_id=str((found.get("metadata") or {}).get("order") or ""),
        product=id_of(item.get("price")),
        status=_STATES.get(str(found.get("status")), "incomplete"),
        period_start=int(item.get("current_period_start") or 0) * 1000,
        period_end=int(item.get("current_period_end") or 0) * 1000,
        paid=isinstance(invoice, dict) and invoice.get("status") == "paid",
        cancel_at_end=bool(found.get("cancel_at_period_end")),
        ends_at=None if ended is None else int(ended) * 1000,
    )
