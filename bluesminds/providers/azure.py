"""Azure OpenAI: the two forms of its URLs, and its two kinds of credentials.

With the URLs of version 1, .../openai/v1/chat/completions, the `model` of a request is the name of a
deployment. The older URLs, .../openai/deployments/NAME/chat/completions?api-version=..., have the name in
the path. Sources: Microsoft, "Azure OpenAI API version lifecycle"; the paths of AzureOpenAI in the openai
Python SDK; Microsoft, "OAuth 2.0 client credentials flow".
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from bluesminds.wire.base import FormatName

# Below a deployment, and below /openai/v1.
_PATHS: Final[Mapping[FormatName, str]] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "images": "/images/generations",
    "image_edits": "/images/edits",
    "speech": "/audio/speech",
    "transcription": "/audio/transcriptions",
    "audio_translation": "/audio/translations",
}
_RESPONSES: Final = "/responses"  # not below a deployment: the body has its name
_FIRST_RESPONSES: Final = "2025-03-01-preview"  # version of the older URLs
_ROOT: Final = re.compile(r"/openai(?:/v1|/deployments(?:/[^/]+)?)?\Z")
_UNVERSIONED: Final = ("", "preview", "latest")  # versions that the URLs of version 1 accept
_PUBLIC_CLOUD: Final = ("https://login.microsoftonline.com", "https://cognitiveservices.azure.com/.default")
_CLOUDS: Final[Mapping[str, tuple[str, str]]] = {
    ".azure.us": ("https://login.microsoftonline.us", "https://cognitiveservices.azure.us/.default"),
    ".azure.cn": ("https://login.chinacloudapi.cn", "https://cognitiveservices.azure.cn/.default"),
}
_TOKEN: Final = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*\Z", re.ASCII)


def locate(base: str, api_version: str) -> tuple[Mapping[FormatName, str], str]:
    """The paths of the wire formats, and of the list of base models, for a server whose URL has the path
    `base`. They start with "//": at the host. A path before /openai (of a proxy) is kept.
    """
    root = "/" + _ROOT.sub("", base) + "/openai"
    query = f"?api-version={api_version}" if api_version else ""
    if base.endswith("/openai/v1") or api_version in _UNVERSIONED:
        paths = {name: f"{root}/v1{path}{query}" for name, path in _PATHS.items()}
        paths["responses"] = f"{root}/v1{_RESPONSES}{query}"
        return paths, f"{root}/v1/models{query}"
    paths = {name: f"{root}/deployments/{{model}}{path}{query}" for name, path in _PATHS.items()}
    if api_version >= _FIRST_RESPONSES:
        paths["responses"] = f"{root}{_RESPONSES}{query}"
    return paths, f"{root}/models{query}"


def is_token(credential: str) -> bool:
    """Whether a credential is a token of Microsoft Entra ID (a JSON Web Token), and not a key."""
    return _TOKEN.match(credential) is not None


def token_service(server_url: str) -> tuple[str, str]:
    """The URL of the sign-in service and the scope for a server, by the cloud that its host belongs to."""
    host = urlsplit(server_url).hostname or ""
    return next((service for suffix, service in _CLOUDS.items() if host.endswith(suffix)), _PUBLIC_CLOUD)
