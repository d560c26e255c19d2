"""The models of the demo server, the failures they promise, and its errors."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.providers import demo as package
from bluesminds.providers.demo import MODELS, SLOW_SECONDS, CutOff, respond
from bluesminds.providers.demo.forms import UploadedForm
from tests.cases import each
from tests.providers.demo.conftest import Demo

if TYPE_CHECKING:  # importing the SDK takes as long as many tests
    from openai import AsyncOpenAI

USER: Any = [{"role": "user", "content": "one two three"}]
BODIES: dict[str, dict[str, object]] = {
    "/chat/completions": {"messages": USER},
    "/responses": {"input": "one two"},
    "/responses/input_tokens": {"input": "one two"},
    "/completions": {"prompt": "one two"},
    "/embeddings": {"input": "one two"},
    "/moderations": {"input": "one two"},
    "/rerank": {"query": "one", "documents": ["two"]},
    "/images/generations": {"prompt": "one two"},
    "/images/edits": {"prompt": "one two", "images": [{"image_url": "https://x/y.png"}]},
    "/audio/speech": {"input": "one two", "voice": "alloy"},
}
FORMS = {
    "/images/edits": UploadedForm({"prompt": "one two"}, {"image[]": [7, 8]}),
    "/images/variations": UploadedForm({}, {"image": [7]}),
    "/audio/transcriptions": UploadedForm({}, {"file": [7]}),
    "/audio/translations": UploadedForm({}, {"file": [7]}),
}
SERVED = [(model, path) for model, paths in MODELS.items() for path in paths if path in BODIES]


async def test_models_are_those_of_the_docstring(sdk: AsyncOpenAI) -> None:
    import openai

    listed = [model.id async for model in sdk.models.list()]
    promised = {f"demo/{name}" for name in re.findall(r"demo/(\w+)", package.__doc__ or "")}
    assert set(listed) == {name for name in promised if name != "demo/NNN"} | {
        f"demo/{status}" for status in (400, 429, 500, 503)
    }
    assert (await sdk.models.retrieve("demo/text")).owned_by == "demo"
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.models.retrieve("demo/other")
    assert missing.value.code == "model_not_found"


@each(("model", "path"), SERVED)
def test_demo_model_serves_its_endpoints(model: str, path: str) -> None:
    name = model.removeprefix("demo/")
    status = int(name) if name.isdecimal() else 200
    if path in BODIES:
        script = respond("POST", f"/v1{path}", json.dumps({"model": model, **BODIES[path]}).encode())
        assert script.status == status
    if path in FORMS:
        form = msgspec.structs.replace(FORMS[path], fields=FORMS[path].fields | {"model": model})
        assert respond("POST", f"/v1{path}", form).status == status


@pytest.mark.parametrize("path", ["/chat/completions", "/audio/transcriptions"])
def test_body_of_the_other_kind_is_refused(path: str) -> None:
    other: bytes | UploadedForm = b'{"model":"demo/slow"}' if path in FORMS else UploadedForm()
    assert respond("POST", f"/v1{path}", other).status == 415


def test_form_with_a_wrong_field_is_refused() -> None:
    for fields, files, param in (
        ({"prompt": "a", "n": "x"}, {"image": [7]}, "n"),
        ({"prompt": "a", "n": "11"}, {"image": [7]}, "n"),
        ({"image": "a", "prompt": "a"}, {}, "image"),
        ({}, {"image": [7]}, "prompt"),
    ):
        script = respond("POST", "/v1/images/edits", UploadedForm(fields, files))
        error = json.loads(script.steps[0].data or b"")["error"]
        assert (script.status, error["param"]) == (400, param)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 599])
async def test_failing_model_responds_with_its_status(sdk: AsyncOpenAI, status: int) -> None:
    import openai

    with pytest.raises(openai.APIStatusError) as failed:
        await sdk.chat.completions.create(model=f"demo/{status}", messages=USER)
    assert failed.value.status_code == status
    assert failed.value.code == f"demo_{status}"
    assert f"demo/{status} always fails with status {status}." in failed.value.message
    assert failed.value.response.headers.get("retry-after") == ("1" if status == 429 else None)


async def test_slow_model_waits_before_first_byte(sdk: AsyncOpenAI, demo: Demo) -> None:
    await sdk.chat.completions.create(model="demo/slow", messages=USER)
    assert demo.delays[0] == SLOW_SECONDS
    await sdk.embeddings.create(model="demo/slow", input="a")
    assert demo.delays.count(SLOW_SECONDS) == 2


async def test_cut_model_closes_connection(sdk: AsyncOpenAI, demo: Demo) -> None:
    import openai

    with pytest.raises(openai.APIError):
        await sdk.chat.completions.create(model="demo/cut", messages=USER)
    stream = await sdk.chat.completions.create(model="demo/cut", messages=USER, stream=True)
    received = []
    with pytest.raises(openai.APIConnectionError):
        async for chunk in stream:
            received.append(chunk)  # noqa: PERF401 - the chunks before the failure
    assert received and all(chunk.choices[0].finish_reason is None for chunk in received)
    assert all(isinstance(error, CutOff) for error in demo.errors) and len(demo.errors) == 2


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        ("/chat/completions", {"messages": "hi"}, "messages must be a list, not a string.", "messages"),
        ("/chat/completions", {"messages": []}, "messages must be a list of length >= 1.", "messages"),
        (
            "/chat/completions",
            {"messages": ["a"]},
            "messages[0] must be an object, not a string.",
            "messages",
        ),
        ("/chat/completions", {"messages": [{}]}, "messages[0].role is missing.", "messages"),
        ("/chat/completions", {}, "messages is missing.", "messages"),
        ("/chat/completions", {"messages": USER, "n": 0}, "n must be an integer >= 1.", "n"),
        (
            "/chat/completions",
            {"messages": USER, "stop": 1},
            "stop must be a string or a list, not an integer.",
            "stop",
        ),
        (
            "/chat/completions",
            {"messages": USER, "tool_choice": "any"},
            "tool_choice cannot be 'any'.",
            "tool_choice",
        ),
        ("/completions", {"prompt": ["a", 1]}, "prompt mixes texts and token numbers in one list.", "prompt"),
        ("/completions", {"prompt": ["a"] * 17}, "prompt must contain 1 to 16 texts.", "prompt"),
        ("/embeddings", {"input": []}, "input must have a text, and no text may be empty.", "input"),
        ("/embeddings", {"input": [""]}, "input must have a text, and no text may be empty.", "input"),
        (
            "/embeddings",
            {"input": "a " * 20_001},
            "input is too large: the demo server accepts 2048 texts and 20000 tokens in one request.",
            "input",
        ),
        (
            "/embeddings",
            {"input": ["a"] * 1001, "dimensions": 1000},
            "With 1000 dimensions a request can have 1000 texts.",
            "dimensions",
        ),
        ("/moderations", {"input": []}, "input must have a text or an image.", "input"),
        ("/rerank", {"query": "a", "documents": []}, "documents must be a list of length >= 1.", "documents"),
    ],
)
async def test_invalid_request_gets_reason(
    demo: Demo, path: str, body: dict[str, object], message: str, param: str
) -> None:
    (model, *_) = [name for name, paths in MODELS.items() if path in paths]
    response = await demo.post(path, model=model, **body)
    assert response.status_code == 400
    assert response.json()["error"] | {"type": "", "code": ""} == {
        "message": message,
        "type": "",
        "param": param,
        "code": "",
    }


@pytest.mark.parametrize(
    ("path", "model", "status", "code"),
    [
        ("/chat/completions", "other", 404, "model_not_found"),
        ("/chat/completions", "demo/embedding", 400, "unsupported_model"),
        ("/embeddings", "demo/echo", 400, "unsupported_model"),
        ("/videos", "demo/echo", 404, "not_found"),
    ],
)
async def test_unknown_demo_model_is_not_found(
    demo: Demo, path: str, model: str, status: int, code: str
) -> None:
    response = await demo.post(path, model=model)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@given(st.sampled_from(list(BODIES)), st.binary(max_size=100))
def test_no_body_causes_an_exception(path: str, body: bytes) -> None:
    assert respond("POST", f"/v1{path}", body).status == 400


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"model":"demo/echo","messages":' + b"[" * 100_000])
def test_deeply_nested_body_is_refused(text: bytes) -> None:
    assert respond("POST", "/v1/chat/completions", text).status == 400


@given(st.text(), st.sampled_from([one for one in SERVED if one[1] in BODIES]), st.booleans())
def test_same_request_gets_same_response(text: str, served: tuple[str, str], stream: bool) -> None:
    model, path = served
    fields = {name: text or "a" for name, value in BODIES[path].items() if isinstance(value, str)}
    body = json.dumps(BODIES[path] | fields | {"model": model, "stream": stream}).encode()
    assert respond("POST", f"/v1{path}", body) == respond("POST", f"/v1{path}", body)
