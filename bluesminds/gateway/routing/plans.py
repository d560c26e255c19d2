"""How a server answers an operation: in the client's own format, or in one that is translated."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation
from bluesminds.providers.dialects import OutputBound, output_bound, spoken_formats
from bluesminds.wire.base import FormatName
from bluesminds.wire.formats import FORMATS

_CONVERSATIONS: Final[Sequence[FormatName]] = tuple(
    name for name, format_ in FORMATS.items() if format_.codec is not None
)


class Plan(Struct, frozen=True, gc=False):
    """`format` is what the server gets, and `path` where, relative to its URL. `bound`: the field of a
    translated chat request that bounds the answer.
    """

    format: FormatName
    path: str
    translated: bool = False
    bound: OutputBound = "max_tokens"


class Target(Struct, frozen=True, gc=False):
    """A server that can answer, and how."""

    server: Server
    plan: Plan


def make_plan(operation: Operation, server: Server) -> Plan | None:
    """The operation's own format if the server takes it; else, for a conversation, the first format that it
    takes and that can be translated. None: the server has nothing of the kind.
    """
    speaks = spoken_formats(server.dialect, server.url)
    path = speaks.get(operation.format)
    if path is not None:
        return Plan(operation.format, path)
    if operation.format not in _CONVERSATIONS:
        return None
    for name in _CONVERSATIONS:
        if (path := speaks.get(name)) is not None:
            return Plan(name, path, translated=True, bound=output_bound(server.url))
    return None
