"""Files, batches and vector stores with the SDKs of OpenAI and Anthropic, relayed to a server."""

from pathlib import Path

import openai
import pytest
import trio
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests import gateways
from tests.fakes import object_server
from tests.fakes.object_server import Answer, ObjectServer
from tests.gateway.passthrough.conftest import new_account, relaying
from tests.gateways import Gateway

pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve)
    return server


@pytest.fixture
async def relaying_gateway(nursery: trio.Nursery, home: Path, vendor: ObjectServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[relaying("one", vendor)])


def client_of(gateway: Gateway, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=60)


async def test_sdk_batch_of_a_file_runs_to_its_output(relaying_gateway: Gateway) -> None:
    async with client_of(relaying_gateway, relaying_gateway.key) as sdk:
        file = await sdk.files.create(file=("in.jsonl", b"{}\n" * 1000), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        batch = await sdk.batches.retrieve(batch.id)
        assert batch.output_file_id
        assert (await sdk.files.content(batch.output_file_id)).read() == b'{"id":"batch_req_1"}\n'
        assert [one.id async for one in sdk.batches.list()] == [batch.id]
        assert {one.id async for one in sdk.files.list(limit=1)} == {file.id, batch.output_file_id}
        assert (await sdk.files.delete(file.id)).deleted


async def test_sdk_vector_store_of_files_is_used(relaying_gateway: Gateway) -> None:
    async with client_of(relaying_gateway, relaying_gateway.key) as sdk:
        file = await sdk.files.create(file=("a.txt", b"text"), purpose="assistants")
        store = await sdk.vector_stores.create(name="books", file_ids=[file.id])
        assert (await sdk.vector_stores.retrieve(store.id)).name == "books"
        added = await sdk.vector_stores.files.create(store.id, file_id=file.id)
        assert added.id
        assert [one.id async for one in sdk.vector_stores.list()] == [store.id]
        assert (await sdk.vector_stores.delete(store.id)).deleted


async def test_sdk_of_another_account_finds_nothing(relaying_gateway: Gateway) -> None:
    bob = await new_account(relaying_gateway, "bob@example.com")
    async with client_of(relaying_gateway, relaying_gateway.key) as sdk:
        file = await sdk.files.create(file=("a.txt", b"text"), purpose="assistants")
        conversation = await sdk.conversations.create()
    async with client_of(relaying_gateway, bob.key) as sdk:
        assert [one.id async for one in sdk.files.list()] == []
        for request in (
            sdk.files.retrieve(file.id),
            sdk.files.content(file.id),
            sdk.files.delete(file.id),
            sdk.conversations.retrieve(conversation.id),
            sdk.vector_stores.create(file_ids=[file.id]),
            sdk.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"),
        ):
            with pytest.raises(openai.NotFoundError) as missing:
                await request
            assert missing.value.code == "object_not_found"


async def test_anthropic_sdk_lists_its_own_batches(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    row = {"id": "msgbatch_own", "type": "message_batch", "processing_status": "ended"}
    other = row | {"id": "msgbatch_other"}
    headers = (b"Content-Type: application/json",)
    vendor.answers["/v1/messages/batches"] = Answer(object_server.encode(row), headers=headers)
    gateway = await gateways.start(nursery, home, servers=[relaying("one", vendor, dialect="anthropic")])
    async with AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0, timeout=60) as sdk:
        made = await sdk.messages.batches.create(
            requests=[
                {
                    "custom_id": "a",
                    "params": {
                        "model": "m",
                        "max_tokens": 9,
                        "messages": [{"role": "user", "content": "Hi"}],
                    },
                }
            ]
        )
        assert made.id == "msgbatch_own"
        page = {"data": [other, row], "has_more": False, "first_id": "x", "last_id": "y"}
        vendor.answers["/v1/messages/batches"] = Answer(object_server.encode(page), headers=headers)
        assert [one.id async for one in sdk.messages.batches.list()] == ["msgbatch_own"]
