"""What the prompt log keeps of one request, before it is encrypted."""

from typing import Final

import msgspec
from msgspec import Struct

PREVIEW: Final = 200  # characters


class LoggedPrompt(Struct, frozen=True, omit_defaults=True):
    """`request` is the body as the client sent it. `response` is the body of a JSON answer, "" for a stream.
    `answer` is the text of the answer. `redacted`: places that patterns replaced. `cut`: which of the texts
    are incomplete, because they were too long. `path`, `headers`, `regions` and `tags` are needed to send the
    request again; the last two are what the client required of the server.
    """

    request: str
    path: str
    answer: str = ""
    response: str = ""
    streamed: bool = False
    redacted: int = 0
    cut: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    regions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the texts, which must not reach a log."""
        return f"LoggedPrompt({len(self.request)} characters)"


_decoder: Final = msgspec.json.Decoder(LoggedPrompt)


def write_prompt(prompt: LoggedPrompt) -> bytes:
    return msgspec.json.encode(prompt)


def read_prompt(data: bytes) -> LoggedPrompt:
    """Raises ValueError."""
    return _decoder.decode(data)
