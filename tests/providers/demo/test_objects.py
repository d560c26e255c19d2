"""Files, batches and stored responses of the demo server, with OpenAI's SDK."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bluesminds.providers.demo.objects import MAX_FILE, MAX_OBJECTS

if TYPE_CHECKING:  # importing the SDK takes as long as many tests
    from openai import AsyncOpenAI

LINE = {
    "custom_id": "one",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "demo/echo", "messages": [{"role": "user", "content": "one two"}]},
}


async def test_demo_file_is_kept_until_it_is_deleted(sdk: AsyncOpenAI) -> None:
    import openai

    made = await sdk.files.create(file=("a.txt", b"hello"), purpose="batch")
    assert (made.bytes, made.purpose, made.status) == (5, "batch", "processed")
    assert await sdk.files.retrieve(made.id) == made
    assert [one.id async for one in sdk.files.list()] == [made.id]
    assert (await sdk.files.content(made.id)).read() == b"hello"
    assert (await sdk.files.delete(made.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await sdk.files.retrieve(made.id)


async def test_demo_batch_has_the_responses_of_its_requests(sdk: AsyncOpenAI) -> None:
    import openai

    content = b"\n".join(json.dumps(LINE | {"custom_id": name}).encode() for name in ("one", "two"))
    file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert (batch.status, batch.request_counts and batch.request_counts.completed) == ("completed", 2)
    assert await sdk.batches.retrieve(batch.id) == batch
    assert batch.output_file_id
    lines = (await sdk.files.content(batch.output_file_id)).read().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [one["custom_id"] for one in answers] == ["one", "two"]
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == "one two"
    with pytest.raises(openai.ConflictError):
        await sdk.batches.cancel(batch.id)


async def test_demo_objects_are_bounded(sdk: AsyncOpenAI) -> None:
    import openai

    for number in range(MAX_OBJECTS + 3):
        await sdk.files.create(file=("a.txt", b"%d" % number), purpose="batch")
    assert len((await sdk.files.list()).data) == MAX_OBJECTS
    with pytest.raises(openai.APIStatusError) as failed:
        await sdk.files.create(file=("a.txt", b"x" * (MAX_FILE + 1)), purpose="batch")
    assert failed.value.status_code == 413


async def test_demo_upload_without_a_file_is_refused(sdk: AsyncOpenAI) -> None:
    import openai

    with pytest.raises(openai.BadRequestError):
        await sdk.post("/files", body={}, cast_to=object)
    with pytest.raises(openai.NotFoundError):
        await sdk.batches.create(
            input_file_id="file-demo-other", endpoint="/v1/chat/completions", completion_window="24h"
        )


async def test_demo_response_is_kept_and_continued(sdk: AsyncOpenAI) -> None:
    import openai

    first = await sdk.responses.create(model="demo/echo", input="one")
    assert first.store and first.id != (await sdk.responses.create(model="demo/echo", input="one")).id
    assert (await sdk.responses.retrieve(first.id)).output_text == first.output_text
    second = await sdk.responses.create(
        model="demo/echo", input="two", previous_response_id=first.id, stream=True
    )
    last = [event async for event in second][-1]
    assert last.type == "response.completed" and last.response.previous_response_id == first.id
    items = (await sdk.responses.input_items.list(last.response.id)).data
    assert [item.type for item in items] == ["message"] * 3
    third = await sdk.responses.create(
        model="demo/echo", input="three", previous_response_id=first.id, store=False
    )
    assert (third.previous_response_id, third.store) == (first.id, False)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(third.id)
    await sdk.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        await sdk.responses.create(model="demo/echo", input="two", previous_response_id=first.id)
    with pytest.raises(openai.InternalServerError):
        await sdk.responses.create(model="demo/500", input="two")
    lone = await sdk.responses.create(model="demo/echo", input="one", store=False)
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(lone.id)
