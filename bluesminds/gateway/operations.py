"""The operations of the data plane: one row for each endpoint that calls a model.

`find_operation` matches a method and a path. Everything else about an endpoint (its key scope, metric label,
usage row and entry in the API reference) follows from its row here and from its wire format.
"""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Raw, Struct

from bluesminds.common.errors import GatewayError, NotFound
from bluesminds.common.values import Scope
from bluesminds.wire.base import FormatName

HandlerName = Literal["model"]  # what serves an operation; "model": the request pipeline
NO_FIELDS: Final[Mapping[str, Raw]] = MappingProxyType({})


class Operation(Struct, frozen=True):
    """What a path asks for. `name` is the scope of keys and the label of metrics and usage rows. `path` is
    the full path; `{name}` in it stands for one segment or a part of it. `preset`: fields that the path says
    and the body does not. `summary` is the text of the API reference. `estimated`: the gateway answers by
    itself when no server can.
    """

    name: Scope
    method: str
    path: str
    format: FormatName
    summary: str
    handler: HandlerName = "model"
    preset: Mapping[str, Raw] = NO_FIELDS
    estimated: bool = False


class OperationMatch(Struct, frozen=True, gc=False):
    """An operation, and the values of the variables in its path."""

    operation: Operation
    params: Mapping[str, str]


OPERATIONS: Final = (
    Operation("chat.completions", "POST", "/v1/chat/completions", "chat", "Create a chat completion"),
    Operation("messages", "POST", "/v1/messages", "messages", "Create a message"),
    Operation(
        "messages.count_tokens",
        "POST",
        "/v1/messages/count_tokens",
        "count_tokens",
        "Count the tokens of a message",
        estimated=True,
    ),
    Operation("responses", "POST", "/v1/responses", "responses", "Create a response"),
    Operation(
        "responses.input_tokens",
        "POST",
        "/v1/responses/input_tokens",
        "input_tokens",
        "Count the tokens of a response's input",
        estimated=True,
    ),
    Operation("completions", "POST", "/v1/completions", "completions", "Create a text completion"),
    Operation("embeddings", "POST", "/v1/embeddings", "embeddings", "Create embeddings"),
    Operation("moderations", "POST", "/v1/moderations", "moderations", "Classify text"),
    Operation("rerank", "POST", "/v1/rerank", "rerank", "Rank documents by relevance to a query"),
)
MODELS: Final = "models"  # GET /models and /models/{id}
UNKNOWN: Final = "unknown"  # the endpoint label of requests that match no operation

PREFIXES: Final = ("/v1",)

_SLASHES: Final = re.compile("//+")
_VARIABLE: Final = re.compile(r"\{(\w+)\}")


def _by_path() -> Mapping[str, Mapping[str, Operation]]:
    found: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        found.setdefault(operation.path, {})[operation.method] = operation
    return found


def _pattern(path: str) -> re.Pattern[str]:
    """Of a path with variables. A name of a model may have slashes."""
    parts = _VARIABLE.split(path)
    for at in range(0, len(parts), 2):
        parts[at] = re.escape(parts[at])
    for at in range(1, len(parts), 2):
        parts[at] = f"(?P<{parts[at]}>{'.+' if parts[at] == 'model' else '[^/]+'})"
    return re.compile("".join(parts))


_NO_PARAMS: Final[Mapping[str, str]] = {}
_NO_METHODS: Final[Mapping[str, Operation]] = {}
_BY_PATH: Final = _by_path()
_PATTERNS: Final = [(_pattern(path), methods) for path, methods in _BY_PATH.items() if "{" in path]
_PATHS: Final = (*(path for path in _BY_PATH if "{" not in path), "/v1/models")

# Endpoints of OpenAI and Anthropic that this gateway does not have, and what SDKs can use instead.
_USE_RESPONSES: Final = "Use /v1/responses or /v1/chat/completions."
_MISSING: Final = {
    "/responses": ("Access to stored responses", "Send the whole conversation as `input`."),
    "/conversations": ("The Conversations API", "Send the whole conversation as `input` of /v1/responses."),
    "/messages/batches": ("The Message Batches API", ""),
    "/images": ("The Images API", ""),
    "/audio": ("The Audio API", ""),
    "/files": ("The Files API", ""),
    "/batches": ("The Batches API", ""),
    "/realtime": ("The Realtime API", ""),
    "/assistants": ("The Assistants API", _USE_RESPONSES),
    "/threads": ("The Assistants API", _USE_RESPONSES),
    "/vector_stores": ("The Vector Stores API", ""),
    "/fine_tuning": ("The Fine-tuning API", ""),
    "/uploads": ("The Uploads API", ""),
}


def clean_path(path: str) -> str:
    """The path with doubled slashes collapsed and without a trailing slash."""
    return _SLASHES.sub("/", path).rstrip("/")


def data_plane_path(path: str) -> str | None:
    """A path that `clean_path` has cleaned as the table of operations spells it; None for a path of the rest
    of the site. /api/v1 is another name of /v1.
    """
    if path.startswith("/api/"):
        path = path[4:]
    for prefix in PREFIXES:
        if path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/"):
            return path
    return None


def endpoint_name(method: str, path: str) -> str:
    """The label of a path that `data_plane_path` has found."""
    if path.startswith("/v1/models") and path[10:11] in ("", "/"):
        return MODELS
    methods, _ = _methods_of(path)
    if not methods:
        return UNKNOWN
    operation = methods.get(method)
    return next(iter(methods.values())).name if operation is None else operation.name


def is_anthropic_path(path: str) -> bool:
    """Whether a path that `data_plane_path` has found is one of Anthropic's API alone."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def find_operation(method: str, path: str) -> OperationMatch:
    """Raises NotFound for an unknown path, and GatewayError 405 for another method."""
    methods, params = _methods_of(path)
    if not methods:
        raise _unknown_path(path)
    operation = methods.get(method)
    if operation is None:
        raise method_not_allowed(method, ", ".join(methods))
    return OperationMatch(operation, params)


def allowed_methods(path: str) -> tuple[str, ...]:
    """The methods of a path that `data_plane_path` has found; of an unknown path, all that any path has."""
    if endpoint_name("GET", path) == MODELS:
        return ("GET", "HEAD")
    methods, _ = _methods_of(path)
    return tuple(methods) or ("GET", "HEAD", "POST", "DELETE")


def _methods_of(path: str) -> tuple[Mapping[str, Operation], Mapping[str, str]]:
    """The operations of a path by method, and the values of its variables."""
    if (methods := _BY_PATH.get(path)) is not None:
        return methods, _NO_PARAMS
    for pattern, methods in _PATTERNS:
        if (found := pattern.fullmatch(path)) is not None:
            return methods, found.groupdict()
    return _NO_METHODS, _NO_PARAMS


def method_not_allowed(method: str, allowed: str) -> GatewayError:
    return GatewayError(
        405, "method_not_allowed", f"Use {allowed} for this path, not {method}.", headers={"allow": allowed}
    )


def _unknown_path(path: str) -> GatewayError:
    for start, (name, advice) in _MISSING.items():
        if path == f"/v1{start}" or path.startswith(f"/v1{start}/"):
            message = f"{name} (/v1{start}) is not supported. {advice}".rstrip()
            return NotFound("unsupported_endpoint", message)
    message = "There is no such endpoint under /v1."
    if meant := suggested_path(path.removeprefix("/v1")):
        message = f"{message} Did you mean {meant}?"
    return NotFound("unknown_url", f"{message} GET /docs lists the endpoints.")


def suggested_path(path: str) -> str:
    """The full path of the endpoint that a path without /v1 probably means; "" when there is none."""
    for known in _PATHS:
        if path.endswith(known.removeprefix("/v1")):
            return known
    near = difflib.get_close_matches(f"/v1{path[:100]}", _PATHS, n=1, cutoff=0.75)
    return near[0] if near else ""
