"""Whose request a proxy passes on: the client's address out of X-Forwarded-For or Forwarded (RFC 7239).

Anybody can send these headers, so they are read only when the peer itself is a trusted proxy, and from the
right, where the proxies write: the walk goes on through trusted addresses and ends at the first that is not.
What cannot be read (an obfuscated name, "unknown", an error) ends it too, at the last address that could. Of
both headers X-Forwarded-For counts, because that is the one proxies write; one that writes Forwarded must
take X-Forwarded-For away. Several lines of one header are one list.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from bluesminds.common.networks import Address, Networks, read_address
from bluesminds.http.asgi import Scope

MAX_HOPS: Final = 32  # parts of one line that are looked at, empty ones too
TOO_FAR: Final = "?"  # stands for what is left of a longer line, and ends the walk: it is no address
MAX_ELEMENT: Final = 512  # characters of one element of Forwarded
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BARE: Final = r"[][:!#$%&'*+.^_`|~0-9A-Za-z-]+"  # not all proxies quote what has a colon, as they should
_QUOTED: Final = r"(?:[^\"\\]|\\.)*"
_PAIR: Final = re.compile(rf'({_WORD})=(?:({_BARE})|"({_QUOTED})")')
_ELEMENT: Final = re.compile(rf"(?:{_PAIR.pattern})?(?:;[ \t]*(?:{_PAIR.pattern})?)*")
_WITH_PORT: Final = re.compile(r"(?:\[([^]]*)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


class ProxyHeaders:
    """The proxies in front."""

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted

    def apply(self, scope: Scope) -> None:
        """Put the client that the proxies tell of into an ASGI scope, in the place of the peer."""
        peer = scope["client"]
        if peer is not None:
            told = self.client_of(peer[0], scope["headers"])
            if told != peer[0]:
                scope["client"] = (told, 0)

    def client_of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The client's address; the peer's own when it is no trusted proxy or tells nothing."""
        address = read_address(peer)
        if address is None or not self._trusted.hold(address):
            return peer
        last = address
        for hop in _hops(headers):
            if hop is None:
                break
            last = hop
            if not self._trusted.hold(hop):
                break
        return str(last)


def _hops(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Address | None]:
    """From the nearest to the farthest. None: this one does not say."""
    simple: list[str] = []
    rich: list[str] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            simple.append(value.decode("latin-1"))
        elif name == b"forwarded":
            rich.append(value.decode("latin-1"))
    if simple:
        return (_node(text) for line in reversed(simple) for text in _words(line))
    return (_forwarded_for(text) for line in reversed(rich) for text in _elements(line))


def _words(line: str) -> Iterator[str]:
    """The non-empty parts of a comma-separated line, from the right."""
    end = len(line)
    for _ in range(MAX_HOPS):
        comma = line.rfind(",", 0, end)
        if word := line[comma + 1 : end].strip(" \t"):
            yield word
        end = comma
        if end <= 0:
            return
    yield TOO_FAR


def _elements(line: str) -> Iterator[str]:
    """The non-empty elements of a Forwarded line, from the right; what is no element comes as it is.

    From the right, so that a quote which a client has left open cannot swallow what the proxy wrote. A comma
    may be inside quotes; no part of a well-formed element that begins inside quotes looks like an element.
    """
    end = len(line)
    for _ in range(MAX_HOPS):
        comma = end
        while (comma := line.rfind(",", max(0, end - MAX_ELEMENT), comma)) >= 0:
            if _ELEMENT.fullmatch(line[comma + 1 : end].strip(" \t")):
                break
        if element := line[comma + 1 : end].strip(" \t"):
            yield element
        end = comma
        if end <= 0:
            return
    yield TOO_FAR


def _forwarded_for(element: str) -> Address | None:
    if len(element) > MAX_ELEMENT or not _ELEMENT.fullmatch(element):
        return None
    found = [pair for pair in _PAIR.finditer(element) if pair[1].lower() == "for"]
    if len(found) != 1:
        return None
    return _node(found[0][2] or re.sub(r"\\(.)", r"\1", found[0][3]))


def _node(text: str) -> Address | None:
    """An address as proxies write it: alone, with a port, in brackets. None for a name or an error."""
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    return None if "%" in text else read_address(text)
