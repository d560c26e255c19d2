"""OpenAI's SDK with completions, embeddings and moderations of the demo server; rerank over HTTP."""

import math
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.providers.demo.conftest import Demo

pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


# Completions


async def test_completion_of_echo_is_prompt(sdk: AsyncOpenAI) -> None:
    made = await sdk.completions.create(model="demo/echo", prompt="one two")
    assert (made.choices[0].text, made.choices[0].finish_reason) == (" one two", "stop")
    assert made.usage and (made.usage.prompt_tokens, made.usage.completion_tokens) == (2, 2)
    echoed = await sdk.completions.create(model="demo/echo", prompt="one two", echo=True)
    assert echoed.choices[0].text == "one two one two"


async def test_completions_end_at_16_tokens_or_the_limit(sdk: AsyncOpenAI) -> None:
    for limit, count in ((None, 16), (3, 3), (0, 0)):
        made = await sdk.completions.create(model="demo/text", prompt="one", max_tokens=limit)
        assert (len(made.choices[0].text.split()), made.choices[0].finish_reason) == (count, "length")
    long = await sdk.completions.create(model="demo/text", prompt="one", max_tokens=100)
    assert (len(long.choices[0].text.split()), long.choices[0].finish_reason) == (48, "stop")
    stopped = await sdk.completions.create(model="demo/echo", prompt="one two", stop=" two")
    assert stopped.choices[0].text == " one"


@pytest.mark.parametrize(
    ("prompt", "count"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3, 4]], 3)]
)
async def test_every_form_of_prompt_is_completed_n_times(sdk: AsyncOpenAI, prompt: Any, count: int) -> None:
    made = await sdk.completions.create(model="demo/text", prompt=prompt, n=2)
    assert [choice.index for choice in made.choices] == list(range(2 * count))
    assert len({choice.text for choice in made.choices}) > 1
    stream = await sdk.completions.create(model="demo/text", prompt=prompt, n=2, stream=True)
    texts = [""] * (2 * count)
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in made.choices]


async def test_suffix_changes_text_and_usage(sdk: AsyncOpenAI) -> None:
    made = await sdk.completions.create(model="demo/text", prompt="one", suffix="two three")
    assert made.usage and made.usage.prompt_tokens == 3


async def test_streamed_completion_ends_with_usage(sdk: AsyncOpenAI) -> None:
    stream = await sdk.completions.create(
        model="demo/echo", prompt="one two", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == [] and chunks[-1].usage and chunks[-1].usage.total_tokens == 4
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "stop"]


async def test_logprobs_of_a_completion_have_offsets(sdk: AsyncOpenAI) -> None:
    made = await sdk.completions.create(model="demo/echo", prompt="one two", logprobs=2, echo=True)
    logprobs = made.choices[0].logprobs
    assert logprobs and logprobs.tokens == ["one", " two", " one", " two"]
    assert logprobs.text_offset == [0, 3, 7, 11]
    assert [len(tokens) for tokens in logprobs.top_logprobs or ()] == [2] * 4


# Embeddings


async def embedding(sdk: AsyncOpenAI, text: Any, **more: Any) -> list[float]:
    made = await sdk.embeddings.create(model="demo/embedding", input=text, **more)
    return made.data[0].embedding


async def test_base64_and_float_are_the_same_unit_vector(sdk: AsyncOpenAI) -> None:
    by_default = await embedding(sdk, "one two")
    assert by_default == pytest.approx(await embedding(sdk, "one two", encoding_format="float"))
    assert len(by_default) == 256
    assert math.hypot(*by_default) == pytest.approx(1, abs=1e-5)
    short = await embedding(sdk, "one two", dimensions=8)
    assert len(short) == 8 and math.hypot(*short) == pytest.approx(1, abs=1e-5)


async def test_similar_texts_are_near(sdk: AsyncOpenAI) -> None:
    texts = ["The cat sat on the mat.", "A cat sat on a mat", "Interest rates rose sharply"]
    made = await sdk.embeddings.create(model="demo/embedding", input=texts)
    assert [row.index for row in made.data] == [0, 1, 2]
    cat, other_cat, rates = [row.embedding for row in made.data]

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True))

    assert cosine(cat, other_cat) > 0.5 > 0.2 > cosine(cat, rates)
    assert made.usage.prompt_tokens == made.usage.total_tokens == 6 + 6 + 4


@pytest.mark.parametrize(
    ("given", "count", "tokens"), [([1, 2], 1, 2), ([[1, 2], [3]], 2, 3), (" ", 1, 1), ("\0", 1, 1)]
)
async def test_every_form_of_input_is_embedded(sdk: AsyncOpenAI, given: Any, count: int, tokens: int) -> None:
    made = await sdk.embeddings.create(model="demo/embedding", input=given)
    assert (len(made.data), made.usage.total_tokens) == (count, tokens)
    for row in made.data:
        assert math.hypot(*row.embedding) == pytest.approx(1, abs=1e-5)


# Moderations


async def test_moderation_flags_plain_words(sdk: AsyncOpenAI) -> None:
    made = await sdk.moderations.create(model="demo/moderation", input=["I will kill you!", "Good skills."])
    assert [result.flagged for result in made.results] == [True, False]
    assert made.results[0].categories.violence and made.results[0].category_scores.violence > 0.9
    assert not made.results[0].categories.self_harm
    assert not made.results[1].categories.violence
    assert made.results[0].category_applied_input_types.hate == ["text"]


async def test_parts_of_a_moderation_make_one_result(sdk: AsyncOpenAI) -> None:
    parts: Any = [
        {"type": "text", "text": "hello"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    (result,) = (await sdk.moderations.create(input=parts, model="demo/moderation")).results
    assert not result.flagged
    assert result.category_applied_input_types.violence == ["image", "text"]
    assert result.category_applied_input_types.hate == ["text"]
    assert (await sdk.moderations.create(input="hello")).model == "demo/moderation"


# Rerank


async def test_rerank_sorts_by_relevance(demo: Demo) -> None:
    documents: list[object] = [
        "Paris is in France.",
        {"text": "A gateway limits API keys."},
        "API key limits",
    ]
    asked = {"model": "demo/rerank", "query": "limits of an API key", "documents": documents}
    whole = (await demo.post("/rerank", **asked, return_documents=True)).json()
    scores = [row["relevance_score"] for row in whole["results"]]
    assert scores == sorted(scores, reverse=True) and 1 >= scores[0] > 0.5 and scores[-1] >= 0
    assert [row["index"] for row in whole["results"]] == [2, 1, 0]
    assert whole["results"][1]["document"] == documents[1]
    assert whole["usage"]["total_tokens"] == whole["meta"]["tokens"]["input_tokens"] == 17
    top = (await demo.post("/rerank", **asked, top_n=2)).json()["results"]
    assert [row["index"] for row in top] == [2, 1] and "document" not in top[0]
