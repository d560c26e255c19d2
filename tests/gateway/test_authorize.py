"""Restrictions of API keys: address, origin, endpoint and model."""

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from bluesminds.common.errors import Forbidden
from tests.fakes.model_server import ModelServer
from tests.gateway.test_authenticate import Table, authenticator, changed, context, rejected
from tests.gateways import ASK, Gateway

KEY_HEADERS = ("authorization", "x-api-key", "api-key")


async def forbidden(fields: dict[str, object], **sent: object) -> str | None:
    """The error code, or None if the request is allowed."""
    keys = authenticator(Table(changed(**fields)))
    try:
        request = context(**sent)  # type: ignore[arg-type]
        keys.authorize_use(await keys.authenticate(request), request)
    except Forbidden as exc:
        assert exc.status == 403
        assert not keys.last_used, "a rejected request is not counted as use"
        return exc.code
    assert keys.last_used
    return None


@pytest.mark.parametrize(
    ("client", "code"),
    [
        ("10.1.2.3", None),
        ("::ffff:10.1.2.3", None),
        ("2001:db8::5", None),
        ("2001:DB8:0::5", None),
        ("192.0.2.1", None),
        ("192.0.2.2", "ip_not_allowed"),
        ("2001:db9::5", "ip_not_allowed"),
        ("fe80::1%eth0", "ip_not_allowed"),
        ("local", "ip_not_allowed"),
    ],
)
async def test_allowed_ips_restrict_client_address(client: str, code: str | None) -> None:
    assert (
        await forbidden({"allowed_ips": ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")}, client=client)
        == code
    )
    assert await forbidden({"allowed_ips": None}, client=client) is None


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ("https://app.example.com", None),
        ("http://localhost:8080", None),
        ("https://app.example.com:8443", "origin_not_allowed"),
        ("http://app.example.com", "origin_not_allowed"),
        ("https://evil.example.com", "origin_not_allowed"),
        ("https://app.example.com.evil.example", "origin_not_allowed"),
        ("null", "origin_not_allowed"),
        ("", "origin_not_allowed"),
        (None, "origin_not_allowed"),
    ],
)
async def test_allowed_origins_restrict_origin_header(origin: str | None, code: str | None) -> None:
    allowed = ("https://app.example.com", "http://localhost:8080")
    assert await forbidden({"allowed_origins": allowed}, origin=origin) == code
    assert await forbidden({"allowed_origins": None}, origin=origin) is None


async def test_scopes_restrict_endpoints() -> None:
    for scope, other in (("models", "chat.completions"), ("chat.completions", "models")):
        assert await forbidden({"scopes": (scope,)}, endpoint=scope) is None
        assert await forbidden({"scopes": (scope,)}, endpoint=other) == "scope_not_allowed"
        assert await forbidden({"scopes": None}, endpoint=other) is None
        assert await forbidden({"scopes": ()}, endpoint=other) == "scope_not_allowed"


async def test_invalid_key_reveals_no_restrictions() -> None:
    narrow: dict[str, object] = {
        "allowed_ips": ("192.0.2.1",),
        "allowed_origins": ("https://a.b",),
        "scopes": (),
    }
    assert await rejected(authenticator(Table(changed(**narrow, revoked_at=1)))) == "api_key_revoked"
    assert await rejected(authenticator(Table(changed(**narrow, expires_at=1)))) == "api_key_expired"
    assert await rejected(authenticator(Table(None))) == "invalid_api_key"
    table = Table(changed(**narrow))
    table.disabled_at = 1
    assert await rejected(authenticator(table)) == "user_disabled"


async def test_restrictions_apply_to_every_key_header(gateway: Gateway, models: ModelServer) -> None:
    refusals = {
        "ip_not_allowed": {"allowed_ips": ["192.0.2.0/24"]},
        "origin_not_allowed": {"allowed_origins": ["https://app.example.com"]},
        "scope_not_allowed": {"scopes": ["models"]},
        "model_not_allowed": {"allowed_models": ["other", "gpt*"]},
    }
    good = {
        "allowed_ips": ["127.0.0.0/8"],
        "allowed_origins": ["https://app.example.com"],
        "scopes": ["chat.completions"],
        "allowed_models": ["m"],
    }
    page = {"origin": "https://app.example.com"}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for code, fields in refusals.items():
            _, key = await gateway.new_key(**fields)
            for header in KEY_HEADERS:
                answer = await client.post("/v1/chat/completions", json=ASK, headers={header: key})
                error = answer.json()["error"]
                assert (answer.status_code, error["code"], error["type"]) == (403, code, "permission_error")
                assert key not in answer.text
        assert not models.asked
        _, key = await gateway.new_key(**good)
        for header in KEY_HEADERS:
            answer = await client.post("/v1/chat/completions", json=ASK, headers={header: key, **page})
            assert answer.status_code == 200, answer.text
        twice = [("api-key", key), ("origin", page["origin"]), ("origin", "https://evil.example")]
        answer = await client.post("/v1/chat/completions", json=ASK, headers=twice)
        assert answer.json()["error"]["code"] == "origin_not_allowed"


async def test_disallowed_models_are_hidden(gateway: Gateway, models: ModelServer) -> None:
    for allowed, visible in ((["m"], ["m"]), (["m*"], ["m"]), (["*"], ["m"]), (["n", "M"], [])):
        _, key = await gateway.new_key(allowed_models=allowed)
        async with gateway.client(key) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            assert [row["id"] for row in listed] == visible
            one = await client.get("/v1/models/m")
            assert one.status_code == (200 if visible else 404)
    codes = set()
    for model in ("m", "no-such-model"):
        answer = await gateway.chat(ASK | {"model": model}, key=key)
        codes.add((answer.status_code, answer.json()["error"]["code"]))
    assert codes == {(403, "model_not_allowed")}, "the error does not reveal whether the model exists"
    assert not models.asked


async def test_key_revoked_while_body_arrives_is_rejected(gateway: Gateway, models: ModelServer) -> None:
    key_id, key = await gateway.new_key()
    body = b'{"model": "m", "messages": []}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nApi-Key: {key}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    async with stream, gateway.operator() as operator:
        await stream.send_all(head.encode() + body[:-1])
        await wait_all_tasks_blocked(0.05)
        assert (await operator.delete(f"/api/admin/keys/{key_id}")).status_code == 204
        await stream.send_all(body[-1:])
        answer = bytes(await stream.receive_some(100))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert not models.asked
