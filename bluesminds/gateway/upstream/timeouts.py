"""The timeouts of one attempt.

A stream whose first content is late should move to the next server soon, but the last server that is left
should get more time. So there are two limits: `first_token_timeout` while another target is left, and
`first_byte_timeout` for the last one. A response that is not streamed has neither, because the next server
would charge for the request again.
"""

import math
from dataclasses import replace
from typing import Final

from msgspec import Struct, structs

from bluesminds.common.routes import DEFAULT_OPTIONS, RouteOptions
from bluesminds.common.values import ServerOptions
from bluesminds.http.client.pool import Timeouts

_Overrides = tuple[float | None, float | None]
MAX_BUILT: Final = 1_000  # combinations of servers and routes


class StreamTimeouts(Struct, frozen=True):
    """`first_byte` of each is the time until the first content. `next_left`: while another target is left."""

    next_left: Timeouts
    last: Timeouts


def with_server(timeouts: Timeouts, server: ServerOptions) -> Timeouts:
    """With the times of a server to connect, of silence and in total."""
    return replace(
        timeouts,
        connect=timeouts.connect if server.connect_timeout is None else server.connect_timeout,
        between_chunks=timeouts.between_chunks if server.chunk_timeout is None else server.chunk_timeout,
        total=server.total_timeout,
    )


class TimeoutTable:
    """`first_token`: seconds until the first content of a stream while another target is left."""

    def __init__(self, timeouts: Timeouts, first_token: float) -> None:
        self.timeouts = timeouts
        self.json = replace(timeouts, first_byte=math.inf, between_chunks=math.inf)
        last = timeouts.first_byte
        self._default = StreamTimeouts(replace(timeouts, first_byte=min(first_token, last)), timeouts)
        self._of_routes: dict[_Overrides, StreamTimeouts] = {}
        self._json_of_servers: dict[ServerOptions, Timeouts] = {}
        self._of_servers: dict[tuple[ServerOptions, _Overrides], StreamTimeouts] = {}

    def for_stream(self, options: RouteOptions, *, is_last: bool) -> Timeouts:
        found = self._default if options is DEFAULT_OPTIONS else self._of_route(options)
        return found.last if is_last else found.next_left

    def for_server(
        self, server: ServerOptions, options: RouteOptions, *, stream: bool, is_last: bool
    ) -> Timeouts:
        """For a server that sets its own timeouts. The limits of a route have priority."""
        if not stream:
            if (json := self._json_of_servers.get(server)) is None:
                if len(self._json_of_servers) >= MAX_BUILT:
                    self._json_of_servers.clear()
                json = with_server(self.json, structs.replace(server, chunk_timeout=None))
                self._json_of_servers[server] = json
            return json
        key = (server, (options.first_token_timeout, options.chunk_timeout))
        if (found := self._of_servers.get(key)) is None:
            if len(self._of_servers) >= MAX_BUILT:
                self._of_servers.clear()
            found = self._of_servers[key] = self._build_for_server(*key)
        return found.last if is_last else found.next_left

    def _build_for_server(self, server: ServerOptions, route: _Overrides) -> StreamTimeouts:
        built = self._build(
            server.first_token_timeout if route[0] is None else route[0],
            server.chunk_timeout if route[1] is None else route[1],
        )
        last = built.last.first_byte if server.first_byte_timeout is None else server.first_byte_timeout
        if route[0] is not None:
            last = max(last, route[0])
        next_left = min(built.next_left.first_byte, last)
        plain = structs.replace(server, chunk_timeout=None)
        return StreamTimeouts(
            with_server(replace(built.next_left, first_byte=next_left), plain),
            with_server(replace(built.last, first_byte=last), plain),
        )

    def _of_route(self, options: RouteOptions) -> StreamTimeouts:
        key = (options.first_token_timeout, options.chunk_timeout)
        if key == (None, None):
            return self._default
        if (found := self._of_routes.get(key)) is None:
            found = self._of_routes[key] = self._build(*key)
        return found

    def _build(self, first_token: float | None, between_chunks: float | None) -> StreamTimeouts:
        default = self._default
        last = default.last.first_byte
        if first_token is None:
            first_token = default.next_left.first_byte
        else:
            last = max(last, first_token)
        if between_chunks is None:
            between_chunks = default.last.between_chunks
        return StreamTimeouts(
            replace(default.last, first_byte=first_token, between_chunks=between_chunks),
            replace(default.last, first_byte=last, between_chunks=between_chunks),
        )
