"""The table of hosted vendors, and the local Ollama."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bluesminds.common.values import Server


@dataclass(frozen=True, slots=True)
class Vendor:
    """`key_variable` is the environment variable that the vendor's own SDK reads."""

    name: str
    url: str
    key_variable: str
    dialect: str = "openai"


VENDORS = (
    Vendor("openai", "https://api.openai.com/v1", "OPENAI_API_KEY"),
    Vendor("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "anthropic"),
    Vendor("gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", dialect="gemini"),
    Vendor("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
)

OLLAMA_URL = "http://127.0.0.1:11434"
OLLAMA_VARIABLE = "OLLAMA_HOST"


def from_environment(environ: Mapping[str, str]) -> list[Server]:
    """A server for each vendor whose key is set."""
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
        )
        for vendor in VENDORS
        if environ.get(vendor.key_variable, "").strip()
    ]


def local_ollama(environ: Mapping[str, str]) -> Server:
    """The URL of an Ollama on this machine. The caller checks whether it runs."""
    host = environ.get(OLLAMA_VARIABLE) or OLLAMA_URL
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
    )
