"""POST /audio/transcriptions and /audio/translations: a text that says how large the recording is."""

from typing import Any, Literal

from msgspec import Struct

from bluesminds.providers.demo.forms import UploadedForm
from bluesminds.providers.demo.script import TOKEN_SECONDS, Script, Step, events, response
from bluesminds.providers.demo.text import tokens_of

_BYTES_PER_SECOND = 48_000  # of audio of the demo server
_TOKENS_PER_SECOND = 10
_WORDS_PER_SEGMENT = 4


class _TranscriptionRequest(Struct):
    model: str = "demo/transcription"
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] = "json"
    stream: bool = False


def transcriptions(form: UploadedForm) -> Script:
    """Raises DemoError."""
    return _transcript(form, "transcribe")


def translations(form: UploadedForm) -> Script:
    """Raises DemoError."""
    return _transcript(form, "translate")


def _transcript(form: UploadedForm, task: str) -> Script:
    request = form.read(_TranscriptionRequest)
    size = form.sizes("file")[0]
    seconds = round(size / _BYTES_PER_SECOND, 3)
    text = f"This recording has {size} bytes, which are {seconds:g} seconds of audio."
    if task == "translate":
        text += " It is in English."
    words = tokens_of(text)
    usage = _usage(seconds, len(words))
    if request.stream and task == "transcribe":
        deltas = [{"type": "transcript.text.delta", "delta": word} for word in words]
        return events([*deltas, {"type": "transcript.text.done", "text": text, "usage": usage}])
    match request.response_format:
        case "text":
            return _plain("text/plain", text + "\n")
        case "srt" | "vtt" as kind:
            return _plain("text/vtt" if kind == "vtt" else "text/plain", _subtitles(words, seconds, kind))
        case "verbose_json":
            head = {"task": task, "language": "english", "duration": seconds, "text": text}
            segments = [_segment(*one) for one in _cues(words, seconds)]
            duration = {"type": "duration", "seconds": seconds}
            return response(head | {"segments": segments} | {"usage": duration})
        case "diarized_json":
            spoken = [
                {"type": "transcript.text.segment", "id": f"seg_{number}", "speaker": "A"}
                | {"start": start, "end": end, "text": cue}
                for number, start, end, cue in _cues(words, seconds)
            ]
            return response(
                {"task": task, "duration": seconds, "text": text, "segments": spoken, "usage": usage}
            )
    return response({"text": text} | ({"usage": usage} if task == "transcribe" else {}))


def _plain(content_type: str, text: str) -> Script:
    return Script(200, f"{content_type}; charset=utf-8", (Step(TOKEN_SECONDS, text.encode()),))


def _usage(seconds: float, output: int) -> dict[str, Any]:
    heard = round(seconds * _TOKENS_PER_SECOND)
    return {
        "type": "tokens",
        "input_tokens": heard,
        "output_tokens": output,
        "total_tokens": heard + output,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
    }


def _cues(words: list[str], seconds: float) -> list[tuple[int, float, float, str]]:
    """Number, start, end and text of each segment."""
    groups = [
        "".join(words[start : start + _WORDS_PER_SEGMENT]).strip()
        for start in range(0, len(words), _WORDS_PER_SEGMENT)
    ]
    step = seconds / len(groups)
    return [
        (number, round(number * step, 3), round((number + 1) * step, 3), text)
        for number, text in enumerate(groups)
    ]


def _segment(number: int, start: float, end: float, text: str) -> dict[str, Any]:
    return {"id": number, "seek": 0, "start": start, "end": end, "text": text, "tokens": []} | {
        "temperature": 0.0,
        "avg_logprob": -0.1,
        "compression_ratio": 1.0,
        "no_speech_prob": 0.0,
    }


def _subtitles(words: list[str], seconds: float, kind: str) -> str:
    point = "." if kind == "vtt" else ","
    lines = ["WEBVTT\n"] if kind == "vtt" else []
    for number, start, end, text in _cues(words, seconds):
        name = "" if kind == "vtt" else f"{number + 1}\n"
        lines.append(f"{name}{_time(start, point)} --> {_time(end, point)}\n{text}\n")
    return "\n".join(lines)


def _time(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
