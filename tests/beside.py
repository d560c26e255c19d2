"""Runs clients in a separate process, so that they use no CPU time of the process that measures.

async with beside("tests.trickle", order) as process:
    answer = await rest(process)

The module reads its order, one line of JSON, and writes a newline when its clients are connected.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio


@asynccontextmanager
async def beside(module: str, order: msgspec.Struct) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        await process.stdin.send_all(msgspec.json.encode(order) + b"\n")
        assert await process.stdout.receive_some(1) == b"\n"
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()


async def rest(process: trio.Process) -> bytes:
    """The output of the process until it ends."""
    assert process.stdout is not None
    return b"".join([data async for data in process.stdout])
