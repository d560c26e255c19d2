"""CPU time of hostile input to the listener."""

import time

import pytest
import trio

from tests.http.serving import Client, echo, start
from tests.load.figures import figure

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
INPUT = {
    "URL of 1 MB": b"GET /" + b"a" * 1_000_000,
    "header of 1 MB": GET + b"X: " + b"a" * 1_000_000,
    "10,000 headers": GET + b"X: y\r\n" * 10_000 + b"\r\n",
    "250,000 one-byte chunks": CHUNKED + b"1\r\na\r\n" * 250_000,
    "long chunk extensions": CHUNKED + (b"1;" + b"x" * 60_000 + b"\r\na\r\n") * 30,
    "30,000 trailers": CHUNKED + b"0\r\n" + b"x: y\r\n" * 30_000,
    "trailer of 1 MB": CHUNKED + b"0\r\n" + b"x" * 1_000_000,
}


@pytest.mark.parametrize("name", INPUT)
async def test_hostile_input_cpu_time_is_printed(name: str, nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        before = time.process_time()
        nursery.start_soon(_send, stream, INPUT[name])
        got = await Client(stream).read()
        spent = time.process_time() - before
    figure(f"{name}, CPU time until {got.status}", spent * 1000, "ms", "no bound")
    assert got.status >= 400


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
