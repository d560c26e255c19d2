"""Gemini's endpoints of the demo server."""

import json
from typing import Any

import httpx
import pytest

from bluesminds.providers.demo import MODELS, respond
from tests.providers.demo.conftest import Demo
from tests.wire.conversations import events_in

TEXT_MODELS = [name for name, paths in MODELS.items() if "/chat/completions" in paths]
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


def test_demo_lists_its_text_models_in_geminis_form() -> None:
    listed = json.loads(b"".join([step.data or b"" for step in respond("GET", "/v1beta/models", b"").steps]))
    assert [model["name"] for model in listed["models"]] == [f"models/{name}" for name in TEXT_MODELS]
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
        ("demo/text", "embedContent", ask(), 404),
        ("demo/text", "countTokens", [], 400),
    ],
)
def test_demo_error_is_googles(model: str, method: str, body: Any, status: int) -> None:
    found, text = answer(model, method, body)
    error = json.loads(text)["error"]
    assert (found, error["code"]) == (status, status)
    assert error["message"] and error["status"]


def test_demo_cut_model_ends_a_stream_early() -> None:
    script = respond("POST", "/v1beta/models/demo/cut:streamGenerateContent", json.dumps(ask()).encode())
    assert script.steps[-1].data is None
    assert not any(b"finishReason" in (step.data or b"") for step in script.steps)
