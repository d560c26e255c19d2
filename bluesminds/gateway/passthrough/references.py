"""Finds ids of objects in requests: in JSON, in the query and in the fields of a form.

A *reference* is an id in a field whose meaning is known; its object must belong to the client's account. A
*mention* is any other text that could be an id; it must not be the id of another account's object.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.gateway.server_objects import ID
from bluesminds.wire.json_text import NOT_JSON, read_fields, write_fields

BATCHES: Final = "messages/batches"
MAX_IDS: Final = 100_000  # in one request; more than one that fits the context of a model
MAX_PARAMETERS: Final = 100  # of a query
# The fields that hold ids of objects, in OpenAI's and Anthropic's APIs.
REFERENCES: Final = frozenset(
    (
        *("assistant_id", "batch_id", "container", "container_id", "conversation", "conversation_id"),
        *("eval_id", "file_id", "file_ids", "input_file_id", "part_ids", "response_id", "skill_id"),
        *("thread_id", "training_file", "upload_id", "validation_file", "vector_store_id"),
        *("vector_store_ids", "video_id"),
    )
)

_CREATED: Final = {"output_file_id": "files", "error_file_id": "files", "thread_id": "threads"}
_STRING: Final = re.compile(rb'"(?=([A-Za-z0-9_.:=~\\-]{4,6144})")')  # an id, or one with escapes
_NAMES: Final = "|".join(sorted(REFERENCES)).encode()
_FIELD: Final = re.compile(rb'"(?:%b)"\s*:\s*("[^"]*"|\[[^\[\]{}]*\]|-?\d+)' % _NAMES)
_VALUE: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|-?\d+')
_ID: Final = re.compile(ID)
_SUBSCRIPT: Final = re.compile(r"\[([^\[\]]*)\]")


class FoundIds(Struct, frozen=True):
    """The ids in a part of a request."""

    references: frozenset[str] = frozenset()
    mentions: frozenset[str] = frozenset()

    def with_ids(self, other: "FoundIds") -> "FoundIds":
        return FoundIds(self.references | other.references, self.mentions | other.mentions)


NO_IDS: Final = FoundIds()


def canonical_json(data: bytes) -> bytes:
    """The same JSON in the one form that every server reads alike: no repeated keys, no needless escapes.
    Raises InvalidRequest.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(data))
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_json", "The body is not valid JSON. Send a JSON object.") from exc


def ids_in_json(data: bytes) -> FoundIds:
    """Raises InvalidRequest for too many."""
    references = {
        text
        for field in _FIELD.findall(data)
        for found in _VALUE.finditer(field)
        if (text := _text(found[0]))
    }
    strings: set[bytes] = set()
    for found in _STRING.finditer(data):
        strings.add(found[1])
        if len(references) + len(strings) > MAX_IDS:
            message = f"The body has more than {MAX_IDS} values that could be ids."
            raise InvalidRequest("too_many_ids", message)
    decoded = {_text(b'"%b"' % text) for text in strings}
    mentions = {text for text in decoded if _ID.fullmatch(text)}  # PostgreSQL refuses a NUL in a text
    return FoundIds(frozenset(references), frozenset(mentions))


def ids_in_field(name: str, value: str) -> FoundIds:
    """Of a form or a query. `name` may have subscripts: file_ids[], filter[file_id]."""
    names = {name.partition("[")[0], *_SUBSCRIPT.findall(name)}
    if names & REFERENCES and value:
        return FoundIds(references=frozenset((value,)))
    return FoundIds(mentions=frozenset((value,))) if _ID.fullmatch(value) else NO_IDS


def read_query(query: bytes) -> list[tuple[str, str]]:
    """Raises InvalidRequest."""
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError as exc:
        raise InvalidRequest("invalid_query", "The query of the URL is malformed or too long.") from exc


def write_query(pairs: Iterable[tuple[str, str]]) -> str:
    """With its question mark; "" for no parameters. The server reads what was checked."""
    text = urlencode(list(pairs))
    return f"?{text}" if text else ""


def ids_in_query(pairs: Iterable[tuple[str, str]]) -> FoundIds:
    """A cursor, such as `after`, is a mention: the object that it names may be deleted."""
    found = NO_IDS
    for name, value in pairs:
        found = found.with_ids(ids_in_field(name, value))
    return found


def kinds_in_answer(body: bytes, collection: str) -> dict[str, str]:
    """The objects that a server's answer names, by id: the object of the collection itself, and what was made
    besides. Only fields that no client can fill are read.
    """
    try:
        fields = msgspec.json.decode(body)
    except NOT_JSON:
        return {}
    if not isinstance(fields, dict):
        return {}
    found = [(fields.get(name), kind) for name, kind in _CREATED.items()]
    if isinstance(results := fields.get("result_files"), list):
        found += [(one, "files") for one in results]
    if isinstance(file := fields.get("file"), dict):
        found.append((file.get("id"), "files"))
    found.append((fields.get("id"), collection))
    return {one: kind for one, kind in found if isinstance(one, str) and _ID.fullmatch(one)}


def with_own_urls(item: bytes, collection: str) -> bytes:
    """The object without the address of the server in `results_url`, with which Anthropic's SDKs read the
    results of a batch: they would send the gateway's key there.
    """
    if collection != BATCHES or b'"results_url"' not in item:
        return item
    try:
        fields = read_fields(item)
        if not isinstance(msgspec.json.decode(fields["results_url"]), str):
            return item
        object_id = msgspec.json.decode(fields["id"], type=str)
    except (*NOT_JSON, KeyError):
        return item
    url = f"/v1/{BATCHES}/{object_id}/results"
    return write_fields(fields | {"results_url": Raw(msgspec.json.encode(url))})


def _text(value: bytes) -> str:
    """A JSON string or number as text; "" for what is neither."""
    try:
        return str(msgspec.json.decode(value))
    except NOT_JSON:
        return ""
