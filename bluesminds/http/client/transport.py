"""The outbound pool as an httpx transport, so that every httpx client uses its limits.

Use it with a client made with `trust_env=False`. `Set-Cookie` is removed: the client's cookie jar is shared
by all callers and would send one caller's cookies for another.
"""

import math
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager

import httpx

from bluesminds.http.client.pool import (
    ChunkTimeout,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    LocalResourceError,
    Pool,
    PoolTimeout,
    Response,
    Timeouts,
    UpstreamCut,
    UpstreamError,
    UpstreamOrigin,
    UpstreamProtocolError,
    WriteTimeout,
)

_ERRORS: Mapping[type[UpstreamError], type[httpx.TransportError]] = {
    PoolTimeout: httpx.PoolTimeout,
    ConnectTimeout: httpx.ConnectTimeout,
    ConnectFailed: httpx.ConnectError,
    LocalResourceError: httpx.ConnectError,
    WriteTimeout: httpx.WriteTimeout,
    FirstByteTimeout: httpx.ReadTimeout,
    ChunkTimeout: httpx.ReadTimeout,
    UpstreamCut: httpx.ReadError,
    UpstreamProtocolError: httpx.RemoteProtocolError,
}


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends requests over a pool it does not own. socket_path: a Unix socket for every URL."""

    def __init__(self, pool: Pool, *, socket_path: str | None = None) -> None:
        self._pool = pool
        self._unix = None if socket_path is None else UpstreamOrigin("unix", socket_path, 0)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _as_httpx_errors(request):
            response = await self._pool.request(
                request.method.encode("ascii"),
                self._unix or _origin(request.url),
                request.url.raw_path,
                request.headers.raw,
                _body(request),
                timeouts=_timeouts(request),
            )
        return httpx.Response(
            response.status,
            headers=[header for header in response.headers if header[0] != b"set-cookie"],
            stream=_Stream(response, request),
            extensions={"http_version": b"HTTP/1.1"},
        )


class _Stream(httpx.AsyncByteStream):
    """The body as an iterator object: an unfinished generator would need a task to close it."""

    def __init__(self, response: Response, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        with _as_httpx_errors(self._request):
            data = await self._response.receive()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        self._response.close()


def _origin(url: httpx.URL) -> UpstreamOrigin:
    host = url.raw_host.decode("ascii")
    match url.scheme:
        case "http":
            return UpstreamOrigin("http", host, url.port or 80)
        case "https":
            return UpstreamOrigin("https", host, url.port or 443)
    raise httpx.UnsupportedProtocol("the URL must begin with http:// or https://")


def _body(request: httpx.Request) -> bytes | AsyncIterable[bytes]:
    try:
        return request.content
    except httpx.RequestNotRead:
        if isinstance(request.stream, httpx.AsyncByteStream):
            return request.stream
        raise


def _timeouts(request: httpx.Request) -> Timeouts:
    given = request.extensions.get("timeout", {})

    def seconds(name: str) -> float:
        value = given.get(name)
        return math.inf if value is None else float(value)

    return Timeouts(
        connect=seconds("connect"),
        pool=seconds("pool"),
        write=seconds("write"),
        first_byte=seconds("read"),
        between_chunks=seconds("read"),
    )


@contextmanager
def _as_httpx_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except UpstreamError as exc:
        raise _ERRORS[type(exc)](str(exc), request=request) from exc
