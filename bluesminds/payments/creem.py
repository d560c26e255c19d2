"""Creem, a merchant of record: checkouts, subscriptions, transactions, webhooks.

Requests and responses are JSON with names in snake_case. A payment is known by its transaction. Formats:
https://docs.creem.io/api-reference and https://docs.creem.io/code/webhooks. Events have the signature
`creem-signature`, or the three headers of https://www.standardwebhooks.com.
"""

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final
from urllib.parse import quote

import msgspec

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

LIVE_URL: Final = "https://api.creem.io"
TEST_URL: Final = "https://test-api.creem.io"
TEST_KEY: Final = "creem_test_"
TOLERANCE: Final = 300_000  # milliseconds
_PAGES: Final = 10  # of 100 objects
_STATES: Final[Mapping[str, SubscriptionStatus]] = {
    "active": "active",
    "scheduled_cancel": "active",
    "trialing": "trialing",
    "past_due": "past_due",
    "unpaid": "past_due",
    "expired": "past_due",  # the period has ended without a payment; Creem tries again
    "paused": "paused",
    "canceled": "ended",
}
_PAID: Final = ("paid", "refunded", "partialRefund", "chargedBack", "chargeback")
_CHARGED_BACK: Final = ("chargedBack", "chargeback")


class CreemProvider:
    """`topup_product`: the product for credit, whose price is set for each checkout. `secret` of the webhook;
    "": there is no webhook.
    """

    name = "creem"

    def __init__(self, api: ProviderApi, secret: str, topup_product: str) -> None:
        self._api = api
        self._secret = secret
        self._topup_product = topup_product

    @property
    def has_webhook(self) -> bool:
        return bool(self._secret)

    async def check(self) -> None:
        await self._api.get("/v1/transactions/search", {"page_number": "1", "page_size": "1"})

    async def create_customer(self, customer: BillingCustomer) -> str:
        """A customer with this address may exist already, because Creem keeps one for each address."""
        name = customer.full_name or customer.email.partition("@")[0]  # it is required
        fields = {"email": customer.email, "name": name, "external_id": customer.user_id}
        try:
            made = await self._post("/v1/customers", fields)
        except PaymentFailed:
            made = await self._api.get("/v1/customers", {"email": customer.email})
        return text_of(made, "id")

    async def has_customer(self, customer: str) -> bool:
        try:
            await self._api.get("/v1/customers", {"customer_id": customer})
        except PaymentNotFound:
            return False
        return True

    async def checkout(self, request: CheckoutRequest) -> Checkout:
        fields: Json = {
            "product_id": request.product or self._topup_product,
            "request_id": request.order_id,
            "customer": {"id": request.customer},
            "success_url": request.return_url,
            "metadata": {"order": request.order_id},
        }
        if not request.product:
            if not self._topup_product:
                raise PaymentFailed("topup_product in [creem] is not set, so no credit can be sold")
            fields["custom_price"] = request.amount_cents
        made = await self._post("/v1/checkouts", fields)
        return Checkout(text_of(made, "id"), text_of(made, "checkout_url"))

    async def expire_checkout(self, checkout_id: str) -> CheckoutStatus:
        """Creem has no call for this."""
        found = await self._checkout(checkout_id)
        status = "expired" if found is None else found.get("status")
        return "paid" if status == "completed" else "expired" if status == "expired" else "open"

    async def customer_of(self, checkout_id: str) -> str:
        found = await self._checkout(checkout_id)
        return id_of(found.get("customer")) if found and found.get("status") == "completed" else ""

    async def _checkout(self, checkout_id: str) -> Json | None:
        try:
            return await self._api.get("/v1/checkouts", {"checkout_id": checkout_id})
        except PaymentNotFound:
            return None

    async def portal(self, customer: str, return_url: str) -> str:
        return text_of(
            await self._post("/v1/customers/billing", {"customer_id": customer}), "customer_portal_link"
        )

    async def change_product(self, subscription: SubscriptionState, product: str, *, upgrade: bool) -> None:
        behavior = "proration-charge-immediately" if upgrade else "proration-none"
        fields = {"product_id": product, "update_behavior": behavior}
        await self._post(_path(subscription.id, "upgrade"), fields)

    async def cancel_at_end(self, subscription_id: str, *, cancel: bool) -> None:
        if cancel:
            await self._post(_path(subscription_id, "cancel"), {"mode": "scheduled", "onExecute": "cancel"})
        else:
            await self._post(_path(subscription_id, "resume"), {})

    async def end_now(self, subscription_id: str) -> None:
        found = await self._api.get("/v1/subscriptions", {"subscription_id": subscription_id})
        if found.get("status") != "canceled":
            await self._post(_path(subscription_id, "cancel"), {"mode": "immediate"})

    async def refund(self, payment_id: str) -> None:
        found = await self._api.get("/v1/transactions", {"transaction_id": payment_id})
        if found.get("status") != "refunded":
            await self._post("/v1/refunds", {"transaction_id": payment_id})

    async def read(self, customer: str, checkouts: Sequence[str]) -> CustomerState:
        orders: dict[str, str] = {}
        ordered: dict[str, str] = {}  # our orders, by the subscription that they started
        expired = []
        for checkout_id in checkouts:
            found = await self._checkout(checkout_id)
            if found is None or found.get("status") == "expired":
                expired.append(checkout_id)
            elif subscription := id_of(found.get("subscription")):
                ordered[subscription] = str(found.get("request_id") or "")
            elif order_id := id_of(found.get("order")):
                orders[order_id] = checkout_id
        transactions = await self._list("/v1/transactions/search", {"customer_id": customer})
        payments = [_payment(one, orders) for one in transactions if one.get("status") in _PAID]
        known = {text_of(one, "id"): one for one in transactions}
        rows = await self._list(f"/v1/customers/{quote(customer, safe='')}/subscriptions", {})
        subscriptions = [_subscription(row, known, ordered) for row in rows]
        return CustomerState(subscriptions, payments, expired)

    async def read_payment(self, payment_id: str) -> PaymentState:
        return _payment(await self._api.get("/v1/transactions", {"transaction_id": payment_id}), {})

    async def _list(self, path: str, query: Mapping[str, str]) -> list[Json]:
        rows: list[Json] = []
        for number in range(1, _PAGES + 1):
            page = await self._api.get(path, {**query, "page_number": str(number), "page_size": "100"})
            rows += page.get("items") or ()
            if (page.get("pagination") or {}).get("next_page") is None:
                break
        return rows

    async def _post(self, path: str, fields: Json) -> Json:
        body = msgspec.json.encode(fields)
        return await self._api.call("POST", path, body, ((b"content-type", b"application/json"),))

    def read_event(self, headers: Mapping[str, str], body: bytes, now: int) -> ProviderEvent:
        self._verify(headers, body, now)
        try:
            event = msgspec.json.decode(body, type=Json)
            about = event["object"]
            customer = id_of(about.get("customer")) or str(about.get("customer_id") or "")
            metadata = about.get("metadata") or {}
            order = about.get("request_id") or metadata.get("order") or ""
            payment = id_of(about.get("transaction"))
            return ProviderEvent(str(event["id"]), str(event["eventType"]), customer, str(order), payment)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as exc:
            raise SignatureInvalid("the event has an unknown format") from exc

    def _verify(self, headers: Mapping[str, str], body: bytes, now: int) -> None:
        """Raises SignatureInvalid."""
        if not self._secret:
            raise SignatureInvalid("there is no secret")
        if "webhook-signature" in headers:
            self._verify_standard(headers, body, now)
            return
        given = headers.get("creem-signature") or headers.get("x-creem-signature") or ""
        expected = hmac.new(self._secret.encode(), body, sha256).hexdigest()
        given = given.lower().removeprefix("sha256=")
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise SignatureInvalid("the signature is wrong")

    def _verify_standard(self, headers: Mapping[str, str], body: bytes, now: int) -> None:
        id_, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not id_ or not at.isdigit() or len(at) > 12:
            raise SignatureInvalid("the signature is missing")
        try:
            key = b64decode(self._secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise SignatureInvalid("the secret is not for this kind of signature") from exc
        if not key:
            raise SignatureInvalid("there is no secret")
        digest = hmac.new(key, f"{id_}.{at}.".encode() + body, sha256).digest()
        expected = b"v1," + b64encode(digest)
        given = headers["webhook-signature"].split(" ")
        if not any(hmac.compare_digest(expected, one.encode()) for one in given):
            raise SignatureInvalid("the signature is wrong")
        if abs(now - int(at) * 1000) > TOLERANCE:
            raise SignatureInvalid("the event is too old")


def _path(subscription_id: str, action: str) -> str:
    return f"/v1/subscriptions/{quote(subscription_id, safe='')}/{action}"


def _ms(value: object) -> int:
    """Milliseconds, from a number or a text in ISO 8601."""
    if isinstance(value, int | float):
        return int(value)
    if not isinstance(value, str):
        return 0
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1000)
    except ValueError as exc:
        raise PaymentFailed("the response of Creem contains an invalid time") from exc


def _payment(found: Json, orders: Mapping[str, str]) -> PaymentState:
    paid = int(found.get("amount_paid") or found.get("amount") or 0)
    charged_back = found.get("status") in _CHARGED_BACK
    return PaymentState(
        id=text_of(found, "id"),
        paid_cents=paid,
        currency=str(found.get("currency")).lower(),
        at=_ms(found.get("created_at")),
        tax_cents=int(found.get("tax_amount") or 0),
        checkout=orders.get(id_of(found.get("order")), ""),
        subscription=id_of(found.get("subscription")),
        reversed_cents=paid if charged_back else int(found.get("refunded_amount") or 0),
    )


def _subscription(
    found: Json, transactions: Mapping[str, Json], ordered: Mapping[str, str]
) -> SubscriptionState:
    id_ = text_of(found, "id")
    start, end = _ms(found.get("current_period_start_date")), _ms(found.get("current_period_end_date"))
    status = _STATES.get(str(found.get("status")), "incomplete")
    items = found.get("items") or ()
    last = found.get("last_transaction")
    if not isinstance(last, dict):
        last = transactions.get(str(found.get("last_transaction_id")))
    product = str(items[0].get("product_id") or "") if items else ""
    return SubscriptionState(
        id=id_,
        order_id=str((found.get("metadata") or {}).get("order") or ordered.get(id_, "")),
        product=product or id_of(found.get("product")),
        status=status,
        period_start=start,
        period_end=end,
        paid=_is_paid(last, end),
        cancel_at_end=found.get("status") == "scheduled_cancel",
        ends_at=end if status == "ended" else None,
    )


def _is_paid(transaction: object, period_end: int) -> bool:
    """Whether the last transaction has paid the current period. Without its period it is the current one."""
    if not isinstance(transaction, dict) or transaction.get("status") != "paid":
        return False
    ends = transaction.get("period_end")
    return ends is None or _ms(ends) >= period_end - 86_400_000
