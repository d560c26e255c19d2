"""Scripts of responses, errors, and reading requests."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

TOKEN_SECONDS = 0.02
CREATED = 1_760_000_000  # constant, because responses are deterministic
DONE = b"data: [DONE]\n\n"
_AT = r"(?: - at `\$\.?(.*)`)?"
_WRONG_TYPE = re.compile(rf"Expected `([^`]+)`(?:, got `([^`]+)`| (.+?))?{_AT}")
_WRONG_VALUE = re.compile(rf"Invalid enum value '?(.*?)'?{_AT}", re.DOTALL)
_MISSING = re.compile(rf"Object missing required field `(\w+)`{_AT}")
_NAMES = {
    "array": "a list",
    "object": "an object",
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
}
_RequestT = TypeVar("_RequestT")


class Step(Struct, frozen=True):
    """Wait `delay` seconds, then send `data`. `data` None closes the connection."""

    delay: float
    data: bytes | None


class Script(Struct, frozen=True):
    """A whole response, step by step."""

    status: int
    content_type: str
    steps: tuple[Step, ...]
    headers: tuple[tuple[bytes, bytes], ...] = ()


class DemoError(Exception):
    """An error response: `status`, and the fields of OpenAI's error object."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code or None


def read(body: bytes, kind: type[_RequestT]) -> _RequestT:
    """Raises DemoError (400) with a sentence that names the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        raise invalid(str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise DemoError("The body must be a JSON object.") from exc


def invalid(message: str) -> DemoError:
    """The sentence for an error of msgspec."""
    if found := _MISSING.fullmatch(message):
        path = ".".join(filter(None, (found[2], found[1])))
        return DemoError(f"{path} is missing.", _field_of(path))
    if found := _WRONG_VALUE.fullmatch(message):
        return DemoError(f"{found[2]} cannot be {found[1]!r}.", _field_of(found[2]))
    if not (found := _WRONG_TYPE.fullmatch(message)):
        return DemoError(f"The body is not a valid request: {message}.")
    expected, got, limit, path = found.groups()
    kinds = " or ".join(_NAMES.get(kind, kind) for kind in expected.split(" | ") if kind != "null")
    limits = f" {limit}" if limit else ""
    given = f", not {_NAMES.get(got, got)}" if got else ""
    return DemoError(f"{path or 'The body'} must be {kinds}{limits}{given}.", _field_of(path))


def _field_of(path: str | None) -> str | None:
    return re.split(r"[.\[]", path)[0] if path else None


def response(content: dict[str, Any]) -> Script:
    """A JSON response that is not streamed."""
    return json_response(msgspec.json.encode(content))


def json_response(body: bytes) -> Script:
    return Script(200, "application/json", (Step(TOKEN_SECONDS, body),))


def stream(chunks: Iterable[dict[str, Any]]) -> Script:
    """Server-sent events, ended by [DONE]."""
    events = [Step(TOKEN_SECONDS, b"data: " + msgspec.json.encode(chunk) + b"\n\n") for chunk in chunks]
    return Script(200, "text/event-stream", (*events, Step(0.0, DONE)))


def events(content: Iterable[dict[str, Any]]) -> Script:
    """Server-sent events, named by their `type`."""
    steps = [
        Step(TOKEN_SECONDS, b"event: %b\ndata: %b\n\n" % (one["type"].encode(), msgspec.json.encode(one)))
        for one in content
    ]
    return Script(200, "text/event-stream", tuple(steps))


def error_response(error: DemoError) -> Script:
    """OpenAI's error object."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    content = {
        "message": str(error),
        "type": "rate_limit_error" if error.status == 429 else kind,
        "param": error.param,
        "code": error.code,
    }
    headers = ((b"retry-after", b"1"),) if error.status == 429 else ()
    steps = (Step(0.0, msgspec.json.encode({"error": content})),)
    return Script(error.status, "application/json", steps, headers)


def identifier(prefix: str, body: bytes) -> str:
    """The id of the response to a request."""
    return f"{prefix}-demo-{hashlib.sha256(body).hexdigest()[:16]}"
