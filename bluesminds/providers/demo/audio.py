"""POST /audio/speech: one tone for each word, as WAV or raw samples."""

import math
import struct
import zlib
from base64 import b64encode
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bluesminds.providers.demo.script import TOKEN_SECONDS, DemoError, Script, Step, events, read
from bluesminds.providers.demo.text import tokens_of

_RATE = 24_000  # samples per second, as OpenAI's `pcm`
_TONE_SECONDS = 0.08
_TONES = 24
_TOKENS_PER_TONE = 2
_LOUDNESS = 8_000  # of 32,767
_CONTENT_TYPES = {"wav": "audio/wav", "pcm": "audio/pcm"}


class _VoiceId(Struct):
    id: str


class _SpeechRequest(Struct):
    input: Annotated[str, Meta(min_length=1, max_length=4096)]
    voice: str | _VoiceId = "demo"
    model: str = "demo/speech"
    response_format: Literal["wav", "pcm", "mp3", "opus", "aac", "flac"] | None = None
    speed: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


def speech(body: bytes) -> Script:
    """Raises DemoError."""
    request = read(body, _SpeechRequest)
    form = request.response_format or "wav"
    if form not in _CONTENT_TYPES:
        raise DemoError(f"The demo server cannot write {form}. Ask for wav or pcm.", "response_format")
    words = tokens_of(request.input)
    samples = round(_RATE * _TONE_SECONDS / request.speed)
    tones = [_tone(zlib.crc32(word.strip().encode()) % _TONES, samples) for word in words]
    if form == "wav":
        tones.insert(0, wav_head(samples * len(words)))
    if request.stream_format == "audio":
        steps = tuple(Step(TOKEN_SECONDS, tone) for tone in tones)
        return Script(200, _CONTENT_TYPES[form], steps)
    spoken: list[dict[str, Any]] = [
        {"type": "speech.audio.delta", "audio": b64encode(tone).decode()} for tone in tones
    ]
    output = _TOKENS_PER_TONE * len(words)
    usage = {"input_tokens": len(words), "output_tokens": output, "total_tokens": len(words) + output}
    return events([*spoken, {"type": "speech.audio.done", "usage": usage}])


def wav_head(samples: int) -> bytes:
    """The head of a RIFF file of 16-bit mono PCM."""
    size = 2 * samples
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE") + form + struct.pack("<4sI", b"data", size)


@lru_cache(maxsize=4 * _TONES)
def _tone(number: int, samples: int) -> bytes:
    """A sine of a note from A3 upwards, which begins and ends softly."""
    step = math.tau * 220 * 2 ** (number / 12) / _RATE
    wave = [
        round(_LOUDNESS * math.sin(math.pi * at / samples) * math.sin(step * at)) for at in range(samples)
    ]
    return struct.pack(f"<{samples}h", *wave)
