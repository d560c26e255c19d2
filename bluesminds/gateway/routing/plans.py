"""The format in which a server gets a request: the client's format, or a translation."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation
from bluesminds.providers.dialects import DIALECTS, OutputBound, output_bound
from bluesminds.wire.base import FormatName
from bluesminds.wire.formats import FORMATS

_CONVERSATIONS: Final[Sequence[FormatName]] = tuple(
    name for name, format_ in FORMATS.items() if format_.codec is not None
)


class Plan(Struct, frozen=True, gc=False):
    """`format` is the format of the request to the server, and `path` is relative to the server's URL.
    `bound`: the field for the maximum length in a translated chat request.
    """

    format: FormatName
    path: str
    translated: bool = False
    bound: OutputBound = "max_tokens"


class Target(Struct, frozen=True, gc=False):
    """A server that can serve a request, and its plan."""

    server: Server
    plan: Plan


def make_plan(operation: Operation, server: Server) -> Plan | None:
    """Use the format of the operation if the server supports it. For a conversation, otherwise use the first
    format that the server supports. None: the server cannot serve the operation.
    """
    speaks = DIALECTS[server.dialect].speaks
    path = speaks.get(operation.format)
    if path is not None:
        return Plan(operation.format, path)
    if operation.format not in _CONVERSATIONS:
        return None
    for name in _CONVERSATIONS:
        if (path := speaks.get(name)) is not None:
            return Plan(name, path, translated=True, bound=output_bound(server.url))
    return None
