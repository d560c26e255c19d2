"""Keeps the endpoints of servers, and chooses the key of each request."""

from typing import Final

from msgspec import structs

from bluesminds.common.values import Server
from bluesminds.gateway.call import Call
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint

MAX_OWN: Final = 1000  # endpoints of users' own keys


class EndpointCache:
    def __init__(self, keys: ServerKeyRegistry) -> None:
        self._keys = keys
        self._endpoints: dict[str, UpstreamEndpoint] = {}
        self._own: dict[str, UpstreamEndpoint] = {}

    def find(self, server: Server, call: Call) -> UpstreamEndpoint:
        """The endpoint, with the key for this request."""
        if server.is_own:
            return self._find_own(server, call)
        endpoint = self._endpoints.get(server.name)
        if endpoint is None or endpoint.server is not server:
            endpoint = self._endpoints[server.name] = UpstreamEndpoint.to(server)
        if server.more_keys and not call.own_key:
            endpoint = endpoint.by_key[self._keys.choose(server)]
        if call.stand_ins:
            return structs.replace(endpoint, stand_ins=call.stand_ins)
        return endpoint.with_key(call.context.credential or "") if call.own_key else endpoint

    def _find_own(self, server: Server, call: Call) -> UpstreamEndpoint:
        """Of a user's own key. The server is another value whenever the user's account is read again."""
        endpoint = self._own.get(server.name)
        if endpoint is None or (endpoint.server is not server and endpoint.server != server):
            if len(self._own) >= MAX_OWN:
                del self._own[next(iter(self._own))]
            endpoint = self._own[server.name] = UpstreamEndpoint.to(server)
        return structs.replace(endpoint, stand_ins=call.stand_ins) if call.stand_ins else endpoint
