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
from bluesminds.gateway.path_aliases import resolve_alias
from bluesminds.wire.base import FormatName

ApiName = Literal["openai", "anthropic", "gemini"]
BodyKind = Literal["json", "form", "json_or_form"]  # a form is multipart/form-data
# What serves an operation. "model": the request pipeline; "realtime", "responses_socket": WebSockets.
HandlerName = Literal["model", "realtime", "responses_socket", "stored_response", "passthrough"]
NO_FIELDS: Final[Mapping[str, Raw]] = MappingProxyType({})


class Operation(Struct, frozen=True):
    """One endpoint that calls a model. `name` is the scope of keys and the label of metrics and usage rows.
    `path` is the full path; `{name}` in it matches a segment or a part of one. `preset`: fields that the path
    implies. `summary` is the text of the API reference. `estimated`: if no server supports it, the gateway
    responds with an estimate.
    """

    name: Scope
    method: str
    path: str
    format: FormatName
    summary: str
    body: BodyKind = "json"
    handler: HandlerName = "model"
    preset: Mapping[str, Raw] = NO_FIELDS
    estimated: bool = False

    @property
    def is_socket(self) -> bool:
        """Whether it opens a WebSocket."""
        return self.handler in ("realtime", "responses_socket")


class DataPlanePath(Struct, frozen=True, gc=False):
    """A path of the data plane. `path` has the form of the table of operations. `methods`: the operations by
    method, empty for an unknown path. `params`: the values of the path's variables.
    """

    path: str
    methods: Mapping[str, Operation]
    params: Mapping[str, str]
    endpoint: str  # the label of requests with a method that the path does not have
    api: ApiName  # whose paths are of this kind

    def allowed_methods(self) -> tuple[str, ...]:
        """The methods of the path. For an unknown path: all methods of all paths."""
        if self.endpoint == MODELS:
            return ("GET", "HEAD")
        return tuple(self.methods) or ("GET", "HEAD", "POST", "DELETE")


class OperationMatch(Struct, frozen=True, gc=False):
    """An operation, and the values of the variables in its path."""

    operation: Operation
    params: Mapping[str, str]


def _stored(method: str, path: str, summary: str) -> Operation:
    return Operation("responses", method, path, "responses", summary, handler="stored_response")


CREATE_RESPONSE: Final = Operation("responses", "POST", "/v1/responses", "responses", "Create a response")
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
    CREATE_RESPONSE,
    Operation(
        "responses",
        "GET",
        "/v1/responses",
        "responses",
        "Open a WebSocket for responses",
        handler="responses_socket",
    ),
    Operation(
        "responses.input_tokens",
        "POST",
        "/v1/responses/input_tokens",
        "input_tokens",
        "Count the tokens of a response's input",
        estimated=True,
    ),
    Operation("responses.compact", "POST", "/v1/responses/compact", "compact", "Compact a conversation"),
    _stored("GET", "/v1/responses/{id}", "Show a stored response"),
    _stored("DELETE", "/v1/responses/{id}", "Delete a stored response"),
    _stored("GET", "/v1/responses/{id}/input_items", "List the input items of a stored response"),
    _stored("POST", "/v1/responses/{id}/cancel", "Cancel a response in the background"),
    Operation(
        "gemini.generate_content",
        "POST",
        "/v1beta/models/{model}:generateContent",
        "gemini",
        "Generate content",
        preset={"stream": Raw(b"false")},
    ),
    Operation(
        "gemini.generate_content",
        "POST",
        "/v1beta/models/{model}:streamGenerateContent",
        "gemini",
        "Generate content as a stream",
        preset={"stream": Raw(b"true")},
    ),
    Operation(
        "gemini.count_tokens",
        "POST",
        "/v1beta/models/{model}:countTokens",
        "gemini_count_tokens",
        "Count the tokens of content",
        estimated=True,
    ),
    Operation(
        "gemini.embed_content",
        "POST",
        "/v1beta/models/{model}:embedContent",
        "gemini_embed",
        "Create an embedding of content",
    ),
    Operation(
        "gemini.embed_content",
        "POST",
        "/v1beta/models/{model}:batchEmbedContents",
        "gemini_batch_embed",
        "Create embeddings of several contents",
    ),
    Operation("completions", "POST", "/v1/completions", "completions", "Create a text completion"),
    Operation("embeddings", "POST", "/v1/embeddings", "embeddings", "Create embeddings"),
    Operation("moderations", "POST", "/v1/moderations", "moderations", "Classify text"),
    Operation("rerank", "POST", "/v1/rerank", "rerank", "Rank documents by relevance to a query"),
    Operation("images.generations", "POST", "/v1/images/generations", "images", "Create images"),
    Operation(
        "images.generations",
        "POST",
        "/v1/images/generate",
        "images",
        "Create images (another path of /v1/images/generations)",
    ),
    Operation("images.edits", "POST", "/v1/images/edits", "image_edits", "Edit images", body="json_or_form"),
    Operation(
        "images.variations",
        "POST",
        "/v1/images/variations",
        "image_variations",
        "Create variations of an image",
        body="form",
    ),
    Operation("audio.speech", "POST", "/v1/audio/speech", "speech", "Create speech from text"),
    Operation(
        "audio.transcriptions",
        "POST",
        "/v1/audio/transcriptions",
        "transcription",
        "Transcribe speech",
        body="form",
    ),
    Operation(
        "audio.translations",
        "POST",
        "/v1/audio/translations",
        "audio_translation",
        "Translate speech into English text",
        body="form",
    ),
    Operation("realtime", "GET", "/v1/realtime", "realtime", "Open a Realtime session", handler="realtime"),
)
# Requests that match no operation and are relayed to a server that allows it.
PASSTHROUGH: Final = Operation(
    "passthrough", "*", "/v1/{path}", "chat", "Relay a request to a server", handler="passthrough"
)
MODELS: Final = "models"  # GET /models and /models/{id}
GEMINI_MODELS: Final = "/v1beta/models"
UNKNOWN: Final = "unknown"  # the endpoint label of requests that match no operation

PREFIXES: Final = ("/v1", "/v1beta")

# The methods of Google's API, including unsupported ones. Names of models may also have colons.
_GEMINI_METHOD: Final = re.compile(
    ":((?:stream|batch)?[gG]enerateContent|countTokens|(?:batchE|asyncBatchE|e)mbedContents?"
    "|predict(?:LongRunning)?|generateAnswer)$"
)
_SLASHES: Final = re.compile("//+")
_VARIABLE: Final = re.compile(r"\{(\w+)\}")


def _by_path() -> Mapping[str, Mapping[str, Operation]]:
    found: dict[str, dict[str, Operation]] = {}
    for operation in OPERATIONS:
        found.setdefault(operation.path, {})[operation.method] = operation
    return found


def _pattern(path: str) -> re.Pattern[str]:
    """The pattern of a path with variables. The name of a model may contain slashes."""
    parts = _VARIABLE.split(path)
    for at in range(0, len(parts), 2):
        parts[at] = re.escape(parts[at])
    for at in range(1, len(parts), 2):
        parts[at] = f"(?P<{parts[at]}>{'.+' if parts[at] == 'model' else '[^/]+'})"
    return re.compile("".join(parts))


# What a server can do is stored by format, and shown to users with the names that scopes have.
SCOPES_BY_FORMAT: Final[Mapping[FormatName, Scope]] = {one.format: one.name for one in OPERATIONS}
_GEMINI_METHODS: Final = ", ".join(one.path.rpartition(":")[2] for one in OPERATIONS if "}:" in one.path)
_NO_PARAMS: Final[Mapping[str, str]] = {}
_NO_METHODS: Final[Mapping[str, Operation]] = {}
_BY_PATH: Final = _by_path()
_PATTERNS: Final = [(_pattern(path), methods) for path, methods in _BY_PATH.items() if "{" in path]
_PATHS: Final = (*(path for path in _BY_PATH if "{" not in path), "/v1/models")

# Endpoints of OpenAI and Anthropic that this gateway does not have, and what SDKs can use instead.
_USE_RESPONSES: Final = "Use /v1/responses or /v1/chat/completions."
_RELAY: Final = "Set passthrough = true on a server to relay it."
_MISSING: Final = {
    "/responses": ("This part of the Responses API", ""),
    "/complete": ("Anthropic's older Text Completions API", "Use /v1/messages."),
    "/messages/batches": ("The Message Batches API", _RELAY),
    "/files": ("The Files API", _RELAY),
    "/batches": ("The Batches API", _RELAY),
    "/realtime": ("Apart from the WebSocket /v1/realtime, the Realtime API", ""),
    "/assistants": ("The Assistants API", f"{_USE_RESPONSES} {_RELAY}"),
    "/threads": ("The Assistants API", f"{_USE_RESPONSES} {_RELAY}"),
    "/vector_stores": ("The Vector Stores API", _RELAY),
    "/fine_tuning": ("The Fine-tuning API", _RELAY),
    "/uploads": ("The Uploads API", _RELAY),
    "/containers": ("The Containers API", _RELAY),
    "/conversations": (
        "The Conversations API",
        f"Send the whole conversation as `input` of /v1/responses. {_RELAY}",
    ),
    "/evals": ("The Evals API", _RELAY),
    "/skills": ("The Skills API", _RELAY),
    "/videos": ("The Videos API", _RELAY),
}


def clean_path(path: str) -> str:
    """The path with doubled slashes collapsed and without a trailing slash."""
    return _SLASHES.sub("/", path).rstrip("/")


def find_path(path: str) -> DataPlanePath | None:
    """The meaning of a path that a client sent; None if it is not a path of the data plane. Aliases mean the
    path of the table. The methods of Google's API under /v1 are aliases of those under /v1beta.
    """
    known = _KNOWN.get(path)
    return _find_path(clean_path(path)) if known is None else known


def _find_path(path: str) -> DataPlanePath | None:
    path, implied = resolve_alias(path, _PATHS)
    if not any(path == prefix or path.startswith(prefix + "/") for prefix in PREFIXES):
        return None
    if path.startswith("/v1/models/") and _GEMINI_METHOD.search(path) is not None:
        path = GEMINI_MODELS + path.removeprefix("/v1/models")
    api = api_of(path)
    if _is_models_path(path, api):
        return DataPlanePath(path, _NO_METHODS, _NO_PARAMS, MODELS, api)
    if (methods := _BY_PATH.get(path)) is not None:
        return DataPlanePath(path, methods, implied, _label(methods), api)
    for pattern, methods in _PATTERNS:
        if (found := pattern.fullmatch(path)) is not None:
            return DataPlanePath(path, methods, found.groupdict(), _label(methods), api)
    return DataPlanePath(path, _NO_METHODS, _NO_PARAMS, UNKNOWN, api)


def api_of(path: str) -> ApiName:
    """The API that a path of the data plane belongs to."""
    if path.startswith("/v1beta"):
        return "gemini"
    return "anthropic" if path == "/v1/messages" or path.startswith("/v1/messages/") else "openai"


def _is_models_path(path: str, api: ApiName) -> bool:
    """Whether it lists the models or names one. Gemini's methods follow the name, which may have colons."""
    if api != "gemini":
        return path == "/v1/models" or path.startswith("/v1/models/")
    if path == GEMINI_MODELS:
        return True
    return path.startswith(f"{GEMINI_MODELS}/") and _GEMINI_METHOD.search(path) is None


def _label(methods: Mapping[str, Operation]) -> str:
    return next(iter(methods.values())).name


def find_operation(method: str, path: DataPlanePath) -> OperationMatch:
    """Raises NotFound for an unknown path, and GatewayError 405 for another method."""
    operation = path.methods.get(method)
    if operation is not None:
        return OperationMatch(operation, path.params)
    if not path.methods:
        raise unknown_path(path.path)
    raise method_not_allowed(method, ", ".join(path.methods))


def method_not_allowed(method: str, allowed: str) -> GatewayError:
    return GatewayError(
        405, "method_not_allowed", f"Use {allowed} for this path, not {method}.", headers={"allow": allowed}
    )


def unknown_path(path: str) -> GatewayError:
    if (found := _GEMINI_METHOD.search(path)) is not None and path.startswith(GEMINI_MODELS):
        return _unknown_gemini_method(found[1])
    for start, (name, advice) in _MISSING.items():
        if path == f"/v1{start}" or path.startswith(f"/v1{start}/"):
            message = f"{name} (/v1{start}) is not supported. {advice}".rstrip()
            return NotFound("unsupported_endpoint", message)
    message = f"There is no such endpoint under {'/v1beta' if api_of(path) == 'gemini' else '/v1'}."
    if meant := suggested_path(path.removeprefix("/v1")):
        message = f"{message} Did you mean {meant}?"
    elif path.startswith("/v1/chat/completions/"):
        message = "Stored chat completions (/v1/chat/completions/{id}) are not supported. Use /v1/responses."
        return NotFound("unsupported_endpoint", message)
    return NotFound("unknown_url", f"{message} GET /docs lists the endpoints.")


def models_method_error(method: str, path: DataPlanePath) -> GatewayError:
    """The error for a method that the list of models and its models do not have. POST to a model of Gemini
    calls one of its methods.
    """
    _, colon, name = path.path.rpartition("/")[2].rpartition(":")
    if path.api == "gemini" and method == "POST" and colon:
        return _unknown_gemini_method(name[:50])
    return method_not_allowed(method, "GET")


def _unknown_gemini_method(name: str) -> NotFound:
    return NotFound(
        "unsupported_endpoint",
        f"Gemini's method {name} is not supported. A model has the methods {_GEMINI_METHODS}.",
    )


def suggested_path(path: str) -> str:
    """The full path of the endpoint that was probably meant by a path without /v1, or ""."""
    for known in _PATHS:
        if path.endswith(known.removeprefix("/v1")):
            return known
    near = difflib.get_close_matches(f"/v1{path[:100]}", _PATHS, n=1, cutoff=0.75)
    return near[0] if near else ""


def _known_paths() -> Mapping[str, DataPlanePath]:
    """The paths without variables, in the form that most clients send."""
    found = {path: known for path in _PATHS if (known := _find_path(path)) is not None}
    return found | {f"/api{path}": known for path, known in found.items()}


_KNOWN: Final = _known_paths()
