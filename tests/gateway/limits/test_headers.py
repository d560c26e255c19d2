"""Rate limit headers on every response to a valid key, errors included."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, drop_twice, hang, refusal, streamed
from tests.gateway.cases import Since
from tests.gateways import ASK, STREAM, Gateway, entry

LIMITS = {"rpm": 9, "tpm": 1000}
NAMES = {
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining",
    "x-ratelimit-reset-ms",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
}


NARROWED: list[tuple[dict[str, Any], str]] = [
    ({"allowed_ips": ["192.0.2.1"]}, "ip_not_allowed"),
    ({"allowed_origins": ["https://app.example"]}, "origin_not_allowed"),
    ({"scopes": ["models"]}, "scope_not_allowed"),
    ({"allowed_models": ["other"]}, "model_not_allowed"),
]


async def test_forbidden_response_has_rate_headers(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for narrowed, code in NARROWED:
        with subtests.test(code):
            since = Since(gateway)
            key_id, key = await gateway.new_key(limits=LIMITS, **narrowed)
            answers = [await gateway.chat(key=key)]
            if code in ("ip_not_allowed", "origin_not_allowed"):
                async with gateway.client(key) as client:
                    answers += [await client.get("/v1/models"), await client.get("/v1/models/m")]
            for answer in answers:
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
                assert set(answer.headers) >= NAMES
                assert answer.headers["x-ratelimit-remaining"] == "9"
            lines = [event for event in since.events("request") if event["status"] == 403]
            assert [(line["code"], line["key_id"]) for line in lines] == [(code, key_id)] * len(answers)


async def test_invalid_request_has_rate_headers_and_takes_nothing(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits=LIMITS)
    async with gateway.client(key) as client:
        path = "/v1/chat/completions"
        answers = [
            await client.post(path, content=b"{"),
            await client.post(path, content=b""),
            await client.post(path, json=ASK | {"n": 0}),
            await client.post(path, json=ASK | {"N": 1}),
            await client.post(path, json=ASK, headers={"content-encoding": "gzip"}),
            await client.post(path, json=ASK | {"model": "unknown"}),
            await client.post(path, json=ASK | {"max_tokens": 5000}),
            await client.get("/v1/models/unknown"),
            await client.get("/v1/models"),
            await client.get("/v1/models/m"),
        ]
    statuses = [400, 400, 400, 400, 415, 404, 429, 404, 200, 200]
    assert [answer.status_code for answer in answers] == statuses
    for answer in answers:
        assert set(answer.headers) >= NAMES
        assert answer.headers["x-ratelimit-remaining"] == "9", "the request is not counted"


async def test_failed_upstream_response_has_rate_headers_and_returns_tokens(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    sections = {"upstream": {"attempts": 1}}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], **sections)
    _, key = await gateway.new_key(limits=LIMITS)
    models.plan(refusal(500), refusal(503), refusal(401), refusal(429), refusal(404), drop_twice)
    for used, status in enumerate([502, 503, 502, 429, 404, 502], 1):
        answer = await gateway.chat(key=key)
        assert answer.status_code == status
        assert set(answer.headers) >= NAMES
        assert answer.headers["x-ratelimit-remaining"] == str(9 - used)
        assert answer.headers["x-ratelimit-remaining-tokens"] == "1000", "the reservation is given back"


async def test_upstream_timeout_response_has_rate_headers(impatient: Gateway, models: ModelServer) -> None:
    _, key = await impatient.new_key(limits=LIMITS)
    models.plan(hang)
    answer = await impatient.chat(STREAM, key=key)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (504, "8")


async def test_concurrent_responses_have_their_own_remaining_count(
    gateway: Gateway, models: ModelServer
) -> None:
    _, key = await gateway.new_key(limits=LIMITS)
    go_on = trio.Event()
    models.plan(*[streamed(chunk("a"), go_on, DONE)] * 3)
    left: list[str] = []

    async def send_request() -> None:
        async with gateway.client(key) as client:
            body = msgspec.json.encode(STREAM | {"max_tokens": 10})
            async with client.stream("POST", "/v1/chat/completions", content=body) as answer:
                left.append(answer.headers["x-ratelimit-remaining"])
                if len(left) == 3:
                    go_on.set()
                await answer.aread()

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(send_request)
    assert sorted(left) == ["6", "7", "8"]
