"""Paths of clients of other APIs."""

from typing import Any

import httpx
import pytest

from bluesminds.gateway.operations import find_path
from tests.fakes.model_server import ModelServer, whole
from tests.forms import CONTENT_TYPE, field, file, form
from tests.gateways import ASK, Gateway

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "meant", "params"),
    [
        ("/api/v1/chat/completions", CHAT, {}),
        ("/openai/v1/chat/completions", CHAT, {}),
        ("/openai/v1/responses/resp_1", "/v1/responses/resp_1", {"id": "resp_1"}),
        ("/openai/responses", "/v1/responses", {}),
        ("/openai/models", "/v1/models", {}),
        ("/openai/v1/models/a/b", "/v1/models/a/b", {}),
        ("/openai/deployments/gpt-5/chat/completions", CHAT, {"model": "gpt-5"}),
        ("/openai/deployments/gpt-5/chat/completions/", CHAT, {"model": "gpt-5"}),
        ("/openai/deployments/a/b/completions", "/v1/completions", {"model": "a/b"}),
        ("/openai/deployments/chat/completions", "/v1/completions", {"model": "chat"}),
        ("/openai/deployments/chat/chat/completions", CHAT, {"model": "chat"}),
        ("/openai/deployments/x/audio/speech", "/v1/audio/speech", {"model": "x"}),
        ("/openai/deployments/x/extensions/chat/completions", CHAT, {"model": "x/extensions"}),
        ("/openai/deployments/x/nothing/here", "/v1/nothing/here", {}),
        ("/openai/deployments/x", "/v1/deployments", {}),
        ("/openai/deployments//chat/completions", "/v1/completions", {"model": "chat"}),
        ("/v2/rerank", "/v1/rerank", {}),
    ],
)
def test_alias_means_a_path_of_the_table(path: str, meant: str, params: dict[str, str]) -> None:
    found = find_path(path)
    assert found is not None and (found.path, found.params) == (meant, params)


@pytest.mark.parametrize("path", ["/openai", "/v2", "/v2/chat", "/openaix/v1/models", "/api/keys"])
def test_other_paths_are_not_of_the_data_plane(path: str) -> None:
    assert find_path(path) is None


async def post(gateway: Gateway, path: str, **request: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"api-key": gateway.key}, trust_env=False, timeout=60
    ) as client:
        return await client.post(path, params={"api-version": "2026-01-01"}, **request)


async def test_model_of_the_path_replaces_the_one_of_the_body(gateway: Gateway, models: ModelServer) -> None:
    path = "/openai/deployments/m/chat/completions"
    for body in (ASK | {"model": "other"}, {"messages": ASK["messages"]}):
        assert (await post(gateway, path, json=body)).status_code == 200
    assert [one.body["model"] for one in models.asked] == ["m", "m"]
    assert {one.received.line for one in models.asked} == {b"POST /v1/chat/completions HTTP/1.1"}
    assert [row["endpoint"] for row in await gateway.settled(2)] == ["chat.completions"] * 2
    unknown = await post(gateway, path.replace("/m/", "/nothing/"), json=ASK)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


FORMS: list[tuple[bytes, ...]] = [
    (file(b"x" * 5000),),
    (file(b"x" * 5000), field("model", "other"), field("language", "de")),
    (field("model", "other"), file(b"x" * 5000)),
]


async def test_model_of_the_path_is_in_the_form_of_an_upload(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for number, parts in enumerate(FORMS):
        with subtests.test(str(number)):
            models.asked.clear()
            models.plan(whole(b'{"text": "Hello"}'))
            answer = await post(
                gateway,
                "/openai/deployments/m/audio/transcriptions",
                content=form(*parts),
                headers={"content-type": CONTENT_TYPE.decode()},
            )
            assert (answer.status_code, answer.json()) == (200, {"text": "Hello"})
            named = [field("model", "m") if part == field("model", "other") else part for part in parts]
            expected = form(*named) if len(parts) > 1 else form(field("model", "m"), *parts)
            assert models.asked[0].received.body == expected


ADVICE = [
    ("/v1/complete", "unsupported_endpoint", "Use /v1/messages."),
    ("/v1/chat/completions/chatcmpl-0123456789", "unsupported_endpoint", "Use /v1/responses."),
    ("/v1/chat/completions/chatcmpl-0123456789/messages", "unknown_url", "Did you mean /v1/messages?"),
    ("/v1/chat/completions/chat/completions", "unknown_url", "Did you mean /v1/chat/completions?"),
]


async def test_endpoint_that_the_gateway_does_not_have_gets_advice(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for path, code, advice in ADVICE:
        with subtests.test(path):
            answer = await post(gateway, path, json=ASK)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, code)
            assert advice in error["message"]


async def test_unknown_endpoint_of_a_deployment_is_refused_in_openais_format(gateway: Gateway) -> None:
    answer = await post(gateway, "/openai/deployments/m/assistants", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported_endpoint")
