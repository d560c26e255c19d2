"""Keeps bytes so that they can be sent several times: the first in memory, the rest in a temporary file. The
file has no name, so the system removes it when it is closed.
"""

import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

import trio

from bluesminds.common.errors import Unavailable

MEMORY_BYTES: Final = 1024 * 1024  # and what is left of the last piece
WRITE_BYTES: Final = 256 * 1024  # gathered before they are written
PIECE_BYTES: Final = 128 * 1024  # read at once


class SpoolSpace:
    """The temporary files of all spools, in `directory`; at most `limit` bytes together."""

    __slots__ = ("directory", "held", "limit")

    def __init__(self, directory: Path, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self.held = 0

    def acquire(self, size: int) -> None:
        """Raises Unavailable if the limit is reached."""
        if self.held + size > self.limit:
            raise _no_space()
        self.held += size


class Spool:
    """`acquire_memory` is called with the number of bytes that are about to be kept in memory, and may raise.
    The caller closes the spool, and releases the memory.
    """

    __slots__ = ("_acquire_memory", "_file", "_memory", "_on_disk", "_pending", "_space")

    def __init__(self, space: SpoolSpace, acquire_memory: Callable[[int], None]) -> None:
        self._space = space
        self._acquire_memory = acquire_memory
        self._memory = bytearray()
        self._pending = bytearray()  # after those in the file
        self._on_disk = 0
        self._file: FileIO | None = None

    @property
    def size(self) -> int:
        return len(self._memory) + self._on_disk + len(self._pending)

    @property
    def in_memory(self) -> bool:
        """Whether all bytes are in memory."""
        return self._file is None

    def contents(self, start: int, end: int) -> bytes:
        """A part of a spool that is in memory."""
        return bytes(memoryview(self._memory)[start:end])

    async def append(self, data: bytes) -> None:
        """Raises Unavailable when there is no space."""
        if self._file is None and len(self._memory) < MEMORY_BYTES:
            self._acquire_memory(len(data))
            self._memory += data
            return
        if self._file is None:
            self._acquire_memory(WRITE_BYTES)
            self._file = await self._open()
        self._space.acquire(len(data))
        self._pending += data
        if len(self._pending) >= WRITE_BYTES:
            await self._write(self._file)

    async def read(self, start: int, end: int) -> bytes:
        """The next bytes from `start` on, before `end`, at most PIECE_BYTES; b"" when there are none. Raises
        Unavailable when the file cannot be read.
        """
        end = min(end, start + PIECE_BYTES)
        in_memory = len(self._memory)
        if start < in_memory:
            return self.contents(start, min(end, in_memory))
        start, end = start - in_memory, end - in_memory
        if start < self._on_disk and self._file is not None:
            size = min(end, self._on_disk) - start
            try:
                return await trio.to_thread.run_sync(os.pread, self._file.fileno(), size, start)
            except OSError as exc:
                raise _no_space() from exc
        return bytes(memoryview(self._pending)[start - self._on_disk : end - self._on_disk])

    def close(self) -> None:
        """Idempotent."""
        self._space.held -= self._on_disk + len(self._pending)
        self._on_disk = 0
        self._memory, self._pending = bytearray(), bytearray()
        file, self._file = self._file, None
        if file is not None:
            # The system may take a while to free the blocks of a large file.
            trio.lowlevel.start_thread_soon(file.close, lambda _: None)

    async def _open(self) -> FileIO:
        try:
            return await trio.to_thread.run_sync(_open_file, self._space.directory)
        except OSError as exc:
            raise _no_space() from exc

    async def _write(self, file: FileIO) -> None:
        data = bytes(self._pending)
        try:
            await trio.to_thread.run_sync(_write_all, file.fileno(), data, self._on_disk)
        except OSError as exc:
            raise _no_space() from exc
        self._on_disk += len(data)
        self._pending.clear()


def _open_file(directory: Path) -> FileIO:
    return TemporaryFile(buffering=0, prefix="upload-", dir=directory)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _no_space() -> Unavailable:
    return Unavailable(
        "upload_space_exhausted",
        "The gateway has no space for this upload. Send `model` before the files, or try again later.",
    )
