"""Reads the errors of all servers into OpenAI's form, with the status that the error itself states.

Shapes: {"error": {…}} (OpenAI, Anthropic, OpenRouter), {"error": "text"}, {"message"}, {"detail": text or
list} (FastAPI), [{"error": {…}}] (Google), {"errors": […]}, {"object": "error", "message"} (vLLM),
{"response": {"error": {…}}} (events of OpenAI's Responses API), {"base_resp": {"status_code", "status_msg"}}
(MiniMax), plain text, HTML, nothing.
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from bluesminds.http.sse import write_event
from bluesminds.wire.json_text import NOT_JSON, decode, is_set, read_fields, read_value

SHOWN = 500  # characters of an error that has no message field
_LIST_ITEMS = 10

# Codes and types of many servers, without case, punctuation and a final "error" or "exception".
_STATUS_BY_NAME = {
    name: status
    for status, names in {
        400: "invalidrequest badrequest invalidargument invalidprompt invalidvalue invalidparameter "
        "unsupportedparameter unsupportedvalue failedprecondition preconditionfailed contextlengthexceeded "
        "contextwindowexceeded exceedcontextsize maxtokensexceeded tokenlimitexceeded stringtoolong "
        "contentfilter contentpolicyviolation refusal validation tooluse toolusefailed stringabovemaxlength "
        "jsonvalidatefailed invalidimage imagetoolarge",
        401: "authentication unauthenticated unauthorized invalidapikey auth",
        402: "paymentrequired billing insufficientcredits insufficientbalance",
        403: "permission permissiondenied forbidden accessdenied keymodelaccessdenied teammodelaccessdenied",
        404: "notfound modelnotfound resourcenotfound",
        408: "requesttimeout",
        409: "conflict aborted",
        413: "requesttoolarge payloadtoolarge contenttoolarge",
        422: "unprocessable unprocessableentity extraforbidden",
        429: "ratelimit ratelimitexceeded ratelimited resourceexhausted insufficientquota quotaexceeded "
        "requests tokens slowdown toomanyrequests throttling budgetexceeded creditbalanceexhausted",
        500: "api server internal internalserver unknown",
        502: "badgateway upstream providerunavailable",
        503: "overloaded serverisoverloaded serviceunavailable unavailable engineoverloaded "
        "provideroverloaded",
        504: "timeout gatewaytimeout deadlineexceeded",
    }.items()
    for name in names.split()
}
# Statuses that do not blame the request: another server may accept it, or the same one later.
NOT_THE_REQUEST = frozenset((401, 402, 404, 408, 425, 429))
_OVERLOADED = 529  # Anthropic's; unknown to clients
# Why a model refuses a request that another model may accept. Names are as in _STATUS_BY_NAME.
_CONTEXT_NAMES = frozenset(
    ("contextlengthexceeded", "contextwindowexceeded", "exceedcontextsize", "tokenlimitexceeded")
)
_FILTER_NAMES = frozenset(("contentfilter", "contentpolicyviolation", "moderationblocked", "refusal"))
_CONTEXT_TEXTS = (
    *("context length", "context window", "context size", "prompt is too long", "prompt too long"),
    *("input is too long", "input token count", "exceeds the maximum number of tokens", "too many tokens"),
)
_FILTER_TEXTS = ("content management policy", "content filter", "content policy", "safety system")


class ErrorDetail(Struct, frozen=True, gc=False):
    """OpenAI's error object. `status`: the status that the error itself states, from 400 to 599; None if it
    states none.
    """

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    status: int | None = None

    def blames_request(self) -> bool:
        """Whether the request caused the error, so that every server would refuse it."""
        if self.status is None:
            return False
        return 400 <= self.status < 500 and self.status not in NOT_THE_REQUEST


def refusal_kind(error: ErrorDetail) -> Literal["context_length", "content_filter"] | None:
    """Why a model refuses a request that another may accept. Many servers only report it in the message."""
    names = {_plain(name) for name in (error.code, error.type) if isinstance(name, str)}
    text = (error.message or "").casefold()
    if names & _CONTEXT_NAMES or any(said in text for said in _CONTEXT_TEXTS):
        return "context_length"
    if names & _FILTER_NAMES or any(said in text for said in _FILTER_TEXTS):
        return "content_filter"
    return None


def read_error(status: int, body: bytes) -> ErrorDetail:
    """The error in the body of an error response, in any form; `status` is the HTTP status."""
    try:
        found = _find(read_value(body))
    except NOT_JSON:
        return ErrorDetail(message=_of_text(status, body))
    if found is not None:
        return found
    return ErrorDetail(message=f"The server responded with {status}.")


def find_error(data: bytes) -> ErrorDetail | None:
    """The error in a response with a success status; None if it shows no sign of an error."""
    try:
        return _find(read_value(data))
    except NOT_JSON:
        return None


def _of_text(status: int, body: bytes) -> str:
    text = " ".join(body[: 4 * SHOWN].decode(errors="replace").split())
    if not text or text.startswith(("<", "{", "[")) or "\x00" in text:
        return f"The server responded with {status} and no message."
    return f"The server responded with {status}: {text[:SHOWN]}"


def _find(value: object) -> ErrorDetail | None:
    if isinstance(value, list):
        return next((found for item in value[:_LIST_ITEMS] if (found := _find(item)) is not None), None)
    if not isinstance(value, dict):
        return None
    if error := value.get("error"):
        return _detail(error, value)
    if isinstance(response := value.get("response"), dict) and (error := response.get("error")):
        return _detail(error, {})
    if errors := value.get("errors"):
        return _detail(errors[0] if isinstance(errors, list) else errors, value)
    if (base := value.get("base_resp")) and isinstance(base, dict) and base.get("status_code"):
        return _detail({"message": base.get("status_msg"), "code": base.get("status_code")}, {})
    for name in ("message", "detail", "msg", "error_message", "Message"):
        if (said := value.get(name)) and not (name == "message" and isinstance(said, dict)):
            return _detail(value | {"message": said}, {})
    if value.get("object") == "error" or value.get("type") == "error":
        return _detail(value, {})
    return None


def _detail(error: object, around: dict[str, Any]) -> ErrorDetail:
    """`around`: the object that contains the error; some servers put the code there."""
    if not isinstance(error, dict):
        error = {"message": error}
        error |= {name: around[name] for name in ("code", "type", "status") if name in around}
    inner = error.get("message", error.get("msg", error.get("detail")))
    message, param = _message(inner)
    if message is None:
        message = msgspec.json.encode(error)[:SHOWN].decode(errors="replace")
    code = _reason(error) or error.get("code")
    kind = _word(error.get("type"))
    return ErrorDetail(
        message=message,
        type=None if kind in ("None", "error") else kind,
        param=param if param is not None else _word(error.get("param"), ("None",)),
        code=code
        if isinstance(code, str) or (isinstance(code, int) and not isinstance(code, bool))
        else None,
        status=_own_status(error, around, inner),
    )


def _reason(error: dict[str, Any]) -> str | None:
    """The reason in google.rpc.ErrorInfo, which is more specific than the code."""
    details = error.get("details")
    infos = [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
    return next((reason for one in infos if (reason := _word(one.get("reason")))), None)


def _message(value: object) -> tuple[str | None, str | None]:
    """The message, and the field that it names."""
    if isinstance(value, str):
        return value, None
    if isinstance(value, list) and value and isinstance(value[0], dict):  # FastAPI's 422
        said = [
            (_word(item.get("msg")) or "", _path(item.get("loc"))) for item in value if isinstance(item, dict)
        ]
        texts = [f"{text} (in `{path}`)" if path else text for text, path in said[:_LIST_ITEMS]]
        return "; ".join(texts)[:SHOWN], said[0][1]
    if not value:
        return None, None
    return msgspec.json.encode(value)[:SHOWN].decode(errors="replace"), None


def _path(loc: object) -> str | None:
    parts = [str(part) for part in loc if part not in ("body", "query")] if isinstance(loc, list) else []
    return ".".join(parts) or None


def _word(value: object, none: tuple[str, ...] = ()) -> str | None:
    return value if isinstance(value, str) and value not in none else None


def _own_status(error: dict[str, Any], around: dict[str, Any], message: object) -> int | None:
    """A numeric code decides; then names: the code, the type, the status, and OpenRouter's error type."""
    metadata = error.get("metadata")
    kind = metadata.get("error_type") if isinstance(metadata, dict) else None
    said = (error.get("code"), error.get("status"), around.get("status"), error.get("status_code"))
    for value in said:
        if (status := _number(value)) is not None:
            return 503 if status == _OVERLOADED else status
    for value in (error.get("code"), kind, error.get("type"), error.get("status"), error.get("__type")):
        if isinstance(value, str) and (status := _STATUS_BY_NAME.get(_plain(value))) is not None:
            return status
    return 422 if isinstance(message, list) else None


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) == 3:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 400 <= value <= 599 else None


def _plain(name: str) -> str:
    plain = "".join([char for char in name.casefold() if char.isalnum()])
    return plain.removesuffix("error").removesuffix("exception")


_detail_text = msgspec.json.Decoder(str)


def has_error_object(body: bytes) -> bool:
    """Whether the body is {"error": {…"message": text…}}, so that it can be forwarded unchanged."""
    try:
        error = read_fields(body).get("error")
        return error is not None and bool(decode(_detail_text, read_fields(bytes(error))["message"]))
    except (*NOT_JSON, KeyError):
        return False


def is_error_event(data: bytes) -> bool:
    """Whether the data has a top-level `error` that is set: the only form for which OpenAI's SDKs raise."""
    try:
        return is_set(read_fields(data).get("error"))
    except NOT_JSON:
        return False


def write_error(detail: ErrorDetail, request_id: str = "") -> bytes:
    """OpenAI's error body."""
    error: dict[str, Any] = {
        "message": detail.message,
        "type": detail.type or _type_of(detail.status),
        "param": detail.param,
        "code": detail.code,
    }
    if request_id:
        error["request_id"] = request_id
    return msgspec.json.encode({"error": error})


def _type_of(status: int | None) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status is not None and status < 500 else "server_error"


def write_stream_error(code: str, message: str, _number: int = 0) -> bytes:
    """An error event within a stream: its data has a top-level `error`, for which OpenAI's SDKs raise."""
    return write_event(write_error(ErrorDetail(message=message, type="server_error", code=code)))
