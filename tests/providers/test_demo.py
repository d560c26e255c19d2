"""The demo server: the same answer every time, and every failure it promises."""

import json
import re
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.providers import demo
from bluesminds.providers.demo import MODELS, SLOW_SECONDS, Script, script


def ask(model: str = "demo/echo", content: object = "one two three", **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **more}).encode()


def whole(played: Script) -> bytes:
    return b"".join(step.data or b"" for step in played.steps)


def chunks(played: Script) -> list[dict[str, Any]]:
    return [
        json.loads(step.data[6:])
        for step in played.steps
        if step.data and not step.data.startswith(b"data: [DONE]")
    ]


def text_of(played: Script) -> str:
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks(played) for choice in chunk["choices"]
    )


def test_every_model_of_the_docstring_is_on_the_list_and_answers() -> None:
    promised = re.findall(r"demo/(\w+)", demo.__doc__ or "")
    assert {"demo/" + name for name in promised if name != "NNN"} <= set(MODELS)
    assert {row["id"] for row in json.loads(demo.model_list())["data"]} == set(MODELS)
    for model in MODELS:
        name = model.removeprefix("demo/")
        assert script(ask(model)).status == (int(name) if name.isdecimal() else 200)


def test_echo_says_it_back_plain_and_streamed() -> None:
    plain = json.loads(whole(script(ask())))
    assert plain["choices"][0]["message"]["content"] == "one two three"
    assert plain["usage"]["completion_tokens"] == 3
    streamed = script(ask(stream=True, stream_options={"include_usage": True}))
    assert text_of(streamed) == "one two three"
    assert chunks(streamed)[-1]["usage"] == plain["usage"]
    assert [chunk["usage"] for chunk in chunks(streamed)[:-1]] == [None] * (len(chunks(streamed)) - 1)
    assert streamed.steps[-1].data == b"data: [DONE]\n\n"
    assert not any("usage" in chunk for chunk in chunks(script(ask(stream=True))))


def test_parts_are_read_as_text() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "b"},
    ]
    assert json.loads(whole(script(ask(content=parts))))["choices"][0]["message"]["content"] == "a b"


@given(st.text(), st.sampled_from(MODELS), st.booleans(), st.integers(1, 100))
def test_the_same_request_gets_the_same_answer(content: str, model: str, stream: bool, limit: int) -> None:
    body = ask(model, content, stream=stream, max_tokens=limit)
    assert script(body) == script(body)


@given(st.binary(max_size=100))
def test_no_request_upsets_it(body: bytes) -> None:
    assert script(body).status == 400


def test_the_limit_of_tokens_is_kept() -> None:
    answer = json.loads(whole(script(ask("demo/text", max_completion_tokens=5))))
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["message"]["content"].split()) == 5


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("find", "store")]


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "find"),
        ({"type": "function", "function": {"name": "store"}}, "store"),
        ("auto", None),
        ("none", None),
    ],
)
def test_tools_are_called_when_asked_for(choice: object, name: str | None) -> None:
    message = json.loads(whole(script(ask(tools=TOOLS, tool_choice=choice))))["choices"][0]["message"]
    called = [call["function"]["name"] for call in message.get("tool_calls", [])]
    assert called == ([name] if name else [])
    deltas = [
        chunk["choices"][0]["delta"]
        for chunk in chunks(script(ask(tools=TOOLS, tool_choice=choice, stream=True)))
    ]
    assert any("tool_calls" in delta for delta in deltas) == bool(name)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 599])
def test_failures_on_request(status: int) -> None:
    played = script(ask(f"demo/{status}"))
    assert played.status == status
    assert json.loads(whole(played))["error"]["code"] == f"demo_{status}"
    assert dict(played.headers) == ({b"retry-after": b"1"} if status == 429 else {})


def test_slow_is_slow_and_cut_is_cut() -> None:
    assert script(ask("demo/slow", stream=True)).steps[0].delay == SLOW_SECONDS
    for stream in (True, False):
        steps = script(ask("demo/cut", stream=stream)).steps
        assert steps[-1].data is None
        assert b"[DONE]" not in whole(script(ask("demo/cut", stream=stream)))


async def test_the_application_plays_a_script(autojump_clock: trio.testing.MockClock) -> None:
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": ask(stream=True), "more_body": False}

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    await demo.app({"type": "http", "path": "/v1/chat/completions"}, receive, send)
    body = b"".join(message["body"] for message in sent[1:])  # type: ignore[misc]
    assert body == whole(script(ask(stream=True)))
    assert sent[-1]["more_body"] is False
