"""Responses that identical requests share: an exact cache in memory.

Two requests are identical if they have the same operation, the same JSON fields with the same values, the
same API headers, the same requirements on servers, and the same owner (see `CacheScope`). While one of them
runs, the others wait for its response. Only complete and successful responses are stored. `Cache-Control` of
the request is honoured: https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1
"""

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from itertools import chain
from typing import Final, Literal

import trio
from msgspec import Struct

from bluesminds.common.money import write_usd
from bluesminds.common.values import Caller, Requirement, Usage, join_requirements
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.limits.headers import Headers
from bluesminds.gateway.response_writer import ForwardingWriter, ResponseWriter

CacheScope = Literal["key", "account", "all"]
CacheResult = Literal["hit", "miss", "bypass"]
CACHE_HEADER: Final = b"x-bluesminds-cache"
_CACHED = Usage(0, 0, usage_source="cache")
_ENTRY_BYTES = 500  # of a response's entry, without its body
_KEPT_HEADERS = frozenset(
    (b"content-type", b"cache-control", b"x-accel-buffering", b"x-bluesminds-dropped", b"x-bluesminds-model")
)
_NOT_PART_OF_REQUEST = frozenset((b"traceparent", b"tracestate", b"idempotency-key"))
_MAX_AGE = re.compile(r"\s*max-age\s*=\s*\"?(\d{1,9})\"?\s*").fullmatch


class CachedResponse(Struct, frozen=True, gc=False):
    """`stored_at`: Trio's clock. `streamed`: the body was sent in parts."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    streamed: bool
    stored_at: float

    def age(self) -> float:
        """Seconds."""
        return trio.current_time() - self.stored_at


class ResponseCache:
    """`seconds`: for how long a response is used. `max_bytes`: of all responses; the ones that were not used
    for the longest time are removed first. `count` is called with the result of each request.
    """

    def __init__(
        self,
        *,
        seconds: float,
        max_bytes: int,
        max_response_bytes: int,
        scope: CacheScope,
        count: Callable[[CacheResult], object],
    ) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self.max_response_bytes = max_response_bytes
        self._scope = scope
        self._responses: OrderedDict[bytes, CachedResponse] = OrderedDict()
        self._running: dict[bytes, trio.Event] = {}
        self.held = 0  # bytes
        self.count = count

    def look_up(self, caller: Caller, call: Call, body: CallBody, *, linked: bool) -> "CacheLookup":
        """`linked`: the request refers to a stored response or another object. Call it before the first
        rendering of the body.
        """
        directives = _CacheControl.read(call.context.cache_control)
        usable = directives.store and not linked and _is_cacheable(caller, call)
        if not usable or not isinstance(body, JsonBody):
            return CacheLookup(self, b"", directives)
        owner = {"key": caller.key_id, "account": caller.user_id, "all": ""}[self._scope]
        if caller.own_keys is not None:
            owner = owner or caller.user_id  # other users must not get responses for this user's vendor key
        required = join_requirements((caller.required, call.context.required))
        return CacheLookup(self, _digest(owner, required, call, body), directives)

    def find(self, digest: bytes, max_age: float) -> CachedResponse | None:
        found = self._responses.get(digest)
        if found is None:
            return None
        if found.age() >= self._seconds:
            self._remove(digest)
            return None
        if found.age() > max_age:
            return None
        self._responses.move_to_end(digest)
        return found

    def store(self, digest: bytes, response: CachedResponse) -> None:
        if digest in self._responses:
            self._remove(digest)
        self._responses[digest] = response
        self.held += _size(response)
        while self.held > self._max_bytes:
            self._remove(next(iter(self._responses)))

    def running(self, digest: bytes) -> trio.Event | None:
        """Set when the request with this digest that runs now has ended."""
        return self._running.get(digest)

    def begin(self, digest: bytes) -> trio.Event:
        running = self._running[digest] = trio.Event()
        return running

    def end(self, digest: bytes, running: trio.Event) -> None:
        if self._running.get(digest) is running:
            del self._running[digest]
        running.set()

    def _remove(self, digest: bytes) -> None:
        self.held -= _size(self._responses.pop(digest))


class CacheLookup:
    """The use of the cache by one request. An empty `digest`: the cache is not used. Close it in any case."""

    def __init__(self, cache: ResponseCache, digest: bytes, directives: "_CacheControl") -> None:
        self._cache = cache
        self._digest = digest
        self._directives = directives
        self._running: trio.Event | None = None
        self._recorder: _RecordingWriter | None = None

    async def find(self) -> CachedResponse | None:
        """A stored response. It waits for an identical request that is running."""
        cache, digest = self._cache, self._digest
        if not digest:
            cache.count("bypass")
            return None
        if self._directives.use:
            found = cache.find(digest, self._directives.max_age)
            if found is None and (running := cache.running(digest)) is not None:
                await running.wait()  # once: if the other failed, all that waited are sent at once
                found = cache.find(digest, self._directives.max_age)
            if found is not None:
                cache.count("hit")
                return found
        cache.count("miss")
        self._running = cache.begin(digest)
        return None

    def record(self, out: ResponseWriter) -> ResponseWriter:
        """A writer that keeps what it writes for `close`."""
        result: CacheResult = "miss" if self._digest else "bypass"
        self._recorder = _RecordingWriter(out, result, self._cache.max_response_bytes if self._digest else 0)
        return self._recorder

    def close(self, *, complete: bool) -> None:
        """`complete`: the response is complete and not an error."""
        response = None if self._recorder is None or not complete else self._recorder.response()
        if self._digest and response is not None:
            self._cache.store(self._digest, response)
        if self._running is not None:
            self._cache.end(self._digest, self._running)


async def send_cached(
    found: CachedResponse, entry: UsageEntry, headers: Headers, out: ResponseWriter
) -> None:
    """The request is settled without usage and without cost. `headers` are added to those of the response."""
    entry.finish(found.status, "ok", _CACHED)
    await entry.wait_durable()
    entry.begin_response()
    age = b"%d" % found.age()
    headers = [*found.headers, *headers, (CACHE_HEADER, b"hit"), (b"age", age)]
    if found.streamed:
        await out.start(found.status, headers)
        await out.end(found.body)
    else:
        await out.send(found.status, [*headers, (b"x-cost-usd", write_usd(0).encode())], found.body)


class _RecordingWriter(ForwardingWriter):
    """Adds the result of the cache as a header. Keeps at most `most` bytes."""

    def __init__(self, out: ResponseWriter, result: CacheResult, most: int) -> None:
        super().__init__(out)
        self._header = (CACHE_HEADER, result.encode())
        self._most = most
        self._status = 0
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._parts: list[bytes] = []
        self._size = 0
        self._streamed = False
        self._ended = False

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        self._begin(status, headers)
        self._keep(body)
        self._ended = True
        await self._out.send(status, [*headers, self._header], body)

    async def start(self, status: int, headers: Headers) -> None:
        self._begin(status, headers)
        self._streamed = True
        await self._out.start(status, [*headers, self._header])

    async def write(self, data: bytes) -> None:
        self._keep(data)
        await self._out.write(data)

    async def end(self, data: bytes = b"") -> None:
        self._keep(data)
        self._ended = True
        await self._out.end(data)

    def response(self) -> CachedResponse | None:
        """What was written, if it is complete, successful and not too large."""
        if not self._ended or self._status != HTTPStatus.OK or self._size > self._most:
            return None
        body = b"".join(self._parts)
        return CachedResponse(self._status, self._headers, body, self._streamed, trio.current_time())

    def _begin(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = tuple(header for header in headers if header[0] in _KEPT_HEADERS)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            self._parts.clear()
        else:
            self._parts.append(data)


class _CacheControl(Struct, frozen=True, gc=False):
    """What the client allows. `max_age`: seconds."""

    use: bool = True
    store: bool = True
    max_age: float = math.inf

    @classmethod
    def read(cls, header: str) -> "_CacheControl":
        """Unknown directives are ignored."""
        if not header:
            return cls()
        directives = {directive.strip().lower() for directive in header.split(",")}
        ages = [int(found[1]) for directive in directives if (found := _MAX_AGE(directive))]
        return cls(
            use="no-cache" not in directives,
            store="no-store" not in directives,
            max_age=min(ages, default=math.inf),
        )


def _is_cacheable(caller: Caller, call: Call) -> bool:
    """Requests with a client's own key, stored responses, media and counts of tokens are not cached."""
    if caller.address or call.own_key or call.observer is not None:
        return False
    return not (call.format.is_media or call.operation.estimated)


def _digest(owner: str, required: Requirement | None, call: Call, body: JsonBody) -> bytes:
    digest = hashlib.sha256()
    headers = [header for header in call.context.forward if header[0] not in _NOT_PART_OF_REQUEST]
    fields = [(name.encode(), bytes(raw)) for name, raw in body.fields().items()]
    sizes = (b"%d" % len(headers), b"%d" % len(fields))
    names = ((), ()) if required is None else (required.regions, required.tags)
    servers = [",".join(sorted(group)).encode() for group in names]
    operation = (owner.encode(), call.operation.path.encode())
    for part in chain(operation, servers, sizes, *sorted(headers), *sorted(fields)):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def _size(response: CachedResponse) -> int:
    return len(response.body) + _ENTRY_BYTES
