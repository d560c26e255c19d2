"""The control plane: public routes, setup, input validation and errors."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.gateways import Gateway, entry, eventually


async def test_admin_api_without_session_is_rejected(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for headers in (
            {},
            {"authorization": ""},
            {"authorization": "Bearer bms_x"},
            {"x-api-key": gateway.key},
        ):
            answer = await client.get("/api/admin/keys", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] in ("session_required", "invalid_session")


async def test_health_and_ready_of_working_gateway_are_ok(gateway: Gateway) -> None:
    assert (await gateway.get("/health")).json() == {"status": "ok"}
    ready = await gateway.get("/ready")
    body = ready.json()
    assert sum(body.pop("servers").values()) == 1
    checks = {"store": "ok", "limits": "ok", "tasks": "ok", "servers": "ok"}
    assert (ready.status_code, body) == (200, {"status": "ok", "checks": checks, "configuration": "ok"})


async def test_ready_without_usable_server_is_503(nursery: trio.Nursery, home: Path) -> None:
    servers = [entry("none", "http://127.0.0.1:1/v1", models=[])]
    gateway = await gateways.start(nursery, home, servers=servers)
    await eventually(lambda: len(gateway.events("server_down")) == 1)
    ready = await gateway.get("/ready")
    assert (ready.status_code, ready.json()["checks"]["servers"]) == (
        503,
        "no usable server; 1 down: none",
    )
    assert (await gateway.chat()).json()["error"]["code"] == "model_not_found"


async def test_setup_with_bootstrap_token_creates_one_administrator(gateway: Gateway) -> None:
    token = gateway.running.first_run.bootstrap_token
    assert token
    claim: dict[str, Any] = {"token": token, "email": "ada@example.com", "password": "correct horse"}
    async with gateway.client() as client:

        async def attempt(**changed: Any) -> tuple[int, str]:
            answer = await client.post("/api/setup", json=claim | changed)
            return answer.status_code, answer.json().get("error", {}).get("code", "")

        assert await attempt(token="wrong") == (403, "invalid_bootstrap_token")
        assert await attempt(email="ada") == (400, "invalid_email")
        assert await attempt(password="short") == (400, "invalid_password")
        assert await attempt(more=1) == (400, "invalid_value")
        answer = await client.post("/api/setup", json=claim)
        assert answer.status_code == 201
        assert (answer.json()["role"], answer.json()["email"]) == ("admin", "ada@example.com")
        assert "password" not in answer.text
        assert await attempt() == (403, "invalid_bootstrap_token")


async def test_setup_attempts_of_an_address_are_limited(gateway: Gateway) -> None:
    claim = {"token": "wrong", "email": "ada@example.com", "password": "correct horse"}
    async with gateway.client() as client:
        answers = [await client.post("/api/setup", json=claim) for _ in range(21)]
    codes = [answer.json()["error"]["code"] for answer in answers]
    assert codes == ["invalid_bootstrap_token"] * 20 + ["too_many_attempts"]
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_path_with_extra_slashes_is_unknown(gateway: Gateway) -> None:
    async with gateway.client() as client:
        for path in ("//api/auth/login", "///api/auth/login", "/api/auth/login/", "/api/auth//login"):
            answer = await client.post(f"{gateway.url}{path}", json={})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), path


async def test_invalid_input_is_rejected_with_the_field(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        for path, body, param in (
            ("/api/admin/keys", {"name": ""}, "name"),
            ("/api/admin/keys", {"name": "n", "limits": {"rpm": 0}}, "limits.rpm"),
            ("/api/admin/servers", {"name": "UPPER", "url": "http://x"}, "name"),
            ("/api/admin/servers", {"name": "ok", "url": "ftp://x"}, "url"),
            ("/api/admin/servers", {"name": "ok", "url": "http://x", "weight": 0}, "weight"),
            ("/api/admin/servers", {"name": "ok", "url": "http://x", "models": ["a", "b\n"]}, "models"),
            ("/api/admin/servers", {"name": "ok", "url": "http://x", "api_key": "a b"}, "api_key"),
            ("/api/admin/servers", {"name": "..", "url": "http://x"}, "name"),
            ("/api/admin/servers", {"name": "ok"}, "url"),
            ("/api/admin/keys", {"name": "n", "more": 1}, None),
            ("/api/admin/keys", [], None),
            ("/api/admin/users", {"email": "x", "password": "long enough"}, "email"),
            ("/api/admin/users", {"email": "a@b.cc", "password": "long enough", "role": "x"}, "role"),
        ):
            answer = await client.post(path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, param), (path, body)
            assert not re.search("Expected|Object|regex|\\$", error["message"])
            assert param is None or param in error["message"] or error["code"] != "invalid_value"
        for query, param in (
            ("days=0", "days"),
            ("days=400", "days"),
            ("days=x", "days"),
            ("group=x", "group"),
            ("group=day,day", "group"),
            ("group=tag", "tag"),
            ("group=hour&days=60", "group"),
            ("since=2024-01-01T00:00:00Z", "since"),
        ):
            answer = await client.get(f"/api/admin/usage/stats?{query}")
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        for content in (b"{", b"", b'{"name":"\xff"}', b"[" * 100_000):
            answer = await client.post("/api/admin/keys", content=content)
            assert answer.status_code == 400, content[:10]
        for path in ("nothing", "keys/", "keys/..%2Fusers"):
            error = (await client.delete(f"/api/admin/{path}")).json()["error"]
            assert (error["code"], error["message"][:33]) == (
                "unknown_url",
                "Not found. The OpenAI-compatible ",
            )
        answer = await client.put("/api/admin/keys", json={})
        assert (answer.json()["error"]["code"], answer.headers["allow"]) == (
            "method_not_allowed",
            "GET, HEAD, POST",
        )
    assert gateway.events("control_failed") == []


async def test_body_above_one_mib_is_rejected(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        answer = await client.post("/api/admin/keys", content=b'"' + b"x" * 1_100_000 + b'"')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_invalid_api_key_or_unknown_user_is_rejected(gateway: Gateway) -> None:
    server = {"name": "s", "url": "http://127.0.0.1:9/v1"}
    async with gateway.operator() as client:
        for key in ("sk-abc\n", "sk abc", "sk-abc\0", "sk-\u00e9", ""):
            answer = await client.post("/api/admin/servers", json=server | {"api_key": key})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "api_key")
            assert key == "" or key not in answer.text
        answer = await client.post("/api/admin/servers", json=server | {"name": "s\n"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
        answer = await client.post("/api/admin/keys", json={"name": "k", "user_id": "unknown"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "user_not_found", "user_id")
    assert gateway.events("control_failed") == []


async def test_users_list_contains_no_password_hash(gateway: Gateway) -> None:
    body = {"email": "ada@example.com", "password": "correct horse", "role": "admin"}
    async with gateway.operator() as client:
        assert (await client.post("/api/admin/users", json=body)).status_code == 201
        again = await client.post("/api/admin/users", json=body)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "email_taken")
        listed = (await client.get("/api/admin/users")).json()["data"]
        assert [row["role"] for row in listed] == ["user", "admin"]
        assert "argon2" not in str(listed)
        usage = await client.get("/api/admin/usage/stats")
        assert usage.json()["data"] == []


async def test_created_key_is_shown_once(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key(limits={"rpm": 5, "concurrency": 2})
    async with gateway.operator() as client:
        text = (await client.get("/api/admin/keys")).text
        rows = {row["id"]: row for row in httpx.Response(200, text=text).json()["data"]}
    assert key not in text
    assert rows[key_id]["last4"] == key[-4:]
    assert rows[key_id]["prefix"] == key[:7]
    limits = {name: value for name, value in rows[key_id]["limits"].items() if value is not None}
    assert limits == {"rpm": 5, "concurrency": 2}
    assert "digest" not in text


INVALID_BODIES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"name": "n", "rpm": 5}, "Unknown field `rpm`: `rpm` belongs under `limits`.", None),
    ({"name": "n", "limits": {"rps": 5}}, "Unknown field `limits.rps`. Known: `rpm`, `tpm`, ", "limits"),
    ({"name": "n", "\x1b[1m": 5}, "Unknown field. Known: `name`, ", None),
    ({}, "Missing field `name`. It must be 1 to 100 characters without control characters.", "name"),
    ({"name": "n", "limits": {"rpm": 0}}, "limits.rpm must be null ", "limits.rpm"),
]


async def test_invalid_body_is_rejected_with_a_hint(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for body, message, param in INVALID_BODIES:
        with subtests.test(body=body):
            async with gateway.operator() as client:
                error = (await client.post("/api/admin/keys", json=body)).json()["error"]
            assert error["message"].startswith(message)
            assert (error["code"], error["param"]) == ("invalid_value", param)


async def test_chat_request_without_model_names_the_missing_field(gateway: Gateway) -> None:
    error = (await gateway.chat({"messages": []})).json()["error"]
    assert (error["message"], error["param"]) == ("Missing field `model`.", "model")
