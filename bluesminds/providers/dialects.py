"""The table of server kinds: which wire formats they take, at which paths, with which headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

from bluesminds import __version__
from bluesminds.wire.base import FormatName
from bluesminds.wire.errors import ErrorDetail

Headers = tuple[tuple[bytes, bytes], ...]
OutputBound = Literal["max_tokens", "max_completion_tokens"]
_KEY_REFUSALS = frozenset(("authentication_error", "invalid_api_key", "invalid_authentication", "auth_error"))
_USER_AGENT = f"bluesminds/{__version__}".encode()


OPENAI_PATHS: Final[Mapping[FormatName, str]] = MappingProxyType(
    {
        "chat": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "moderations": "/moderations",
        "rerank": "/rerank",
        "realtime": "/realtime",
    }
)
MESSAGES_PATHS: Final[Mapping[FormatName, str]] = MappingProxyType(
    {"messages": "/messages", "count_tokens": "/messages/count_tokens"}
)
# Their reasoning models refuse max_tokens; other servers may not know max_completion_tokens.
_COMPLETION_BOUND_HOSTS: Final = (".openai.com", ".openai.azure.com")


def output_bound(url: str) -> OutputBound:
    """The field of chat completions that bounds the answer of the server with this URL."""
    host = urlsplit(url).hostname or ""
    return "max_completion_tokens" if f".{host}".endswith(_COMPLETION_BOUND_HOSTS) else "max_tokens"


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
    key_header: Literal["authorization", "x-api-key"] = "authorization"
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
        if self.key_header == "x-api-key":
            return ((b"x-api-key", api_key.encode()), *common)
        return ((b"authorization", b"Bearer " + api_key.encode()), *common)

    def refuses_key(self, status: int, error: ErrorDetail) -> bool:
        """Whether a response of this status means that the server rejects the gateway's own key."""
        if status == 401:
            return True
        names = {error.type, error.code}
        if status == 403:
            # 403 can also mean that the request itself is not allowed, with any key.
            return bool(names & (_KEY_REFUSALS | self.key_refusals))
        return status >= 400 and error.type in self.key_refusals


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        # The gateway retries; retries of LiteLLM too would multiply the load on an overloaded server.
        Dialect(
            "litellm",
            # LiteLLM has the endpoints of Messages below /v1 only, whatever the server's URL.
            speaks={**OPENAI_PATHS, **{name: f"/v1{path}" for name, path in MESSAGES_PATHS.items()}},
            alive_path="/health/liveliness",
            extra_headers=((b"x-litellm-num-retries", b"0"),),
            # LiteLLM without a database answers a wrong master key with 400 and the second type.
            key_refusals=frozenset(
                ("auth_error", "no_db_connection", "token_not_found_in_db", "expired_key")
            ),
        ),
        # Chat completions are translated: Anthropic's own endpoint for them lacks features. The version
        # takes sampling parameters, which later ones refuse. Clients of the format send their own version.
        Dialect(
            "anthropic",
            speaks=MESSAGES_PATHS,
            models_path="/models?limit=1000",
            extra_headers=((b"anthropic-version", b"2023-06-01"),),
            key_header="x-api-key",
        ),
        Dialect("demo"),
    )
}
