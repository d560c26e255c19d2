"""Differences between kinds of servers, as pure functions over the fields of a request."""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.json_text import NOT_JSON, Fields, is_set, read_value

MAX_TOKENS: Final = "max_tokens"
MAX_COMPLETION_TOKENS: Final = "max_completion_tokens"
ADAPTED: Final = (MAX_TOKENS, MAX_COMPLETION_TOKENS)  # the fields that an adaptation may change

Adapt = Callable[[Fields], Fields]


class UnsupportedField(Struct, frozen=True):
    """A field that a server ignores or refuses although it changes the meaning of a request. `harmless`:
    values, as compact JSON, that ask for what the server does anyway; values that are not set are harmless
    as well.
    """

    server: str  # the vendor, for the message
    name: str
    harmless: frozenset[bytes] = frozenset()


def unsupported(server: str, *names: str, **harmless: tuple[bytes, ...]) -> tuple[UnsupportedField, ...]:
    """Fields by name; those with harmless values as keywords."""
    return (
        *(UnsupportedField(server, name) for name in names),
        *(UnsupportedField(server, name, frozenset(values)) for name, values in harmless.items()),
    )


def check_supported(fields: Fields, unsupported_fields: Iterable[UnsupportedField]) -> None:
    """Raises InvalidRequest for the first field that the server cannot honour."""
    for one in unsupported_fields:
        raw = fields.get(one.name)
        if raw is None or not is_set(raw):
            continue
        try:
            value = msgspec.json.encode(read_value(raw))
        except NOT_JSON:
            continue  # not a value that any server can read
        if is_set(msgspec.Raw(value)) and value not in one.harmless:
            raise InvalidRequest(
                "unsupported_by_server",
                f"{one.server} does not support this value of `{one.name}`. Remove the field, or use a model"
                " of another server.",
                param=one.name,
            )


def use_max_tokens(fields: Fields) -> Fields:
    """For servers that ignore or refuse `max_completion_tokens`: the answer would have no bound."""
    if MAX_COMPLETION_TOKENS not in fields:
        return fields
    fields = dict(fields)
    bound = fields.pop(MAX_COMPLETION_TOKENS)
    if not is_set(fields.get(MAX_TOKENS)):
        fields[MAX_TOKENS] = bound
    return fields
