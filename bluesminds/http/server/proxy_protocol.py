"""The PROXY protocol, versions 1 and 2: a header in which a proxy names the client of a connection.

Format: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. serve.py checks first that the peer is a
trusted proxy. Nothing beyond the header is read from the socket, because TLS may begin there. TLVs are
skipped. A header above MAX_HEADER bytes is an error.
"""

import re
import socket
import struct
from typing import Final

import trio

from bluesminds.common.networks import read_address
from bluesminds.http.server.exchange import Client

MAX_HEADER: Final = 4096
_MAX_LINE: Final = 107
_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_START: Final = len(_SIGNATURE)  # also less than the shortest line of version 1
_LINE: Final = re.compile(
    rb"PROXY (?:(?:TCP4 ([0-9.]+) [0-9.]+|TCP6 ([0-9A-Fa-f]*:[0-9A-Fa-f.:]+) [0-9A-Fa-f]*:[0-9A-Fa-f.:]+)"
    rb" ([0-9]{1,5}) [0-9]{1,5}|UNKNOWN[^\r\n]*)\r\n"
)
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6, _UNSPECIFIED, _UNIX = 0x11, 0x21, 0x00, 0x31


class BadHeader(Exception):
    """The connection does not begin with a valid PROXY protocol header."""


async def read_client(sock: socket.socket, peer: Client) -> Client:
    """The client that the header names; `peer`, the proxy, for a LOCAL header; None for a client that is
    unknown or has no IP address, so that address headers of its requests are not trusted.

    Raises BadHeader, and ConnectionResetError when the connection ends before the header does.
    """
    start = await _exactly(sock, _START)
    if start == _SIGNATURE:
        return await _read_binary(sock, peer)
    if start.startswith(b"PROXY "):
        return _parse_line(await _line(sock, start))
    raise BadHeader


async def _read_binary(sock: socket.socket, peer: Client) -> Client:
    command, kind, length = struct.unpack("!BBH", await _exactly(sock, 4))
    if command not in (_LOCAL, _PROXY) or _START + 4 + length > MAX_HEADER:
        raise BadHeader
    rest = await _exactly(sock, length)
    if command == _LOCAL:
        return peer
    if kind in (_UNSPECIFIED, _UNIX):
        return None
    width = {_TCP4: 4, _TCP6: 16}.get(kind, 0)
    if not width or length < 2 * width + 4:
        raise BadHeader
    family = socket.AF_INET if kind == _TCP4 else socket.AF_INET6
    (port,) = struct.unpack_from("!H", rest, 2 * width)
    return _client(socket.inet_ntop(family, rest[:width]), port)


def _parse_line(line: bytes) -> Client:
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadHeader
    address = match[1] or match[2]
    return _client(address.decode(), int(match[3])) if address else None


def _client(text: str, port: int) -> Client:
    address = read_address(text)
    if address is None or port > 65535:
        raise BadHeader
    return str(address), port


async def _line(sock: socket.socket, start: bytes) -> bytes:
    """Read the rest of a line. It is peeked at first, because later bytes must stay in the socket."""
    line = start
    while len(line) < _MAX_LINE:
        await trio.lowlevel.wait_readable(sock)
        ahead = _try(sock, _MAX_LINE - len(line), socket.MSG_PEEK)
        end = ahead.find(b"\n") + 1
        line += await _exactly(sock, end or len(ahead))
        if end:
            return line
    raise BadHeader


async def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        await trio.lowlevel.wait_readable(sock)
        data += _try(sock, count - len(data))
    return data


def _try(sock: socket.socket, count: int, flags: int = 0) -> bytes:
    """The bytes available now. Raises ConnectionResetError at the end of the stream."""
    try:
        data = sock.recv(count, flags)
    except (BlockingIOError, InterruptedError):
        return b""
    if not data:
        raise ConnectionResetError
    return data
