"""The table of server kinds: which wire formats they take, at which paths, with which headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from bluesminds import __version__
from bluesminds.wire.base import FormatName
from bluesminds.wire.errors import ErrorDetail

Headers = tuple[tuple[bytes, bytes], ...]
_KEY_REFUSALS = frozenset(("authentication_error", "invalid_api_key", "invalid_authentication", "auth_error"))
_USER_AGENT = f"bluesminds/{__version__}".encode()


OPENAI_PATHS: Final[Mapping[FormatName, str]] = MappingProxyType(
    {
        "chat": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "moderations": "/moderations",
        "rerank": "/rerank",
    }
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to talk to one kind of server. Paths are relative to the server's URL. `speaks` has the path of
    each wire format that such servers take.
    """

    name: str
    speaks: Mapping[FormatName, str] = field(default_factory=lambda: OPENAI_PATHS, hash=False)
    models_path: str = "/models"
    alive_path: str | None = None  # a cheaper probe than the list of models, relative to the host
    extra_headers: Headers = ()
    key_refusals: frozenset[str] = frozenset()  # error types that mean a rejected key, whatever the status

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

    def refuses_key(self, status: int, error: ErrorDetail) -> bool:
        """Whether a response of this status means that the server rejects the gateway's own key."""
        if status == 401:
            return True
        names = {error.type, error.code}
        if status == 403:
            # Servers also answer 403 to a request they do not like, whoever sent it.
            return bool(names & (_KEY_REFUSALS | self.key_refusals))
        return status >= 400 and error.type in self.key_refusals


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
        # Anthropic's OpenAI-compatible endpoint; its list of models wants a version on every call.
        Dialect(
            "anthropic",
            speaks={"chat": "/chat/completions"},
            extra_headers=((b"anthropic-version", b"2023-06-01"),),
        ),
        Dialect("demo"),
    )
}
