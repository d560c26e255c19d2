"""The frozen values of the walk, in the order it makes them.

    Arrival -> Caller -> Call -> [Target] -> Ticket (admit.py) -> Reply (send.py) -> Usage

Each step takes the earlier ones and returns the next; none edits what came before.
msgspec Structs because they are built per request and cost a fifth of a dataclass.
"""

from typing import Literal

from msgspec import Struct

Source = Literal["upstream", "estimated", "none"]


class Arrival(Struct, frozen=True, gc=False):
    """A request whose head has been read."""

    id: str  # UUIDv7, this gateway's own, unique
    request_id: str  # the client's X-Request-Id if it sent a sane one, else id
    endpoint: str  # "chat.completions"
    credential: str | None  # the key as sent, never logged
    credential_header: str | None  # which header carried it
    client: str  # IP address, or "local" on a Unix socket
    forward: tuple[tuple[bytes, bytes], ...]  # client headers that travel on to the server
    at_ms: int  # wall time
    started: float  # Trio's clock, seconds


class Caller(Struct, frozen=True, gc=False):
    """Whom the key belongs to, and what it allows. Limits: 0 means none."""

    key_id: str
    user_id: str
    key_name: str
    requests_per_minute: int
    concurrency: int
    expires_at: int | None  # milliseconds since the epoch


class Call(Struct, frozen=True, gc=False):
    """What is asked of a model. The body is not part of it: it is let go of before the answer ends."""

    arrival: Arrival
    model: str
    stream: bool
    wants_usage: bool  # the client itself asked for the usage chunk


class Server(Struct, frozen=True):
    """One upstream. `models` empty means whatever the server says it has."""

    name: str
    dialect: str
    url: str
    api_key: str | None
    models: tuple[str, ...]
    weight: int
    priority: int
    origin: str  # where it was configured: "file", "table" or "environment"

    def __repr__(self) -> str:
        return f"Server({self.name!r}, {self.dialect!r})"


class Usage(Struct, frozen=True, gc=False):
    """Tokens of one answer. None: the server did not say. `source`: "upstream", "estimated" or "none"."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    source: Source = "none"


NO_USAGE = Usage()
