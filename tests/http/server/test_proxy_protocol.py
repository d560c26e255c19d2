"""The PROXY protocol: the client of a connection, trusted proxies, and invalid headers."""

import json
import socket
import ssl
import struct

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.networks import Networks
from bluesminds.http.asgi import Receive, Scope, Send
from bluesminds.http.server.proxy_protocol import MAX_HEADER, BadHeader, read_client
from tests.http.serving import Client, answer, eventually, patient, start

HERE = Networks.read(["127.0.0.1"])
GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"


def version2(command: int, family: int, payload: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(payload)) + payload


def tcp4(address: str, port: int, rest: bytes = b"") -> bytes:
    return version2(1, 0x11, socket.inet_aton(address) + bytes(4) + struct.pack("!HH", port, 443) + rest)


def tcp6(address: str, port: int) -> bytes:
    packed = socket.inet_pton(socket.AF_INET6, address)
    return version2(1, 0x21, packed + bytes(16) + struct.pack("!HH", port, 443))


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds with the client's address."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await answer(send, json.dumps(scope["client"]).encode())


GOOD = {
    LINE: ["192.0.2.1", 56324],
    b"PROXY TCP6 2001:DB8::1 2001:db8::2 1 65535\r\n": ["2001:db8::1", 1],
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n": ["192.0.2.1", 1],
    tcp4("192.0.2.1", 56324): ["192.0.2.1", 56324],
    tcp4("192.0.2.1", 7, b"\x04\x00\x03abc" + bytes(2000)): ["192.0.2.1", 7],
    tcp6("2001:db8::1", 8): ["2001:db8::1", 8],
    tcp6("::ffff:192.0.2.1", 9): ["192.0.2.1", 9],
}
ITSELF = (version2(0, 0x00, b""), version2(0, 0x11, b"whatever"))
NAMELESS = (
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
    version2(1, 0x00, b""),
    version2(1, 0x31, bytes(216)),
)
BAD = (
    GET,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abc",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n" + b"GET / HTTP/1.1\r\n" * 8,
    b"PROXY TCP4 192.0.2.300 198.51.100.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP6 192.0.2 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 2001:db8::1 198.51.100.1 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 2001:db8::2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
    b"PROXY TCP4 192.0.2.1\r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
    b"PROXY UNKNOWN" + b"x" * 200 + b"\r\n",
    version2(2, 0x11, bytes(12)),
    version2(1, 0x11, bytes(11)),
    version2(1, 0x21, bytes(35)),
    version2(1, 0x12, bytes(12)),
    version2(1, 0x11, bytes(MAX_HEADER)),
    SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12),
)


@pytest.mark.parametrize("header", GOOD)
async def test_proxy_header_names_the_client(nursery: trio.Nursery, header: bytes) -> None:
    served = await start(nursery, whoami, proxies=HERE)
    async with await served.connect() as stream:
        got = await Client(stream).ask(header + GET)
        assert json.loads(got.body) == GOOD[header]
        assert json.loads((await Client(stream).ask(GET)).body) == GOOD[header], "the header comes once"


async def test_proxy_header_in_pieces_is_read(nursery: trio.Nursery) -> None:
    served = await start(nursery, whoami, proxies=HERE)
    for header in (LINE, tcp6("2001:db8::1", 8)):
        async with await served.connect() as stream:
            for byte in header:
                await stream.send_all(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert json.loads((await Client(stream).ask(GET)).body) == GOOD[header]


@pytest.mark.parametrize("header", ITSELF)
async def test_proxy_header_local_is_the_proxy(nursery: trio.Nursery, header: bytes) -> None:
    served = await start(nursery, whoami, proxies=HERE)
    async with await served.connect() as stream:
        got = await Client(stream).ask(header + GET)
        assert json.loads(got.body) == list(stream.socket.getsockname())


@pytest.mark.parametrize("header", NAMELESS)
async def test_proxy_header_unknown_client_is_none(nursery: trio.Nursery, header: bytes) -> None:
    served = await start(nursery, whoami, patient(max_connections_per_ip=1), proxies=HERE)
    async with await served.connect() as stream, await served.connect() as other:
        assert json.loads((await Client(stream).ask(header + GET)).body) is None
        assert json.loads((await Client(other).ask(header + GET)).body) is None, "nothing to count by"


@pytest.mark.parametrize("header", BAD)
async def test_proxy_header_invalid_is_rejected(nursery: trio.Nursery, header: bytes) -> None:
    served = await start(nursery, whoami, proxies=HERE)
    answer_bytes = await served.ask(header)
    assert answer_bytes.startswith(b"HTTP/1.1 400 ")
    assert [rejection.code for _, rejection, _, _ in served.rejections] == ["bad_proxy_header"]
    assert not served.errors
    await eventually(lambda: not served.stats.open)


async def test_proxy_peer_not_trusted_is_rejected(nursery: trio.Nursery) -> None:
    served = await start(nursery, whoami, proxies=Networks.read(["10.0.0.0/8", "127.0.0.2"]))
    assert (await served.ask(LINE + GET)).startswith(b"HTTP/1.1 403 ")
    (rejection,) = served.rejections
    assert (rejection[0], rejection[1].code) == ("127.0.0.1", "unknown_proxy")
    assert (served.stats.accepted, served.stats.requests) == (0, 0)


async def test_proxy_header_missing_closes_connection(nursery: trio.Nursery) -> None:
    served = await start(nursery, whoami, patient(handshake_timeout=0.2), proxies=HERE)
    for start_of_it in (b"", LINE[:-1], SIGNATURE, tcp4("192.0.2.1", 1)[:-1]):
        assert await served.ask(start_of_it) == b""
    assert served.stats.refused["handshake"] == 4
    assert not served.errors


async def test_proxy_connection_closed_before_header_is_no_error(nursery: trio.Nursery) -> None:
    served = await start(nursery, whoami, proxies=HERE)
    for start_of_it in (b"", LINE[:-1], SIGNATURE, tcp4("192.0.2.1", 1)[:-1]):
        stream = await served.connect()
        await stream.send_all(start_of_it)
        await stream.aclose()
    await eventually(lambda: served.stats.disconnects == 4)
    assert (served.errors, served.rejections, served.stats.open) == ([], [], 0)


async def test_proxy_limit_per_address_counts_clients(nursery: trio.Nursery) -> None:
    served = await start(nursery, whoami, patient(max_connections_per_ip=1), proxies=HERE)
    async with await served.connect() as first, await served.connect() as other:
        assert (await Client(first).ask(tcp4("192.0.2.1", 1) + GET)).status == 200
        assert (await Client(other).ask(tcp4("192.0.2.2", 1) + GET)).status == 200
        assert (await served.ask(tcp4("192.0.2.1", 2) + GET)).startswith(b"HTTP/1.1 429 ")
    assert [(client, rejection.code) for client, rejection, _, _ in served.rejections] == [
        ("192.0.2.1", "connections_per_ip")
    ]
    await eventually(lambda: not served.stats.open)
    async with await served.connect() as again:
        assert (await Client(again).ask(tcp4("192.0.2.1", 3) + GET)).status == 200


async def test_proxy_header_comes_before_tls(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    served = await start(nursery, whoami, tls=ours, proxies=HERE)
    for header in (LINE, tcp6("2001:db8::1", 8)):
        stream = await served.connect()
        await stream.send_all(header)
        tls = trio.SSLStream(stream, theirs, server_hostname="localhost", https_compatible=True)
        async with tls:
            assert json.loads((await Client(tls).ask(GET)).body) == GOOD[header]
    assert await served.ask(GET) == b"", "nothing is said without encryption"


async def read(data: bytes) -> tuple[object, bytes]:
    """The client, and the bytes left in the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(data)
        theirs.close()
        found = await read_client(ours, ("127.0.0.1", 1))
        return found, ours.recv(100_000)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=300), st.booleans())
def test_proxy_header_any_client_is_read_exactly(
    address: object, port: int, rest: bytes, binary: bool
) -> None:
    text = str(address)
    if binary:
        header = tcp6(text, port) if ":" in text else tcp4(text, port)
    else:
        header = f"PROXY TCP{6 if ':' in text else 4} {text} {text} {port} 1\r\n".encode()
    (found, left) = trio.run(read, header + rest)
    client, told_port = found  # type: ignore[misc]
    mapped = getattr(address, "ipv4_mapped", None)
    assert (client, told_port, left) == (str(mapped or address), port, rest)


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=120).map(lambda tail: SIGNATURE + tail)))
def test_proxy_header_any_bytes_are_error_or_end(data: bytes) -> None:
    try:
        found, _ = trio.run(read, data)
    except (BadHeader, ConnectionResetError):
        return
    assert data.startswith((SIGNATURE, b"PROXY ")), found
