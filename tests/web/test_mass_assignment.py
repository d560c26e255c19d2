"""No input sets more than it is meant to: every write, with the name of every column of every table."""

import re
import sqlite3
from collections import defaultdict
from contextlib import closing
from typing import Any

import pytest

from bluesminds.common.prices import RATE_FIELDS
from tests.deployment import PASSWORD, Callers, anonymous_client, create_callers, forget_changes
from tests.gateways import Gateway
from tests.plain_client import connect

LIMITS = {
    *("rpm", "tpm", "concurrency", "tokens_per_day", "tokens_per_month"),
    *("usd_per_day", "usd_per_month", "usd_total"),
}
KEY = {
    *(
        "name",
        "scopes",
        "allowed_models",
        "allowed_ips",
        "allowed_origins",
        "limits",
        "expires_at",
        "metadata",
        "prompt_log",
    ),
}
ROUTE = {
    *("model", "targets", "policy", "fallback", "fallback_on", "when"),
    *("first_token_timeout", "chunk_timeout", "recovery", "repeat_accepted"),
    *("queue_timeout", "queue_size", "hedge_after", "hedge_share", "hedge_daily_usd"),
    *("shadow", "shadow_model", "shadow_share", "shadow_daily_usd", "prefer_regions"),
}
VENDOR_KEY = {"api_key", "mode", "models"}
WEBHOOK = {"url", "events", "description"}
# What each write may say, and a body that it takes, written down a second time.
OF_THE_OPERATOR = {"POST /api/admin/backup"}
WRITES: dict[str, tuple[set[str], dict[str, Any]]] = {
    "POST /api/admin/reprice": (
        {"since", "until", "model", "dry_run", "after"},
        {"since": "2026-01-01T00:00:00Z"},
    ),
    "POST /api/admin/mail/test": ({"email"}, {"email": "ada@example.com"}),
    "POST /api/requests/{request_id}/replay": ({"model"}, {"model": "m"}),
    "POST /api/admin/requests/{request_id}/replay": ({"model"}, {"model": "m"}),
    "POST /api/setup": (
        {"token", "email", "password"},
        {"token": "t" * 43, "email": "a@b.cc", "password": PASSWORD},
    ),
    "POST /api/auth/signup": (
        {"email", "password", "full_name", "invite"},
        {"email": "new@example.com", "password": PASSWORD},
    ),
    "POST /api/auth/login": (
        {"email", "password", "bearer", "code"},
        {"email": "user@example.com", "password": PASSWORD},
    ),
    "POST /api/auth/local": ({"token"}, {"token": "t" * 43}),
    "PATCH /api/auth/mail": (
        {"weekly_summary", "keys", "sign_ins", "usage", "servers", "time_zone"},
        {"keys": False},
    ),
    "POST /api/auth/second-factor": ({"password"}, {"password": "wrong"}),
    "POST /api/auth/second-factor/confirm": ({"code"}, {"code": "000000"}),
    "POST /api/auth/second-factor/recovery-codes": ({"code"}, {"code": "000000"}),
    "POST /api/auth/second-factor/disable": ({"code", "password"}, {"password": "wrong"}),
    "PATCH /api/auth/me": ({"full_name", "prompt_log"}, {"full_name": "New Name"}),
    "POST /api/auth/me/delete": ({"password"}, {"password": "wrong"}),
    "POST /api/auth/password": (
        {"password", "new_password", "bearer"},
        {"password": PASSWORD, "new_password": PASSWORD + "!"},
    ),
    "POST /api/auth/password/forgot": ({"email"}, {"email": "user@example.com"}),
    "POST /api/auth/password/reset": ({"token", "password"}, {"token": "t" * 43, "password": PASSWORD}),
    "POST /api/auth/email": ({"email", "password"}, {"email": "a@b.cc", "password": PASSWORD}),
    "POST /api/auth/email/verify": ({"token", "password"}, {"token": "t" * 43, "password": PASSWORD}),
    "POST /api/auth/email/resend": ({"email"}, {"email": "user@example.com"}),
    "POST /api/keys": (KEY, {"name": "new"}),
    "PATCH /api/keys/{key_id}": (KEY, {"name": "new"}),
    "POST /api/keys/{key_id}/rotate": ({"overlap_seconds"}, {}),
    "POST /user/api-keys": (KEY, {"name": "new"}),
    "PATCH /user/api-keys/{key_id}": (KEY, {"name": "new"}),
    "PUT /user/api-keys/{key_id}": (KEY, {"name": "new"}),
    "POST /user/api-keys/{key_id}/rotate": ({"overlap_seconds"}, {}),
    "POST /api/admin/keys": (KEY | {"user_id"}, {"name": "new"}),
    "PATCH /api/admin/keys/{key_id}": (KEY, {"name": "new"}),
    "POST /api/admin/keys/{key_id}/rotate": ({"overlap_seconds"}, {}),
    "POST /api/admin/backup": ({"passphrase", "with_secrets"}, {}),
    "POST /api/admin/users": (
        {"email", "password", "role", "full_name", "tier"},
        {"email": "new@example.com", "password": PASSWORD},
    ),
    "PATCH /api/admin/users/{user_id}": (
        {"full_name", "role", "tier", "disabled", "prompt_log"},
        {"full_name": "New Name"},
    ),
    "PATCH /api/admin/users/{user_id}/limits": (LIMITS, {"rpm": 5}),
    "POST /api/admin/invites": ({"email"}, {"email": "new@example.com"}),
    "POST /api/admin/servers": (
        {
            *("name", "vendor", "url", "dialect", "api_key", "api_keys", "api_version", "headers", "models"),
            *("weight", "priority", "passthrough", "passthrough_paths", "region", "tags", "mode"),
            *("max_concurrency", "rpm"),
            *("connect_timeout", "first_token_timeout", "first_byte_timeout", "chunk_timeout"),
            *("total_timeout", "on_disconnect", "drain_seconds", "drain_tokens"),
        },
        {"name": "new", "url": "http://127.0.0.1:9/v1"},
    ),
    "PATCH /api/admin/servers/{name}": (
        {
            *("url", "api_key", "api_keys", "api_version", "headers", "models", "weight", "priority"),
            "passthrough",
            *("passthrough_paths", "region", "tags", "mode", "max_concurrency", "rpm"),
            *("connect_timeout", "first_token_timeout", "first_byte_timeout", "chunk_timeout"),
            *("total_timeout", "on_disconnect", "drain_seconds", "drain_tokens"),
        },
        {"weight": 2},
    ),
    "POST /api/admin/servers/{name}/keys": ({"api_key"}, {"api_key": "sk-0123456789-new"}),
    "POST /api/vendor-keys": (VENDOR_KEY | {"vendor"}, {"vendor": "openai", "api_key": "sk-new"}),
    "PATCH /api/vendor-keys/{vendor_key_id}": (VENDOR_KEY, {"mode": "only"}),
    "POST /api/admin/users/{user_id}/vendor-keys": (
        VENDOR_KEY | {"vendor"},
        {"vendor": "openai", "api_key": "sk-new"},
    ),
    "PATCH /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}": (VENDOR_KEY, {"mode": "only"}),
    "POST /api/admin/alerts": (
        {"name", "kind", "above", "window", "hold", "quiet", "channels", "server"},
        {"name": "new", "kind": "queue", "above": 1.0},
    ),
    "PATCH /api/admin/alerts/{name}": (
        {"kind", "above", "window", "hold", "quiet", "channels", "server"},
        {"above": 1.0},
    ),
    "POST /api/webhooks": (WEBHOOK, {"url": "https://hooks.example/"}),
    "PATCH /api/webhooks/{webhook_id}": (WEBHOOK | {"enabled"}, {"description": "new"}),
    "POST /api/webhooks/{webhook_id}/rotate": ({"overlap_seconds"}, {}),
    "POST /api/webhooks/{webhook_id}/test": ({"event"}, {}),
    "PATCH /api/admin/users/{user_id}/webhooks/{webhook_id}": ({"enabled"}, {"enabled": False}),
    "POST /api/admin/webhooks": (WEBHOOK, {"url": "https://hooks.example/"}),
    "PATCH /api/admin/webhooks/{webhook_id}": (WEBHOOK | {"enabled"}, {"description": "new"}),
    "POST /api/admin/webhooks/{webhook_id}/rotate": ({"overlap_seconds"}, {}),
    "POST /api/admin/webhooks/{webhook_id}/test": ({"event"}, {}),
    "POST /api/chats": ({"title", "model", "parameters"}, {"title": "new"}),
    "PATCH /api/chats/{chat_id}": ({"title", "model", "parameters"}, {"title": "new"}),
    "POST /api/chats/{chat_id}/messages": ({"messages"}, {"messages": [{"role": "user", "text": "new"}]}),
    "POST /api/admin/routes": (ROUTE, {"model": "new", "targets": ["one"]}),
    "PATCH /api/admin/routes/{route_id}": (ROUTE, {"policy": "weighted"}),
    "PUT /api/admin/prices": (
        {
            "model",
            "server",
            "since",
            "until",
            "service_tier",
            "from_tokens",
            "max_output_tokens",
            *RATE_FIELDS,
        },
        {"model": "new", "input_usd": "1"},
    ),
    "POST /api/admin/users/{user_id}/credit": (
        {"kind", "amount_usd", "ends_at", "reference", "key"},
        {"kind": "topup", "amount_usd": "1"},
    ),
    "POST /api/billing/redeem": ({"code"}, {"code": "BM-0000-0000-0000-0000"}),
    "POST /api/admin/redeem-codes": (
        {"name", "amount_usd", "count", "expires_at", "ends_at"},
        {"name": "new", "amount_usd": "1"},
    ),
}
WITHOUT_BODY = {
    "POST /api/admin/alerts/{name}/test",
    "POST /api/mail/unsubscribe",
    "POST /api/admin/doctor",
    "POST /api/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
    "POST /api/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/resend",
    "POST /api/admin/reload",
    "POST /api/auth/logout",
    "POST /api/admin/health",
    "POST /api/admin/servers/{name}/test",
    "POST /api/vendor-keys/{vendor_key_id}/test",
    "POST /api/admin/users/{user_id}/vendor-keys/{vendor_key_id}/test",
    "POST /api/admin/users/{user_id}/reset-password",
}
GUESSES = ("is_admin", "balance", "usd_total", "__proto__")
COLUMNS = ("role", "password_hash", "user_id", "disabled_at", "sealed_api_keys", "rpm")


@pytest.fixture
async def callers(gateway: Gateway) -> Callers:
    """On SQLite, because the complete database is compared."""
    return await create_callers(gateway)


def tables(gateway: Gateway) -> dict[str, list[str]]:
    with closing(sqlite3.connect(gateway.database)) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {
            name: [row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (name,))]
            for name in names
        }


def content(gateway: Gateway) -> list[str]:
    """Everything, but for what changes by itself."""
    with closing(sqlite3.connect(gateway.database)) as database:
        return [line for line in database.iterdump() if not re.search('INTO "(sessions|events)"', line)]


def components(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return dict(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])


async def test_write_routes_accept_the_listed_fields(callers: Callers) -> None:
    document = (await callers.gateway.get("/openapi.json")).json()
    found = {}
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            if method in ("post", "put", "patch") and not path.startswith(("/v1/", "/v1beta/")):
                body = one.get("requestBody")
                schema = body and components(document, body["content"]["application/json"]["schema"])
                found[f"{method.upper()} {path}"] = schema
    assert found.keys() == WRITES.keys() | WITHOUT_BODY
    for name, schema in found.items():
        if name in WITHOUT_BODY:
            assert schema is None, name
        else:
            assert set(schema["properties"]) == WRITES[name][0], name
            assert schema["additionalProperties"] is False, name
    assert document["components"]["schemas"]["LimitsInput"]["additionalProperties"] is False


async def test_write_routes_reject_column_names(callers: Callers) -> None:
    """Users call their own routes, an administrator or the operator the others. That bodies have no other
    unknown field is in their schemas: see above.
    """
    gateway = callers.gateway
    assert {*COLUMNS} <= {column for names in tables(gateway).values() for column in names}
    columns = {*COLUMNS, *GUESSES}
    path_values: dict[str, str] = defaultdict(lambda: "x")
    path_values |= {"key_id": callers.key_ids["good"], "user_id": callers.users["other"]}
    bearers = {
        role: {"authorization": f"Bearer {(await callers.session(role))[0]}"} for role in ("user", "admin")
    }
    before = content(gateway)
    tried = 0
    async with connect(gateway) as others, connect(gateway, local=True) as operator:
        for name, (fields, body) in WRITES.items():
            client = operator if name in OF_THE_OPERATOR else others
            method, _, path = name.partition(" ")
            headers = bearers["admin" if path.startswith("/api/admin/") else "user"]
            forget_changes(gateway)
            for column in sorted(columns - fields):
                sent = body | {column: "admin"}
                answer = await client.send(method, path.format_map(path_values), headers, sent)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (400, "invalid_value"), (name, column)
                assert error["message"].startswith("Unknown field"), (name, column)
                tried += 1
    assert tried > 200
    assert content(gateway) == before


async def test_profile_change_updates_only_the_name(callers: Callers) -> None:
    """A user's own name; everything else of the row stays."""
    token, _, _ = await callers.session("user")
    gateway = callers.gateway

    def row() -> dict[str, Any]:
        with closing(sqlite3.connect(gateway.database)) as database:
            database.row_factory = sqlite3.Row
            return dict(
                database.execute("SELECT * FROM users WHERE id = ?", (callers.users["user"],)).fetchone()
            )

    before = row()
    async with anonymous_client(gateway) as client:
        answer = await client.patch(
            "/api/auth/me", json={"full_name": "Ada"}, headers={"authorization": f"Bearer {token}"}
        )
    assert answer.status_code == 200
    assert row() == before | {"full_name": "Ada"}
