"""Other paths of endpoints, which clients of other APIs use.

/api/v1 is the same as /v1. The clients of Azure OpenAI use /openai/v1, or /openai with the name of the model
in the path: /openai/deployments/{model}/chat/completions. Cohere's newer clients use /v2/rerank.
"""

from collections.abc import Collection, Mapping
from typing import Final

_AZURE: Final = "/openai"
_DEPLOYMENTS: Final = "/openai/deployments/"
_SAME: Final = {"/v2/rerank": "/v1/rerank"}
_NO_PARAMS: Final[Mapping[str, str]] = {}


def resolve_alias(path: str, endpoints: Collection[str]) -> tuple[str, Mapping[str, str]]:
    """The path under /v1 that a path means, and the fields that it implies; every other path as it is.
    `endpoints`: the known paths under /v1.
    """
    if path.startswith("/api/"):
        return path.removeprefix("/api"), _NO_PARAMS
    if path.startswith(_DEPLOYMENTS):
        return _of_deployment(path.removeprefix(_DEPLOYMENTS), endpoints)
    if path.startswith(_AZURE + "/"):
        return "/v1/" + path.removeprefix(_AZURE + "/").removeprefix("v1/"), _NO_PARAMS
    return _SAME.get(path, path), _NO_PARAMS


def _of_deployment(rest: str, endpoints: Collection[str]) -> tuple[str, Mapping[str, str]]:
    """The name of a model may contain slashes: the longest known path ends it."""
    at = rest.find("/")
    first = at
    while at >= 0:
        if (endpoint := "/v1" + rest[at:]) in endpoints:
            return endpoint, {"model": rest[:at]}
        at = rest.find("/", at + 1)
    return "/v1" + (rest[first:] if first >= 0 else "/deployments"), _NO_PARAMS
