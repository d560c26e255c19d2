"""The table of wire dialects a server can speak. Static imports only, so that the executable contains them
all.
"""

from dataclasses import dataclass

from bluesminds import __version__
from bluesminds.providers.openai import read_error

Headers = tuple[tuple[bytes, bytes], ...]
_KEY_REFUSALS = frozenset(("authentication_error", "invalid_api_key", "invalid_authentication", "auth_error"))
_USER_AGENT = f"bluesminds/{__version__}".encode()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to one kind of server. Paths are relative to the server's URL."""

    name: str
    chat_path: str = "/chat/completions"
    models_path: str = "/models"
    alive_path: str | None = None  # a cheaper probe than the list of models, relative to the host
    extra_headers: Headers = ()
    key_refusals: frozenset[str] = frozenset()  # error types that mean a refused key, whatever the status

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

    def refuses_key(self, status: int, body: bytes) -> bool:
        """Whether an answer means that the server does not accept the gateway's own key."""
        if status == 401:
            return True
        if status == 403:
            # Also what a server says to a request it does not like, whoever sent it.
            told = read_error(status, body)
            return bool({told.type, told.code} & (_KEY_REFUSALS | self.key_refusals))
        return (
            status >= 400 and bool(self.key_refusals) and read_error(status, body).type in self.key_refusals
        )


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        # The gateway fails over by itself; a second layer of retries would multiply the load on a server in
        # trouble.
        Dialect(
            "litellm",
            alive_path="/health/liveliness",
            extra_headers=((b"x-litellm-num-retries", b"0"),),
            # Without a database a wrong master key is a 400 of the second type.
            key_refusals=frozenset(
                ("auth_error", "no_db_connection", "token_not_found_in_db", "expired_key")
            ),
        ),
        # Anthropic's OpenAI-compatible endpoint; its list of models wants a version on every call.
        Dialect("anthropic", extra_headers=((b"anthropic-version", b"2023-06-01"),)),
        Dialect("demo"),
    )
}
