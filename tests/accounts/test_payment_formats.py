"""What is sent to payment providers and what their fakes answer, compared with the published formats.

For Stripe these are the types of its own library, which are generated from its OpenAPI specification for the
version that the gateway asks for. For Creem they are the names in https://docs.creem.io/api-reference, April
2026, and `metadata` of subscriptions, `custom_price` and `external_id`, which its library 1.13.0 has.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qsl, urlsplit

import stripe
from stripe import params
from stripe._object_classes import get_object_class
from stripe.params import billing_portal, checkout

from bluesminds.accounts.audit import OPERATOR
from bluesminds.payments.stripe import VERSION
from tests.accounts.payment_shops import Shop, open_shop

STRIPE_CALLS = {
    "POST /v1/customers": params.CustomerCreateParams,
    "GET /v1/customers/ID": params.CustomerRetrieveParams,
    "POST /v1/checkout/sessions": checkout.SessionCreateParams,
    "GET /v1/checkout/sessions/ID": checkout.SessionRetrieveParams,
    "POST /v1/checkout/sessions/ID/expire": checkout.SessionExpireParams,
    "POST /v1/billing_portal/sessions": billing_portal.SessionCreateParams,
    "GET /v1/subscriptions": params.SubscriptionListParams,
    "GET /v1/subscriptions/ID": params.SubscriptionRetrieveParams,
    "POST /v1/subscriptions/ID": params.SubscriptionModifyParams,
    "DELETE /v1/subscriptions/ID": params.SubscriptionCancelParams,
    "GET /v1/invoices": params.InvoiceListParams,
    "GET /v1/charges": params.ChargeListParams,
    "GET /v1/disputes": params.DisputeListParams,
    "POST /v1/refunds": params.RefundCreateParams,
}
CREEM_CALLS = {
    "POST /v1/customers": {"email", "name", "external_id", "metadata"},
    "GET /v1/customers": {"customer_id", "email"},
    "POST /v1/customers/billing": {"customer_id"},
    "GET /v1/customers/ID/subscriptions": {"page_number", "page_size"},
    "POST /v1/checkouts": {
        *("product_id", "request_id", "units", "custom_price", "discount_code", "customer", "custom_fields"),
        *("success_url", "metadata"),
    },
    "GET /v1/checkouts": {"checkout_id"},
    "GET /v1/subscriptions": {"subscription_id"},
    "POST /v1/subscriptions/ID/cancel": {"mode", "onExecute"},
    "POST /v1/subscriptions/ID/upgrade": {"product_id", "update_behavior"},
    "POST /v1/subscriptions/ID/resume": set[str](),
    "GET /v1/transactions": {"transaction_id"},
    "GET /v1/transactions/search": {
        *("customer_id", "order_id", "product_id", "page_number", "page_size"),
    },
    "POST /v1/refunds": {"transaction_id"},
}
CREEM_OBJECTS = {
    "customer": {"id", "mode", "object", "email", "name", "metadata", "country", "created_at", "updated_at"},
    "checkout": {
        *("id", "mode", "object", "status", "request_id", "product", "units", "order", "subscription"),
        *("customer", "custom_fields", "checkout_url", "success_url", "license_keys", "metadata"),
    },
    "order": {
        *("id", "mode", "object", "customer", "product", "transaction", "discount", "amount", "sub_total"),
        *("tax_amount", "discount_amount", "amount_due", "amount_paid", "currency", "status", "type"),
    },
    "subscription": {
        *("id", "mode", "object", "product", "customer", "items", "collection_method", "status"),
        *("last_transaction_id", "last_transaction", "last_transaction_date", "next_transaction_date"),
        *("current_period_start_date", "current_period_end_date", "canceled_at", "created_at", "updated_at"),
        *("discount", "metadata"),
    },
    "transaction": {
        *("id", "mode", "object", "amount", "amount_paid", "discount_amount", "currency", "type"),
        *("tax_country", "tax_amount", "status", "refunded_amount", "order", "subscription", "customer"),
        *("description", "period_start", "period_end", "created_at"),
    },
}
CREEM_VALUES = {
    ("checkout", "status"): {"pending", "processing", "completed", "expired"},
    ("subscription", "status"): {
        *("active", "canceled", "unpaid", "past_due", "paused", "trialing", "scheduled_cancel"),
    },
    ("transaction", "status"): {
        *("pending", "paid", "refunded", "partialRefund", "chargedBack", "uncollectible", "declined", "void"),
    },
    ("transaction", "type"): {"payment", "invoice"},
}


async def use_everything(shop: Shop) -> None:
    """Each call of the port at least once."""
    billing, member = shop.site.billing, shop.site.member.id
    await shop.order("starter")
    await shop.buy("pro")
    await billing.subscriptions.change_plan(OPERATOR, member, "business")
    await billing.subscriptions.change_plan(OPERATOR, member, "starter")
    await billing.subscriptions.cancel(OPERATOR, member, cancel=True)
    await billing.subscriptions.cancel(OPERATOR, member, cancel=False)
    await billing.subscriptions.portal(member)
    await shop.buy(cents=2500)
    payment = (await shop.payments())[0]
    shop.server.dispute(payment.provider_id, "won")
    await shop.deliver()
    await billing.payments.refund(OPERATOR, payment.id)
    shop.server.refund((await shop.payments())[1].provider_id, 100)
    provider, customer = billing.providers[shop.name], next(iter(shop.server.customers))
    assert await provider.has_customer(customer)
    await provider.read_payment(payment.provider_id)
    await shop.order(cents=1000)
    await billing.reconciliation.sync()
    await provider.end_now(shop.server.last_subscription())


def call_of(line: str) -> tuple[str, dict[str, str]]:
    """The call without ids, and its query."""
    method, _, target = line.partition(" ")
    parts = urlsplit(target)
    path = re.sub(r"/[a-z]+_\d{8}", "/ID", parts.path)
    return f"{method} {path}", dict(parse_qsl(parts.query))


async def test_calls_and_answers_of_stripe_are_in_its_library(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await use_everything(shop)
    assert stripe.api_version == VERSION
    seen = set[str]()
    for line, body, answer in shop.stripe.exchanges:
        call, query = call_of(line)
        seen.add(call)
        for name, value in [*query.items(), *parse_qsl(body.decode())]:
            assert unknown_parameter(STRIPE_CALLS[call], name, value) is None, (call, name, value)
        assert list(unknown_fields(answer, call)) == []
    assert seen == set(STRIPE_CALLS)


def unknown_parameter(model: Any, name: str, value: str) -> str | None:
    """`name` has brackets for nested values. Numbers in them are positions in a list."""
    parts = [part for part in re.findall(r"\w+", name) if not part.isdigit()]
    for number, part in enumerate(parts):
        if part not in model.__annotations__:
            return part
        annotation = str(model.__annotations__[part])
        if "Dict[str, str]" in annotation:
            return None
        if part == parts[-1]:
            literals = re.findall(r"'(\w*)'", "".join(re.findall(r"Literal\[(.*?)\]", annotation)))
            return None if not literals or value in literals or value.isdigit() else value
        inner = re.search(r"\w+Params[A-Z]\w+", annotation)
        assert inner is not None, (parts[number], annotation)
        model = getattr(sys.modules[model.__module__], inner[0])
    return None


def unknown_fields(found: Any, path: str, model: Any = None) -> Iterator[str]:
    """Fields and values that the types of the library do not have."""
    if isinstance(found, list):
        for one in found:
            yield from unknown_fields(one, path, model)
        return
    if not isinstance(found, dict):
        return
    if "object" in found:
        model = get_object_class("V1", found["object"])
    if model is None:  # free keys, such as metadata
        return
    fields = dict[str, Any]()
    for base in reversed(model.__mro__):
        fields |= vars(base).get("__annotations__", {})
    for name, value in found.items():
        if name not in (*fields, "object"):
            yield f"{path}.{name}"
        hint = fields.get(name)
        literals = [one for part in (hint, *get_args(hint)) for one in literals_in(part)]
        if isinstance(value, str) and literals and value not in literals:
            yield f"{path}.{name}={value}"
        yield from unknown_fields(value, f"{path}.{name}", model._inner_class_types.get(name))


def literals_in(hint: Any) -> list[str]:
    return [one for part in (hint, *get_args(hint)) for one in get_args(part) if isinstance(one, str)]


async def test_calls_and_answers_of_creem_are_in_its_documents(tmp_path: Path) -> None:
    async with open_shop(tmp_path, "creem") as shop:
        await use_everything(shop)
    seen = set[str]()
    for line, body, answer in shop.creem.exchanges:
        call, query = call_of(line)
        seen.add(call)
        assert {*query, *json.loads(body or b"{}")} <= CREEM_CALLS[call], call
        check_creem(answer)
    assert seen == set(CREEM_CALLS)


def check_creem(found: Any) -> None:
    for one in found if isinstance(found, list) else [found]:
        if not isinstance(one, dict):
            continue
        kind = one.get("object", "")
        if kind in CREEM_OBJECTS:
            assert set(one) <= CREEM_OBJECTS[kind], (kind, set(one) - CREEM_OBJECTS[kind])
        for name, value in one.items():
            assert value in CREEM_VALUES.get((kind, name), (value,)), (kind, name, value)
            check_creem(value)
