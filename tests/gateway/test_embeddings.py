"""Embeddings in OpenAI's and in Gemini's format, at servers of either format."""

import json
import struct
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes import gemini_server
from tests.fakes.gemini_server import EMBED_USAGE, VECTOR, error
from tests.fakes.model_server import JSON, Asked, ModelServer, refusal, whole
from tests.fakes.raw_upstream import Peer
from tests.gateways import Gateway, entry

ONE = "/v1beta/models/m:embedContent"
MANY = "/v1beta/models/m:batchEmbedContents"
OPENAI = "/v1/embeddings"
PRICE = {"model": "m", "input_usd": 1}
NUMBERS = VECTOR["values"]


def content(text: str) -> dict[str, Any]:
    return {"content": {"parts": [{"text": text}]}}


def rows(*vectors: Any, tokens: int = 7) -> bytes:
    """A reply in OpenAI's format."""
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": "m", "usage": usage}).encode()


async def post(gateway: Gateway, path: str, body: Any, key: str | None = None) -> httpx.Response:
    async with gateway.client(key) as client:
        return await client.post(path, json=body)


@pytest.fixture
async def google(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(gemini_server.serve)
    return server


@pytest.fixture
async def native(nursery: trio.Nursery, home: Path, google: ModelServer) -> Gateway:
    servers = [entry("google", google.url, dialect="gemini", api_key="upstream-google-key")]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE])


@pytest.fixture
async def openai(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], prices=[PRICE])


async def check_row(gateway: Gateway, endpoint: str, tokens: int = 7) -> None:
    (row,) = gateway.rows()
    assert (row["endpoint"], row["status"]) == (endpoint, 200)
    assert (row["input_tokens"], row["output_tokens"]) == (tokens, 0)
    assert row["cost_nano"] == tokens * 1000


async def test_native_embedding_passes_byte_for_byte(native: Gateway, google: ModelServer) -> None:
    body = content("a") | {"taskType": "RETRIEVAL_QUERY", "futureField": [1.5]}
    answer = await post(native, ONE, body)
    assert answer.content == msgspec.json.encode({"embedding": VECTOR, "usageMetadata": EMBED_USAGE})
    (asked,) = google.asked
    assert asked.received.line == b"POST /v1beta/models/m:embedContent HTTP/1.1"
    assert asked.body == body
    await check_row(native, "gemini.embed_content")
    assert answer.headers["x-cost-usd"] == "0.000007"


async def test_native_batch_gets_the_servers_name_of_the_model(
    nursery: trio.Nursery, home: Path, google: ModelServer
) -> None:
    servers = [entry("google", google.url, dialect="gemini", models=["real"])]
    routes = [{"model": "m", "targets": [{"server": "google", "model": "real"}]}]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    requests = [content("a") | {"model": "models/m", "future": 1}, content("b")]
    answer = await post(gateway, MANY, {"requests": requests})
    assert len(answer.json()["embeddings"]) == 2
    (asked,) = google.asked
    assert asked.received.line == b"POST /v1beta/models/real:batchEmbedContents HTTP/1.1"
    named = {"model": "models/real"}
    assert asked.body == {"requests": [requests[0] | named, requests[1] | named]}


async def test_batch_with_a_model_that_the_key_may_not_use_is_refused(
    native: Gateway, google: ModelServer
) -> None:
    _, key = await native.new_key(allowed_models=["m"])
    for item in ({"model": "models/secret"}, {"Model": "models/secret"}):
        answer = await post(native, MANY, {"requests": [content("a") | item]}, key)
        assert answer.status_code == 400
    assert not google.asked


async def test_embedding_of_gemini_is_translated_for_other_servers(
    openai: Gateway, models: ModelServer
) -> None:
    models.plan(whole(rows(NUMBERS)))
    body = content("a") | {"taskType": "RETRIEVAL_QUERY", "outputDimensionality": 3}
    answer = await post(openai, ONE, body)
    assert answer.json() == {"embedding": VECTOR, "usageMetadata": {"promptTokenCount": 7}}
    assert answer.headers["x-bluesminds-dropped"] == "taskType"
    (asked,) = models.asked
    assert asked.received.line == b"POST /v1/embeddings HTTP/1.1"
    assert asked.body == {"model": "m", "input": ["a"], "dimensions": 3}
    await check_row(openai, "gemini.embed_content")


async def test_batch_of_gemini_is_translated_for_other_servers(openai: Gateway, models: ModelServer) -> None:
    models.plan(whole(rows(NUMBERS, [1, 2, 3])))
    answer = await post(openai, MANY, {"requests": [content("a"), content("b")]})
    vectors = [VECTOR, {"values": [1, 2, 3]}]
    assert answer.json() == {"embeddings": vectors, "usageMetadata": {"promptTokenCount": 7}}
    assert models.asked[0].body == {"model": "m", "input": ["a", "b"]}
    await check_row(openai, "gemini.embed_content")


@pytest.mark.parametrize("given", ["a", ["a", "b"]])
async def test_embeddings_of_openai_are_translated_for_gemini(
    native: Gateway, google: ModelServer, given: str | list[str]
) -> None:
    texts = [given] if isinstance(given, str) else given
    answer = await post(native, OPENAI, {"model": "m", "input": given, "dimensions": 3, "user": "u"})
    reply = answer.json()
    assert [row["embedding"] for row in reply["data"]] == [NUMBERS] * len(texts)
    assert [row["index"] for row in reply["data"]] == list(range(len(texts)))
    assert (reply["object"], reply["model"]) == ("list", "m")
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert answer.headers["x-bluesminds-dropped"] == "user"
    (asked,) = google.asked
    assert asked.received.line == b"POST /v1beta/models/m:batchEmbedContents HTTP/1.1"
    more = {"model": "models/m", "outputDimensionality": 3}
    assert asked.body == {"requests": [content(text) | more for text in texts]}
    await check_row(native, "embeddings")


async def test_embeddings_of_gemini_are_base64_if_the_client_wants_that(native: Gateway) -> None:
    answer = await post(native, OPENAI, {"model": "m", "input": "a", "encoding_format": "base64"})
    packed = b64decode(answer.json()["data"][0]["embedding"])
    assert struct.unpack("<3f", packed) == pytest.approx(NUMBERS)


def numbered(body: dict[str, Any], tokens: int = 7) -> bytes:
    """A reply whose vectors are the numbers in the texts."""
    texts = [item["content"]["parts"][0]["text"] for item in body["requests"]]
    vectors = [{"values": [int(text)]} for text in texts]
    return json.dumps({"embeddings": vectors, "usageMetadata": {"promptTokenCount": tokens}}).encode()


async def test_many_embeddings_of_gemini_are_requested_in_batches(
    native: Gateway, google: ModelServer
) -> None:
    last_is_done = trio.Event()

    async def answer_last_first(server: ModelServer, peer: Peer, asked: Asked) -> None:
        if len(asked.body["requests"]) < 100:
            last_is_done.set()
        else:
            await last_is_done.wait()
        await peer.answer(numbered(asked.body), JSON)

    google.plan(*[answer_last_first] * 3)
    texts = [str(number) for number in range(250)]
    answer = await post(native, OPENAI, {"model": "m", "input": texts, "dimensions": 1})
    reply = answer.json()
    assert [(row["index"], row["embedding"]) for row in reply["data"]] == [(n, [n]) for n in range(250)]
    assert reply["usage"] == {"prompt_tokens": 21, "total_tokens": 21}
    assert sorted(len(asked.body["requests"]) for asked in google.asked) == [50, 100, 100]
    assert {item["outputDimensionality"] for asked in google.asked for item in asked.body["requests"]} == {1}
    await check_row(native, "embeddings", tokens=21)


async def test_batches_of_embeddings_are_base64_if_the_client_wants_that(native: Gateway) -> None:
    body = {"model": "m", "input": ["a"] * 101, "encoding_format": "base64"}
    rows = (await post(native, OPENAI, body)).json()["data"]
    assert len(rows) == 101
    assert struct.unpack("<3f", b64decode(rows[100]["embedding"])) == pytest.approx(NUMBERS)


async def test_failure_of_a_batch_is_that_of_the_request(native: Gateway, google: ModelServer) -> None:
    async def refuse_last(server: ModelServer, peer: Peer, asked: Asked) -> None:
        if len(asked.body["requests"]) == 1:
            text = "text 201 is too long"
            await refusal(400, error(400, "INVALID_ARGUMENT", text))(server, peer, asked)
        else:
            await trio.sleep_forever()

    google.plan(*[refuse_last] * 3)
    answer = await post(native, OPENAI, {"model": "m", "input": ["a"] * 201})
    assert answer.status_code == 400
    assert "text 201 is too long" in answer.json()["error"]["message"]
    (row,) = native.rows()
    assert (row["status"], row["cost_nano"]) == (400, 0)


async def test_failed_batch_is_tried_again_with_all_others(
    nursery: trio.Nursery, home: Path, google: ModelServer, models: ModelServer
) -> None:
    servers = [entry("google", google.url, dialect="gemini"), entry("one", models.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=servers)
    google.plan(*[refusal(500, error(500, "INTERNAL"))] * 2)
    models.plan(whole(rows(*[NUMBERS] * 101)))
    answer = await post(gateway, OPENAI, {"model": "m", "input": ["a"] * 101})
    assert len(answer.json()["data"]) == 101


async def test_batch_without_usage_makes_the_usage_estimated(native: Gateway, google: ModelServer) -> None:
    async def answer(server: ModelServer, peer: Peer, asked: Asked) -> None:
        vectors = [VECTOR] * len(asked.body["requests"])
        usage = {"usageMetadata": EMBED_USAGE} if len(vectors) == 1 else {}
        await peer.answer(json.dumps({"embeddings": vectors} | usage).encode(), JSON)

    google.plan(answer, answer)
    await post(native, OPENAI, {"model": "m", "input": ["a" * 8] * 101})
    (row,) = native.rows()
    assert row["usage_source"] == "estimated"
    assert row["input_tokens"] >= 202


async def test_too_many_texts_for_a_translation_are_refused(native: Gateway, google: ModelServer) -> None:
    answer = await post(native, OPENAI, {"model": "m", "input": ["a"] * 2049})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")
    assert not google.asked


async def test_embeddings_without_usage_are_estimated(native: Gateway, google: ModelServer) -> None:
    google.plan(whole(json.dumps({"embeddings": [VECTOR]}).encode()))
    answer = await post(native, OPENAI, {"model": "m", "input": "a" * 400})
    (row,) = native.rows()
    assert row["usage_source"] == "estimated"
    assert 100 <= row["input_tokens"] == answer.json()["usage"]["prompt_tokens"] <= 120


async def test_embeddings_with_too_few_vectors_are_an_error(native: Gateway, google: ModelServer) -> None:
    google.plan(*[whole(json.dumps({"embeddings": [VECTOR]}).encode())] * 3)
    answer = await post(native, OPENAI, {"model": "m", "input": ["a", "b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid")


async def test_tokens_are_only_sent_to_a_server_that_accepts_them(
    nursery: trio.Nursery, home: Path, google: ModelServer, models: ModelServer
) -> None:
    servers = [entry("google", google.url, dialect="gemini"), entry("one", models.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=servers)
    models.plan(whole(rows(NUMBERS)))
    answer = await post(gateway, OPENAI, {"model": "m", "input": [[1, 2]]})
    assert answer.status_code == 200
    assert (len(google.asked), models.asked[0].body["input"]) == (0, [[1, 2]])


async def test_tokens_are_refused_if_no_server_accepts_them(native: Gateway, google: ModelServer) -> None:
    answer = await post(native, OPENAI, {"model": "m", "input": [1, 2]})
    failure = answer.json()["error"]
    assert (answer.status_code, failure["code"], failure["param"]) == (400, "unsupported_by_server", "input")
    assert not google.asked


async def test_error_of_the_server_has_the_clients_format(native: Gateway, google: ModelServer) -> None:
    body = error(400, "INVALID_ARGUMENT", "too many requests in the batch")
    google.plan(refusal(400, body), refusal(400, body))
    answer = await post(native, OPENAI, {"model": "m", "input": "a"})
    assert answer.status_code == 400
    assert "too many requests" in answer.json()["error"]["message"]
    answer = await post(native, MANY, {"requests": [content("a")]})
    assert (answer.status_code, answer.content) == (400, body)


async def test_embeddings_fail_over_between_formats(
    nursery: trio.Nursery, home: Path, google: ModelServer, models: ModelServer
) -> None:
    servers = [entry("google", google.url, dialect="gemini"), entry("one", models.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=servers)
    google.plan(refusal(500, error(500, "INTERNAL")))
    models.plan(whole(rows(NUMBERS)))
    answer = await post(gateway, ONE, content("a"))
    assert answer.json()["embedding"] == VECTOR


async def test_embedding_models_of_the_demo_server_answer_in_geminis_format(
    nursery: trio.Nursery, home: Path
) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    answer = await post(gateway, "/v1beta/models/demo/embedding:embedContent", content("a"))
    assert len(answer.json()["embedding"]["values"]) == 256
