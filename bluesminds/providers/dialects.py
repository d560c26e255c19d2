"""The table of wire dialects a server can speak. Static imports only, so that the executable contains them
all.
"""

from dataclasses import dataclass

from bluesminds import __version__

Headers = tuple[tuple[bytes, bytes], ...]
_USER_AGENT = f"bluesminds/{__version__}".encode()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to one kind of server. Paths are relative to the server's URL."""

    name: str
    chat_path: str = "/chat/completions"
    models_path: str = "/models"
    alive_path: str | None = None  # a cheaper probe than the list of models, relative to the host
    extra_headers: Headers = ()

    def headers(self, api_key: str | None) -> Headers:
        """The headers every request to the server carries. May hold a secret: never logged."""
        common: Headers = (
            (b"user-agent", _USER_AGENT),
            (b"accept", b"application/json, text/event-stream"),
            *self.extra_headers,
        )
        if api_key is None:
            return common
        return ((b"authorization", b"Bearer " + api_key.encode()), *common)


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        # The gateway fails over by itself; a second layer of retries would multiply the load on a server in
        # trouble.
        Dialect(
            "litellm", alive_path="/health/liveliness", extra_headers=((b"x-litellm-num-retries", b"0"),)
        ),
        # Anthropic's OpenAI-compatible endpoint; its list of models wants a version on every call.
        Dialect("anthropic", extra_headers=((b"anthropic-version", b"2023-06-01"),)),
        Dialect("demo"),
    )
}
