"""Opening a Realtime session: everything that refuses it is an ordinary response before the upgrade."""

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme

from tests import gateways
from tests.fakes.socket_upstream import SocketUpstream
from tests.gateway.cases import Since, own_servers
from tests.gateway.sockets.conftest import CREATE, KEY, MODEL, opened, response, session, start
from tests.gateways import Gateway, entry, eventually
from tests.http.sockets import Closed

ERROR = '{"error":{"message":"no","type":"server_error","code":null}}'


async def test_session_passes_events_both_ways(gateway: Gateway, realtime: SocketUpstream) -> None:
    async with session(gateway) as client:
        assert client.status == 101
        assert client.headers["x-bluesminds-server"] == "server-0"
        assert await client.hear() == {"type": "session.created", "session": {"id": "sess_1", "model": "m"}}
        update = {
            "type": "session.update",
            "session": {"type": "realtime", "model": "m", "x": [1, {"y": "ü"}]},
        }
        await client.say(update)
        assert await client.hear() == {"type": "session.updated", "session": update["session"]}
        await client.say(CREATE)
        assert await client.hear_types(3) == [
            "response.created",
            "response.output_text.delta",
            "response.done",
        ]
        assert await client.close(1000, "bye") == Closed(1000, "bye")
    await eventually(lambda: realtime.closed == [1000])


async def test_session_handshake_with_the_server_is_the_gateways_own(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    headers = [
        ("OpenAI-Beta", "realtime=v1"),
        ("X-Request-Id", "mine-1"),
        ("Cookie", "a=b"),
        ("X-Other", "c"),
    ]
    for prefix in ["/v1", "/api/v1"]:
        with subtests.test(prefix):
            realtime.handshakes.clear()
            target = f"{prefix}/realtime?model=m&deployment=other&intent=x"
            async with opened(gateway, target, headers=headers, subprotocols=["realtime"]) as client:
                assert client.headers["x-request-id"] == "mine-1"
                assert client.subprotocol == "realtime"
            (seen,) = realtime.handshakes
            assert seen.line == b"GET /v1/realtime?model=m&intent=x HTTP/1.1"
            assert seen.values(b"authorization") == [f"Bearer {KEY}".encode()]
            assert seen.values(b"openai-beta") == [b"realtime=v1"]
            assert seen.values(b"sec-websocket-protocol") == [b"realtime"]
            assert seen.values(b"cookie") == seen.values(b"x-other") == []
            assert gateway.key.encode() not in seen.head


async def test_session_for_transcription_sends_no_model_in_the_query(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    async with opened(gateway, "/v1/realtime?intent=transcription&model=m"):
        pass
    assert realtime.handshakes[0].line == b"GET /v1/realtime?intent=transcription HTTP/1.1"


async def test_session_key_in_the_subprotocol_of_a_browser_is_accepted_and_kept_secret(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    offered = [
        "realtime",
        f"openai-insecure-api-key.{gateway.key}",
        "openai-project.p",
        "openai-beta.realtime-v1",
    ]
    async with opened(gateway, key="", subprotocols=offered) as client:
        assert client.subprotocol == "realtime"
        assert gateway.key not in str(client.headers)
    (seen,) = realtime.handshakes
    assert seen.values(b"sec-websocket-protocol") == [b"realtime, openai-beta.realtime-v1"]
    assert gateway.key.encode() not in seen.head
    async with session(
        gateway, key="", subprotocols=["realtime", "openai-insecure-api-key.bm_wrong"]
    ) as client:
        assert (client.status, client.error["code"]) == (401, "invalid_api_key")
        assert "sec-websocket-protocol" in client.error["message"]
        assert "sec-websocket-protocol" not in client.headers
    assert gateway.key not in gateway.log
    assert "bm_wrong" not in gateway.log


async def test_session_subprotocol_is_the_choice_of_the_server(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    realtime.subprotocol = "other"
    async with opened(gateway, subprotocols=["realtime", "other"]) as client:
        assert client.subprotocol == "other"


# Refusals of the gateway


REFUSED_TARGETS = [
    ("/v1/realtime", 400, "invalid_value"),
    ("/v1/realtime?model=", 400, "invalid_value"),
    ("/v1/realtime?model=m&model=m", 400, "invalid_value"),
    ("/v1/realtime?model=%ff", 400, "invalid_value"),
    ("/v1/realtime?" + "&".join(f"a{n}=1" for n in range(30)), 400, "invalid_value"),
    ("/v1/realtime?model=m&call_id=rtc_1", 404, "unsupported_endpoint"),
    ("/v1/realtime?model=other", 404, "model_not_found"),
    ("/v1/realtime/calls?model=m", 404, "unsupported_endpoint"),
    ("/v1/chat/completions?model=m", 405, "method_not_allowed"),
]


async def test_session_that_cannot_be_served_is_refused(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    for target, status, code in REFUSED_TARGETS:
        with subtests.test(target):
            async with session(gateway, target) as client:
                assert (client.status, client.error["code"]) == (status, code)
                assert client.headers["content-type"] == "application/json"
                assert client.headers["connection"] == "close"
                assert client.error["request_id"] == client.headers["x-request-id"]
            assert realtime.handshakes == []
            assert gateway.rows() == []


REFUSED_KEYS: list[tuple[dict[str, Any], int, str]] = [
    ({"scopes": ["chat.completions"]}, 403, "scope_not_allowed"),
    ({"allowed_models": ["other"]}, 403, "model_not_allowed"),
    ({"allowed_ips": ["10.0.0.1"]}, 403, "ip_not_allowed"),
    ({"allowed_origins": ["https://app.example.com"]}, 403, "origin_not_allowed"),
    ({"limits": {"usd_per_day": "1"}}, 403, "model_not_priced"),
    ({"limits": {"tokens_per_day": 100}}, 429, "request_too_large_for_limit"),
]


async def test_session_that_a_key_may_not_open_is_refused(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    for fields, status, code in REFUSED_KEYS:
        with subtests.test(code):
            _, key = await gateway.new_key(**fields)
            async with session(gateway, key=key) as client:
                assert (client.status, client.error["code"]) == (status, code)
            assert realtime.handshakes == []
            assert gateway.rows() == []


async def test_session_without_a_key_is_refused(gateway: Gateway) -> None:
    async with session(gateway, key="") as client:
        assert (client.status, client.error["code"]) == (401, "missing_api_key")
        assert client.headers["www-authenticate"] == "Bearer"


async def test_session_with_a_key_of_its_scope_opens(gateway: Gateway) -> None:
    _, key = await gateway.new_key(scopes=["realtime"], allowed_models=["m"], limits={"rpm": 1})
    async with opened(gateway, key=key) as client:
        assert client.headers["x-ratelimit-remaining-requests"] == "0"
    async with session(gateway, key=key) as client:
        assert (client.status, client.error["code"]) == (429, "rate_limit_exceeded")
        assert "retry-after" in client.headers


async def test_session_without_a_handshake_is_426(gateway: Gateway) -> None:
    async with gateway.client() as client:
        answer = await client.get(MODEL)
        assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")
        assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "upgrade")
        assert (await client.post(MODEL)).status_code == 405
        assert (await client.get("/v1/models")).status_code == 200


async def test_session_over_http2_is_426(nursery: trio.Nursery, home: Path, realtime: SocketUpstream) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(home / "key.pem")
    (home / "key.pem").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(home / "cert.pem")
    tls = {"tls_cert": str(home / "cert.pem"), "tls_key": str(home / "key.pem"), "http2": True}
    gateway = await start(nursery, home, realtime, server=tls)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    url = f"https://localhost:{gateway.port}"
    async with httpx.AsyncClient(
        base_url=url, http2=True, verify=trust, trust_env=False, timeout=60
    ) as client:
        answer = await client.get(MODEL, headers={"authorization": f"Bearer {gateway.key}"})
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 426)
    assert "HTTP/1.1" in answer.json()["error"]["message"]
    assert not gateway.events("connection_failed")


ORIGINS = [("https://app.example.com", 101), ("http://test", 101), ("https://evil.example", 403)]


async def test_session_of_a_page_needs_an_allowed_origin(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    server = {"cors_origins": ["https://app.example.com"]}
    gateway = await start(nursery, home, realtime, server=server)
    for origin, status in ORIGINS:
        with subtests.test(origin):
            async with session(gateway, headers=[("Origin", origin)]) as client:
                assert client.status == status
                if status == 403:
                    assert client.error["code"] == "origin_not_allowed"
            _, key = await gateway.new_key(allowed_origins=["https://other.example"])
            async with opened(gateway, key=key, headers=[("Origin", "https://other.example")]):
                pass


# Servers that do not open one


FAILED_HANDSHAKES: list[tuple[str, bytes, str]] = [
    ("503", response(503, ERROR), "503"),
    ("500", response(500), "500"),
    ("429", response(429, ERROR, "Retry-After: 30"), "429"),
    ("401", response(401, ERROR), "401"),
    ("404", response(404, ERROR), "404"),
    ("405", response(405), "405"),
    ("200", response(200), "NoWebSocket"),
    ("302", response(302, "", "Location: https://evil.example/"), "302"),
    ("closes", b"", "UpstreamCut"),
    ("binary", b"\0\0\0\0\r\n\r\n", "UpstreamProtocolError"),
]


async def test_session_goes_to_the_next_server_when_the_first_does_not_open_one(
    nursery: trio.Nursery,
    home: Path,
    realtime: SocketUpstream,
    second: SocketUpstream,
    subtests: pytest.Subtests,
) -> None:
    servers = own_servers(len(FAILED_HANDSHAKES), realtime.url, second.url, api_key=KEY)
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, (name, first, reason) in enumerate(FAILED_HANDSHAKES):
        with subtests.test(name):
            since = Since(gateway)
            realtime.handshakes.clear()
            second.handshakes.clear()
            realtime.responses.append(first)
            async with opened(gateway, f"/v1/realtime?model=m{number}") as client:
                assert client.headers["x-bluesminds-server"] == f"m{number}-1"
                assert client.headers["x-bluesminds-attempts"] == "2"
                await client.say(CREATE)
                await client.hear_until("response.done")
            assert len(realtime.handshakes) == len(second.handshakes) == 1
            (row,) = await since.settled(1)
            assert (row["server"], row["attempts"], row["outcome"]) == (f"m{number}-1", 2, "ok")
            labels = {"server": f"m{number}-0", "outcome": reason}
            assert await gateway.metric("bluesminds_upstream_attempts_total", **labels) == 1


async def test_session_goes_to_the_next_server_when_the_first_is_silent(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream, second: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, second, websocket={"handshake_timeout": 0.2})
    realtime.responses.append(trio.Event())
    async with opened(gateway) as client:
        assert client.headers["x-bluesminds-server"] == "server-1"
    assert gateway.events("attempt_failed")[0]["reason"] == "FirstByteTimeout"


REFUSED_HANDSHAKES: list[tuple[str, bytes, int, str]] = [
    ("503", response(503, ERROR), 503, "upstream_error"),
    ("429", response(429, ERROR), 429, "upstream_rate_limited"),
    ("401", response(401, ERROR), 502, "upstream_credentials_refused"),
    ("404", response(404, ERROR), 404, "unsupported_endpoint"),
    ("200", response(200), 502, "upstream_invalid"),
    ("closes", b"", 502, "upstream_unreachable"),
]


async def test_session_that_no_server_opens_is_an_error_response(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(REFUSED_HANDSHAKES), realtime.url, api_key=KEY)
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 2})
    for number, (name, answer, status, code) in enumerate(REFUSED_HANDSHAKES):
        with subtests.test(name):
            target = f"/v1/realtime?model=m{number}"
            since = Since(gateway)
            realtime.responses += [answer, answer]
            async with session(gateway, target) as client:
                assert (client.status, client.error["code"]) == (status, code)
                assert KEY not in client.body.decode()
            (row,) = await since.settled(1)
            assert (row["outcome"], row["status"], row["input_tokens"]) == ("upstream_error", status, None)
            realtime.responses.clear()
            async with opened(gateway, target):
                pass
            await since.settled(2)


async def test_session_error_of_the_client_passes_as_the_server_sent_it(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    error = {"message": f"bad {KEY}", "type": "invalid_request_error", "code": "bad_model"}
    body = json.dumps({"error": error})
    realtime.responses.append(response(400, body, "X-Secret: 1", "openai-processing-ms: 7"))
    async with session(gateway) as client:
        assert (client.status, client.error["code"]) == (400, "bad_model")
        assert client.error["message"] == "bad [redacted]"
        assert "x-secret" not in client.headers
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"]) == ("client_error", 400)


async def test_session_with_the_clients_own_key_is_opened_with_it(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    servers = [entry("one", realtime.url, keyless=True)]
    gateway = await gateways.start(
        nursery, home, servers=servers, keyless={"enabled": True, "concurrency": 1}
    )
    own = "sk-of-the-client-1"
    async with opened(gateway, key=own), session(gateway, key=own) as other:
        assert (other.status, other.error["code"]) == (429, "concurrency_limit_exceeded")
    assert realtime.handshakes[0].values(b"authorization") == [f"Bearer {own}".encode()]
    realtime.responses.append(response(401, '{"error":{"message":"no","code":"invalid_api_key"}}'))
    async with session(gateway, key=own) as client:
        assert (client.status, client.error["code"]) == (401, "invalid_api_key")
    assert own not in gateway.log


async def test_session_on_a_server_of_another_kind_is_refused(nursery: trio.Nursery, home: Path) -> None:
    servers = [entry("one", "http://127.0.0.1:1/v1", dialect="anthropic")]
    gateway = await gateways.start(nursery, home, servers=servers)
    async with session(gateway) as client:
        assert (client.status, client.error["code"]) == (404, "unsupported_endpoint")
        assert "/v1/realtime" in client.error["message"]


# Routes


async def test_session_follows_the_route_of_its_model_and_costs_what_the_target_does(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream, second: SocketUpstream
) -> None:
    targets = [
        {"server": "server-1", "model": "voice-eu", "priority": 0},
        {"server": "server-0", "priority": 1},
    ]
    prices = [{"model": "voice-eu", "input_usd": 10, "output_usd": 100}]
    routes = [{"model": "voice*", "targets": targets, "fallback": ["m"]}]
    gateway = await start(nursery, home, realtime, second, routes=routes, prices=prices)
    async with opened(gateway, "/v1/realtime?model=voice-1") as client:
        assert client.headers["x-bluesminds-server"] == "server-1"
        for _ in range(2):
            await client.say(CREATE)
            await client.hear_until("response.done")
    assert second.handshakes[0].line == b"GET /v1/realtime?model=voice-eu HTTP/1.1"
    assert realtime.handshakes == []
    rows = await gateway.settled(2)
    assert [(row["model"], row["server"]) for row in rows] == [("voice-1", "server-1")] * 2
    assert [row["cost_nano"] for row in rows] == [1_200_000] * 2
    assert await gateway.metric("bluesminds_tokens_total", kind="output", model="voice*") == 20


async def test_session_is_opened_with_the_next_key_if_one_is_refused(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    keys = ["sk-0000000000-aaaa", "sk-0000000000-bbbb"]
    gateway = await gateways.start(nursery, home, servers=[entry("one", realtime.url, api_keys=keys)])
    realtime.responses.append(response(401, ERROR))
    async with opened(gateway):
        pass
    async with opened(gateway):
        pass
    used = [
        handshake.values(b"authorization")[0].removeprefix(b"Bearer ") for handshake in realtime.handshakes
    ]
    assert len(used) == 3
    assert used[0] != used[1] == used[2]
    (rest,) = gateway.events("server_key_rests")
    assert used[0].endswith(rest["key"].encode())
