"""Gemini's API over sockets: servers that speak it, servers that do not, and clients of other formats."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes import gemini_server
from tests.fakes.gemini_server import COUNT, content, end, error, event
from tests.fakes.model_server import DONE, Cut, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateway.cases import Since, own_servers
from tests.gateways import Gateway, entry, eventually
from tests.wire.conversations import check_messages_order, events_in

ASK: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
PLAIN = "/v1beta/models/m:generateContent"
STREAM = "/v1beta/models/m:streamGenerateContent"
EVENTS = f"{STREAM}?alt=sse"
COUNTS = "/v1beta/models/m:countTokens"
PRICE = {"model": "m", "input_usd": 1, "output_usd": 10, "cached_input_usd": 0.1}


@pytest.fixture
async def google(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(gemini_server.serve)
    return server


@pytest.fixture
async def native(nursery: trio.Nursery, home: Path, google: ModelServer) -> Gateway:
    servers = [entry("google", google.url, dialect="gemini", api_key="upstream-google-key")]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE])


async def post(gateway: Gateway, path: str, body: Any = ASK, **headers: str) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post(path, json=body, headers=headers)


# A server that speaks the format


async def test_native_answer_passes_byte_for_byte(native: Gateway, google: ModelServer) -> None:
    body = ASK | {"generation_config": {"maxOutputTokens": 50}, "futureField": {"x": [1.5]}}
    answer = await post(native, PLAIN, body)
    assert (answer.status_code, answer.content) == (200, content())
    asked = google.asked[0]
    assert asked.received.line == b"POST /v1beta/models/m:generateContent HTTP/1.1"
    assert asked.body == body
    assert asked.header(b"x-goog-api-key") == b"upstream-google-key"
    assert asked.header(b"authorization") is None
    (row,) = native.rows()
    assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == ("gemini.generate_content", 107, 5)
    assert (row["cache_read_tokens"], row["reasoning_tokens"]) == (100, 2)
    assert answer.headers["x-cost-usd"] == "0.000067"


async def test_native_stream_passes_byte_for_byte(native: Gateway, google: ModelServer) -> None:
    pieces = [event({"text": "Hel"}, usageMetadata={"promptTokenCount": 107}), event({"text": "lo"}), end()]
    google.plan(streamed(*pieces))
    answer = await post(native, EVENTS)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.content == b"".join(pieces)
    assert google.asked[0].received.line == b"POST /v1beta/models/m:streamGenerateContent?alt=sse HTTP/1.1"
    assert google.asked[0].body == ASK
    (row,) = await native.settled(1)
    assert (row["input_tokens"], row["output_tokens"], row["status"]) == (107, 5, 200)


async def test_stream_without_alt_sse_is_a_json_array(
    native: Gateway, google: ModelServer, subtests: pytest.Subtests
) -> None:
    for path in [STREAM, f"{STREAM}?alt=json"]:
        with subtests.test(path):
            google.asked.clear()
            answer = await post(native, path)
            assert answer.headers["content-type"] == "application/json"
            assert google.asked[0].received.line.startswith(
                b"POST /v1beta/models/m:streamGenerateContent?alt=sse "
            )
            elements = answer.json()
            texts = [one["candidates"][0]["content"]["parts"][0]["text"] for one in elements]
            assert texts == ["Hello", " world", ""]
            assert elements[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_end_of_a_stream_waits_for_the_usage_row(native: Gateway, google: ModelServer) -> None:
    async with native.client() as client, client.stream("POST", EVENTS, json=ASK) as answer:
        async for line in answer.aiter_lines():
            if "finishReason" in line:
                assert len(native.rows()) == 1


async def test_name_of_the_model_is_quoted_in_the_path(
    nursery: trio.Nursery, home: Path, google: ModelServer
) -> None:
    servers = [entry("google", google.url, dialect="gemini", models=["org/a b:7b?x"])]
    gateway = await gateways.start(nursery, home, servers=servers)
    answer = await post(gateway, "/v1beta/models/org%2Fa%20b:7b%3Fx:generateContent")
    assert answer.status_code == 200
    assert google.asked[0].received.line.startswith(
        b"POST /v1beta/models/org%2Fa%20b%3A7b%3Fx:generateContent "
    )


async def test_count_of_a_native_server_passes(native: Gateway) -> None:
    answer = await post(native, COUNTS)
    assert answer.json() == {"totalTokens": COUNT}
    assert "x-bluesminds-estimated" not in answer.headers
    (row,) = native.rows()
    assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == ("gemini.count_tokens", 0, 0)


async def test_error_of_a_native_server_passes_byte_for_byte(native: Gateway, google: ModelServer) -> None:
    body = error(400, "INVALID_ARGUMENT", 'Unknown name "x"')
    google.plan(refusal(400, body))
    answer = await post(native, PLAIN)
    assert (answer.status_code, answer.content) == (400, body)


REJECTED_KEYS = [
    (400, error(400, "INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID")),
    (403, error(403, "PERMISSION_DENIED", "Your API key was reported as leaked.")),
    (403, error(403, "PERMISSION_DENIED", "Not enabled.", "SERVICE_DISABLED")),
    (401, error(401, "UNAUTHENTICATED", "No credentials.")),
]


async def test_key_that_google_rejects_is_the_gateways_failure(
    nursery: trio.Nursery, home: Path, google: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(REJECTED_KEYS), google.url, dialect="gemini", api_key="upstream-google-key")
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, (status, body) in enumerate(REJECTED_KEYS):
        with subtests.test(str(body)):
            google.plan(refusal(status, body))
            answer = await post(gateway, PLAIN.replace("/m:", f"/m{number}:"))
            failure = answer.json()["error"]
            assert (answer.status_code, failure["code"]) == (502, 502)
            assert failure["details"][0]["metadata"]["code"] == "upstream_credentials_refused"
            assert len(google.asked) == number + 1


async def test_refusal_of_a_file_is_the_clients_error(native: Gateway, google: ModelServer) -> None:
    body = error(403, "PERMISSION_DENIED", "You do not have permission to access the File x.")
    google.plan(refusal(403, body))
    assert (await post(native, PLAIN)).content == body


async def test_error_in_a_native_stream_passes(
    native: Gateway, google: ModelServer, subtests: pytest.Subtests
) -> None:
    for framed in [False, True]:
        with subtests.test("framed" if framed else "bare"):
            since = Since(native)
            failure = error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.")
            if framed:
                failure = b"data: " + json.dumps(json.loads(failure)).encode() + b"\r\n\r\n"
            google.plan(streamed(event({"text": "Hel"}), failure))
            answer = await post(native, EVENTS)
            assert answer.content == event({"text": "Hel"}) + failure
            (row,) = await since.settled(1)
            assert row["outcome"] == "upstream_error"


async def test_cut_stream_ends_with_an_error_of_googles(native: Gateway, google: ModelServer) -> None:
    for path in (EVENTS, STREAM):
        google.plan(streamed(event({"text": "Hel"}), Cut))
        answer = await post(native, path)
        if path is STREAM:
            failure = answer.json()[-1]["error"]
        else:
            assert answer.content.startswith(event({"text": "Hel"}))
            failure = json.loads(answer.content.splitlines()[-1])["error"]
        assert (failure["code"], failure["details"][0]["metadata"]["code"]) == (502, "upstream_cut")


async def test_demo_server_is_a_native_one(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    answer = await post(gateway, "/v1beta/models/demo/echo:generateContent", ASK | {"safetySettings": [{}]})
    assert answer.json()["candidates"][0]["content"]["parts"] == [{"text": "Say hello."}]
    assert "x-bluesminds-dropped" not in answer.headers
    streamed_ = await post(gateway, "/v1beta/models/demo%2Fecho:streamGenerateContent")
    assert [len(one["candidates"]) for one in streamed_.json()] == [1, 1, 1]
    counted = await post(gateway, "/v1beta/models/demo/echo:countTokens")
    assert "x-bluesminds-estimated" not in counted.headers and counted.json()["totalTokens"] > 0


# A server that has chat completions only


async def test_translated_answer_is_geminis(gateway: Gateway, models: ModelServer) -> None:
    answer = await post(gateway, PLAIN, ASK | {"safetySettings": [{"category": "x"}]})
    body = answer.json()
    assert body["candidates"][0]["content"] == {"parts": [{"text": "Hello world"}], "role": "model"}
    assert body["usageMetadata"]["totalTokenCount"] == 13
    assert answer.headers["x-bluesminds-dropped"] == "safetySettings"
    asked = models.asked[0]
    assert asked.received.line == b"POST /v1/chat/completions HTTP/1.1"
    assert asked.body == CHAT


async def test_translated_stream_is_geminis(gateway: Gateway, models: ModelServer) -> None:
    for path in (EVENTS, STREAM):
        answer = await post(gateway, path)
        found = answer.json() if path is STREAM else [data for _, data in events_in(answer.content)]
        texts = [one["candidates"][0]["content"]["parts"][0]["text"] for one in found]
        assert texts == ["Hello", " world", ""]
        assert found[-1]["usageMetadata"]["promptTokenCount"] == 11
    assert models.asked[0].body["stream"] is True


async def test_error_of_a_chat_server_is_written_as_googles(gateway: Gateway, models: ModelServer) -> None:
    models.plan(refusal(400))
    answer = await post(gateway, PLAIN)
    failure = answer.json()["error"]
    assert (answer.status_code, failure["code"], failure["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert failure["message"] == "this is 400"


async def test_error_in_a_chat_stream_is_written_as_googles(gateway: Gateway, models: ModelServer) -> None:
    failure = b'data: {"error":{"message":"Too long.","code":400}}\n\n'
    models.plan(streamed(chunk("Hel"), failure), streamed(chunk("Hel"), failure))
    answer = await post(gateway, EVENTS)
    assert json.loads(answer.content.splitlines()[-1])["error"]["message"] == "Too long."
    assert (await post(gateway, STREAM)).json()[-1]["error"]["status"] == "INVALID_ARGUMENT"


async def test_comments_of_a_chat_server_do_not_reach_googles_clients(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(b": WAITING\n\n", chunk("Hi"), b": WAITING\n\n", chunk(finish="stop"), DONE))
    answer = await post(gateway, EVENTS)
    assert b"\n:" not in answer.content and not answer.content.startswith(b":")


async def test_count_without_a_native_server_is_estimated(gateway: Gateway, models: ModelServer) -> None:
    body = {"contents": [{"parts": [{"text": "x" * 400}]}]}
    answer = await post(gateway, COUNTS, body)
    assert answer.headers["x-bluesminds-estimated"] == "true"
    assert 100 <= answer.json()["totalTokens"] <= 115
    assert not models.asked


async def test_field_that_cannot_be_translated_is_refused(gateway: Gateway, models: ModelServer) -> None:
    answer = await post(gateway, PLAIN, ASK | {"tools": [{"googleSearch": {}}]})
    info, violation, _ = answer.json()["error"]["details"]
    assert (answer.status_code, info["reason"]) == (400, "UNSUPPORTED_BY_SERVER")
    assert violation["fieldViolations"][0]["field"] == "tools.googleSearch"
    assert not models.asked


# Clients of other formats on a Gemini server


EMPTY_CONVERSATIONS: list[tuple[str, dict[str, Any], str]] = [
    (PLAIN, {"contents": [{"parts": []}]}, "contents"),
    ("/v1/responses", {"model": "m", "input": []}, "input"),
    ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": []}, "messages"),
]


async def test_empty_conversation_is_refused_in_the_words_of_the_client(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for path, body, field in EMPTY_CONVERSATIONS:
        with subtests.test(path):
            answer = await post(gateway, path, body)
            assert (answer.status_code, models.asked) == (400, [])
            assert f"`{field}` is empty." in answer.text


async def test_chat_client_gets_a_whole_answer_of_a_gemini_server(
    native: Gateway, google: ModelServer
) -> None:
    call = {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}
    google.plan(whole(content({"text": "Let me see."}, call)))
    tool = {"type": "function", "function": {"name": "weather"}}
    async with native.client() as client:
        first = (await client.post("/v1/chat/completions", json=CHAT | {"tools": [tool]})).json()
        message = first["choices"][0]["message"]
        assert (message["content"], first["choices"][0]["finish_reason"]) == ("Let me see.", "tool_calls")
        assert first["usage"]["total_tokens"] == 112
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny"}
        again = CHAT | {"tools": [tool], "messages": [*CHAT["messages"], message, result]}
        assert (await client.post("/v1/chat/completions", json=again)).status_code == 200
    _, answer, results = google.asked[1].body["contents"]
    assert answer["parts"][1]["thoughtSignature"] == "c2ln"
    assert answer["parts"][1]["functionCall"]["args"] == {"city": "Oslo"}
    assert results["parts"][0]["functionResponse"]["name"] == "weather"
    assert results["parts"][0]["functionResponse"]["response"] == {"output": "Sunny"}


async def test_chat_client_gets_a_stream_of_a_gemini_server(native: Gateway, google: ModelServer) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    async with native.client() as client:
        answer = await client.post("/v1/chat/completions", json=body)
    events = [data for _, data in events_in(answer.content)]
    assert "".join([one["choices"][0]["delta"].get("content") or "" for one in events[:-2]]) == "Hello world"
    assert events[-2]["usage"]["completion_tokens"] == 5 and events[-1] == "[DONE]"
    assert google.asked[0].received.line.startswith(b"POST /v1beta/models/m:streamGenerateContent?alt=sse ")
    (row,) = await native.settled(1)
    assert (row["input_tokens"], row["output_tokens"]) == (107, 5)


async def test_messages_client_gets_answers_of_a_gemini_server(native: Gateway, google: ModelServer) -> None:
    ask = CHAT | {"max_tokens": 99}
    async with native.client() as client:
        plain = (await client.post("/v1/messages", json=ask)).json()
        streamed_ = await client.post("/v1/messages", json=ask | {"stream": True})
    assert plain["content"] == [{"type": "text", "text": "Hello world"}]
    assert (plain["usage"]["input_tokens"], plain["usage"]["cache_read_input_tokens"]) == (7, 100)
    check_messages_order(events_in(streamed_.content))
    assert google.asked[0].body["generationConfig"] == {"maxOutputTokens": 99}


async def test_error_in_a_gemini_stream_reaches_other_clients(
    native: Gateway, google: ModelServer, subtests: pytest.Subtests
) -> None:
    for path in ["/v1/chat/completions", "/v1/messages"]:
        with subtests.test(path):
            google.plan(streamed(event({"text": "Hel"}), error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.")))
            async with native.client() as client:
                answer = await client.post(path, json=CHAT | {"max_tokens": 99, "stream": True})
            assert b"Quota exceeded." in answer.content and b"[DONE]" not in answer.content


# Keys, models and errors


async def use_key(gateway: Gateway, place: str) -> None:
    since = Since(gateway)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        query = f"?key={gateway.key}&alt=sse" if place == "query" else ""
        value = f"Bearer {gateway.key}" if place == "authorization" else gateway.key
        headers = {} if place == "query" else {place: value}
        answer = await client.post(PLAIN + query, json=ASK, headers=headers)
        assert answer.status_code == 200
        assert (await client.get("/v1beta/models" + query, headers=headers)).status_code == 200
    await eventually(lambda: len(since.events("request")) >= 2)
    assert gateway.key not in gateway.log


async def test_key_is_accepted_where_googles_clients_send_it(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for place in ("x-goog-api-key", "query", "authorization"):
        with subtests.test(place):
            await use_key(gateway, place)


async def test_googles_places_of_a_key_mean_nothing_elsewhere(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for place in ["x-goog-api-key", "query"]:
        with subtests.test(place):
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
                query = f"?key={gateway.key}" if place == "query" else ""
                headers = {} if place == "query" else {place: gateway.key}
                for path in ("/v1/chat/completions", "/v1/messages", "/v1beta1/models"):
                    answer = await client.post(path + query, json=CHAT | {"max_tokens": 9}, headers=headers)
                    assert answer.status_code in (401, 404)
                assert (await client.get(f"/api/auth/me{query}", headers=headers)).status_code == 401
                listed = await client.get(f"/v1/models{query}", headers=headers)
                assert listed.status_code == (401 if place == "query" else 200)


async def test_paths_of_googles_sdks_under_v1_are_geminis(gateway: Gateway) -> None:
    """Recent SDKs use v1. Only the header shows that the list of models is for them."""
    headers = {"x-goog-api-key": gateway.key}
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.post("/v1/models/m:generateContent", json=ASK, headers=headers)
        assert answer.json()["candidates"][0]["finishReason"] == "STOP"
        answer = await client.post("/v1/models/m:streamGenerateContent?alt=sse", json=ASK, headers=headers)
        assert answer.headers["content-type"] == "text/event-stream"
        answer = await client.post(f"/v1/models/m:countTokens?key={gateway.key}", json=ASK)
        assert answer.json()["totalTokens"] > 0
        assert (await client.get("/v1/models", headers=headers)).json()["models"][0]["name"] == "models/m"
        assert (await client.get("/v1/models/m", headers=headers)).json()["name"] == "models/m"
        missing = await client.get("/v1/cachedContents", headers=headers)
        assert missing.json()["error"]["status"] == "NOT_FOUND"
    assert (await gateway.get("/v1/models")).json()["object"] == "list"
    async with gateway.client() as client:
        refused = await client.post("/v1/models/m:predict", json=ASK)
    assert "predict is not supported" in refused.json()["error"]["message"]


async def test_wrong_and_missing_keys_are_refused_in_googles_shape(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for headers, code in (({}, "missing_api_key"), ({"x-goog-api-key": "bm-wrong"}, "invalid_api_key")):
            answer = await client.post(PLAIN, json=ASK, headers=headers)
            failure = answer.json()["error"]
            assert (answer.status_code, failure["code"], failure["status"]) == (401, 401, "UNAUTHENTICATED")
            assert failure["details"][0]["metadata"]["code"] == code
        assert "x-goog-api-key" in (await client.post(PLAIN, headers={"x-goog-api-key": "x"})).text
        assert "in the query parameter `key`" in (await client.post(f"{PLAIN}?key=x")).text


async def test_models_are_listed_in_geminis_shape(gateway: Gateway) -> None:
    model = {
        "name": "models/m",
        "baseModelId": "m",
        "version": "",
        "displayName": "m",
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
    assert (await gateway.get("/v1beta/models?pageSize=50")).json() == {"models": [model]}
    assert (await gateway.get("/v1beta/models/m")).json() == model
    missing = await gateway.get("/v1beta/models/other")
    assert (missing.status_code, missing.json()["error"]["status"]) == (404, "NOT_FOUND")


async def test_models_of_a_gemini_server_are_discovered(
    nursery: trio.Nursery, home: Path, google: ModelServer
) -> None:
    servers = [{"name": "google", "url": google.url, "dialect": "gemini", "api_key": "upstream-google-key"}]
    gateway = await gateways.start(nursery, home, servers=servers)
    found = (await gateway.get("/v1/models")).json()["data"]
    assert [row["id"] for row in found] == ["m"]


UNKNOWN_PATHS = [
    ("POST", "/v1beta/models/m:asyncBatchEmbedContent", 404, "unsupported_endpoint"),
    ("POST", "/v1beta/models/m:predict", 404, "unsupported_endpoint"),
    ("GET", "/v1beta/models/m:generateContent", 405, "method_not_allowed"),
    ("POST", "/v1beta/models/m", 405, "method_not_allowed"),
    ("POST", "/v1beta/models/m:unknownMethod", 404, "unsupported_endpoint"),
    ("GET", "/v1beta/cachedContents", 404, "unknown_url"),
    ("POST", "/v1beta/openai/chat/completions", 404, "unknown_url"),
    ("POST", "/v1beta/models/other:generateContent", 404, "model_not_found"),
    ("GET", "/v1beta", 404, "unknown_url"),
]


async def test_unknown_path_is_refused_in_googles_shape(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for method, path, status, code in UNKNOWN_PATHS:
        with subtests.test(f"{path}"):
            async with gateway.client() as client:
                answer = await client.request(method, path, json=ASK if method == "POST" else None)
            failure = answer.json()["error"]
            assert (answer.status_code, failure["code"]) == (status, status)
            assert failure["details"][0]["metadata"]["code"] == code
            if code == "unsupported_endpoint":
                assert "generateContent, streamGenerateContent, countTokens" in failure["message"]
            if "openai" in path:
                assert "/v1/chat/completions" in failure["message"]


async def test_limit_of_a_key_is_reported_in_googles_shape(gateway: Gateway, models: ModelServer) -> None:
    _, key = await gateway.new_key(rpm=1)
    models.plan(whole(completion()))
    async with gateway.client(key) as client:
        await client.post(PLAIN, json=ASK)
        answer = await client.post(PLAIN, json=ASK)
    failure = answer.json()["error"]
    assert (answer.status_code, failure["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert failure["details"][0]["metadata"]["code"] == "rate_limit_exceeded"


async def test_query_of_many_parameters_is_no_failure(gateway: Gateway) -> None:
    query = "&".join([f"a{number}=1" for number in range(300)])
    answer = await gateway.get(f"/v1beta/models?{query}")
    assert answer.status_code == 200
