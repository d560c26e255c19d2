"""Stored responses with OpenAI's SDK: translated, at a server that stores them, and at the demo server."""

from pathlib import Path

import openai
import pytest
import trio
from openai import AsyncOpenAI

from tests import gateways
from tests.fakes import model_server, object_server
from tests.fakes.model_server import ModelServer
from tests.fakes.object_server import ObjectServer
from tests.gateway.passthrough.conftest import new_account
from tests.gateways import Gateway, entry

pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve)
    return server


@pytest.fixture(params=["translated", "native", "demo/echo"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer, vendor: ObjectServer) -> Gateway:
    servers = [
        entry("chat", models.url, models=["translated"]),
        entry("vendor", vendor.url, models=["native"], dialect="litellm", api_key="sk-upstream"),
        {"name": "demo", "dialect": "demo"},
    ]
    return await gateways.start(nursery, home, servers=servers)


def client_of(gateway: Gateway, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=60)


async def test_sdk_response_is_read_continued_and_deleted(gateway: Gateway, model: str) -> None:
    async with client_of(gateway, gateway.key) as sdk:
        first = await sdk.responses.create(model=model, input="one")
        assert (await sdk.responses.retrieve(first.id)).output_text == first.output_text
        second = await sdk.responses.create(model=model, input="two", previous_response_id=first.id)
        assert second.id != first.id and second.output_text
        await sdk.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(first.id)
    bob = await new_account(gateway, "bob@example.com")
    async with client_of(gateway, bob.key) as sdk:
        for request in (
            sdk.responses.retrieve(second.id),
            sdk.responses.delete(second.id),
            sdk.responses.cancel(second.id),
        ):
            with pytest.raises(openai.NotFoundError) as missing:
                await request
            assert missing.value.code == "response_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.responses.create(model=model, input="three", previous_response_id=second.id)
        assert refused.value.code == "previous_response_not_found"


async def test_sdk_input_items_are_listed(gateway: Gateway) -> None:
    async with client_of(gateway, gateway.key) as sdk:
        made = await sdk.responses.create(
            model="translated", input=[{"role": "user", "content": f"{number}"} for number in range(30)]
        )
        listed = [item async for item in sdk.responses.input_items.list(made.id, order="asc")]
        assert [item.content[0].text for item in listed] == [f"{number}" for number in range(30)]  # type: ignore[union-attr]
        with pytest.raises(openai.BadRequestError):
            await sdk.responses.cancel(made.id)


async def test_sdk_stored_response_is_streamed_again(gateway: Gateway) -> None:
    async with client_of(gateway, gateway.key) as sdk:
        stream = await sdk.responses.create(model="translated", input="one", stream=True)
        made = [event async for event in stream][-1]
        assert made.type == "response.completed"
        again = await sdk.responses.retrieve(made.response.id, stream=True, starting_after=1)
        events = [event async for event in again]
        assert events[0].sequence_number == 2
        assert events[-1].type == "response.completed" and events[-1].response == made.response
