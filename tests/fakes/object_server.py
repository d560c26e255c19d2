"""A server with OpenAI's objects over a real socket: files, batches, vector stores, conversations, responses.

    vendor = await nursery.start(object_server.serve)

It keeps the objects of all its clients together, as a vendor does with those of one account. Batches are
complete at once. `requests` has all requests; `answers` replaces the answer of a path.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import completion
from tests.fakes.raw_upstream import Peer, Received, Upstream

JSON = b"Content-Type: application/json"
PREFIXES = {
    "files": "file-",
    "batches": "batch_",
    "vector_stores": "vs_",
    "conversations": "conv_",
    "responses": "resp_",
}
Objects = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    status: bytes = b"200 OK"
    headers: tuple[bytes, ...] = (JSON,)


@dataclass(slots=True)
class ObjectServer:
    """`objects` are by collection and id, `contents` the bytes of files. `pages` counts listed pages, each of
    at most `page` objects. `deleted_cursors`: where lists continue after deleted objects.
    """

    name: str
    key: str
    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    objects: dict[str, Objects] = field(default_factory=lambda: {kind: {} for kind in PREFIXES})
    contents: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Callable[[Received], Answer] | Answer] = field(default_factory=dict)
    pages: int = 0
    page: int = 20
    deleted_cursors: dict[str, int] = field(default_factory=dict)
    _serial: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1"

    @property
    def requests(self) -> list[Received]:
        return self.upstream.requests

    def lines(self) -> list[str]:
        """Method and path of every request, except for health checks."""
        found = [one.line.decode().rsplit(" ", 1)[0] for one in self.requests]
        return [line for line in found if line not in ("GET /v1/models", "GET /health/liveliness")]

    def add(self, kind: str, **fields: Any) -> str:
        """Create an object as another client of the server does. Returns its id."""
        self._serial += 1
        made = f"{PREFIXES[kind]}{self.name}{self._serial:08d}"
        self.objects[kind][made] = {"id": made, "object": kind.removesuffix("s"), "created_at": 1} | fields
        return made

    def _planned(self, path: str, received: Received) -> Answer | None:
        planned = self.answers.get(path)
        return planned(received) if callable(planned) else planned

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            method, target, _ = received.line.decode().split(" ")
            parts = urlsplit(target)
            answer = self._planned(parts.path, received) or self._answer(
                method, parts.path, parts.query, received
            )
            await peer.answer(answer.body, *answer.headers, status=answer.status)

    def _answer(self, method: str, path: str, query: str, received: Received) -> Answer:
        if received.values(b"authorization") != [b"Bearer " + self.key.encode()]:
            return _json({"error": {"message": "wrong key", "code": "invalid_api_key"}}, b"401 Unauthorized")
        _, _, kind, *rest = path.split("/")
        if (kind, rest) == ("chat", ["completions"]):
            return Answer(completion())
        if (kind, rest) == ("responses", ["input_tokens"]):
            return _json({"object": "response.input_tokens", "input_tokens": 5})
        if kind == "models":
            return _json({"object": "list", "data": [{"id": "m", "object": "model"}]})
        if kind not in self.objects:
            return _not_found()
        if not rest:
            return self._create(kind, received) if method == "POST" else self._list(kind, parse_qs(query))
        found = self.objects[kind].get(rest[0])
        if found is None:
            return _not_found()
        if rest[1:] == ["content"]:
            headers = (b"Content-Type: application/octet-stream", b"Set-Cookie: vendor=1")
            return Answer(self.contents[rest[0]], headers=headers)
        if rest[1:]:
            return _json({"id": rest[-1], "object": "below", "path": path})
        if method == "DELETE":
            del self.objects[kind][rest[0]]
            return _json({"id": rest[0], "object": kind.removesuffix("s"), "deleted": True})
        return _json(found)

    def _create(self, kind: str, received: Received) -> Answer:
        if kind == "files":
            made = self._store_file(received)
        elif kind == "responses":
            return self._respond(msgspec.json.decode(received.body))
        else:
            fields = msgspec.json.decode(received.body or b"{}")
            made = self.add(kind, **fields)
            if kind == "batches":
                output = self.add("files", filename="output.jsonl", purpose="batch_output")
                self.contents[output] = b'{"id":"batch_req_1"}\n'
                self.objects[kind][made] |= {"status": "completed", "output_file_id": output}
        return _json(self.objects[kind][made])

    def _respond(self, fields: dict[str, Any]) -> Answer:
        previous = fields.get("previous_response_id")
        if previous is not None and previous not in self.objects["responses"]:
            return _json({"error": {"message": "unknown response"}}, b"400 Bad Request")
        text = {"type": "output_text", "text": "Native answer", "annotations": []}
        serial = self._serial + 1
        item = {"type": "message", "id": f"msg_{self.name}{serial:08d}", "role": "assistant"}
        output = [item | {"status": "completed", "content": [text]}]
        made = self.add("responses", status="completed", model=fields["model"], output=output)
        response = self.objects["responses"][made]
        response["usage"] = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        if not fields.get("stream"):
            return _json(response)
        begun = response | {"status": "in_progress", "output": []}
        events = [
            ("response.created", {"response": begun}),
            ("response.output_item.done", {"output_index": 0, "item": output[0]}),
            ("response.completed", {"response": response}),
        ]
        body = b"".join(
            b"event: %b\r\ndata: %b\r\n\r\n"
            % (name.encode(), encode({"type": name, "sequence_number": number} | more))
            for number, (name, more) in enumerate(events)
        )
        return Answer(body, headers=(b"Content-Type: text/event-stream",))

    def _store_file(self, received: Received) -> str:
        head = b"Content-Type: " + received.values(b"content-type")[0] + b"\r\n\r\n"
        form = BytesParser(policy=HTTP).parsebytes(head + received.body)
        fields: dict[str, Any] = {}
        content = b""
        for part in form.iter_parts():
            name = part.get_param("name", header="content-disposition")
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            if part.get_filename() is None:
                fields[str(name)] = data.decode()
            else:
                content = data
                fields |= {"filename": part.get_filename(), "bytes": len(data)}
        made = self.add("files", **fields)
        self.contents[made] = content
        return made

    def _list(self, kind: str, query: dict[str, list[str]]) -> Answer:
        self.pages += 1
        ids = list(self.objects[kind])
        if "after" in query:
            after = query["after"][0]
            start = self.deleted_cursors[after] if after in self.deleted_cursors else ids.index(after) + 1
            ids = ids[start:]
        limit = min(int(query.get("limit", ["20"])[0]), self.page)
        data = [self.objects[kind][one] for one in ids[:limit]]
        shown = {"object": "list", "data": data, "has_more": len(ids) > limit, "total": len(ids)}
        if data:
            shown |= {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return _json(shown)


def encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def _json(value: object, status: bytes = b"200 OK") -> Answer:
    return Answer(encode(value), status)


def _not_found() -> Answer:
    error = {"message": "No such object.", "type": "invalid_request_error", "param": None, "code": None}
    return _json({"error": error}, b"404 Not Found")


async def serve(
    name: str = "a", key: str = "sk-upstream", *, task_status: trio.TaskStatus[ObjectServer]
) -> None:
    """Serve on a free loopback port until cancelled. `name` is a part of the ids, `key` the one to accept."""
    server = ObjectServer(name, key)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
