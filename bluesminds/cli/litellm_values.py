"""The providers and values of LiteLLM's configuration, as settings of the gateway know them."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

VENDORS: Final = {
    "openai": ("openai", "OPENAI_API_KEY"),
    "text-completion-openai": ("openai", "OPENAI_API_KEY"),
    "custom_openai": ("openai", "OPENAI_API_KEY"),
    "azure": ("azure", "AZURE_API_KEY"),
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY"),
    "openrouter": ("openrouter", "OPENROUTER_API_KEY"),
    "groq": ("groq", "GROQ_API_KEY"),
    "together_ai": ("together", "TOGETHERAI_API_KEY"),
    "fireworks_ai": ("fireworks", "FIREWORKS_AI_API_KEY"),
    "mistral": ("mistral", "MISTRAL_API_KEY"),
    "deepseek": ("deepseek", "DEEPSEEK_API_KEY"),
    "xai": ("xai", "XAI_API_KEY"),
    "cerebras": ("cerebras", "CEREBRAS_API_KEY"),
    "perplexity": ("perplexity", "PERPLEXITYAI_API_KEY"),
    "cohere": ("cohere", "COHERE_API_KEY"),
    "cohere_chat": ("cohere", "COHERE_API_KEY"),
    "gemini": ("gemini", "GEMINI_API_KEY"),
    "github": ("github", "GITHUB_API_KEY"),
    "nvidia_nim": ("nvidia", "NVIDIA_NIM_API_KEY"),
    "featherless_ai": ("featherless", "FEATHERLESS_AI_API_KEY"),
    "ollama": ("ollama", ""),
    "ollama_chat": ("ollama", ""),
    "hosted_vllm": ("vllm", ""),
    "vllm": ("vllm", ""),
    "lm_studio": ("lmstudio", ""),
    "litellm_proxy": ("litellm", "LITELLM_PROXY_API_KEY"),
}
"""By LiteLLM's provider: the vendor here, and the variable in which LiteLLM looks for its key."""
WITHOUT_PREFIX: Final = (
    (re.compile(r"(gpt-|o\d|chatgpt-|text-embedding-|dall-e|whisper|tts-|omni-moderation)"), "openai"),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"gemini-"), "gemini"),
)
LOCAL: Final = ("ollama", "vllm", "lmstudio", "litellm")
REFERENCE: Final = "os.environ/"


def split_model(model: str, params: Mapping[str, Any]) -> tuple[str, str]:
    """The provider and the name that it has for the model. "": the provider is not known."""
    provider, slash, rest = model.partition("/")
    if given := params.get("custom_llm_provider"):
        return str(given), rest if slash and provider == given else model
    if slash and provider in VENDORS:
        return provider, rest
    guess = next((vendor for pattern, vendor in WITHOUT_PREFIX if pattern.match(model)), "")
    if guess:
        return guess, model
    if model == "*" or (not slash and params.get("api_base")):
        return "openai", model
    return (provider, rest) if slash else ("", model)


def read_secret(text: str) -> str | dict[str, str]:
    return {"env": text.removeprefix(REFERENCE)} if text.startswith(REFERENCE) else text


def server_caps(params: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for theirs, ours in (("rpm", "rpm"), ("max_parallel_requests", "max_concurrency")):
        if params.get(theirs):
            found[ours] = int(params[theirs])
    if params.get("timeout"):
        found["total_timeout"] = read_seconds(params["timeout"])
    if params.get("stream_timeout"):
        found["first_token_timeout"] = read_seconds(params["stream_timeout"])
    if region := re.sub(r"[^a-z0-9_-]", "-", str(params.get("region_name") or "").lower()):
        found["region"] = region
    if tags := params.get("tags"):
        found["tags"] = [re.sub(r"[^a-z0-9_-]", "-", str(tag).lower()) for tag in tags]
    return found


def read_seconds(value: Any) -> float:  # noqa: ANN401
    return min(86_400.0, max(0.1, float(value)))


def per_million(rate: Any) -> str:  # noqa: ANN401
    """USD for a million tokens, "" for what is not a number."""
    try:
        return plain_number(Decimal(str(rate)) * 1_000_000)
    except InvalidOperation:
        return ""


def plain_number(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
