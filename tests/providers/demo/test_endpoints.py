"""OpenAI's SDK with the endpoints of the demo server besides chat; rerank over HTTP."""

from __future__ import annotations

import json
import math
import struct
import wave
import zlib
from base64 import b64decode
from io import BytesIO
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.providers.demo.conftest import Demo

if TYPE_CHECKING:  # importing the SDK takes as long as many tests
    from openai import AsyncOpenAI

pytestmark = [
    pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),  # endpoints that OpenAI will end
]


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


# Images


def picture_of(data: bytes) -> tuple[int, int, set[bytes]]:
    """Width, height and the rows of a PNG with a palette."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    assert (depth, colour) == (8, 3)
    at = data.index(b"IDAT")
    (size,) = struct.unpack_from(">I", data, at - 4)
    rows = zlib.decompress(data[at + 4 : at + 4 + size])
    assert len(rows) == height * (width + 1)
    return width, height, {rows[start : start + width + 1] for start in range(0, len(rows), width + 1)}


async def test_images_follow_from_the_prompt(sdk: AsyncOpenAI) -> None:
    made = await sdk.images.generate(model="demo/image", prompt="a red house", n=2, size="32x64")
    assert made.data and made.usage
    first, second = [b64decode(one.b64_json or "") for one in made.data]
    assert picture_of(first)[:2] == (32, 64) and first != second
    again = await sdk.images.generate(model="demo/image", prompt="a red house", size="32x64")
    assert again.data and again.data[0].b64_json == made.data[0].b64_json
    assert (made.usage.input_tokens, made.usage.output_tokens) == (3, 2 * 272)
    assert made.usage.output_tokens_details and made.usage.output_tokens_details.image_tokens == 2 * 272
    linked = await sdk.images.generate(model="demo/image", prompt="a", response_format="url")
    assert linked.data and str(linked.data[0].url).startswith("data:image/png;base64,")


async def test_image_stream_has_partial_images(sdk: AsyncOpenAI) -> None:
    stream = await sdk.images.generate(model="demo/image", prompt="a", stream=True, partial_images=2)
    parts = [event async for event in stream]
    assert [part.type for part in parts] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    colours = [len(picture_of(b64decode(part.b64_json))[2]) for part in parts]
    assert colours == [6, 11, 16]
    assert parts[2].type == "image_generation.completed" and parts[2].usage.output_tokens == 272 + 200


@pytest.mark.parametrize("size", ["0x1", "big", "2049x1", "10000x10000"])
async def test_image_of_another_size_is_refused(sdk: AsyncOpenAI, size: str) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.images.generate(model="demo/image", prompt="a", size=size)
    assert refused.value.param == "size"


# Speech


async def test_speech_is_a_wav_with_a_tone_for_each_word(sdk: AsyncOpenAI, demo: Demo) -> None:
    made = await sdk.audio.speech.create(model="demo/speech", voice="alloy", input="one two one")
    with wave.open(BytesIO(made.content)) as sound:
        assert (sound.getnchannels(), sound.getsampwidth(), sound.getframerate()) == (1, 2, 24_000)
        assert sound.getnframes() == 3 * 1920
        frames = sound.readframes(3 * 1920)
    assert frames[:3840] == frames[7680:] != frames[3840:7680]
    assert len(demo.delays) == 4, "the head and three tones"
    quick = await sdk.audio.speech.create(
        model="demo/speech", voice={"id": "v"}, input="one", speed=2, response_format="pcm"
    )
    assert len(quick.content) == 1920


async def test_speech_events_have_the_sound_and_usage(sdk: AsyncOpenAI, demo: Demo) -> None:
    asked = {"model": "demo/speech", "input": "one two", "voice": "alloy"}
    whole = await sdk.audio.speech.create(**asked)
    answer = await demo.post("/audio/speech", **asked, stream_format="sse")
    assert answer.headers["content-type"] == "text/event-stream"
    parts = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    sound = b"".join(b64decode(part["audio"]) for part in parts[:-1])
    assert sound == whole.content
    assert parts[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 2, "output_tokens": 4, "total_tokens": 6},
    }


async def test_speech_in_another_format_is_refused(sdk: AsyncOpenAI) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as refused:
        await sdk.audio.speech.create(model="demo/speech", voice="a", input="a", response_format="mp3")
    assert refused.value.param == "response_format"


# Forms


async def test_images_are_edited_and_varied(sdk: AsyncOpenAI) -> None:
    picture = ("a.png", b"x" * 100, "image/png")
    edited = await sdk.images.edit(model="demo/image", image=[picture, picture], prompt="a moon", size="8x8")
    assert edited.data and edited.usage and edited.usage.input_tokens_details.image_tokens == 100
    made = await sdk.images.generate(model="demo/image", prompt="a moon", size="8x8")
    assert made.data and made.data[0].b64_json != edited.data[0].b64_json
    varied = await sdk.images.create_variation(model="demo/image", image=picture, n=2)
    assert varied.data and len(varied.data) == 2
    stream = await sdk.images.edit(
        model="demo/image", image=picture, prompt="a", stream=True, partial_images=1
    )
    assert [part.type async for part in stream] == ["image_edit.partial_image", "image_edit.completed"]


async def test_images_that_json_refers_to_are_edited(demo: Demo) -> None:
    body = {"model": "demo/image", "prompt": "a", "images": [{"file_id": "file-1"}]}
    assert (await demo.post("/images/edits", **body)).json()["usage"]["input_tokens"] == 51


async def test_recording_is_transcribed(sdk: AsyncOpenAI) -> None:
    spoken = await sdk.audio.speech.create(model="demo/speech", voice="alloy", input="one two three")
    file = ("speech.wav", spoken.content, "audio/wav")
    made = await sdk.audio.transcriptions.create(model="demo/transcription", file=file)
    assert made.text == "This recording has 11564 bytes, which are 0.241 seconds of audio."
    assert made.usage and made.usage.type == "tokens" and made.usage.input_tokens == 2
    verbose = await sdk.audio.transcriptions.create(
        model="demo/transcription", file=file, response_format="verbose_json"
    )
    assert verbose.duration == 0.241 and verbose.segments
    assert " ".join(one.text for one in verbose.segments) == made.text
    spoken_by = await sdk.audio.transcriptions.create(
        model="demo/transcription", file=file, response_format="diarized_json"
    )
    assert spoken_by.segments[0].speaker == "A"
    translated = await sdk.audio.translations.create(model="demo/transcription", file=file)
    assert translated.text == made.text + " It is in English."


async def test_transcript_is_streamed(sdk: AsyncOpenAI) -> None:
    file = ("a.wav", b"x" * 48_000, "audio/wav")
    stream = await sdk.audio.transcriptions.create(model="demo/transcription", file=file, stream=True)
    parts = [part async for part in stream]
    text = "".join([part.delta for part in parts if part.type == "transcript.text.delta"])
    last = parts[-1]
    assert last.type == "transcript.text.done" and last.text == text and "1 seconds" in text
    assert last.usage and last.usage.input_tokens == 10


@pytest.mark.parametrize(
    ("form", "content_type", "first"),
    [
        ("text", "text/plain; charset=utf-8", "This recording"),
        (
            "srt",
            "text/plain; charset=utf-8",
            "1\n00:00:00,000 --> 00:00:00,333\nThis recording has 48000\n\n2\n",
        ),
        (
            "vtt",
            "text/vtt; charset=utf-8",
            "WEBVTT\n\n00:00:00.000 --> 00:00:00.333\nThis recording has 48000\n",
        ),
    ],
)
async def test_transcript_is_text_or_subtitles(
    sdk: AsyncOpenAI, form: Any, content_type: str, first: str
) -> None:
    raw = await sdk.audio.transcriptions.with_raw_response.create(
        model="demo/transcription", file=("a.wav", b"x" * 48_000), response_format=form
    )
    assert raw.headers["content-type"] == content_type
    assert raw.text.startswith(first)


async def test_malformed_form_is_refused(demo: Demo) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(
            demo.url + "/audio/transcriptions",
            content=b"--a\r\n",
            headers={"content-type": "multipart/form-data; boundary=a"},
        )
    assert answer.status_code == 400 and "closing boundary" in answer.json()["error"]["message"]
