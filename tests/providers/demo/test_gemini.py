"""Gemini's endpoints of the demo server."""

import json
from typing import Any

import httpx
import pytest

from bluesminds.providers.demo import MODELS, respond
from tests.providers.demo.conftest import Demo
from tests.wire.conversations import events_in

LISTED = {"/chat/completions", "/embeddings"}
LISTED_MODELS = [name for name, paths in MODELS.items() if LISTED.intersection(paths)]
WEATHER = {"name": "weather", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}}


def ask(text: str = "one two", **more: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": text}]}], **more}


def answer(model: str, method: str, body: Any) -> Any:
    script = respond("POST", f"/v1beta/models/{model}:{method}", json.dumps(body).encode())
    return script.status, b"".join([step.data or b"" for step in script.steps])


def parts_of(response: Any) -> list[Any]:
    return list(response["candidates"][0]["content"]["parts"])


def test_demo_answer_is_geminis() -> None:
    status, body = answer("demo/echo", "generateContent", ask())
    response = json.loads(body)
    assert (status, parts_of(response)) == (200, [{"text": "one two"}])
    assert response["candidates"][0]["finishReason"] == "STOP"
    assert response["usageMetadata"]["candidatesTokenCount"] == 2
    assert response["modelVersion"] == "demo/echo" and response["responseId"]


async def test_demo_stream_is_one_of_events(demo: Demo) -> None:
    url = demo.url.removesuffix("/v1") + "/v1beta/models/demo/echo:streamGenerateContent?alt=sse"
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        streamed = await client.post(url, json=ask())
    assert streamed.headers["content-type"] == "text/event-stream"
    events = [event for _, event in events_in(streamed.content)]
    assert [part["text"] for event in events for part in parts_of(event)] == ["one", " two", ""]
    assert events[-1]["usageMetadata"]["totalTokenCount"] > 0
    assert demo.delays.count(0.02) == 2


def test_demo_model_calls_functions_and_reasons() -> None:
    config = {"functionCallingConfig": {"mode": "ANY"}}
    tools = [{"functionDeclarations": [WEATHER]}]
    _, body = answer("demo/text", "generateContent", ask(tools=tools, toolConfig=config))
    (part,) = parts_of(json.loads(body))
    assert part["functionCall"]["name"] == "weather" and "city" in part["functionCall"]["args"]
    thinking = {"thinkingConfig": {"includeThoughts": True}}
    _, body = answer("demo/reasoning", "generateContent", ask(generationConfig=thinking))
    assert [part.get("thought") for part in parts_of(json.loads(body))] == [True, None]


@pytest.mark.parametrize("body", [ask(), {"generateContentRequest": ask()}])
def test_demo_count_is_that_of_an_answer(body: dict[str, Any]) -> None:
    counted = json.loads(answer("demo/text", "countTokens", body)[1])["totalTokens"]
    usage = json.loads(answer("demo/text", "generateContent", ask())[1])["usageMetadata"]
    assert counted == usage["promptTokenCount"]


def test_demo_lists_its_models_for_text_and_embeddings_in_geminis_form() -> None:
    listed = json.loads(b"".join([step.data or b"" for step in respond("GET", "/v1beta/models", b"").steps]))
    assert [model["name"] for model in listed["models"]] == [f"models/{name}" for name in LISTED_MODELS]
    methods = {model["name"]: model["supportedGenerationMethods"] for model in listed["models"]}
    assert methods["models/demo/embedding"] == ["embedContent", "batchEmbedContents"]
    assert methods["models/demo/text"] == ["generateContent", "countTokens"]
    assert respond("GET", "/v1beta/models/demo/text", b"").status == 200
    assert respond("GET", "/v1beta/models/demo/other", b"").status == 404


@pytest.mark.parametrize(
    ("model", "method", "body", "status"),
    [
        ("demo/429", "generateContent", ask(), 429),
        ("demo/503", "streamGenerateContent", ask(), 503),
        ("demo/other", "generateContent", ask(), 404),
        ("demo/embedding", "generateContent", ask(), 400),
        ("demo/text", "generateContent", {"contents": "x"}, 400),
        ("demo/text", "generateContent", ask(tools=[{"googleSearch": {}}]), 400),
        ("demo/text", "embedContent", {"content": {"parts": [{"text": "a"}]}}, 400),
        ("demo/embedding", "embedContent", {"content": {"parts": []}}, 400),
        ("demo/embedding", "batchEmbedContents", {"requests": []}, 400),
        ("demo/text", "predict", ask(), 404),
        ("demo/text", "countTokens", [], 400),
    ],
)
def test_demo_error_is_googles(model: str, method: str, body: Any, status: int) -> None:
    found, text = answer(model, method, body)
    error = json.loads(text)["error"]
    assert (found, error["code"]) == (status, status)
    assert error["message"] and error["status"]


def test_demo_embeddings_are_those_of_openais_endpoint() -> None:
    openai = json.dumps({"model": "demo/embedding", "input": ["one", "two"], "dimensions": 8}).encode()
    (step,) = respond("POST", "/v1/embeddings", openai).steps
    wanted = [row["embedding"] for row in json.loads(step.data or b"")["data"]]
    contents = [{"parts": [{"text": text}]} for text in ("one", "two")]
    requests = [{"content": one, "outputDimensionality": 8} for one in contents]
    status, body = answer("demo/embedding", "batchEmbedContents", {"requests": requests})
    assert status == 200
    assert [one["values"] for one in json.loads(body)["embeddings"]] == wanted
    _, body = answer("demo/embedding", "embedContent", requests[0])
    assert json.loads(body)["embedding"]["values"] == wanted[0]


def test_demo_cut_model_ends_a_stream_early() -> None:
    script = respond("POST", "/v1beta/models/demo/cut:streamGenerateContent", json.dumps(ask()).encode())
    assert script.steps[-1].data is None
    assert not any(b"finishReason" in (step.data or b"") for step in script.steps)
