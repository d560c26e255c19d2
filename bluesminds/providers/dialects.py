"""The table of server kinds: the wire formats that they support, their paths and headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote, urlsplit

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
        "images": "/images/generations",
        "speech": "/audio/speech",
    }
)
MESSAGES_PATHS: Final[Mapping[FormatName, str]] = MappingProxyType(
    {"messages": "/messages", "count_tokens": "/messages/count_tokens"}
)
GEMINI_PATHS: Final[Mapping[FormatName, str]] = MappingProxyType(
    {"gemini": "/models/{model}:{method}", "gemini_count_tokens": "/models/{model}:countTokens"}
)
# Their reasoning models refuse max_tokens; other servers may not know max_completion_tokens.
_COMPLETION_BOUND_HOSTS: Final = (".openai.com", ".openai.azure.com")


def output_bound(url: str) -> OutputBound:
    """The field for the maximum length in chat completions of the server with this URL."""
    host = urlsplit(url).hostname or ""
    return "max_completion_tokens" if f".{host}".endswith(_COMPLETION_BOUND_HOSTS) else "max_tokens"


def fill_path(path: str, model: str, *, stream: bool) -> str:
    """A path of GEMINI_PATHS with the model and the method. Without `alt=sse`, streams are JSON arrays."""
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return path.format(model=quote(model.removeprefix("models/"), safe=""), method=method)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. Paths are relative to the server's URL. `speaks` maps each supported wire format to
    its path, whose variables `fill_path` replaces. `names_key`: a status of 403 means a rejected key if the
    message speaks of an API key.
    """

    name: str
    speaks: Mapping[FormatName, str] = field(default_factory=lambda: OPENAI_PATHS, hash=False)
    models_path: str = "/models"
    alive_path: str | None = None  # a cheaper probe than the list of models, relative to the host
    extra_headers: Headers = ()
    key_header: Literal["authorization", "x-api-key", "x-goog-api-key"] = "authorization"
    key_refusals: frozenset[str] = frozenset()  # error types that mean a rejected key, whatever the status
    names_key: bool = False

    def headers(self, api_key: str | None) -> Headers:
        """The headers of every request to the server. They may contain a secret, so they are never logged."""
        common: Headers = (
            (b"user-agent", _USER_AGENT),
            (b"accept", b"application/json, text/event-stream, */*"),
            *self.extra_headers,
        )
        if api_key is None:
            return common
        if self.key_header != "authorization":
            return ((self.key_header.encode(), api_key.encode()), *common)
        return ((b"authorization", b"Bearer " + api_key.encode()), *common)

    def refuses_key(self, status: int, error: ErrorDetail) -> bool:
        """Whether a response of this status means that the server rejects the gateway's own key."""
        if status == 401:
            return True
        names = {error.type, error.code}
        if status == 403:
            # 403 can also mean that the request itself is not allowed, with any key.
            named = self.names_key and "api key" in (error.message or "").lower()
            return named or bool(names & (_KEY_REFUSALS | self.key_refusals))
        return status >= 400 and bool(names & self.key_refusals)


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
        # Google responds to a wrong key with 400, and to a blocked key with 403.
        Dialect(
            "gemini",
            speaks=GEMINI_PATHS,
            models_path="/models?pageSize=1000",
            key_header="x-goog-api-key",
            key_refusals=frozenset(
                (
                    "API_KEY_INVALID",
                    "API_KEY_SERVICE_BLOCKED",
                    "API_KEY_IP_ADDRESS_BLOCKED",
                    "API_KEY_HTTP_REFERRER_BLOCKED",
                    "SERVICE_DISABLED",
                    "CONSUMER_INVALID",
                    "CONSUMER_SUSPENDED",
                    "BILLING_DISABLED",
                )
            ),
            names_key=True,
        ),
        Dialect("demo"),
    )
}
