"""The Realtime client of OpenAI's Python SDK against the gateway and its demo server."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from openai import OpenAI
from openai.resources.realtime.realtime import RealtimeConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tests import gateways
from tests.gateways import Gateway, eventually

T = TypeVar("T")
SECONDS = 120  # for one step of the SDK, against hangs


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path) -> Gateway:
    return await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])


async def in_thread(call: Callable[[], T]) -> T:
    """The SDK for asyncio does not run on Trio, so its synchronous client runs in a thread."""
    with trio.fail_after(SECONDS):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def client_of(gateway: Gateway, key: str | None = None) -> OpenAI:
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=key or gateway.key, max_retries=0, timeout=SECONDS)


def say(connection: RealtimeConnection, text: str, **response: Any) -> dict[str, list[Any]]:
    """The events of one response, by type."""
    content: Any = [{"type": "input_text", "text": text}]
    connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
    connection.response.create(**({"response": response} if response else {}))
    events: dict[str, list[Any]] = {}
    for event in connection:
        events.setdefault(event.type, []).append(event)
        if event.type in ("response.done", "error"):
            return events
    raise AssertionError(f"the connection ended after {list(events)}")


async def test_sdk_realtime_session_talks_in_text(gateway: Gateway) -> None:
    def talk() -> tuple[str, Any, list[Any]]:
        with client_of(gateway) as client, client.realtime.connect(model="demo/realtime") as connection:
            assert connection.recv().type == "session.created"
            session: Any = {"type": "realtime", "model": "demo/realtime", "output_modalities": ["text"]}
            connection.session.update(session=session)
            updated: Any = connection.recv()
            assert (updated.type, updated.session.output_modalities) == ("session.updated", ["text"])
            first = say(connection, "Hello there, gateway.")
            second = say(connection, "Again.")
            text = "".join([event.delta for event in first["response.output_text.delta"]])
            return text, first["response.done"][0].response, second["response.done"]

    text, response, _ = await in_thread(talk)
    assert text == "Hello there, gateway."
    assert (response.status, response.usage.input_tokens, response.usage.output_tokens) == ("completed", 3, 3)
    rows = await gateway.settled(2)
    assert [(row["input_tokens"], row["cache_read_tokens"], row["output_tokens"]) for row in rows] == [
        (3, 0, 3),
        (7, 6, 1),
    ]
    assert {(row["endpoint"], row["model"], row["server"], row["outcome"]) for row in rows} == {
        ("realtime", "demo/realtime", "demo", "ok")
    }


async def test_sdk_realtime_session_talks_in_audio(gateway: Gateway) -> None:
    def talk() -> dict[str, list[Any]]:
        with client_of(gateway) as client, client.realtime.connect(model="demo/realtime") as connection:
            connection.input_audio_buffer.append(audio="AAAA" * 3000)
            connection.input_audio_buffer.commit()
            return say(connection, "Speak.")

    events = await in_thread(talk)
    assert len(events["response.output_audio.delta"]) == 1
    assert events["response.output_audio_transcript.done"][0].transcript == "Speak."
    usage = events["response.done"][0].response.usage
    assert (usage.input_token_details.audio_tokens, usage.output_token_details.audio_tokens) == (2, 1)
    (row,) = await gateway.settled(1)
    assert (row["input_tokens"], row["output_tokens"]) == (3, 2)


async def test_sdk_realtime_refused_handshake_has_status_and_body(gateway: Gateway) -> None:
    def refusal(key: str | None, model: str) -> tuple[int, str]:
        with (
            client_of(gateway, key) as client,
            pytest.raises(InvalidStatus) as raised,
            client.realtime.connect(model=model),
        ):
            pass
        response = raised.value.response
        return response.status_code, (response.body or b"").decode()

    for key, model, status, code in (
        ("bm_wrong", "demo/realtime", 401, "invalid_api_key"),
        (None, "other", 404, "model_not_found"),
        (None, "demo/echo", 400, "unsupported_model"),
        (None, "demo/503", 503, "upstream_error"),
    ):
        got, body = await in_thread(lambda key=key, model=model: refusal(key, model))  # type: ignore[misc]
        assert (got, code in body) == (status, True), body


async def test_sdk_realtime_error_event_leaves_the_session_open(gateway: Gateway) -> None:
    def talk() -> tuple[Any, list[str]]:
        with client_of(gateway) as client, client.realtime.connect(model="demo/realtime") as connection:
            connection.recv()
            session: Any = {"type": "realtime", "model": "demo/other"}
            connection.session.update(session=session)
            error: Any = connection.recv()
            return error.error, list(say(connection, "Still here."))

    error, events = await in_thread(talk)
    assert (error.code, error.param, error.type) == ("model_mismatch", "model", "invalid_request_error")
    assert "response.done" in events


async def test_sdk_realtime_session_at_a_limit_ends_with_an_error(gateway: Gateway) -> None:
    _, key = await gateway.new_key(rpm=1)

    def talk() -> tuple[str, int]:
        with client_of(gateway, key) as client, client.realtime.connect(model="demo/realtime") as connection:
            assert "response.done" in say(connection, "One.")
            error = say(connection, "Two.")["error"][0].error
            with pytest.raises(ConnectionClosedError) as raised:
                connection.recv()
            assert raised.value.rcvd is not None
            return error.code, raised.value.rcvd.code

    assert await in_thread(talk) == ("rate_limit_exceeded", 1013)


async def test_sdk_realtime_session_ends_when_the_gateway_stops(gateway: Gateway) -> None:
    connected, closed = threading.Event(), threading.Event()
    codes: list[int] = []

    def talk() -> None:
        with client_of(gateway) as client, client.realtime.connect(model="demo/realtime") as connection:
            connection.recv()
            connected.set()
            with pytest.raises(ConnectionClosed) as raised:
                connection.recv()
            assert raised.value.rcvd is not None
            codes.append(raised.value.rcvd.code)
            closed.set()

    async with trio.open_nursery() as tasks:
        tasks.start_soon(in_thread, talk)
        await eventually(connected.is_set)
        gateway.shutdown.set()
        await eventually(closed.is_set)
    assert codes == [1001]
    with trio.fail_after(60):
        await gateway.ended.wait()
