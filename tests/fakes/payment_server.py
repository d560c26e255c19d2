"""Stripe and Creem on a real socket, with the exact formats of the parts that the gateway uses.

    shop = await nursery.start(payment_server.serve_stripe)

The customer acts with the methods: `pay` a checkout, `renew`, `fail`, `refund` and so on. `events` are
those that the provider would send, signed with the secret. Times are seconds in `now`.
"""

import copy
import hmac
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import trio

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream
from tests.storage.samples import NOON

KEY = "sk_test_fake"
SECRET = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQ="
MONTH = 30 * 86_400
PRICES = {"price_starter": 2900, "price_pro": 9900, "prod_starter": 2900, "prod_pro": 9900}
PRICES |= {"price_business": 19_900, "prod_business": 19_900}
Object = dict[str, Any]


class Refused(Exception):
    """The status of an error, and its body."""

    def __init__(self, status: str, body: Object | None = None) -> None:
        super().__init__(status)
        self.body = body or {"error": {"message": "no"}}


def missing(kind: str, id_: str) -> Refused:
    """The error of Stripe about an unknown object in the parameters of a request."""
    fields = {"type": "invalid_request_error", "code": "resource_missing", "param": kind}
    return Refused("400 Bad Request", {"error": fields | {"message": f"No such {kind}: '{id_}'"}})


@dataclass
class PaymentServer:
    """`down`: all calls answer 503. `calls` counts them."""

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    now: int = NOON // 1000
    down: bool = False
    unknown_products: bool = False
    calls: int = 0
    customers: dict[str, Object] = field(default_factory=dict)
    checkouts: dict[str, Object] = field(default_factory=dict)
    subscriptions: dict[str, Object] = field(default_factory=dict)
    events: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    done: dict[str, Object] = field(default_factory=dict)
    exchanges: list[tuple[str, bytes, Object]] = field(default_factory=list)
    _ordered: dict[str, Any] = field(default_factory=dict)  # by checkout: what it is for
    _serial: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}"

    def id(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}_{self._serial:08d}"

    def answer(self, method: str, path: list[str], query: dict[str, str], received: Received) -> Object:
        raise NotImplementedError

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            self.calls += 1
            method, target, _ = received.line.decode().split(" ")
            parts = urlsplit(target)
            status = b"200 OK"
            try:
                if self.down:
                    raise Refused("503 Service Unavailable")
                path = parts.path.removeprefix("/v1/").split("/")
                body = self.answer(method, path, dict(parse_qsl(parts.query)), received)
                self.exchanges.append((f"{method} {target}", received.body, copy.deepcopy(body)))
            except Refused as exc:
                status, body = str(exc).encode(), exc.body
            await peer.answer(json.dumps(body).encode(), b"Content-Type: application/json", status=status)

    def last_subscription(self) -> str:
        return list(self.subscriptions)[-1]


@dataclass
class StripeServer(PaymentServer):
    charges: dict[str, Object] = field(default_factory=dict)
    invoices: dict[str, Object] = field(default_factory=dict)
    disputes: dict[str, Object] = field(default_factory=dict)
    declines: bool = False
    keeps_checkouts: bool = False
    refuses_refunds: bool = False

    def answer(self, method: str, path: list[str], query: dict[str, str], received: Received) -> Object:
        if received.values(b"authorization") != [f"Bearer {KEY}".encode()]:
            raise Refused("401 Unauthorized")
        assert received.values(b"stripe-version") == [b"2026-10-28.endive"]
        form = dict(parse_qsl(received.body.decode()))
        key = b"".join(received.values(b"idempotency-key")).decode()
        if key and key in self.done:
            return self.done[key]
        if method == "DELETE":
            return self._delete(path)
        made = self._post(path, form) if method == "POST" else self._get(path, query)
        if key:
            self.done[key] = made
        return made

    def _get(self, path: list[str], query: dict[str, str]) -> Object:
        kept = {
            "checkout/sessions": self.checkouts,
            "subscriptions": self.subscriptions,
            "charges": self.charges,
            "invoices": self.invoices,
            "disputes": self.disputes,
            "customers": self.customers,
        }
        if (customer := query.get("customer", "")) and customer not in self.customers:
            raise missing("customer", customer)
        for name, objects in kept.items():
            if "/".join(path) == name:
                named = [key for key in ("customer", "charge", "payment_intent") if key in query]
                found = [one for one in objects.values() if all(one[key] == query[key] for key in named)][
                    ::-1
                ]
                if "status" in query and query["status"] != "all":
                    found = [one for one in found if one["status"] == query["status"]]
                start = (
                    [one["id"] for one in found].index(query["starting_after"]) + 1
                    if "starting_after" in query
                    else 0
                )
                page = found[start : start + 2]  # to test pages
                return {"object": "list", "data": page, "has_more": len(found) > start + 2}
            if "/".join(path[:-1]) == name:
                if path[-1] not in objects:
                    raise Refused("404 Not Found")
                return objects[path[-1]]
        raise Refused("404 Not Found")

    def _post(self, path: list[str], form: dict[str, str]) -> Object:
        match path:
            case ["customers"]:
                made = {"id": self.id("cus"), "object": "customer", "email": form.get("email")}
                self.customers[made["id"]] = made
                return made
            case ["checkout", "sessions"]:
                return self._checkout(form)
            case ["billing_portal", "sessions"]:
                if form["customer"] not in self.customers:
                    raise missing("customer", form["customer"])
                return {
                    "id": self.id("bps"),
                    "object": "billing_portal.session",
                    "url": "https://billing.stripe.com/p/session/x",
                }
            case ["refunds"]:
                if self.refuses_refunds:
                    raise Refused("400 Bad Request")
                charge = next(
                    one for one in self.charges.values() if one["payment_intent"] == form["payment_intent"]
                )
                self.refund(charge["payment_intent"], charge["amount"])
                return {"id": self.id("re"), "object": "refund", "status": "succeeded"}
            case ["subscriptions", id_]:
                if id_ not in self.subscriptions:
                    raise Refused("404 Not Found")
                return self._change(self.subscriptions[id_], form)
            case ["checkout", "sessions", id_, "expire"]:
                session = self.checkouts[id_]
                if session["status"] != "open" or self.keeps_checkouts:
                    raise Refused("400 Bad Request")
                session["status"] = "expired"
                self.event("checkout.session.expired", session)
                return session
        raise Refused("404 Not Found")

    def _delete(self, path: list[str]) -> Object:
        if path[0] != "subscriptions" or self.subscriptions[path[1]]["status"] == "canceled":
            raise Refused("404 Not Found")
        self.end(path[1])
        return self.subscriptions[path[1]]

    def _checkout(self, form: dict[str, str]) -> Object:
        if form["customer"] not in self.customers:
            raise missing("customer", form["customer"])
        if self.unknown_products:
            raise missing("line_items[0][price]", "price_x")
        id_ = self.id("cs")
        is_plan = form["mode"] == "subscription"
        if is_plan:
            assert form["subscription_data[metadata][order]"] == form["metadata[order]"]
            amount = PRICES[form["line_items[0][price]"]]
        else:
            assert form["line_items[0][price_data][currency]"] == "usd"
            amount = int(form["line_items[0][price_data][unit_amount]"])
        self.checkouts[id_] = {
            "id": id_,
            "object": "checkout.session",
            "mode": form["mode"],
            "status": "open",
            "payment_status": "unpaid",
            "customer": form["customer"],
            "amount_total": amount,
            "currency": "usd",
            "metadata": {"order": form["metadata[order]"]},
            "total_details": {"amount_tax": 0},
            "payment_intent": None,
            "subscription": None,
            "url": f"https://checkout.stripe.com/c/pay/{id_}",
        }
        self._ordered[id_] = form.get("line_items[0][price]")
        return self.checkouts[id_]

    def pay(
        self, checkout_id: str, *, amount: int | None = None, currency: str = "usd", tax: int = 0
    ) -> None:
        session = self.checkouts[checkout_id]
        total = session["amount_total"] + tax if amount is None else amount
        session |= {"status": "complete", "payment_status": "paid", "total_details": {"amount_tax": tax}}
        if session["mode"] == "payment":
            charge = self._charge(session["customer"], total, currency)
            session["payment_intent"] = charge["payment_intent"]
        else:
            id_ = self.id("sub")
            price = _price(self._ordered[checkout_id])
            item = {"id": self.id("si"), "object": "subscription_item", "price": price}
            item |= {"current_period_start": self.now, "current_period_end": self.now + MONTH}
            self.subscriptions[id_] = {
                "id": id_,
                "object": "subscription",
                "customer": session["customer"],
                "status": "active",
                "metadata": session["metadata"],
                "items": {"object": "list", "data": [item]},
                "cancel_at_period_end": False,
                "ended_at": None,
            }
            session["subscription"] = id_
            self.event("customer.subscription.created", self.subscriptions[id_])
            self._invoice(id_, total, currency, "subscription_create", tax)
        self.event("checkout.session.completed", session)

    def _charge(self, customer: str, amount: int, currency: str = "usd") -> Object:
        id_ = self.id("ch")
        self.charges[id_] = {
            "id": id_,
            "object": "charge",
            "customer": customer,
            "payment_intent": self.id("pi"),
            "amount": amount,
            "amount_refunded": 0,
            "currency": currency,
            "paid": True,
            "status": "succeeded",
            "disputed": False,
            "created": self.now,
        }
        return self.charges[id_]

    def _invoice(self, subscription: str, amount: int, currency: str, reason: str, tax: int = 0) -> None:
        found = self.subscriptions[subscription]
        charge = self._charge(found["customer"], amount, currency)
        id_ = self.id("in")
        payment = {
            "object": "invoice_payment",
            "payment": {"type": "payment_intent", "payment_intent": charge["payment_intent"]},
        }
        self.invoices[id_] = {
            "id": id_,
            "object": "invoice",
            "customer": found["customer"],
            "status": "paid",
            "billing_reason": reason,
            "parent": {
                "type": "subscription_details",
                "subscription_details": {"subscription": subscription, "metadata": found["metadata"]},
            },
            "payments": {"object": "list", "data": [payment]},
            "total_taxes": [{"amount": tax}] if tax else [],
        }
        found["latest_invoice"] = self.invoices[id_]
        self.event("invoice.paid", self.invoices[id_])

    def _change(self, found: Object, form: dict[str, str]) -> Object:
        if "cancel_at_period_end" in form:
            found["cancel_at_period_end"] = form["cancel_at_period_end"] == "true"
        if price := form.get("items[0][price]"):
            if self.declines and form["proration_behavior"] == "always_invoice":
                raise Refused("402 Payment Required")
            item = found["items"]["data"][0]
            assert form["items[0][id]"] == item["id"]
            before = item["price"]["unit_amount"]
            item["price"] = _price(price)
            if form["proration_behavior"] == "always_invoice":
                assert form["payment_behavior"] == "error_if_incomplete"
                self._invoice(found["id"], PRICES[price] - before, "usd", "subscription_update")
        self.event("customer.subscription.updated", found)
        return found

    def _next_period(self, found: Object) -> Object:
        item = found["items"]["data"][0]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] += MONTH
        self.now = max(self.now, item["current_period_start"])
        return dict(item)

    def renew(self, id_: str) -> None:
        """The period ends: it is paid, or the cancellation happens."""
        found = self.subscriptions[id_]
        if found["status"] == "canceled":
            return
        if found["cancel_at_period_end"]:
            self.now = max(self.now, found["items"]["data"][0]["current_period_end"])
            found |= {"status": "canceled", "ended_at": self.now}
            self.event("customer.subscription.deleted", found)
            return
        item = self._next_period(found)
        found["status"] = "active"
        self.event("customer.subscription.updated", found)
        self._invoice(id_, item["price"]["unit_amount"], "usd", "subscription_cycle")

    def fail(self, id_: str) -> None:
        """The period ends, and its payment fails."""
        found = self.subscriptions[id_]
        if found["status"] == "active":
            self._next_period(found)
            found["status"] = "past_due"
            found["latest_invoice"] = {"id": self.id("in"), "object": "invoice", "status": "open"}
            self.event("invoice.payment_failed", {"object": "invoice", "customer": found["customer"]})
            self.event("customer.subscription.updated", found)

    def recover(self, id_: str) -> None:
        """The payment is made later."""
        found = self.subscriptions[id_]
        if found["status"] == "past_due":
            found["status"] = "active"
            self._invoice(id_, found["items"]["data"][0]["price"]["unit_amount"], "usd", "subscription_cycle")
            self.event("customer.subscription.updated", found)

    def end(self, id_: str) -> None:
        found = self.subscriptions[id_]
        if found["status"] != "canceled":
            found |= {"status": "canceled", "ended_at": self.now}
            self.event("customer.subscription.deleted", found)

    def refund(self, intent: str, cents: int) -> None:
        charge = next(one for one in self.charges.values() if one["payment_intent"] == intent)
        charge["amount_refunded"] = cents
        self.event("charge.refunded", charge)

    def dispute(self, intent: str, status: str = "needs_response") -> None:
        """Open a dispute, or change its status. Its object names no customer."""
        charge = next(one for one in self.charges.values() if one["payment_intent"] == intent)
        found = next((one for one in self.disputes.values() if one["charge"] == charge["id"]), None)
        if found is None:
            found = {"id": self.id("du"), "object": "dispute", "charge": charge["id"], "currency": "usd"}
            found |= {"payment_intent": intent, "amount": charge["amount"], "metadata": {}}
            self.disputes[found["id"]] = found
        found["status"] = status
        charge["disputed"] = True
        is_over = status in ("won", "lost", "warning_closed")
        self.event("charge.dispute.closed" if is_over else "charge.dispute.created", found)

    def event(self, kind: str, about: Object) -> None:
        body = {
            "id": self.id("evt"),
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": self.now,
            "type": kind,
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "data": {"object": about},
        }
        content = json.dumps(body).encode()
        self.events.append((stripe_signature(content, self.now), content))


def _price(id_: str) -> Object:
    return {"id": id_, "object": "price", "unit_amount": PRICES[id_]}


def stripe_signature(body: bytes, at: int, secret: str = SECRET) -> dict[str, str]:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, sha256).hexdigest()
    return {"stripe-signature": f"t={at},v1={digest}"}


@dataclass
class CreemServer(PaymentServer):
    transactions: dict[str, Object] = field(default_factory=dict)

    def answer(self, method: str, path: list[str], query: dict[str, str], received: Received) -> Object:
        if received.values(b"x-api-key") != [KEY.encode()]:
            raise Refused("403 Forbidden")
        body = json.loads(received.body or b"{}")
        try:
            return self._answer(method, path, query, body)
        except KeyError as exc:
            raise Refused("404 Not Found", {"status": 404, "error": "Not Found"}) from exc

    def _answer(self, method: str, path: list[str], query: dict[str, str], body: Object) -> Object:
        match method, *path:
            case "POST", "customers":
                assert body["name"]
                made = {"id": self.id("cust"), "object": "customer", "email": body["email"]}
                self.customers[made["id"]] = made
                return made
            case "GET", "customers":
                return self.customers[query["customer_id"]]
            case "GET", "subscriptions":
                return self.subscriptions[query["subscription_id"]]
            case "POST", "checkouts":
                if self.unknown_products or body["customer"]["id"] not in self.customers:
                    raise KeyError(body["product_id"])
                return self._checkout(body)
            case "GET", "checkouts":
                return self.checkouts[query["checkout_id"]]
            case "GET", "transactions":
                return self.transactions[query["transaction_id"]]
            case "GET", "transactions", "search":
                assert self.customers[query["customer_id"]]
                found = self.transactions.values()
                return _page([one for one in found if one["customer"] == query["customer_id"]], query)
            case "GET", "customers", customer, "subscriptions":
                assert self.customers[customer]
                found = self.subscriptions.values()
                return _page([one for one in found if one["customer"]["id"] == customer], query)
            case "POST", "customers", "billing":
                assert self.customers[body["customer_id"]]
                return {"customer_portal_link": "https://creem.io/my-orders/login/x"}
            case "POST", "refunds":
                self.refund(body["transaction_id"])
                return {"id": self.id("ref"), "object": "refund", "status": "succeeded"}
            case "POST", "subscriptions", id_, action:
                return self._change(self.subscriptions[id_], action, body)
        raise Refused("404 Not Found")

    def _checkout(self, body: Object) -> Object:
        id_ = self.id("ch")
        is_topup = "custom_price" in body
        self.checkouts[id_] = {
            "id": id_,
            "object": "checkout",
            "mode": "test",
            "status": "pending",
            "request_id": body["request_id"],
            "product": body["product_id"],
            "customer": body["customer"]["id"],
            "metadata": body["metadata"],
            "checkout_url": f"https://creem.io/checkout/{id_}",
        }
        price = body["custom_price"] if is_topup else PRICES[body["product_id"]]
        self._ordered[id_] = (price, is_topup)
        return self.checkouts[id_]

    def pay(
        self, checkout_id: str, *, amount: int | None = None, currency: str = "USD", tax: int = 0
    ) -> None:
        found = self.checkouts[checkout_id]
        price, is_topup = self._ordered[checkout_id]
        total = price + tax if amount is None else amount
        order = {"id": self.id("ord"), "object": "order", "amount": total, "currency": currency}
        found |= {"status": "completed", "order": order}
        if is_topup:
            self._transaction(found["customer"], total, currency, order["id"], None, tax)
        else:
            id_ = self.id("sub")
            self.subscriptions[id_] = {
                "id": id_,
                "object": "subscription",
                "product": {"id": found["product"]},
                "customer": {"id": found["customer"]},
                "items": [{"id": self.id("sitem"), "product_id": found["product"], "units": 1}],
                "status": "active",
                "current_period_start_date": iso(self.now),
                "current_period_end_date": iso(self.now + MONTH),
                "canceled_at": None,
                "metadata": found["metadata"],
            }
            found["subscription"] = {"id": id_}
            self._paid(id_, total, currency, order["id"], tax)
        self.event("checkout.completed", found)

    def _transaction(
        self, customer: str, amount: int, currency: str, order: str, subscription: str | None, tax: int = 0
    ) -> Object:
        id_ = self.id("tran")
        self.transactions[id_] = {
            "id": id_,
            "object": "transaction",
            "amount": amount - tax,
            "amount_paid": amount,
            "tax_amount": tax,
            "currency": currency,
            "type": "payment" if subscription is None else "invoice",
            "status": "paid",
            "refunded_amount": None,
            "order": order,
            "subscription": subscription,
            "customer": customer,
            "created_at": self.now * 1000,
        }
        return self.transactions[id_]

    def _paid(self, id_: str, amount: int, currency: str = "USD", order: str = "", tax: int = 0) -> None:
        found = self.subscriptions[id_]
        made = self._transaction(found["customer"]["id"], amount, currency, order, id_, tax)
        found |= {"last_transaction_id": made["id"], "last_transaction": made}
        self.event("subscription.paid", found)

    def _change(self, found: Object, action: str, body: Object) -> Object:
        if action == "cancel" and body == {"mode": "immediate"}:
            found |= {"status": "canceled", "canceled_at": iso(self.now)}
            self.event("subscription.canceled", found)
        elif action == "cancel":
            assert body == {"mode": "scheduled", "onExecute": "cancel"}
            found["status"] = "scheduled_cancel"
            self.event("subscription.scheduled_cancel", found)
        elif action == "resume":
            found["status"] = "active"
            self.event("subscription.update", found)
        elif action == "upgrade":
            before = PRICES[found["product"]["id"]]
            found["product"] = {"id": body["product_id"]}
            found["items"][0]["product_id"] = body["product_id"]
            self.event("subscription.update", found)
            if body["update_behavior"] == "proration-charge-immediately":
                self._paid(found["id"], PRICES[body["product_id"]] - before)
        return found

    def renew(self, id_: str) -> None:
        """The period ends: it is paid, or the cancellation happens."""
        found = self.subscriptions[id_]
        end = int(datetime.fromisoformat(found["current_period_end_date"]).timestamp())
        self.now = max(self.now, end)
        if found["status"] == "scheduled_cancel":
            found |= {"status": "canceled", "canceled_at": iso(self.now)}
            self.event("subscription.canceled", found)
        elif found["status"] != "canceled":
            found["status"] = "active"
            found |= {"current_period_start_date": iso(end), "current_period_end_date": iso(end + MONTH)}
            self._paid(id_, PRICES[found["product"]["id"]])

    def dispute(self, id_: str, status: str = "needs_response") -> None:
        found = self.transactions[id_]
        found["status"] = "paid" if status == "won" else "chargedBack"
        about = {"id": self.id("disp"), "object": "dispute", "transaction": found}
        self.event("dispute.created", about | {"amount": found["amount_paid"]})

    def refund(self, id_: str, cents: int | None = None) -> None:
        found = self.transactions[id_]
        paid = found["amount_paid"]
        refunded = paid if cents is None else cents
        found |= {"status": "refunded" if refunded == paid else "partialRefund", "refunded_amount": refunded}
        about = {
            "id": self.id("ref"),
            "object": "refund",
            "transaction": found,
            "customer": found["customer"],
        }
        self.event("refund.created", about)

    def event(self, kind: str, about: Object) -> None:
        body = {"id": self.id("evt"), "eventType": kind, "created_at": self.now * 1000, "object": about}
        content = json.dumps(body).encode()
        self.events.append((creem_signature(content), content))


def creem_signature(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"creem-signature": hmac.new(secret.encode(), body, sha256).hexdigest()}


def standard_signature(body: bytes, at: int, secret: str = SECRET) -> dict[str, str]:
    """The three headers of https://www.standardwebhooks.com."""
    key = b64decode(secret.removeprefix("whsec_"))
    digest = b64encode(hmac.new(key, f"msg_1.{at}.".encode() + body, sha256).digest()).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": f"v1,{digest}"}


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _page(rows: list[Object], query: dict[str, str]) -> Object:
    """Of two objects, to test pages."""
    number = int(query["page_number"])
    page = rows[2 * number - 2 : 2 * number]
    return {"items": page, "pagination": {"next_page": number + 1 if len(rows) > 2 * number else None}}


async def serve_stripe(*, task_status: trio.TaskStatus[StripeServer]) -> None:
    await _serve(StripeServer(), task_status)


async def serve_creem(*, task_status: trio.TaskStatus[CreemServer]) -> None:
    await _serve(CreemServer(), task_status)


async def _serve(server: Any, task_status: Any) -> None:
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
