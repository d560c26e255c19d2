"""Writes usage to a database until it is killed, and the serial of every acknowledged row to a file.

`python -m tests.storage.writer URL WITNESS FIRST_SERIAL`
"""

import os
import sys
from itertools import count

import trio

from storage.store import open_store
from storage.usage import insert_batch
from tests.storage.samples import NOON, usage

TASKS = 4


async def write(url: str, witness: int, first: int) -> None:
    serials = count(first)

    async with open_store(url) as store, trio.open_nursery() as nursery:

        async def work() -> None:
            while True:
                batch = [next(serials) for _ in range(3)]
                await store.write(insert_batch, [usage(serial, at=NOON + serial) for serial in batch])
                os.write(witness, "".join(f"{serial}\n" for serial in batch).encode())

        for _ in range(TASKS):
            nursery.start_soon(work)


if __name__ == "__main__":
    trio.run(
        write, sys.argv[1], os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY), int(sys.argv[3])
    )
