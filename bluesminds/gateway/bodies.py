"""Request bodies: what they take of memory and disk, with one limit for all of them.

A body is held from its first byte until a server has responded. Only its size counts; a copy that parsing
needs does not.
"""

from abc import ABC, abstractmethod

from bluesminds.common.errors import Unavailable
from bluesminds.gateway.spool import Spool, SpoolSpace


class BodyMemory:
    """At most `limit` bytes for all bodies together, and `largest` for one that is read whole. `disk` is for
    forms whose files come before their other fields.
    """

    __slots__ = ("_peak", "disk", "held", "largest", "limit")

    def __init__(self, limit: int, *, largest: int, disk: SpoolSpace) -> None:
        self.limit = limit
        self.largest = largest
        self.disk = disk
        self.held = 0
        self._peak = 0

    def add(self, size: int) -> None:
        self.held += size
        self._peak = max(self._peak, self.held)

    def take_peak(self) -> int:
        """The most bytes held at once since the previous call."""
        peak, self._peak = self._peak, self.held
        return peak


class HeldMemory:
    """What one request or session holds of the memory. `release` may be called more than once."""

    __slots__ = ("_held", "memory")

    def __init__(self, memory: BodyMemory, size: int = 0) -> None:
        """Raises Unavailable if the limit is reached."""
        self.memory = memory
        self._held = 0
        if size:
            self.acquire(size)

    def acquire(self, size: int) -> None:
        """Reserve memory for the next bytes. Raises Unavailable if the limit is reached."""
        memory = self.memory
        if memory.held + size > memory.limit:
            raise body_memory_exhausted()
        memory.add(size)
        self._held += size

    def release(self) -> None:
        self.memory.held -= self._held
        self._held = 0


class Body(HeldMemory, ABC):
    """The body of one request, which is still to be read: whole into `data`, or in pieces. `release` frees
    what it holds, and may be called more than once.
    """

    __slots__ = ("_spool", "data")

    def __init__(self, memory: BodyMemory) -> None:
        super().__init__(memory)
        self._spool: Spool | None = None
        self.data = b""

    @property
    @abstractmethod
    def content_type(self) -> bytes:
        """The value of the header; b"" when there is none."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Bytes; None if they come in chunks."""

    @abstractmethod
    def check_coding(self) -> None:
        """Raises InvalidRequest when the body is compressed."""

    @abstractmethod
    async def read(self) -> None:
        """Read all of it into `data`. Raises InvalidRequest when it is compressed or too large, Unavailable
        when there is no room for it, and ConnectionResetError when the client disconnects first.
        """

    @abstractmethod
    async def receive(self) -> bytes:
        """The next bytes; b"" at the end. Raises ConnectionResetError when the client disconnects first."""

    def open_spool(self) -> Spool:
        """Room for a part of the body. It is closed by `release`."""
        self._spool = Spool(self.memory.disk, self.acquire)
        return self._spool

    def release(self) -> None:
        super().release()
        self.data = b""
        if self._spool is not None:
            self._spool.close()


class PreparedBody(Body):
    """JSON that is in memory already."""

    __slots__ = ()

    @property
    def content_type(self) -> bytes:
        return b"application/json"

    @property
    def length(self) -> int:
        return len(self.data)

    def check_coding(self) -> None:
        """It is not compressed."""

    async def read(self) -> None:
        """`data` is set already."""

    async def receive(self) -> bytes:
        return b""


def body_memory_exhausted() -> Unavailable:
    return Unavailable(
        "body_memory_exhausted", "The gateway holds too many request bodies. Try again in a few seconds."
    )
