"""The cases of real servers' replies, and small makers of chunks."""

import json
from pathlib import Path
from typing import Any

from bluesminds.wire.base import RequestFacts
from bluesminds.wire.chat import CHAT
from bluesminds.wire.requests import read_body
from bluesminds.wire.stages import Passthrough

CASES = Path(__file__).parent / "cases"
DONE = b"data: [DONE]\n\n"
MISSING: Any = object()


def case(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CASES / f"{name}.json").read_text())
    return found


def case_request(name: str) -> RequestFacts:
    return CHAT.read_request(read_body(json.dumps(case(name)["request"]).encode()))


def case_pieces(name: str, *path: str) -> list[bytes]:
    found = case(name)
    for step in path or ("upstream",):
        found = found[step]
    return [piece_bytes(piece) for piece in found["pieces"]]


def piece_bytes(piece: Any) -> bytes:
    if isinstance(piece, dict):
        text: str = piece["before"] + piece["repeat"] * piece["times"] + piece["after"]
        return text.encode()
    return str(piece).encode()


def event(body: Any) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def chunk(
    content: str | None = None, *, finish: str | None = None, usage: Any = MISSING, **more: Any
) -> bytes:
    """One chunk. Without `content` and `finish` it has no choices."""
    body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    body["choices"] = [] if content is None and finish is None else [choice]
    if usage is not MISSING:
        body["usage"] = usage
    return event(body | more)


def delta_chunk(**delta: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])


def request(**facts: Any) -> RequestFacts:
    return RequestFacts(model="m", stream=True, **facts)


def stage(**facts: Any) -> Passthrough:
    return Passthrough(CHAT, request(**facts))


def run(passthrough: Passthrough, pieces: list[bytes]) -> bytes:
    return b"".join([passthrough.feed(piece) for piece in pieces]) + passthrough.finish()


def data_of(stream: bytes) -> list[Any]:
    """The decoded data of a stream's events, [DONE] as a text."""
    lines = [line[6:] for line in stream.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"data: ")]
    return ["[DONE]" if line == b"[DONE]" else json.loads(line) for line in lines]
