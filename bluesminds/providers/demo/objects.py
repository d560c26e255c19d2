"""Files, batches and stored responses of the demo server. They are kept in memory: the newest MAX_OBJECTS of
each kind.

A batch is complete at once. Its requests get the same responses as if they were sent one by one.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.providers.demo.script import CREATED, DemoError, Script, Step, json_response, read, response
from bluesminds.wire.conversation import ReplyLinks
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, write_fields
from bluesminds.wire.multipart import FormEnd, MultipartScanner, PartHead, read_boundary
from bluesminds.wire.responses_items import input_items, output_items, response_of_stream, with_history

MAX_OBJECTS: Final = 100
MAX_FILE: Final = 1024 * 1024  # bytes
MAX_UPLOAD: Final = MAX_FILE + 16 * 1024  # bytes of a form with a file
MAX_LINES: Final = 100  # requests of a batch

_COLLECTIONS: Final = ("files", "batches", "responses")
Respond = Callable[[str, str, bytes], Script]


def has_objects(path: str) -> bool:
    """Whether a path that begins with /v1 is that of files, batches or responses."""
    return path.removeprefix("/v1/").partition("/")[0] in _COLLECTIONS


class _NewBatch(Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


class _BatchLine(Struct):
    custom_id: str
    url: str
    body: Raw
    method: str = "POST"


class _StoredResponse(Struct):
    """`items` are all of its input, those of the responses before it included."""

    items: list[Fields]
    response: bytes


class DemoObjects:
    """`respond` answers the requests of a batch."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._files: dict[str, dict[str, Any]] = {}
        self._contents: dict[str, bytes] = {}
        self._batches: dict[str, dict[str, Any]] = {}
        self._responses: dict[str, _StoredResponse] = {}

    def respond(self, method: str, path: str, content_type: bytes, body: bytes) -> Script | None:
        """None for a path without objects. `path` begins with /v1. Raises DemoError."""
        kind, _, rest = path.removeprefix("/v1/").partition("/")
        if kind == "responses" and rest != "input_tokens":
            return self._respond_stored(method, rest, body)
        if kind not in ("files", "batches"):
            return None
        kept = self._files if kind == "files" else self._batches
        if not rest:
            if method == "GET":
                return _list(list(kept.values()))
            if method == "POST":
                return response(self._upload(content_type, body) if kind == "files" else self._run(body))
        object_id, _, action = rest.partition("/")
        if object_id not in kept:
            raise DemoError(f"The demo server has no {rest} in {kind}.", status=404, code="not_found")
        if kind == "files" and (method, action) == ("GET", "content"):
            return Script(200, "application/octet-stream", (Step(0.0, self._contents[object_id]),))
        if kind == "files" and (method, action) == ("DELETE", ""):
            del self._files[object_id], self._contents[object_id]
            return response({"id": object_id, "object": "file", "deleted": True})
        if method == "GET" and not action:
            return response(kept[object_id])
        if kind == "batches" and (method, action) == ("POST", "cancel"):
            raise DemoError("The batch is completed and cannot be cancelled.", status=409)
        raise DemoError(f"The demo server has no endpoint {method} {path}.", status=404, code="not_found")

    def _respond_stored(self, method: str, rest: str, body: bytes) -> Script | None:
        response_id, _, below = rest.partition("/")
        if not response_id:
            return self._create_response(body) if method == "POST" else None
        kept = self._responses.get(response_id)
        if kept is None:
            raise DemoError(f"Response with id '{response_id}' not found.", status=404)
        match method, below:
            case "GET", "":
                return json_response(kept.response)
            case "DELETE", "":
                del self._responses[response_id]
                return response({"id": response_id, "object": "response.deleted", "deleted": True})
            case "GET", "input_items":
                return response({"object": "list", "data": kept.items[::-1], "has_more": False})
            case "POST", "cancel":
                raise DemoError("Cannot cancel a synchronous response.")
        raise DemoError(f"The demo server has no endpoint {method} /responses/{rest}.", status=404)

    def _create_response(self, body: bytes) -> Script | None:
        """None for a request that is not to be stored, or that is invalid."""
        try:
            fields = read_fields(body)
            new_items = input_items(fields, lambda prefix: f"{prefix}_demo_{secrets.token_hex(12)}")
            previous = msgspec.json.decode(fields.get("previous_response_id", Raw(b"null")))
        except (*NOT_JSON, InvalidRequest):
            return None
        if bytes(fields.get("store", ABSENT)) == b"false" and previous is None:
            return None
        before = self._responses.get(previous) if isinstance(previous, str) else None
        if previous is not None and before is None:
            message = f"Previous response with id '{previous}' not found."
            raise DemoError(message, "previous_response_id", code="previous_response_not_found")
        earlier = [*before.items, *output_items(before.response)] if before else []
        stores = bytes(fields.get("store", ABSENT)) != b"false"
        stored_id = f"resp_demo_{secrets.token_hex(12)}" if stores else ""
        links = ReplyLinks(stored_id, previous or "")
        mark = {"demo_links": Raw(msgspec.json.encode(links))}
        script = self._respond("POST", "/v1/responses", write_fields(with_history(fields, earlier) | mark))
        if not stores or script.status != 200 or any(step.data is None for step in script.steps):
            return script
        text = b"".join(step.data or b"" for step in script.steps)
        whole = response_of_stream(text) if script.content_type == "text/event-stream" else text
        while len(self._responses) >= MAX_OBJECTS:
            del self._responses[next(iter(self._responses))]
        self._responses[stored_id] = _StoredResponse([*earlier, *new_items], whole)
        return script

    def _upload(self, content_type: bytes, body: bytes) -> dict[str, Any]:
        fields: dict[str, bytes] = {}
        try:
            scanner = MultipartScanner(read_boundary(content_type))
            name = ""
            for event in scanner.feed(body):
                if isinstance(event, PartHead):
                    name = event.name
                    fields[name] = b""
                elif isinstance(event, FormEnd):
                    break
                else:
                    fields[name] += event
            scanner.finish()
        except InvalidRequest as exc:
            raise DemoError(exc.message) from exc
        if "file" not in fields or "purpose" not in fields:
            raise DemoError("The form needs the fields file and purpose.", "file")
        return self._keep_file(fields["file"], "file", fields["purpose"].decode(errors="replace"))

    def _keep_file(self, content: bytes, filename: str, purpose: str) -> dict[str, Any]:
        if len(content) > MAX_FILE:
            raise DemoError(f"A file of the demo server has at most {MAX_FILE} bytes.", "file", status=413)
        made: dict[str, Any] = {
            "id": f"file-demo-{secrets.token_hex(12)}",
            "object": "file",
            "bytes": len(content),
            "created_at": CREATED,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        while len(self._files) >= MAX_OBJECTS:
            oldest = next(iter(self._files))
            del self._files[oldest], self._contents[oldest]
        self._files[made["id"]] = made
        self._contents[made["id"]] = content
        return made

    def _run(self, body: bytes) -> dict[str, Any]:
        new = read(body, _NewBatch)
        content = self._contents.get(new.input_file_id)
        if content is None:
            raise DemoError(f"The demo server has no file {new.input_file_id}.", "input_file_id", status=404)
        lines = [line for line in content.splitlines() if line.strip()][:MAX_LINES]
        output = self._keep_file(b"".join(map(self._answer, lines)), "output.jsonl", "batch_output")
        while len(self._batches) >= MAX_OBJECTS:
            del self._batches[next(iter(self._batches))]
        made = {
            "id": f"batch_demo_{secrets.token_hex(12)}",
            "object": "batch",
            "endpoint": new.endpoint,
            "input_file_id": new.input_file_id,
            "completion_window": new.completion_window,
            "status": "completed",
            "output_file_id": output["id"],
            "error_file_id": None,
            "created_at": CREATED,
            "completed_at": CREATED,
            "request_counts": {"total": len(lines), "completed": len(lines), "failed": 0},
            "metadata": new.metadata,
        }
        self._batches[made["id"]] = made
        return made

    def _answer(self, line: bytes) -> bytes:
        """The line of the output for one line of the input."""
        one = read(line, _BatchLine)
        script = self._respond(one.method, one.url, bytes(one.body))
        is_json = script.content_type == "application/json"
        text = b"".join(step.data or b"" for step in script.steps) if is_json else b"null"
        answer = {
            "id": f"batch_req_demo_{secrets.token_hex(12)}",
            "custom_id": one.custom_id,
            "response": {"status_code": script.status, "request_id": "", "body": Raw(text)},
            "error": None,
        }
        return msgspec.json.encode(answer) + b"\n"


def _list(found: list[dict[str, Any]]) -> Script:
    newest = found[::-1]
    ends = {"first_id": newest[0]["id"], "last_id": newest[-1]["id"]} if newest else {}
    return response({"object": "list", "data": newest, "has_more": False, **ends})
