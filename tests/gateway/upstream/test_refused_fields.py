"""Optional fields of a translated request that a server refuses are left out."""

from pathlib import Path
from typing import Any

import httpx
import trio

from tests import gateways
from tests.fakes import anthropic_server, gemini_server
from tests.fakes.anthropic_server import error as claude_error
from tests.fakes.model_server import Asked, ModelServer, error, refusal
from tests.gateways import ASK, Gateway, entry

MESSAGE = {"model": "m", "max_tokens": 9, "messages": ASK["messages"]}
EFFORT = MESSAGE | {"output_config": {"effort": "high"}}
NO_EFFORT = refusal(400, error("Unrecognized request argument supplied: reasoning_effort"))
NO_TEMPERATURE = refusal(
    400, error("Unsupported parameter: 'temperature' is not supported with this model.", param="temperature")
)
NO_MAX_TOKENS = refusal(
    400, error("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
)


async def ask(gateway: Gateway, body: dict[str, Any], path: str = "/v1/messages") -> httpx.Response:
    async with gateway.client() as client:
        return await client.post(path, json=body)


def fields(asked: list[Asked], name: str) -> list[Any]:
    return [one.body.get(name) for one in asked]


async def test_refused_effort_is_left_out_and_not_sent_again(gateway: Gateway, models: ModelServer) -> None:
    models.plan(NO_EFFORT)
    first = await ask(gateway, EFFORT)
    assert (first.status_code, first.headers["x-bluesminds-dropped"]) == (200, "output_config.effort")
    assert first.headers["x-bluesminds-attempts"] == "1"
    second = await ask(gateway, EFFORT | {"stream": True})
    assert (second.status_code, second.headers["x-bluesminds-dropped"]) == (200, "output_config.effort")
    assert fields(models.asked, "reasoning_effort") == ["high", None, None]
    assert [row["outcome"] for row in await gateway.settled(2)] == ["ok", "ok"]
    assert gateway.events("attempt_failed") == []


async def test_refused_effort_of_a_stream_is_left_out(gateway: Gateway, models: ModelServer) -> None:
    models.plan(NO_EFFORT)
    answer = await ask(gateway, EFFORT | {"stream": True})
    assert answer.status_code == 200 and "message_stop" in answer.text
    assert fields(models.asked, "reasoning_effort") == ["high", None]
    assert fields(models.asked, "stream_options") == [{"include_usage": True}] * 2


async def test_fields_that_are_refused_one_by_one_are_all_left_out(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(NO_EFFORT, NO_TEMPERATURE, NO_MAX_TOKENS)
    body = EFFORT | {"temperature": 0.2, "top_p": 0.9}
    answer = await ask(gateway, body)
    assert answer.headers["x-bluesminds-dropped"] == "temperature,top_p,output_config.effort"
    assert len(models.asked) == 4
    await ask(gateway, body)
    for asked in models.asked[-2:]:
        assert not {"reasoning_effort", "temperature", "top_p", "max_tokens"} & asked.body.keys()
        assert asked.body["max_completion_tokens"] == 9


async def test_refused_value_of_an_effort_is_not_remembered(gateway: Gateway, models: ModelServer) -> None:
    value = error("Unsupported value: 'reasoning_effort' does not support 'max' with this model.")
    models.plan(refusal(400, value))
    await ask(gateway, MESSAGE | {"output_config": {"effort": "max"}})
    answer = await ask(gateway, EFFORT)
    assert "x-bluesminds-dropped" not in answer.headers
    assert fields(models.asked, "reasoning_effort") == ["max", None, "high"]


async def test_refusal_that_remains_is_forwarded_and_not_remembered(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(NO_EFFORT, NO_EFFORT)
    answer = await ask(gateway, EFFORT)
    assert answer.status_code == 400 and "reasoning_effort" in answer.json()["error"]["message"]
    assert (await ask(gateway, EFFORT)).status_code == 200
    assert fields(models.asked, "reasoning_effort") == ["high", None, "high"]


async def test_refusal_of_a_request_that_is_not_translated_is_forwarded(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(NO_EFFORT)
    answer = await gateway.chat(ASK | {"reasoning_effort": "high"})
    assert answer.status_code == 400 and len(models.asked) == 1


async def test_refusal_is_remembered_for_its_model_only(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url, models=["m", "other"])]
    gateway = await gateways.start(nursery, home, servers=servers)
    models.plan(NO_EFFORT)
    await ask(gateway, EFFORT)
    await ask(gateway, EFFORT | {"model": "other"})
    assert fields(models.asked, "reasoning_effort") == ["high", None, "high"]


async def test_server_of_messages_that_refuses_fields_gets_chat_requests_without_them(
    nursery: trio.Nursery, home: Path
) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    servers = [entry("claude", claude.url, dialect="anthropic")]
    gateway = await gateways.start(nursery, home, servers=servers)
    claude.plan(
        refusal(
            400,
            claude_error("invalid_request_error", "temperature: Extra inputs are not permitted"),
        ),
        refusal(400, claude_error("invalid_request_error", "adaptive thinking is not supported")),
    )
    answer = await gateway.chat(ASK | {"reasoning_effort": "low", "temperature": 0.5})
    assert (answer.status_code, answer.headers["x-bluesminds-dropped"]) == (
        200,
        "reasoning_effort,temperature",
    )
    assert fields(claude.asked, "temperature") == [0.5, None, None]
    assert fields(claude.asked, "output_config") == [{"effort": "low"}] * 2 + [None]


async def test_dropped_effort_has_the_name_of_the_clients_format(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(NO_EFFORT)
    asked = {"model": "m", "input": "Say hello.", "reasoning": {"effort": "low"}}
    answer = await ask(gateway, asked, "/v1/responses")
    assert (answer.status_code, answer.headers["x-bluesminds-dropped"]) == (200, "reasoning.effort")


async def test_server_of_gemini_without_reasoning_gets_no_thinking_config(
    nursery: trio.Nursery, home: Path
) -> None:
    google: ModelServer = await nursery.start(gemini_server.serve)
    gateway = await gateways.start(nursery, home, servers=[entry("g", google.url, dialect="gemini")])
    google.plan(
        refusal(400, gemini_server.error(400, "INVALID_ARGUMENT", "Thinking level is not supported."))
    )
    answer = await gateway.chat(ASK | {"reasoning_effort": "low", "temperature": 0.5})
    assert (answer.status_code, answer.headers["x-bluesminds-dropped"]) == (200, "reasoning_effort")
    configs = fields(google.asked, "generationConfig")
    assert [("thinkingConfig" in config, config["temperature"]) for config in configs] == [
        (True, 0.5),
        (False, 0.5),
    ]
