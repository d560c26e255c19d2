"""The API dialects of servers. All imports are static, so that the packaged executable contains them."""

from dataclasses import dataclass

from bluesminds import __version__
from bluesminds.providers.openai import read_error

Headers = tuple[tuple[bytes, bytes], ...]
_KEY_REFUSALS = frozenset(("authentication_error", "invalid_api_key", "invalid_authentication", "auth_error"))
_USER_AGENT = f"bluesminds/{__version__}".encode()


@dataclass(frozen=True, slots=True)
class Dialect:
    """The differences between kinds of servers. Paths are relative to the server's URL."""

    name: str
    chat_path: str = "/chat/completions"
    models_path: str = "/models"
    alive_path: str | None = None  # a cheaper probe than the list of models, relative to the host
    extra_headers: Headers = ()
    key_refusals: frozenset[str] = frozenset()  # error types for a rejected key, with any status

    def headers(self, api_key: str | None) -> Headers:
        """The headers of every request to the server. They may contain a secret, so they are never logged."""
        common: Headers = (
            (b"user-agent", _USER_AGENT),
            (b"accept", b"application/json, text/event-stream"),
            *self.extra_headers,
        )
        if api_key is None:
            return common
        return ((b"authorization", b"Bearer " + api_key.encode()), *common)

    def refuses_key(self, status: int, body: bytes) -> bool:
        """Whether a response means that the server rejects the gateway's own key."""
        if status == 401:
            return True
        if status == 403:
            # 403 can also mean that the request itself is not allowed, with any key.
            error = read_error(status, body)
            return bool({error.type, error.code} & (_KEY_REFUSALS | self.key_refusals))
        return (
            status >= 400 and bool(self.key_refusals) and read_error(status, body).type in self.key_refusals
        )


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        # The gateway retries; retries of LiteLLM too would multiply the load on an overloaded server.
        Dialect(
            "litellm",
            alive_path="/health/liveliness",
            extra_headers=((b"x-litellm-num-retries", b"0"),),
            # LiteLLM without a database answers a wrong master key with 400 and the second type.
            key_refusals=frozenset(
                ("auth_error", "no_db_connection", "token_not_found_in_db", "expired_key")
            ),
        ),
        # Anthropic's OpenAI-compatible endpoint. Its model list requires the version header.
        Dialect("anthropic", extra_headers=((b"anthropic-version", b"2023-06-01"),)),
        Dialect("demo"),
    )
}
