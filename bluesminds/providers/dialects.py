"""The table of server kinds: the wire formats that they support, their paths and headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, cast
from urllib.parse import quote

from bluesminds.providers import azure
from bluesminds.wire.base import FormatName
from bluesminds.wire.errors import ErrorDetail

Headers = tuple[tuple[bytes, bytes], ...]
# The path of each wire format: relative to the URL of the server, or to its host if it begins with "//".
# `fill_path` replaces "{model}" by the name of the model, and "{method}" by the method of Gemini's API.
Paths = Mapping[FormatName, str]
OutputBound = Literal["max_tokens", "max_completion_tokens"]
_KEY_REFUSALS = frozenset(("authentication_error", "invalid_api_key", "invalid_authentication", "auth_error"))


OPENAI_PATHS: Final[Paths] = MappingProxyType(
    {
        "chat": "/chat/completions",
        "completions": "/completions",
        "embeddings": "/embeddings",
        "moderations": "/moderations",
        "rerank": "/rerank",
        "images": "/images/generations",
        "image_edits": "/images/edits",
        "image_variations": "/images/variations",
        "speech": "/audio/speech",
        "transcription": "/audio/transcriptions",
        "audio_translation": "/audio/translations",
        "realtime": "/realtime",
    }
)
MESSAGES_PATHS: Final[Paths] = MappingProxyType(
    {"messages": "/messages", "count_tokens": "/messages/count_tokens"}
)
RESPONSES_PATHS: Final[Paths] = MappingProxyType(
    {"responses": "/responses", "input_tokens": "/responses/input_tokens"}
)
COMPACT_PATHS: Final[Paths] = MappingProxyType({"compact": "/responses/compact"})  # few servers have it
_NATIVE_PATHS: Final[Paths] = MappingProxyType({**OPENAI_PATHS, **RESPONSES_PATHS})
GEMINI_PATHS: Final[Paths] = MappingProxyType(
    {
        "gemini": "/models/{model}:{method}",
        "gemini_count_tokens": "/models/{model}:countTokens",
        "gemini_embed": "/models/{model}:embedContent",
        "gemini_batch_embed": "/models/{model}:batchEmbedContents",
    }
)


def paths(*formats: FormatName, **elsewhere: str) -> Paths:
    """The usual paths of some formats, and the paths of formats that are `elsewhere`."""
    usual = {**OPENAI_PATHS, **MESSAGES_PATHS, **RESPONSES_PATHS, **COMPACT_PATHS, **GEMINI_PATHS}
    found = {name: usual[name] for name in formats} | cast("dict[FormatName, str]", elsewhere)
    return MappingProxyType(found)


def fill_path(path: str, model: str, *, stream: bool) -> str:
    """The path of a format for a model. Without `alt=sse`, streams of Gemini are JSON arrays."""
    if path.startswith("/models/"):
        model = model.removeprefix("models/")
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    return path.replace("{model}", quote(model, safe="")).replace("{method}", method)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server. `speaks` maps each supported wire format to its path. `locate` gives the paths of
    formats and of the list of models if they depend on the path of the server's URL and on its API version.
    `names_key`: a status of 403 means a rejected key if the message mentions an API key.
    """

    name: str
    speaks: Paths = field(default_factory=lambda: OPENAI_PATHS, hash=False)
    version: str = "/v1"  # the usual end of the server's URL
    models_path: str = "/models"
    lists_models: bool = True  # else `models_path` is only good for a probe
    alive_path: str | None = None  # a cheaper probe than the list of models
    extra_headers: Headers = ()
    relay_prefix: str = ""  # of paths that are relayed
    key_header: str = "authorization"
    takes_tokens: bool = False  # a token of Microsoft Entra ID is sent as a bearer token
    key_refusals: frozenset[str] = frozenset()  # error types that mean a rejected key, whatever the status
    names_key: bool = False
    locate: Callable[[str, str], tuple[Paths, str]] | None = None

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


DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai"),
        # The gateway retries; retries of LiteLLM too would multiply the load on an overloaded server.
        Dialect(
            "litellm",
            # LiteLLM has the endpoints of Messages below /v1 only, whatever the server's URL.
            speaks={**_NATIVE_PATHS, **{name: f"/v1{path}" for name, path in MESSAGES_PATHS.items()}},
            alive_path="//health/liveliness",
            relay_prefix="/v1",
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
            version="/v1beta",
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
        # Its list of models has all that Azure sells. Deployments, which requests must name, are not in it.
        Dialect(
            "azure",
            speaks=azure.locate("", "")[0],
            lists_models=False,
            key_header="api-key",
            takes_tokens=True,
            locate=azure.locate,
        ),
        Dialect(
            "demo",
            speaks={**_NATIVE_PATHS, **{name: f"//v1beta{path}" for name, path in GEMINI_PATHS.items()}},
        ),
    )
}
