"""The format in which a server gets a request: the client's format, or a translation."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from bluesminds.common.routes import Prefill
from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation
from bluesminds.providers.dialects import OutputBound
from bluesminds.providers.profiles import ServerProfile, find_profile
from bluesminds.providers.quirks import MAX_TOKENS, Adapt, UnsupportedField, use_max_tokens
from bluesminds.wire.base import Codec, FormatName
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.vectors import VectorCodec

# The formats that conversations and requests for embeddings can be translated to.
_TARGETS: Final[Sequence[FormatName]] = tuple(
    name for name, format_ in FORMATS.items() if isinstance(format_.codec, Codec)
)
_VECTOR_TARGETS: Final[Sequence[FormatName]] = tuple(
    name for name, format_ in FORMATS.items() if isinstance(format_.vectors, VectorCodec)
)


class Plan(Struct, frozen=True, gc=False):
    """`format` is the format of the request to the server, and `path` its path as in a ServerProfile.
    `bound`: the field for the maximum length in a translated chat request. `adapt` changes the fields of a
    request that is not translated. `unsupported`: fields that the server does not support.
    """

    format: FormatName
    path: str
    translated: bool = False
    bound: OutputBound = MAX_TOKENS
    adapt: Adapt | None = None
    asks_usage: bool = True
    unsupported: tuple[UnsupportedField, ...] = ()


class Target(Struct, frozen=True, gc=False):
    """A server that can serve a request, and its plan. Names are "" if they are the client's: `model` is the
    name that the server gets, and `serves` the fallback model that it serves. `prefill`: see RouteTarget.
    """

    server: Server
    plan: Plan
    model: str = ""
    serves: str = ""
    prefill: Prefill | None = None


def may_hedge(first: Target, second: Target) -> bool:
    """Whether a request may be sent to both. Users pay for their own keys. Requests in another format, or for
    another model, are not the same.
    """
    return (
        second.serves == first.serves
        and not (first.server.is_own or second.server.is_own)
        and (second.plan.format, second.plan.translated) == (first.plan.format, first.plan.translated)
    )


def make_plan(operation: Operation, server: Server) -> Plan | None:
    """Use the format of the operation if the server supports it. For a conversation or embeddings, otherwise
    use the first format that the server supports. None: the server cannot serve the operation.
    """
    return _find_plan(operation.format, server.dialect, server.vendor, server.url, server.api_version)


@lru_cache(maxsize=4096)
def _find_plan(format_: FormatName, dialect: str, vendor: str, url: str, api_version: str) -> Plan | None:
    profile = find_profile(dialect, vendor, url, api_version)
    if format_ in profile.speaks:
        return _plan(profile, format_, translated=False)
    known = FORMATS.get(format_)  # Realtime sessions have another format
    if known is None or (known.codec is None and known.vectors is None):
        return None
    for name in _TARGETS if known.vectors is None else _VECTOR_TARGETS:
        if name in profile.speaks:
            return _plan(profile, name, translated=True)
    return None


def _plan(profile: ServerProfile, name: FormatName, *, translated: bool) -> Plan:
    renames = name == "chat" and profile.output_bound == MAX_TOKENS and not translated
    return Plan(
        format=name,
        path=profile.speaks[name],
        translated=translated,
        bound=profile.output_bound or MAX_TOKENS,
        adapt=use_max_tokens if renames else None,
        asks_usage=profile.asks_usage,
        unsupported=profile.unsupported.get(name, ()),
    )
