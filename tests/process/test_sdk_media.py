"""The OpenAI Python SDK with images and sound."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.fakes.model_server import ModelServer, refusal, streamed, whole
from tests.gateways import Gateway

# The SDK leaves generators to the garbage collector, and Trio warns about them.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(100)).decode()
USAGE = {
    "input_tokens": 10,
    "output_tokens": 300,
    "total_tokens": 310,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 6},
}


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


async def test_sdk_images_are_generated(sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway) -> None:
    models.plan(whole(json.dumps({"created": 1, "data": [{"b64_json": PICTURE}], "usage": USAGE}).encode()))
    made = await sdk.images.generate(model="m", prompt="A lighthouse", size="1024x1024")
    assert made.data and made.data[0].b64_json == PICTURE
    assert made.usage and made.usage.total_tokens == 310
    assert models.asked[0].body == {"model": "m", "prompt": "A lighthouse", "size": "1024x1024"}
    (row,) = gateway.rows()
    assert (row["endpoint"], row["images"], row["output_tokens"]) == ("images.generations", 1, 300)


async def test_sdk_image_stream_returns_partial_images(sdk: AsyncOpenAI, models: ModelServer) -> None:
    head = {"background": "opaque", "created_at": 1, "output_format": "png", "quality": "low", "size": "1x1"}
    models.plan(
        streamed(
            event("image_generation.partial_image", b64_json="aa", partial_image_index=0, **head),
            event("image_generation.completed", b64_json=PICTURE, usage=USAGE, **head),
        )
    )
    stream = await sdk.images.generate(model="m", prompt="A lighthouse", stream=True, partial_images=1)
    parts = [part async for part in stream]
    assert [part.type for part in parts] == ["image_generation.partial_image", "image_generation.completed"]
    assert parts[1].b64_json == PICTURE


async def test_sdk_speech_is_streamed_to_a_file(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway, tmp_path: Path
) -> None:
    pieces = [b"\xff\xfb" + bytes([number]) * 70_000 for number in range(9)]
    models.plan(streamed(*pieces, content_type=b"Content-Type: audio/mpeg"))
    async with sdk.audio.speech.with_streaming_response.create(
        model="m", voice="alloy", input="Hello", response_format="mp3"
    ) as answer:
        assert answer.headers["content-type"] == "audio/mpeg"
        await answer.stream_to_file(tmp_path / "speech.mp3")
    assert (tmp_path / "speech.mp3").read_bytes() == b"".join(pieces)
    assert models.asked[0].body["response_format"] == "mp3"
    (row,) = gateway.rows()
    assert (row["endpoint"], row["characters"], row["outcome"]) == ("audio.speech", 5, "ok")


async def test_sdk_error_about_speech_raises(sdk: AsyncOpenAI, models: ModelServer) -> None:
    body = {"error": {"message": "Unknown voice.", "type": "invalid_request_error", "param": "voice"}}
    models.plan(refusal(400, json.dumps(body).encode()))
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.audio.speech.create(model="m", voice="other", input="Hello")
    assert caught.value.param == "voice"


FILE = ("speech.wav", b"RIFF" + bytes(range(256)) * 40, "audio/wav")
LARGE_FILE = ("speech.wav", b"RIFF" + bytes(range(256)) * 16_000, "audio/wav")


@pytest.mark.parametrize("file", [FILE, LARGE_FILE])
async def test_sdk_recording_is_transcribed(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway, file: Any
) -> None:
    usage = {"type": "duration", "seconds": 7.5}
    models.plan(whole(json.dumps({"text": "Hello.", "usage": usage}).encode()))
    made = await sdk.audio.transcriptions.create(model="m", file=file, language="en")
    assert made.text == "Hello." and made.usage and made.usage.type == "duration"
    (asked,) = models.asked
    assert asked.received.line == b"POST /v1/audio/transcriptions HTTP/1.1"
    assert file[1] in asked.received.body and b'name="language"' in asked.received.body
    (row,) = gateway.rows()
    assert (row["endpoint"], row["audio_ms"], row["input_tokens"]) == ("audio.transcriptions", 7500, None)


async def test_sdk_transcript_is_streamed(sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway) -> None:
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 2, "total_tokens": 16}
    models.plan(
        streamed(
            event("transcript.text.delta", delta="Hel"),
            event("transcript.text.delta", delta="lo."),
            event("transcript.text.done", text="Hello.", usage=usage),
            b"data: [DONE]\n\n",
        )
    )
    stream = await sdk.audio.transcriptions.create(model="m", file=FILE, stream=True)
    parts = [part async for part in stream]
    assert [part.type for part in parts] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert b'name="stream"\r\n\r\ntrue' in models.asked[0].received.body
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"], row["streamed"]) == (14, 2, 1)


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
async def test_sdk_transcript_is_text_or_subtitles(sdk: AsyncOpenAI, models: ModelServer, form: Any) -> None:
    models.plan(streamed(b"1\n00:00:00,000 --> ", content_type=b"Content-Type: text/plain; charset=utf-8"))
    made: Any = await sdk.audio.transcriptions.create(model="m", file=FILE, response_format=form)
    assert made == "1\n00:00:00,000 --> "


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_sdk_recording_is_translated(sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway) -> None:
    models.plan(whole(b'{"text": "Hello."}'))
    assert (await sdk.audio.translations.create(model="m", file=FILE)).text == "Hello."
    (row,) = gateway.rows()
    assert (row["endpoint"], row["output_tokens"], row["usage_source"]) == (
        "audio.translations",
        2,
        "estimated",
    )


async def test_sdk_images_are_edited(sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway) -> None:
    models.plan(whole(json.dumps({"created": 1, "data": [{"b64_json": PICTURE}], "usage": USAGE}).encode()))
    picture = ("a.png", b"\x89PNG" + bytes(5000), "image/png")
    made = await sdk.images.edit(model="m", image=[picture, picture], mask=picture, prompt="A moon", n=1)
    assert made.data and made.data[0].b64_json == PICTURE
    body = models.asked[0].received.body
    assert body.count(b'name="image[]"; filename="a.png"') == 2 and b'name="mask"' in body
    (row,) = gateway.rows()
    assert (row["endpoint"], row["images"], row["image_input_tokens"]) == ("images.edits", 1, 4)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
async def test_sdk_images_are_varied(sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway) -> None:
    models.plan(whole(json.dumps({"created": 1, "data": [{"url": "https://x/y.png"}]}).encode()))
    made = await sdk.images.create_variation(model="m", image=("a.png", b"\x89PNG", "image/png"))
    assert made.data and made.data[0].url == "https://x/y.png"
    assert gateway.rows()[0]["endpoint"] == "images.variations"


async def test_sdk_form_without_model_raises(sdk: AsyncOpenAI, models: ModelServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.images.edit(image=("a.png", b"\x89PNG", "image/png"), prompt="A moon")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "model")
    assert models.asked == []
