"""The operations of the data plane: one row for each endpoint that calls a model.

`find_operation` matches a method and a path below /v1. Everything else about an endpoint (its key scope,
metric label, usage row and entry in the API reference) follows from its row here and from its wire format.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import GatewayError, NotFound
from bluesminds.common.values import Scope
from bluesminds.wire.base import FormatName


class Operation(Struct, frozen=True):
    """One endpoint that calls a model. `name` is the scope of keys and the label of metrics and usage rows;
    `path` is relative to /v1. `summary` is the text of the API reference. `estimated`: if no server supports
    it, the gateway responds with an estimate.
    """

    name: Scope
    method: str
    path: str
    format: FormatName
    summary: str
    estimated: bool = False


OPERATIONS: Final = (
    Operation("chat.completions", "POST", "/chat/completions", "chat", "Create a chat completion"),
    Operation("messages", "POST", "/messages", "messages", "Create a message"),
    Operation(
        "messages.count_tokens",
        "POST",
        "/messages/count_tokens",
        "count_tokens",
        "Count the tokens of a message",
        estimated=True,
    ),
    Operation("completions", "POST", "/completions", "completions", "Create a text completion"),
    Operation("embeddings", "POST", "/embeddings", "embeddings", "Create embeddings"),
    Operation("moderations", "POST", "/moderations", "moderations", "Classify text"),
    Operation("rerank", "POST", "/rerank", "rerank", "Rank documents by relevance to a query"),
)
MODELS: Final = "models"  # GET /models and /models/{id}
UNKNOWN: Final = "unknown"  # the endpoint label of requests that match no operation

_BY_PATH: Final[Mapping[str, Operation]] = {operation.path: operation for operation in OPERATIONS}
_PATHS: Final = (*_BY_PATH, "/models")
_SLASHES: Final = re.compile("//+")

# Endpoints of OpenAI and Anthropic that this gateway does not have, and what SDKs can use instead.
_USE_CHAT: Final = (
    "Use /v1/chat/completions: `openai.chat(...)` in @ai-sdk/openai, "
    '`set_default_openai_api("chat_completions")` in the Agents SDK, `use_responses_api=False` in LangChain.'
)
_MISSING: Final = {
    "/responses": ("The Responses API", _USE_CHAT),
    "/messages/batches": ("The Message Batches API", ""),
    "/images": ("The Images API", ""),
    "/audio": ("The Audio API", ""),
    "/files": ("The Files API", ""),
    "/batches": ("The Batches API", ""),
    "/realtime": ("The Realtime API", ""),
    "/assistants": ("The Assistants API", _USE_CHAT),
    "/threads": ("The Assistants API", _USE_CHAT),
    "/vector_stores": ("The Vector Stores API", ""),
    "/fine_tuning": ("The Fine-tuning API", ""),
    "/uploads": ("The Uploads API", ""),
}


def clean_path(path: str) -> str:
    """The path with doubled slashes collapsed and without a trailing slash."""
    return _SLASHES.sub("/", path).rstrip("/")


def endpoint_name(path: str) -> str:
    """The label of a path below /v1, cleaned by `clean_path`."""
    if path == "/models" or path.startswith("/models/"):
        return MODELS
    operation = _BY_PATH.get(path)
    return UNKNOWN if operation is None else operation.name


def is_anthropic_path(path: str) -> bool:
    """Whether a path below /v1, cleaned by `clean_path`, exists in Anthropic's API only."""
    return path == "/messages" or path.startswith("/messages/")


def find_operation(method: str, path: str) -> Operation:
    """Raises NotFound for an unknown path, and GatewayError 405 for another method."""
    operation = _BY_PATH.get(path)
    if operation is None:
        raise _unknown_path(path)
    if method != operation.method:
        raise method_not_allowed(method, operation.method)
    return operation


def allowed_methods(path: str) -> tuple[str, ...]:
    """The methods of a path below /v1. For an unknown path: all methods of all paths."""
    if endpoint_name(path) == MODELS:
        return ("GET", "HEAD")
    operation = _BY_PATH.get(path)
    return ("GET", "HEAD", "POST", "DELETE") if operation is None else (operation.method,)


def method_not_allowed(method: str, allowed: str) -> GatewayError:
    return GatewayError(
        405, "method_not_allowed", f"Use {allowed} for this path, not {method}.", headers={"allow": allowed}
    )


def _unknown_path(path: str) -> GatewayError:
    for start, (name, advice) in _MISSING.items():
        if path == start or path.startswith(start + "/"):
            message = f"{name} (/v1{start}) is not supported. {advice}".rstrip()
            return NotFound("unsupported_endpoint", message)
    message = "There is no such endpoint under /v1."
    if meant := suggested_path(path):
        message = f"{message} Did you mean {meant}?"
    return NotFound("unknown_url", f"{message} GET /docs lists the endpoints.")


def suggested_path(path: str) -> str:
    """The full path of the endpoint that was probably meant, or ""."""
    for known in _PATHS:
        if path.endswith(known):
            return f"/v1{known}"
    near = difflib.get_close_matches(path[:100], _PATHS, n=1, cutoff=0.75)
    return f"/v1{near[0]}" if near else ""
