"""Servers with several API keys. They are used in turn; a key that the server refuses or limits rests.

A refused key rests for REFUSED_SECONDS, a limited one for the time that the server names. Each further
failure in a row doubles the shortest rest, up to LONGEST_REST. If all keys rest, the one that rests least is
used, so that its failure counts as that of the server.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Literal

import trio
from msgspec import Struct, structs

from bluesminds.common.values import Server, last_four

REFUSED_SECONDS: Final = 60.0
LIMITED_SECONDS: Final = 1.0
LONGEST_REST: Final = 3600.0

KeyFailure = Literal["refused", "limited"]


class KeyRest(Struct, frozen=True):
    """A key has failed and rests for `seconds`. `key`: its last four characters."""

    server: str
    key: str
    reason: KeyFailure
    seconds: float


class ServerKeyStatus(Struct, frozen=True):
    """`seconds` until a resting key is used again. `reason`: of its last failure; "" after a success."""

    last_four: str
    state: Literal["active", "resting"]
    seconds: float = 0.0
    reason: str = ""


class AttemptKey(Struct, frozen=True, gc=False, omit_defaults=True):
    """A key that a request was sent with. `reason`: a status or a kind of failure; "" for an answer."""

    key: str
    reason: str = ""


class _Rest:
    __slots__ = ("failures", "reason", "until")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.reason: KeyFailure = "refused"
        self.until = 0.0


class ServerKeyRegistry:
    """`monotonic` is Trio's clock in seconds."""

    def __init__(
        self,
        on_rest: Callable[[KeyRest], None] = lambda rest: None,
        monotonic: Callable[[], float] = trio.current_time,
    ) -> None:
        self._on_rest = on_rest
        self._now = monotonic
        self._turns: Counter[str] = Counter()  # by server
        self._rests: dict[tuple[str, str], _Rest] = {}  # by server and key; keys that have failed

    def choose(self, server: Server) -> str:
        """The next key in turn that does not rest; if all rest, the one that rests least."""
        keys = server.api_keys
        if (usable := self.find_usable(server)) is not None:
            return usable
        return min(keys, key=lambda key: self._seconds(server.name, key))

    def find_usable(self, server: Server) -> str | None:
        """The next key in turn that does not rest."""
        keys, turn = server.api_keys, self._turns[server.name]
        for step in range(len(keys)):
            key = keys[(turn + step) % len(keys)]
            if not (self._rests and self._seconds(server.name, key)):
                self._turns[server.name] = (turn + step + 1) % len(keys)
                return key
        return None

    def rest(self, server: Server, key: str, reason: KeyFailure, retry_after: float | None = None) -> None:
        """`retry_after`: seconds that the server has named."""
        rest = self._rests.setdefault((server.name, key), _Rest())
        if rest.until <= self._now():  # requests that were sent together fail together
            rest.failures += 1
        base = REFUSED_SECONDS if reason == "refused" else LIMITED_SECONDS
        seconds = max(base * 2.0 ** (rest.failures - 1), retry_after or 0.0)
        seconds = min(seconds, LONGEST_REST)
        rest.reason, rest.until = reason, max(rest.until, self._now() + seconds)
        self._on_rest(KeyRest(server.name, last_four(key), reason, seconds))

    def record_success(self, server: str, key: str) -> None:
        """A limited key stays resting: the request may have been sent before."""
        rest = self._rests.get((server, key))
        if rest is not None and (rest.reason == "refused" or rest.until <= self._now()):
            del self._rests[server, key]

    def seconds_until_usable(self, server: Server) -> float:
        """Until the first of its keys does not rest."""
        return min(self._seconds(server.name, key) for key in server.api_keys)

    def statuses(self, server: Server) -> list[ServerKeyStatus]:
        """In the order of the keys."""
        found = []
        for key in server.api_keys:
            seconds, rest = self._seconds(server.name, key), self._rests.get((server.name, key))
            status = ServerKeyStatus(last_four(key), "active", reason="" if rest is None else rest.reason)
            found.append(structs.replace(status, state="resting", seconds=seconds) if seconds else status)
        return found

    def resting(self) -> dict[str, float]:
        """The number of resting keys of each server that has one."""
        now = self._now()
        counted = Counter(server for (server, _), rest in self._rests.items() if rest.until > now)
        return {server: float(count) for server, count in counted.items()}

    def keep_only(self, servers: Iterable[Server]) -> None:
        """Drop servers and keys that are no longer configured."""
        kept = {(server.name, key) for server in servers for key in server.api_keys}
        self._rests = {pair: rest for pair, rest in self._rests.items() if pair in kept}
        names = {name for name, _ in kept}
        self._turns = Counter({name: turn for name, turn in self._turns.items() if name in names})

    def _seconds(self, server: str, key: str) -> float:
        rest = self._rests.get((server, key))
        return 0.0 if rest is None else max(0.0, rest.until - self._now())
