"""Generated text and its tokens.

A token is a word with the space before it; a word of more than 12 characters is several tokens.
"""

import re
import zlib
from typing import Any

_TOKEN = re.compile(r"\s*\S{1,12}|\s+")
_SENTENCES = (  # of 12 words each
    "A gateway checks the API key of each request before anything else.",
    "It then chooses a server that has the model and is healthy.",
    "The response is streamed to the client as soon as it arrives.",
    "Every request is recorded with its tokens, its price and its duration.",
    "A limit can apply to requests, to tokens or to money spent.",
    "When one server fails, the request is sent to the next one.",
    "Each key can be rotated, revoked or restricted to a few models.",
    "The same request always receives the same response from this demo server.",
)
_WORDS = tuple(dict.fromkeys(" ".join(_SENTENCES).split()))


def tokens_of(text: str) -> list[str]:
    """Joined they are the text again."""
    return _TOKEN.findall(text)


def prose(subject: str, variation: int) -> str:
    """48 words that depend on the subject and the variation."""
    start = zlib.crc32(subject.encode()) + variation
    return " ".join(_SENTENCES[(start + n) % len(_SENTENCES)] for n in range(4))


def truncate(text: str, stop: str | list[str] | None, limit: int) -> tuple[list[str], str]:
    """At most `limit` tokens of what precedes the first stop sequence, and the finish reason."""
    stops = [stop] if isinstance(stop, str) else stop or []
    end = min((text.index(one) for one in stops if one and one in text), default=len(text))
    tokens = tokens_of(text[:end])
    return tokens[:limit], "length" if len(tokens) > limit else "stop"


def logprob(token: str) -> float:
    """A made-up log probability from -1 to 0."""
    return -(zlib.crc32(token.encode()) % 1000) / 1000


def alternatives(token: str, count: int) -> list[str]:
    """The token and its alternatives."""
    return [token, *(f" {word}" for word in _WORDS if f" {word}" != token)][:count]


def usage_of(prompt: int, cached: int, completion: int, reasoning: int = 0) -> dict[str, Any]:
    """The usage object of chat completions and completions."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
