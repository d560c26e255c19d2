"""The Azure client of OpenAI's Python SDK, with the gateway as its endpoint."""

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncAzureOpenAI

from tests.fakes.model_server import ModelServer, whole
from tests.gateways import ASK, Gateway

# The SDK leaves generators to the garbage collector, and Trio warns about them.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


def client(gateway: Gateway, deployment: str | None = None) -> AsyncAzureOpenAI:
    return AsyncAzureOpenAI(
        azure_endpoint=gateway.url,
        azure_deployment=deployment,
        api_key=gateway.key,
        api_version="2026-01-01",
        max_retries=0,
        timeout=60,
    )


@pytest.fixture
async def azure(gateway: Gateway) -> AsyncIterator[AsyncAzureOpenAI]:
    async with client(gateway) as sdk:
        yield sdk


async def test_sdk_azure_chat_names_the_model_in_the_path(
    azure: AsyncAzureOpenAI, gateway: Gateway, models: ModelServer
) -> None:
    answer = await azure.chat.completions.create(model="m", messages=ASK["messages"])
    assert answer.choices[0].message.content == "Hello world"
    stream = await azure.chat.completions.create(model="m", messages=ASK["messages"], stream=True)
    texts = [part.choices[0].delta.content or "" async for part in stream if part.choices]
    assert "".join(texts) == "Hello world"
    assert [one.body["model"] for one in models.asked] == ["m", "m"]
    assert {row["endpoint"] for row in await gateway.settled(2)} == {"chat.completions"}


async def test_sdk_azure_deployment_of_the_client_replaces_the_model(
    gateway: Gateway, models: ModelServer
) -> None:
    async with client(gateway, "m") as sdk:
        answer = await sdk.chat.completions.create(model="gpt-5", messages=ASK["messages"])
    assert answer.choices[0].message.content == "Hello world"
    assert models.asked[0].body["model"] == "m"


async def test_sdk_azure_other_endpoints(
    azure: AsyncAzureOpenAI, gateway: Gateway, models: ModelServer
) -> None:
    models.plan(whole(b'{"text": "Hello"}'))
    sound = await azure.audio.transcriptions.create(model="m", file=("a.mp3", b"x" * 5000))
    assert sound.text == "Hello"
    response = await azure.responses.create(model="m", input="Say hello.")
    assert response.output_text == "Hello world"
    assert [model.id async for model in azure.models.list()] == ["m"]
    lines = [one.received.line for one in models.asked]
    assert lines == [b"POST /v1/audio/transcriptions HTTP/1.1", b"POST /v1/chat/completions HTTP/1.1"]


async def test_sdk_azure_unknown_deployment_is_not_found(azure: AsyncAzureOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await azure.chat.completions.create(model="nothing", messages=ASK["messages"])
    assert caught.value.code == "model_not_found"
