"""The client address from X-Forwarded-For or Forwarded (RFC 7239).

Clients can send these headers too, so they are only read if the peer is a trusted proxy, from right to left:
each proxy appends to the right. The client is the first address that is not trusted. An entry without an
address (an obfuscated name, "unknown", invalid syntax) ends the search at the address before it. If both
headers are present, X-Forwarded-For is used; a proxy that writes Forwarded must remove it. Several lines of
one header form one list.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from bluesminds.common.networks import Address, Networks, read_address
from bluesminds.http.asgi import Scope

MAX_HOPS: Final = 32  # entries read per line, including empty ones
TRUNCATED: Final = "?"  # replaces the rest of a longer line; not an address, so it ends the search
MAX_ELEMENT: Final = 512  # characters of one element of Forwarded
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BARE: Final = r"[][:!#$%&'*+.^_`|~0-9A-Za-z-]+"  # some proxies do not quote values with a colon
_QUOTED: Final = r"(?:[^\"\\]|\\.)*"
_PAIR: Final = re.compile(rf'({_WORD})=(?:({_BARE})|"({_QUOTED})")')
_ELEMENT: Final = re.compile(rf"(?:{_PAIR.pattern})?(?:;[ \t]*(?:{_PAIR.pattern})?)*")
_WITH_PORT: Final = re.compile(r"(?:\[([^]]*)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?")


class ProxyHeaders:
    """`trusted` are the addresses of the proxies in front of the gateway."""

    def __init__(self, trusted: Networks) -> None:
        self._trusted = trusted

    def apply(self, scope: Scope) -> None:
        """Replace the peer in an ASGI scope by the client."""
        peer = scope["client"]
        if peer is not None:
            client = self.client_of(peer[0], scope["headers"])
            if client != peer[0]:
                scope["client"] = (client, 0)

    def client_of(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The address of the client; `peer` if it is not a trusted proxy or sends no usable header."""
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
    """The addresses of all hops, nearest first. None is an entry without an address."""
    x_forwarded_for: list[str] = []
    forwarded: list[str] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            x_forwarded_for.append(value.decode("latin-1"))
        elif name == b"forwarded":
            forwarded.append(value.decode("latin-1"))
    if x_forwarded_for:
        return (_node(text) for line in reversed(x_forwarded_for) for text in _list_items(line))
    return (_forwarded_for(text) for line in reversed(forwarded) for text in _forwarded_items(line))


def _list_items(line: str) -> Iterator[str]:
    """The non-empty items of a comma-separated line, from the right."""
    end = len(line)
    for _ in range(MAX_HOPS):
        comma = line.rfind(",", 0, end)
        if item := line[comma + 1 : end].strip(" \t"):
            yield item
        end = comma
        if end <= 0:
            return
    yield TRUNCATED


def _forwarded_items(line: str) -> Iterator[str]:
    """The non-empty elements of a Forwarded line, from the right; invalid elements unchanged.

    Reading from the right, an open quote sent by the client cannot hide what the proxy appended. A comma may
    be inside quotes, but no part of a valid element that starts inside quotes is itself a valid element.
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
    yield TRUNCATED


def _forwarded_for(element: str) -> Address | None:
    if len(element) > MAX_ELEMENT or not _ELEMENT.fullmatch(element):
        return None
    found = [pair for pair in _PAIR.finditer(element) if pair[1].lower() == "for"]
    if len(found) != 1:
        return None
    return _node(found[0][2] or re.sub(r"\\(.)", r"\1", found[0][3]))


def _node(text: str) -> Address | None:
    """An address, with a port or in brackets. None for a name or invalid syntax."""
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2] or ""
    return None if "%" in text else read_address(text)
