"""The table of vendors: hosted APIs, gateways and local servers that BluesMinds knows by name.

A vendor is a row: where its API is, and what differs from its dialect. Fields are declared as unsupported
only where the vendor's documentation says that it ignores or refuses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

from bluesminds.common.values import Server
from bluesminds.providers.dialects import Headers, Paths, paths
from bluesminds.providers.quirks import UnsupportedField, unsupported
from bluesminds.wire.base import FormatName

Unsupported = Mapping[FormatName, tuple[UnsupportedField, ...]]


@dataclass(frozen=True, slots=True)
class Vendor:
    """`url` is "" where each account has its own. `key_variable` is the environment variable that the
    vendor's own SDK reads, "" for servers without keys. `hosts` are names of hosts; one that begins with "."
    is a suffix. A field with None has the value of the dialect.

    `output_bound`: the one field that bounds the answer to a chat completion; None: it takes both.
    `streamed_usage`: whether the usage of a stream comes only when it is asked for, with `stream_options`.
    `cost`: where responses say what they cost, "" if they do not.
    """

    name: str
    title: str
    documentation: str
    url: str = ""
    key_variable: str = ""
    dialect: str = "openai"
    speaks: Paths | None = field(default=None, hash=False)
    hosts: tuple[str, ...] = ()
    key_header: str | None = None
    headers: Headers = ()
    models_path: str | None = None
    lists_models: bool = True
    model_prefix: str = ""  # of the names in its list of models, which requests leave out
    alive_path: str | None = None
    output_bound: Literal["max_tokens", "max_completion_tokens"] | None = None
    streamed_usage: Literal["asked", "always"] = "asked"
    cost: str = ""
    unsupported: Unsupported = field(default_factory=lambda: MappingProxyType({}), hash=False)
    detected: bool = True  # its key in the environment makes it a server when none is configured

    @property
    def is_detected(self) -> bool:
        """Whether its key in the environment makes it a server. Nothing but the key may be needed."""
        return self.detected and self.lists_models and bool(self.url and self.key_variable)

    @property
    def is_local(self) -> bool:
        """Whether it runs on machines of the operator, mostly without a key."""
        return self.url.startswith("http://")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    def serves(self, host: str, path: str) -> bool:
        """Whether a URL with this host and path is one of the vendor's API."""
        known = not self.is_local and any(
            host == one or (one.startswith(".") and host.endswith(one))
            for one in (self.host, *self.hosts)
            if one
        )
        return known and (not self.url or path == self.path or (not self.path and path == "/v1"))


_HOSTED: Final = (
    Vendor(
        "openai",
        "OpenAI",
        "https://developers.openai.com/api/reference/overview",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        speaks=paths(
            "chat",
            "responses",
            "input_tokens",
            "compact",
            "completions",
            "embeddings",
            "moderations",
            "images",
            "image_edits",
            "image_variations",
            "speech",
            "transcription",
            "audio_translation",
            "realtime",
        ),
        hosts=(".api.openai.com",),
        output_bound="max_completion_tokens",  # its reasoning models refuse max_tokens
    ),
    Vendor(
        "anthropic",
        "Anthropic",
        "https://docs.claude.com/en/api/overview",
        "https://api.anthropic.com/v1",
        "ANTHROPIC_API_KEY",
        "anthropic",
        streamed_usage="always",
    ),
    Vendor(
        "azure",
        "Azure OpenAI",
        "https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
        key_variable="AZURE_OPENAI_API_KEY",
        dialect="azure",
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        output_bound="max_completion_tokens",
        detected=False,
    ),
    Vendor(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/docs/api/reference/overview",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        speaks=paths("chat", "completions", "embeddings", "rerank", "messages", "responses", "speech"),
        streamed_usage="always",
        cost="usage.cost",
        unsupported={"responses": unsupported("OpenRouter", "previous_response_id")},
    ),
    Vendor(
        "portkey",
        "Portkey",
        "https://portkey.ai/docs/api-reference/inference-api/headers",
        "https://api.portkey.ai/v1",
        "PORTKEY_API_KEY",
        speaks=paths(
            *(
                "chat",
                "completions",
                "embeddings",
                "moderations",
                "messages",
                "responses",
                "images",
                "image_edits",
            ),
            *("image_variations", "speech", "transcription", "audio_translation"),
        ),
        hosts=("aigw.portkey.ai",),
        key_header="x-portkey-api-key",
    ),
    Vendor(
        "featherless",
        "Featherless",
        "https://featherless.ai/docs",
        "https://api.featherless.ai/v1",
        "FEATHERLESS_API_KEY",
        speaks=paths("chat", "completions"),
        models_path="/models?available_on_current_plan=true",
        output_bound="max_tokens",
    ),
    Vendor(
        "chutes",
        "Chutes",
        "https://chutes.ai/docs",
        "https://llm.chutes.ai/v1",
        "CHUTES_API_KEY",
        speaks=paths("chat", "completions"),
        output_bound="max_tokens",
    ),
    Vendor(
        "groq",
        "Groq",
        "https://console.groq.com/docs/openai",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        speaks=paths("chat", "responses", "speech", "transcription", "audio_translation"),
        unsupported={
            "chat": unsupported("Groq", "logprobs", "top_logprobs", "logit_bias", n=(b"1",)),
            "responses": unsupported("Groq", "previous_response_id"),
        },
    ),
    Vendor(
        "together",
        "Together AI",
        "https://docs.together.ai/docs/openai-api-compatibility",
        "https://api.together.ai/v1",
        "TOGETHER_API_KEY",
        speaks=paths(
            *("chat", "completions", "embeddings", "rerank", "images", "speech"),
            *("transcription", "audio_translation"),
        ),
        hosts=("api.together.xyz",),
        output_bound="max_tokens",
    ),
    Vendor(
        "fireworks",
        "Fireworks AI",
        "https://docs.fireworks.ai/tools-sdks/openai-compatibility",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        speaks=paths("chat", "completions", "embeddings", "rerank", "messages", "responses"),
        hosts=(".api.fireworks.ai",),
        streamed_usage="always",
    ),
    Vendor(
        "mistral",
        "Mistral AI",
        "https://docs.mistral.ai/api",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        speaks=paths("chat", "embeddings", "moderations", "transcription"),
        output_bound="max_tokens",  # it refuses the other field
    ),
    Vendor(
        "deepseek",
        "DeepSeek",
        "https://api-docs.deepseek.com",
        "https://api.deepseek.com",
        "DEEPSEEK_API_KEY",
        speaks=paths("chat", messages="//anthropic/v1/messages"),
        output_bound="max_tokens",
    ),
    Vendor(
        "xai",
        "xAI",
        "https://docs.x.ai/docs/api-reference",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        speaks=paths("chat", "completions", "responses", "images"),
        hosts=(".api.x.ai",),
    ),
    Vendor(
        "cerebras",
        "Cerebras",
        "https://inference-docs.cerebras.ai/resources/openai",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        speaks=paths("chat", "completions"),
        unsupported={
            "chat": unsupported(
                "Cerebras", "logit_bias", frequency_penalty=(b"0", b"0.0"), presence_penalty=(b"0", b"0.0")
            )
        },
    ),
    Vendor(
        "perplexity",
        "Perplexity",
        "https://docs.perplexity.ai/api-reference/chat-completions-post",
        "https://api.perplexity.ai",
        "PERPLEXITY_API_KEY",
        speaks=paths("chat"),
        lists_models=False,
        output_bound="max_tokens",
        streamed_usage="always",
        unsupported={
            "chat": unsupported(
                "Perplexity", "tools", "functions", tool_choice=(b'"auto"', b'"none"'), n=(b"1",)
            )
        },
    ),
    Vendor(
        "cohere",
        "Cohere",
        "https://docs.cohere.com/docs/compatibility-api",
        "https://api.cohere.ai/compatibility/v1",
        "COHERE_API_KEY",
        speaks=paths("chat", "embeddings", rerank="//v2/rerank"),
        hosts=("api.cohere.com",),
        models_path="//v1/models?page_size=1000",
        output_bound="max_tokens",
        unsupported={
            "chat": unsupported(
                *("Cohere", "logit_bias", "top_logprobs", "prediction", "audio"),
                n=(b"1",),
                modalities=(b'["text"]',),
            ),
            "embeddings": unsupported("Cohere", "dimensions"),
        },
    ),
    Vendor(
        "gemini",
        "Gemini",
        "https://ai.google.dev/api/generate-content",
        "https://generativelanguage.googleapis.com/v1beta",
        "GEMINI_API_KEY",
        "gemini",
        streamed_usage="always",
    ),
    Vendor(
        "gemini-openai",
        "Gemini, OpenAI's format",
        "https://ai.google.dev/gemini-api/docs/openai",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "GEMINI_API_KEY",
        speaks=paths("chat", "embeddings", "images"),
        model_prefix="models/",
        detected=False,  # the row before has the same models
    ),
    Vendor(
        "github",
        "GitHub Models",
        "https://docs.github.com/rest/models/inference",
        "https://models.github.ai/inference",
        "GITHUB_TOKEN",
        speaks=paths("chat", "embeddings"),
        models_path="//catalog/models",
        detected=False,  # the variable is there for many other purposes
    ),
    Vendor(
        "nvidia",
        "NVIDIA",
        "https://docs.api.nvidia.com/nim/reference/llm-apis",
        "https://integrate.api.nvidia.com/v1",
        "NVIDIA_API_KEY",
        speaks=paths("chat", "completions", "embeddings"),
        output_bound="max_tokens",
    ),
)

_LOCAL: Final = (
    Vendor(
        "litellm",
        "LiteLLM",
        "https://docs.litellm.ai/docs/simple_proxy",
        "http://127.0.0.1:4000/v1",
        dialect="litellm",
        cost="header x-litellm-response-cost, not in streams",
    ),
    Vendor(
        "ollama",
        "Ollama",
        "https://docs.ollama.com/api/openai-compatibility",
        "http://127.0.0.1:11434/v1",
        speaks=paths("chat", "completions", "embeddings", "messages", "responses", "transcription"),
        alive_path="//api/version",
        output_bound="max_tokens",
        unsupported={
            "chat": unsupported("Ollama", "logit_bias", n=(b"1",), tool_choice=(b'"auto"',)),
            "responses": unsupported("Ollama", "previous_response_id"),
            "messages": unsupported("Ollama", tool_choice=(b'{"type":"auto"}',)),
        },
    ),
    Vendor(
        "vllm",
        "vLLM",
        "https://docs.vllm.ai/en/latest/serving/openai_compatible_server/",
        "http://127.0.0.1:8000/v1",
        speaks=paths(
            *("chat", "completions", "embeddings", "rerank", "messages", "responses"),
            *("transcription", "audio_translation"),
        ),
        alive_path="//health",
    ),
    Vendor(
        "sglang",
        "SGLang",
        "https://docs.sglang.ai/basic_usage/openai_api.html",
        "http://127.0.0.1:30000/v1",
        speaks=paths("chat", "completions", "embeddings", "rerank"),
        alive_path="//health",
    ),
    Vendor(
        "llama.cpp",
        "llama.cpp",
        "https://github.com/ggml-org/llama.cpp/tree/master/tools/server",
        "http://127.0.0.1:8080/v1",
        speaks=paths("chat", "completions", "embeddings", "rerank", "messages", "responses"),
        alive_path="//health",
    ),
    Vendor(
        "lmstudio",
        "LM Studio",
        "https://lmstudio.ai/docs/developer/openai-compat",
        "http://127.0.0.1:1234/v1",
        speaks=paths("chat", "completions", "embeddings", "messages", "responses"),
    ),
    Vendor(
        "tgi",
        "Text Generation Inference",
        "https://huggingface.co/docs/text-generation-inference",
        "http://127.0.0.1:8080/v1",
        speaks=paths("chat", "completions"),
        alive_path="//health",
        output_bound="max_tokens",
    ),
)

VENDORS: Final[Mapping[str, Vendor]] = {vendor.name: vendor for vendor in (*_HOSTED, *_LOCAL)}


@lru_cache(maxsize=256)
def vendor_of(url: str) -> Vendor | None:
    """The hosted vendor whose API has this URL."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if not host:
        return None
    path = parts.path.rstrip("/")
    return next((vendor for vendor in _HOSTED if vendor.serves(host, path)), None)


def resolve(vendor: str, url: str, dialect: str) -> tuple[str, str]:
    """The URL and the dialect of a server, of which any may be "". Raises ValueError for a server without a
    URL.
    """
    row = VENDORS[vendor] if vendor else vendor_of(url)
    if row is None:
        return url, dialect or "openai"
    if not (url or row.url):
        raise ValueError(f"{row.title} has no common URL: each account has its own")
    return url or row.url, dialect or row.dialect


def from_environment(environ: Mapping[str, str]) -> list[Server]:
    """A server for each detected vendor whose key is set."""
    return [
        Server(
            name=vendor.name,
            dialect=vendor.dialect,
            url=vendor.url,
            api_key=environ[vendor.key_variable].strip(),
            models=(),
            weight=1,
            priority=0,
            origin="environment",
            vendor=vendor.name,
        )
        for vendor in _HOSTED
        if vendor.is_detected and environ.get(vendor.key_variable, "").strip()
    ]


OLLAMA_VARIABLE: Final = "OLLAMA_HOST"


def local_ollama(environ: Mapping[str, str]) -> Server:
    """The URL of an Ollama on this machine. The caller checks whether it runs."""
    host = environ.get(OLLAMA_VARIABLE) or VENDORS["ollama"].url.removesuffix("/v1")
    url = host if "://" in host else f"http://{host}"
    # 0.0.0.0 is an address that Ollama listens on, not one to connect to.
    url = url.replace("//0.0.0.0", "//127.0.0.1")
    if urlsplit(url).port is None:
        url = url.rstrip("/") + ":11434"
    return Server(
        name="ollama",
        dialect="openai",
        url=url.rstrip("/") + "/v1",
        api_key=None,
        models=(),
        weight=1,
        priority=0,
        origin="environment",
        vendor="ollama",
    )
