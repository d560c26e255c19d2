"""Authorization: each route with each kind of credential, in each header, cookie and parameter.

The tables repeat the intended access. A route that is in none of them fails the tests.
"""

import ast
import itertools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from bluesminds.accounts.audit import OPERATOR as AS_OPERATOR
from bluesminds.accounts.chats import ChatFacts, ChatMessage
from bluesminds.accounts.vendor_keys import VendorKeyTest
from bluesminds.common.prompts import LoggedPrompt, write_prompt
from bluesminds.http.asgi import ASGIApp
from bluesminds.web import app as web_app
from bluesminds.web.api import build_guard
from bluesminds.web.guard import PLAIN_COOKIE, Access, Guard
from bluesminds.web.routes import Route, route
from storage.prompt_log import PromptRow, insert_prompts
from storage.usage import insert_batch
from tests import gateways
from tests.deployment import KEYS, Callers, anonymous_client, forget_changes
from tests.fakes.resend_server import WEBHOOK_SECRET
from tests.gateways import Gateway
from tests.plain_client import PlainAnswer, PlainClient, connect
from tests.storage.samples import usage

ROOT = Path(__file__).resolve().parents[2]
SERIALS = itertools.count()
UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"
# The routes of these exist only then.
BILLING: dict[str, Any] = {
    "billing": {"enabled": True, "manual": True},
    "creem": {"api_key": "creem_test_x", "webhook_secret": "secret"},
    "mail": {
        "backend": "resend",
        "api_key": "re_x",
        "url": "http://127.0.0.1:9",
        "sender": "a@example.com",
        "webhook_secret": WEBHOOK_SECRET,
    },
}

PUBLIC = """
GET /
GET /health
GET /ping
GET /ready
GET /models
GET /models/providers
GET /plans
GET /api/mail/unsubscribe
POST /api/mail/webhook/resend
POST /api/mail/unsubscribe
POST /api/billing/webhook
POST /api/billing/webhook/{provider}
GET /ranking/models
GET /metrics
GET /openapi.json
GET /docs
POST /api/setup
POST /api/auth/signup
POST /api/auth/login
POST /api/auth/local
POST /api/auth/password/forgot
POST /api/auth/password/reset
POST /api/auth/email/verify
POST /api/auth/email/resend
"""
# Pages for browsers, which are not in the API reference.
PAGES = """
GET /account/verify
GET /account/reset
GET /account/signup
GET /account/login
GET /account/forgot
GET /account/setup
GET /account/enter
GET /account/style.css
GET /account/icon.svg
GET /account/script.js
GET /dashboard/assets/{digest}/{name}
GET /docs/guide
GET /docs/guide/
GET /docs/guide/{file:path}
"""
PAGES_OF_USERS = """
GET /dashboard
GET /dashboard/keys
GET /dashboard/models
GET /dashboard/playground
GET /dashboard/playground/{chat_id}
GET /dashboard/requests
GET /dashboard/live/requests
GET /dashboard/requests/{request_id}
GET /dashboard/usage
GET /dashboard/usage.csv
GET /dashboard/prompts
GET /dashboard/prompts/{request_id}
GET /dashboard/prompts/{request_id}/replay
GET /dashboard/billing
GET /dashboard/billing/invoices/{invoice_id}
GET /dashboard/credit
GET /dashboard/webhooks
GET /dashboard/webhooks/{webhook_id}
GET /dashboard/credit/statements
GET /dashboard/settings
GET /dashboard/keys/{key_id}
"""
PAGES_OF_ADMINISTRATORS = """
GET /dashboard/admin/requests
GET /dashboard/admin/live/requests
GET /dashboard/admin/usage
GET /dashboard/admin/usage.csv
GET /dashboard/admin/servers
GET /dashboard/admin/servers/{name}
GET /dashboard/admin/models
GET /dashboard/admin/models/prices
GET /dashboard/admin/routes
GET /dashboard/admin/routes/new
GET /dashboard/admin/routes/{route_id}
GET /dashboard/admin/users
GET /dashboard/admin/users/{user_id}
GET /dashboard/admin/users/{user_id}/statements
GET /dashboard/admin/users/{user_id}/billing
GET /dashboard/admin/ledger
GET /dashboard/admin/codes
GET /dashboard/admin/codes/{batch_id}
GET /dashboard/admin/drift
GET /dashboard/admin/prompts
GET /dashboard/admin/prompts/{request_id}
GET /dashboard/admin/alerts
GET /dashboard/admin/webhooks
GET /dashboard/admin/webhooks/{webhook_id}
GET /dashboard/admin/prompts/{request_id}/replay
GET /dashboard/admin/audit
GET /dashboard/admin/tiers
GET /dashboard/admin/plans
GET /dashboard/admin/system
GET /dashboard/admin/mail
GET /dashboard/admin/mail/{name}
"""
SIGNED_IN = """
POST /api/auth/logout
GET /api/auth/me
PATCH /api/auth/me
GET /api/auth/mail
PATCH /api/auth/mail
GET /api/auth/me/export
POST /api/auth/me/delete
POST /api/auth/password
POST /api/auth/email
GET /api/auth/second-factor
POST /api/auth/second-factor
GET /api/auth/second-factor/qr
POST /api/auth/second-factor/confirm
POST /api/auth/second-factor/recovery-codes
POST /api/auth/second-factor/disable
GET /api/auth/sessions
DELETE /api/auth/sessions
DELETE /api/auth/sessions/{session_id}
GET /api/auth/limits
GET /api/requests/{request_id}
POST /api/requests/{request_id}/replay
GET /api/keys/{key_id}/limits
GET /user/api-keys/{key_id}/limits
GET /api/keys
POST /api/keys
GET /api/keys/{key_id}
PATCH /api/keys/{key_id}
DELETE /api/keys/{key_id}
POST /api/keys/{key_id}/rotate
DELETE /api/keys/{key_id}/previous
GET /api/keys/{key_id}/usage
GET /api/usage/stats
GET /api/usage/logs
GET /api/usage/logs/stream
GET /api/usage/export
GET /api/costs
GET /api/costs/{key_id}
GET /user/balance
GET /user/plan
POST /api/billing/checkout
GET /api/billing/orders
DELETE /api/billing/orders/{order_id}
POST /api/billing/portal
GET /api/billing/subscription
POST /api/billing/subscription
DELETE /api/billing/subscription
POST /api/billing/subscription/resume
POST /api/billing/refresh
GET /api/billing/payments
POST /trials/start
GET /api/billing/referral
POST /api/billing/referral
GET /api/billing/invoices
GET /api/billing/invoices/{invoice_id}
GET /api/billing/invoices/{invoice_id}/pdf
GET /api/billing/details
PUT /api/billing/details
GET /api/billing/ledger
POST /api/billing/redeem
GET /api/billing/ledger/export
GET /api/billing/statement
GET /api/billing/statement/export
GET /user/api-keys
POST /user/api-keys
GET /user/api-keys/{key_id}
PATCH /user/api-keys/{key_id}
PUT /user/api-keys/{key_id}
DELETE /user/api-keys/{key_id}
POST /user/api-keys/{key_id}/rotate
DELETE /user/api-keys/{key_id}/previous
GET /user/api-keys/{key_id}/usage
GET /api/prompt-log
DELETE /api/prompt-log
GET /api/prompt-log/export
GET /api/prompt-log/{request_id}
DELETE /api/prompt-log/{request_id}
GET /api/vendor-keys
POST /api/vendor-keys
GET /api/vendor-keys/{vendor_key_id}
PATCH /api/vendor-keys/{vendor_key_id}
DELETE /api/vendor-keys/{vendor_key_id}
POST /api/vendor-keys/{vendor_key_id}/test
GET /api/webhooks
POST /api/webhooks
GET /api/webhooks/{webhook_id}
PATCH /api/webhooks/{webhook_id}
DELETE /api/webhooks/{webhook_id}
POST /api/webhooks/{webhook_id}/rotate
POST /api/webhooks/{webhook_id}/test
GET /api/webhooks/{webhook_id}/deliveries
GET /api/webhooks/{webhook_id}/deliveries/{delivery_id}
POST /api/webhooks/{webhook_id}/deliveries/{delivery_id}/resend
GET /api/chats
POST /api/chats
DELETE /api/chats
GET /api/chats/export
GET /api/chats/{chat_id}
PATCH /api/chats/{chat_id}
DELETE /api/chats/{chat_id}
POST /api/chats/{chat_id}/messages
DELETE /api/chats/{chat_id}/messages/{position}
"""
ADMINISTRATORS = """
POST /api/admin/requests/{request_id}/replay
GET /api/admin/prompt-log
GET /api/admin/prompt-log/{request_id}
DELETE /api/admin/prompt-log/{request_id}
GET /api/admin/users/{user_id}/prompt-log
DELETE /api/admin/users/{user_id}/prompt-log
GET /api/admin/users/{user_id}/vendor-keys
POST /api/admin/users/{user_id}/vendor-keys
GET /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}
PATCH /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}
DELETE /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}
POST /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}/test
GET /api/admin/users/{user_id}/webhooks
PATCH /api/admin/users/{user_id}/webhooks/{webhook_id}
DELETE /api/admin/users/{user_id}/webhooks/{webhook_id}
GET /api/admin/users/{user_id}/webhooks/{webhook_id}/deliveries
GET /api/admin/webhooks
POST /api/admin/webhooks
GET /api/admin/webhooks/{webhook_id}
PATCH /api/admin/webhooks/{webhook_id}
DELETE /api/admin/webhooks/{webhook_id}
POST /api/admin/webhooks/{webhook_id}/rotate
POST /api/admin/webhooks/{webhook_id}/test
GET /api/admin/webhooks/{webhook_id}/deliveries
GET /api/admin/webhooks/{webhook_id}/deliveries/{delivery_id}
POST /api/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/resend
GET /api/admin/alerts
POST /api/admin/alerts
PATCH /api/admin/alerts/{name}
DELETE /api/admin/alerts/{name}
POST /api/admin/alerts/{name}/test
GET /admin/monitor
POST /api/admin/doctor
POST /api/admin/reload
POST /api/admin/mail/test
GET /api/admin/mail/suppressions
DELETE /api/admin/mail/suppressions/{suppression_id}
GET /api/admin/audit
GET /api/admin/audit/verify
GET /api/admin/servers
POST /api/admin/servers
PATCH /api/admin/servers/{name}
DELETE /api/admin/servers/{name}
POST /api/admin/servers/{name}/test
GET /api/admin/servers/{name}/keys
POST /api/admin/servers/{name}/keys
DELETE /api/admin/servers/{name}/keys
GET /api/admin/prices
GET /api/admin/users/{user_id}/balance
GET /api/admin/users/{user_id}/ledger
GET /api/admin/users/{user_id}/statement
GET /api/admin/users/{user_id}/statement/export
POST /api/admin/users/{user_id}/credit
GET /api/admin/ledger
GET /api/admin/ledger/export
GET /api/admin/ledger/verify
GET /api/admin/redeem-codes
GET /api/admin/plans
PUT /api/admin/plans/{name}
DELETE /api/admin/plans/{name}
GET /api/admin/invoices
GET /api/admin/invoices/{invoice_id}/pdf
GET /api/admin/orders
POST /api/admin/orders
DELETE /api/admin/orders/{order_id}
POST /api/admin/orders/{order_id}/paid
GET /api/admin/users/{user_id}/payments
POST /api/admin/payments/{payment_id}/refund
POST /api/admin/billing/sync
POST /api/admin/redeem-codes
DELETE /api/admin/redeem-codes/{batch_id}
GET /api/admin/redeem-codes/{batch_id}/redeemed
PUT /api/admin/prices
DELETE /api/admin/prices
GET /api/admin/routes
POST /api/admin/routes
PATCH /api/admin/routes/{route_id}
DELETE /api/admin/routes/{route_id}
GET /api/admin/models
GET /api/admin/drift
POST /api/admin/reprice
GET /api/admin/usage/stats
GET /api/admin/usage/logs
GET /api/admin/usage/logs/stream
GET /api/admin/logs
GET /api/admin/logs/stream
GET /api/admin/usage/export
GET /api/admin/costs
GET /api/admin/costs/{key_id}
GET /api/admin/explain
GET /api/admin/health
POST /api/admin/health
GET /api/admin/requests/{request_id}
GET /api/admin/keys
POST /api/admin/keys
GET /api/admin/keys/{key_id}
PATCH /api/admin/keys/{key_id}
DELETE /api/admin/keys/{key_id}
POST /api/admin/keys/{key_id}/rotate
DELETE /api/admin/keys/{key_id}/previous
GET /api/admin/keys/{key_id}/usage
GET /api/admin/keys/{key_id}/limits
GET /api/admin/tiers
GET /api/admin/users
POST /api/admin/users
GET /api/admin/users/{user_id}
GET /api/admin/users/{user_id}/limits
PATCH /api/admin/users/{user_id}/limits
PATCH /api/admin/users/{user_id}
DELETE /api/admin/users/{user_id}
POST /api/admin/users/{user_id}/reset-password
GET /api/admin/users/{user_id}/sessions
DELETE /api/admin/users/{user_id}/second-factor
DELETE /api/admin/users/{user_id}/sessions
DELETE /api/admin/users/{user_id}/sessions/{session_id}
GET /api/admin/invites
POST /api/admin/invites
DELETE /api/admin/invites
DELETE /api/admin/invites/{invite_id}
"""
OPERATOR = """
POST /api/admin/backup
"""
BY_KEY = """
POST /v1/chat/completions
POST /v1/messages
POST /v1/messages/count_tokens
POST /v1/responses
POST /v1/responses/compact
POST /v1/responses/input_tokens
GET /v1/responses/{id}
DELETE /v1/responses/{id}
GET /v1/responses/{id}/input_items
POST /v1/responses/{id}/cancel
GET /v1/files
POST /v1/files
GET /v1/files/{id}
DELETE /v1/files/{id}
GET /v1/files/{id}/content
GET /v1/batches
POST /v1/batches
GET /v1/batches/{id}
POST /v1/batches/{id}/cancel
GET /v1/vector_stores
POST /v1/vector_stores
GET /v1/vector_stores/{id}
DELETE /v1/vector_stores/{id}
POST /v1beta/models/{model}:generateContent
POST /v1beta/models/{model}:streamGenerateContent
POST /v1beta/models/{model}:countTokens
POST /v1beta/models/{model}:embedContent
POST /v1beta/models/{model}:batchEmbedContents
POST /v1/completions
POST /v1/embeddings
POST /v1/moderations
POST /v1/rerank
POST /v1/images/generations
POST /v1/images/generate
POST /v1/images/edits
POST /v1/images/variations
POST /v1/audio/speech
POST /v1/audio/transcriptions
POST /v1/audio/translations
GET /v1/models
GET /v1/models/{id}
GET /v1beta/models
GET /v1beta/models/{model}
"""
ACCESS = {
    line: access
    for access, lines in (
        ("public", PUBLIC + PAGES),
        ("signed in", SIGNED_IN + PAGES_OF_USERS),
        ("administrators", ADMINISTRATORS + PAGES_OF_ADMINISTRATORS),
        ("operator", OPERATOR),
        ("by key", BY_KEY),
    )
    for line in lines.split("\n")
    if line
}
LEAVE = "POST /api/auth/logout"
# Logout is last, because it ends the session.
CONTROL = [name for name, access in ACCESS.items() if access != "by key" and name != LEAVE] + [LEAVE]


# Headers, cookies and query of a request. Status and code of a rejection; None if it is accepted.
Carried = tuple[dict[str, str], dict[str, str], dict[str, str]]
Refusal = tuple[int, str] | None


@dataclass
class Credential:
    name: str
    make: Callable[[Callers], Awaitable[Carried]]
    signed_in: Refusal
    administrators: Refusal
    write: Refusal = None  # instead, for a change

    def expected(self, name: str) -> tuple[Refusal, ...]:
        if ACCESS[name] == "public":
            return (None,)
        if self.write and not name.startswith("GET"):
            return (self.write,)
        if ACCESS[name] == "operator":
            return (NO_OPERATOR if self.administrators in (None, NO_ADMIN) else self.administrators,)
        return (self.signed_in if ACCESS[name] == "signed in" else self.administrators,)


UNKNOWN = (401, "session_required")
OVER = (401, "invalid_session")
NO_ADMIN = (403, "admin_required")
NO_OPERATOR = (403, "operator_required")
FORGED = (403, "csrf_token_invalid")


def plain(**headers: str) -> Callable[[Callers], Awaitable[Carried]]:
    async def make(callers: Callers) -> Carried:
        return {name.replace("_", "-"): value for name, value in headers.items()}, {}, {}

    return make


def session(
    user: str,
    *,
    header: str = "authorization",
    prefix: str = "Bearer ",
    cookie: bool = False,
    query: str = "",
    csrf: str = "",
    more: dict[str, str] | None = None,
) -> Callable[[Callers], Awaitable[Carried]]:
    """`csrf`: "own", or the name of a user whose token is sent."""

    async def make(callers: Callers) -> Carried:
        token, own, _ = await callers.session(user)
        headers = dict(more or {})
        if csrf:
            headers["x-csrf-token"] = own if csrf == "own" else (await callers.session(csrf))[1]
        if cookie:
            return headers, {PLAIN_COOKIE: token}, {}
        if query:
            return headers, {}, {query: token}
        return headers | {header: prefix + token}, {}, {}

    return make


def key(
    name: str, *, header: str = "authorization", prefix: str = "", cookie: str = "", query: str = ""
) -> Callable[[Callers], Awaitable[Carried]]:
    async def make(callers: Callers) -> Carried:
        secret = callers.keys[name]
        if cookie:
            return {}, {cookie: secret}, {}
        if query:
            return {}, {}, {query: secret}
        return {header: (prefix or ("Bearer " if header == "authorization" else "")) + secret}, {}, {}

    return make


async def ended(callers: Callers) -> Carried:
    token, _, id_ = await callers.session("admin")
    async with callers.gateway.client(token) as client:
        assert (await client.delete(f"/api/auth/sessions/{id_}")).status_code == 204
    return {"authorization": f"Bearer {token}"}, {}, {}


async def both(callers: Callers) -> Carried:
    token, csrf, _ = await callers.session("admin")
    headers = {"authorization": f"Bearer {callers.keys['good']}", "x-csrf-token": csrf}
    return headers, {PLAIN_COOKIE: token}, {}


CREDENTIALS = [
    Credential("nothing", plain(), UNKNOWN, UNKNOWN),
    Credential("junk", plain(authorization="Bearer junk"), UNKNOWN, UNKNOWN),
    Credential("an empty bearer", plain(authorization="Bearer"), UNKNOWN, UNKNOWN),
    Credential("a made-up session", plain(authorization="Bearer bms_" + "A" * 43), OVER, OVER),
    Credential("a basic login", plain(authorization="Basic YWRtaW46YWRtaW4="), UNKNOWN, UNKNOWN),
    Credential("a spoofed operator", plain(x_forwarded_for="local", bluesminds_local="1"), UNKNOWN, UNKNOWN),
    Credential("a user's session", session("user"), None, NO_ADMIN),
    Credential("bearer in small letters", session("user", prefix="bearer "), None, NO_ADMIN),
    Credential("an administrator's session", session("admin"), None, None),
    Credential("an ended session", ended, OVER, OVER),
    Credential("a disabled user's session", session("disabled"), OVER, OVER),
    Credential("a session without bearer", session("admin", prefix=""), UNKNOWN, UNKNOWN),
    Credential("a session as x-api-key", session("admin", header="x-api-key", prefix=""), UNKNOWN, UNKNOWN),
    Credential("a session as api-key", session("admin", header="api-key", prefix=""), UNKNOWN, UNKNOWN),
    Credential("a session in the query", session("admin", query="token"), UNKNOWN, UNKNOWN),
    Credential("a session as access_token", session("admin", query="access_token"), UNKNOWN, UNKNOWN),
    Credential("a user's cookie", session("user", cookie=True, csrf="own"), None, NO_ADMIN),
    Credential("an administrator's cookie", session("admin", cookie=True, csrf="own"), None, None),
    Credential("a cookie alone", session("admin", cookie=True), None, None, write=FORGED),
    Credential(
        "a cookie, another's token", session("admin", cookie=True, csrf="user"), None, None, write=FORGED
    ),
    Credential("a disabled user's cookie", session("disabled", cookie=True, csrf="own"), OVER, OVER),
    Credential("a cookie beside a key", both, UNKNOWN, UNKNOWN),
    *(Credential(f"the key {name!r}", key(name), UNKNOWN, UNKNOWN) for name in KEYS),
    Credential("a key as x-api-key", key("good", header="x-api-key"), UNKNOWN, UNKNOWN),
    Credential("a key as api-key", key("good", header="api-key"), UNKNOWN, UNKNOWN),
    Credential("a key as a cookie", key("good", cookie=PLAIN_COOKIE), OVER, OVER),
    Credential("a key in the query", key("good", query="api_key"), UNKNOWN, UNKNOWN),
]


async def call(client: PlainClient, name: str, carried: Carried) -> PlainAnswer:
    """A request without effect: with unknown ids and a body that no route accepts."""
    method, _, path = name.partition(" ")
    body = {"no such field": 1} if method in ("POST", "PUT", "PATCH") else None
    return await send(client, method, re.sub(r"\{\w+(:path)?\}", UNKNOWN_ID, path), carried, body)


async def send(
    client: PlainClient, method: str, path: str, carried: Carried, body: object = None
) -> PlainAnswer:
    headers, cookies, query = carried
    if cookies:
        headers = headers | {"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    target = f"{path}?{urlencode(query)}" if query else path
    return await client.send(method, target, headers, body)


def rejection_of(answer: PlainAnswer) -> Refusal:
    """Status and code, if authentication or authorization rejected the request."""
    assert answer.status_code < 500 or answer.target == "/ready", answer.text
    if answer.status_code in (401, 403):
        code = answer.code
        # A setting rejects this for everyone who may call the route; tests/gateway/test_prompt_log.py.
        return None if code == "prompt_log_private" else (answer.status_code, code)
    return None


async def test_routes_of_the_reference_are_in_the_tables(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[], **BILLING)
    document = (await gateway.get("/openapi.json")).json()
    found = {f"{m.upper()} {path}" for path, methods in document["paths"].items() for m in methods}
    shown = {*PAGES.split("\n"), *PAGES_OF_USERS.split("\n"), *PAGES_OF_ADMINISTRATORS.split("\n")} - {""}
    assert found | shown == ACCESS.keys()
    assert not found & shown


async def test_routes_mounted_are_in_the_tables(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also routes that are not in the reference."""
    mounted: list[str] = []
    create = web_app.create_app

    def watched(routes: Iterable[Route], guard: Guard, **more: Any) -> ASGIApp:
        kept = list(routes)
        mounted.extend(one.name for one in kept)
        return create(kept, guard, **more)

    monkeypatch.setattr(web_app, "create_app", watched)
    await gateways.start(nursery, home, servers=[], **BILLING)
    assert sorted(mounted) == sorted(CONTROL)


def test_sources_add_routes_only_in_routes_py() -> None:
    """Quart has many ways to add a route; only routes.py uses one of them."""
    ways = {
        "add_url_rule",
        "route",
        "get",
        "post",
        "put",
        "patch",
        "delete",
        "websocket",
        "register_blueprint",
    }
    for path in sorted((ROOT / "bluesminds" / "web").rglob("*.py")):
        tree = ast.parse(path.read_text())
        uses = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for decorator in node.decorator_list
            if isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr in ways
        ]
        assert uses == [], path.name
        source = path.read_text()
        assert ("url_map" in source) == (path.name == "routes.py"), path.name
        assert "Blueprint" not in source and "add_url_rule" not in source and "add_websocket" not in source, (
            path.name
        )


async def test_build_quart_app_mounts_only_the_given_routes(gateway: Gateway) -> None:
    async def handler() -> None:
        """Do nothing."""

    one = route("GET", "/one", Access.ADMIN, handler, tag="Tests")
    guard = build_guard(gateway.services.accounts, public_url=None)
    clock, log = gateway.services.clock, gateway.services.log
    app = web_app.build_quart_app([one], guard, clock=clock, log=log)
    rules = [(rule.rule, rule.methods) for rule in app.url_map.iter_rules()]
    assert rules == [("/one", {"GET", "HEAD"})]


PART = 10  # the fast tier tries one in so many routes with a credential that is like another one


def tried_routes(callers: Callers) -> Iterator[tuple[Credential, list[str]]]:
    """Each credential with the routes to try it on. The process tier, which has PostgreSQL, tries all. The
    fast tier tries all with one of the credentials that are allowed the same, and a part with the others.
    """
    known = set()
    for number, credential in enumerate(CREDENTIALS):
        allowed = tuple(str(credential.expected(name)) for name in CONTROL)
        is_complete = callers.gateway.services.store.engine == "postgres" or allowed not in known
        known.add(allowed)
        yield credential, CONTROL if is_complete else CONTROL[number % PART :: PART]


async def test_control_routes_with_each_credential_allow_or_reject(callers: Callers) -> None:
    wrong = []
    async with connect(callers.gateway) as client:
        for credential, names in tried_routes(callers):
            carried = await credential.make(callers)
            forget_changes(callers.gateway)
            for name in names:
                answer = await call(client, name, carried)
                if rejection_of(answer) not in credential.expected(name):
                    wrong.append((credential.name, name, answer.status_code, answer.text))
                if "set-cookie" in answer.headers and name != LEAVE:
                    wrong.append((credential.name, name, "set-cookie"))
    assert wrong == []
    assert callers.gateway.events("control_failed") == []


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "nonsense"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://["},
    {"origin": "http://127.0.0.1.evil.example"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://HOST", "sec-fetch-site": "cross-site"},
]


async def test_change_from_another_site_is_rejected(callers: Callers) -> None:
    """Every route with the first headers, and a part of the routes with each of the others."""
    wrong = []
    host = f"127.0.0.1:{callers.gateway.port}"
    async with connect(callers.gateway) as client:
        csrf_headers, cookies, _ = await session("admin", cookie=True, csrf="own")(callers)
        for number, headers in enumerate(FOREIGN):
            sent = {name: value.replace("HOST", host) for name, value in headers.items()}
            forget_changes(callers.gateway)
            for name in CONTROL if number == 0 else CONTROL[number :: len(FOREIGN)]:
                answer = await call(client, name, (csrf_headers | sent, cookies, {}))
                if rejection_of(answer) != (None if name.startswith("GET") else (403, "cross_site_request")):
                    wrong.append((headers, name, answer.status_code, answer.text))
    assert wrong == []
    assert callers.gateway.events("control_failed") == []


async def test_change_from_the_own_site_is_accepted(callers: Callers) -> None:
    for origin in (f"http://127.0.0.1:{callers.gateway.port}", f"HTTP://127.0.0.1:{callers.gateway.port}"):
        headers, cookies, _ = await session("user", cookie=True, csrf="own")(callers)
        headers |= {"origin": origin, "sec-fetch-site": "same-origin"}
        async with connect(callers.gateway) as client:
            answer = await call(client, "POST /api/keys", (headers, cookies, {}))
            assert answer.code == "invalid_value", "authorized, then rejected by validation"


async def test_operator_cannot_use_routes_of_users(callers: Callers) -> None:
    async with connect(callers.gateway, local=True) as client:
        for name in CONTROL:
            answer = await call(client, name, ({}, {}, {}))
            if ACCESS[name] == "signed in":
                assert rejection_of(answer) == (403, "session_required"), name
            else:
                assert rejection_of(answer) in (None, (403, "invalid_bootstrap_token")), name


# Bodies for requests to resources of another user.
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /api/keys/{key_id}": {"name": "stolen"},
    "PATCH /user/api-keys/{key_id}": {"name": "stolen"},
    "PUT /user/api-keys/{key_id}": {"name": "stolen"},
    "PATCH /api/vendor-keys/{vendor_key_id}": {"mode": "only"},
    "PATCH /api/chats/{chat_id}": {"title": "stolen"},
    "POST /api/chats/{chat_id}/messages": {"messages": [{"role": "user", "text": "stolen"}]},
}


NOT_FOUND = (
    *("key_not_found", "session_not_found", "chat_not_found", "request_not_found"),
    *("prompt_not_found", "vendor_key_not_found", "webhook_not_found", "invoice_not_found"),
    "order_not_found",
)


@pytest.mark.parametrize("thief", ["other", "admin"])
async def test_resource_of_another_user_is_not_found(thief: str, callers: Callers) -> None:
    """Also for an administrator, on the routes for the user's own resources."""
    owned = [name for name, access in ACCESS.items() if access == "signed in" and "{" in name]
    assert len(owned) > 10
    async with connect(callers.gateway) as client:
        for name in owned:
            method, _, path = name.partition(" ")
            token, _, session_id = await callers.session("user")
            own = {"authorization": f"Bearer {token}"}
            path_values = {"session_id": session_id, "position": "0"}
            for variable, make in NEW.items():
                if f"{{{variable}}}" in path:
                    path_values[variable] = await make(callers)
            if "{delivery_id}" in path:
                path_values["delivery_id"] = await new_delivery(callers, path_values["webhook_id"])
            url = path.format_map(path_values)
            body = BODIES.get(name, {}) if method in ("POST", "PUT", "PATCH") else None
            stolen = {"authorization": f"Bearer {(await callers.session(thief))[0]}"}
            before = await client.send("GET", "/api/keys?limit=100", own)
            if thief == "admin" and "/requests/{request_id}" in name:
                continue  # administrators see the requests of all users
            refused = await client.send(method, url, stolen, body)
            assert refused.status_code == 404, name
            assert refused.code in NOT_FOUND, name
            after = await client.send("GET", "/api/keys?limit=100", own)
            assert (after.status_code, after.text) == (200, before.text), name
            allowed = await client.send(method, url, own, body)
            if method == "POST" and name.endswith("/replay"):  # the request of `new_request` has no key
                assert allowed.code == "replay_key_unusable"
                continue
            assert allowed.status_code in (200, 201, 204), (name, allowed.text)


async def new_key(callers: Callers) -> str:
    async with connect(callers.gateway, local=True) as operator:
        body = {"name": "mine", "user_id": callers.users["user"]}
        return str((await operator.send("POST", "/api/admin/keys", {}, body)).json()["id"])


async def new_vendor_key(callers: Callers) -> str:
    keys, owner = callers.gateway.services.accounts.vendor_keys, callers.users["user"]
    for row in await keys.list(owner):
        return row.id
    test = VendorKeyTest(("m",))
    row = await keys.add(
        AS_OPERATOR, owner, vendor="openai", api_key="sk-mine", mode="first", models=(), test=test
    )
    return row.id


async def new_webhook(callers: Callers) -> str:
    webhooks, owner = callers.gateway.services.accounts.webhooks, callers.users["user"]
    assert webhooks is not None
    for old in await webhooks.list(owner):
        await webhooks.remove(AS_OPERATOR, owner, old.id)
    row, _ = await webhooks.create(
        AS_OPERATOR, owner, url="https://hooks.invalid/", events=("*",), description=""
    )
    return row.id


async def new_delivery(callers: Callers, webhook_id: str) -> str:
    webhooks = callers.gateway.services.accounts.webhooks
    assert webhooks is not None
    return (await webhooks.test(callers.users["user"], webhook_id, "webhook.test")).id


async def new_order(callers: Callers) -> str:
    billing, owner = callers.gateway.services.accounts.billing, callers.users["user"]
    assert billing is not None
    found = list(await billing.orders.own_open(owner))
    if not found:
        placed = await billing.orders.place(AS_OPERATOR, owner, plan=None, cents=2000, provider="manual")
        found = [placed.order]
    return found[0].id


async def new_invoice(callers: Callers) -> str:
    billing, owner = callers.gateway.services.accounts.billing, callers.users["user"]
    assert billing is not None
    found = await billing.invoices.list(owner, before=2**31, limit=1)
    if not found:
        placed = await billing.orders.place(AS_OPERATOR, owner, plan=None, cents=2000, provider="manual")
        await billing.orders.mark_paid(AS_OPERATOR, placed.order.id)
        found = await billing.invoices.list(owner, before=2**31, limit=1)
    return found[0].row.id


async def new_request(callers: Callers) -> str:
    """A request that the prompt log has kept."""
    services, owner = callers.gateway.services, callers.users["user"]
    row = usage(next(SERIALS), user_id=owner)
    await services.store.write(insert_batch, [row])
    preview, text = services.vault.seal("mine"), write_prompt(LoggedPrompt("{}", row.endpoint))
    sealed = services.vault.seal_bytes(text)
    prompt = PromptRow(row.id, owner, row.key_id, row.at, row.endpoint, row.model, preview, sealed, len(text))
    await services.store.write(insert_prompts, [prompt])
    return row.id


async def new_chat(callers: Callers) -> str:
    """With one message."""
    chats, owner = callers.gateway.services.accounts.chats, callers.users["user"]
    chat = await chats.create(owner, ChatFacts("mine", "m"))
    await chats.add(owner, chat.id, [ChatMessage("user", "mine")])
    return chat.id


# By the variables of paths.
NEW: dict[str, Callable[[Callers], Awaitable[str]]] = {
    "key_id": new_key,
    "chat_id": new_chat,
    "request_id": new_request,
    "vendor_key_id": new_vendor_key,
    "webhook_id": new_webhook,
    "invoice_id": new_invoice,
    "order_id": new_order,
}


async def test_lists_contain_only_own_resources(callers: Callers) -> None:
    async with anonymous_client(callers.gateway) as client:
        headers = {"authorization": f"Bearer {(await callers.session('other'))[0]}"}
        for path in ("/api/keys", "/user/api-keys"):
            assert (await client.get(path, headers=headers)).json()["data"] == []
        (only,) = (await client.get("/api/auth/sessions", headers=headers)).json()["data"]
        assert only["current"]
        assert (await client.get("/api/auth/me", headers=headers)).json()["id"] == callers.users["other"]


NO_KEY = (401, "missing_api_key")
BAD_KEY = (401, "invalid_api_key")
ELSEWHERE = (403, "ip_not_allowed")
OTHER_PAGE = (403, "origin_not_allowed")
NOT_FOR_THIS = (403, "scope_not_allowed")
PAGE = {"origin": "https://app.example.com"}
# The credential, additional headers, and the expected result for chat and models.
CALLS: list[tuple[str, Callable[[Callers], Awaitable[Carried]], dict[str, str], Refusal, Refusal]] = [
    ("nothing", plain(), {}, NO_KEY, NO_KEY),
    ("a basic login", plain(authorization="Basic YWRtaW46YWRtaW4="), {}, BAD_KEY, BAD_KEY),
    ("a user's session", session("user"), {}, BAD_KEY, BAD_KEY),
    ("an administrator's session", session("admin"), {}, BAD_KEY, BAD_KEY),
    ("an administrator's cookie", session("admin", cookie=True, csrf="own"), {}, NO_KEY, NO_KEY),
    ("a key", key("good"), {}, None, None),
    ("a key as x-api-key", key("good", header="x-api-key"), {}, None, None),
    ("a key as api-key", key("good", header="api-key"), {}, None, None),
    ("a key as a cookie", key("good", cookie="api_key"), {}, NO_KEY, NO_KEY),
    ("a key as the session's cookie", key("good", cookie=PLAIN_COOKIE), {}, NO_KEY, NO_KEY),
    ("a key in the query", key("good", query="api_key"), {}, NO_KEY, NO_KEY),
    ("a key in the query as key", key("good", query="key"), {}, NO_KEY, NO_KEY),
    ("junk before a key", key("good", header="x-api-key"), {"authorization": "Bearer x"}, BAD_KEY, BAD_KEY),
    *(
        (f"{what} as {header}", key(what, header=header), more, chat, models)
        for header in ("authorization", "x-api-key", "api-key")
        for what, more, chat, models in (
            ("for chats", {}, None, NOT_FOR_THIS),
            ("for models", {}, NOT_FOR_THIS, None),
            ("for both", {}, None, None),
            ("for another model", {}, (403, "model_not_allowed"), None),
            ("revoked", {}, (401, "api_key_revoked"), (401, "api_key_revoked")),
            ("expired", {}, (401, "api_key_expired"), (401, "api_key_expired")),
            ("rotated", {}, (401, "api_key_expired"), (401, "api_key_expired")),
            ("rotated, in its overlap", {}, None, None),
            ("of a disabled user", {}, (401, "user_disabled"), (401, "user_disabled")),
            ("from elsewhere", {}, ELSEWHERE, ELSEWHERE),
            ("from elsewhere", {"x-forwarded-for": "192.0.2.1"}, ELSEWHERE, ELSEWHERE),
            ("from elsewhere", {"forwarded": "for=192.0.2.1"}, ELSEWHERE, ELSEWHERE),
            ("from here", {}, None, None),
            ("from here", {"x-forwarded-for": "192.0.2.1"}, None, None),
            ("for a page", {}, OTHER_PAGE, OTHER_PAGE),
            ("for a page", {"origin": "https://evil.example"}, OTHER_PAGE, OTHER_PAGE),
            ("for a page", {"origin": "https://app.example.com.evil.example"}, OTHER_PAGE, OTHER_PAGE),
            ("for a page", PAGE, None, None),
        )
    ),
]


async def test_data_plane_with_each_credential_allows_or_rejects(callers: Callers) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    async with connect(callers.gateway) as client:
        for prefix in ("/v1", "/api/v1"):
            for what, make, more, chat, models in CALLS:
                headers, cookies, query = await make(callers)
                carried = (headers | more, cookies, query)
                answer = await send(client, "POST", f"{prefix}/chat/completions", carried, body)
                assert rejection_of(answer) == chat, (what, more, answer.text)
                assert chat is not None or answer.status_code == 200, (what, answer.text)
                for path in ("/models", "/models/m"):
                    answer = await send(client, "GET", prefix + path, carried)
                    if path == "/models/m" and what.startswith("for another model"):
                        assert answer.status_code in (403, 404), what
                    else:
                        assert rejection_of(answer) == models, (what, path, answer.text)
                    if models is None and path == "/models":
                        listed = [row["id"] for row in answer.json()["data"]]
                        assert listed == ([] if what.startswith("for another model") else ["m"]), what


async def test_error_responses_and_log_contain_no_credential(callers: Callers) -> None:
    async with connect(callers.gateway) as client, trio.open_nursery():
        for _, make, more, *_ in CALLS:
            headers, cookies, query = await make(callers)
            secrets = [
                *(value.rpartition(" ")[2] for value in headers.values() if "b" in value),
                *cookies.values(),
                *query.values(),
            ]
            answer = await send(client, "GET", "/v1/models", (headers | more, cookies, query))
            shown = answer.text + str(answer.headers)
            assert not [secret for secret in secrets if len(secret) > 30 and secret in shown]
            logged = callers.gateway.log
            assert not [secret for secret in secrets if len(secret) > 30 and secret in logged]
