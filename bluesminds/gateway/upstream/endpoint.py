"""What sending to a server needs, computed once for each server."""

from msgspec import Struct, json, structs

from bluesminds.common.values import Server
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.providers.dialects import DIALECTS, Headers

SHORTEST_SECRET = 8  # characters; a shorter key could be part of ordinary words


class UpstreamEndpoint(Struct, frozen=True):
    """A server with its parsed URL and its key. `own_key`: the key is the client's, not the gateway's."""

    server: Server
    origin: UpstreamOrigin
    base: str
    headers: Headers
    secrets: tuple[bytes, ...]
    own_key: bool = False

    @classmethod
    def to(cls, server: Server) -> "UpstreamEndpoint":
        origin, base = UpstreamOrigin.parse(server.url, trusted=server.origin != "table")
        return cls(
            server=server,
            origin=origin,
            base=base,
            headers=DIALECTS[server.dialect].headers(server.api_key),
            secrets=secret_encodings(server.api_key),
        )

    def with_key(self, api_key: str) -> "UpstreamEndpoint":
        """The same endpoint for a client that brings its own key for the server."""
        headers = DIALECTS[self.server.dialect].headers(api_key)
        secrets = (*secret_encodings(api_key), *self.secrets)
        return structs.replace(self, headers=headers, secrets=secrets, own_key=True)

    def redact(self, data: bytes) -> bytes:
        """The data without the server's key."""
        for secret in self.secrets:
            if secret in data:
                data = data.replace(secret, b"[redacted]")
        return data


def secret_encodings(api_key: str | None) -> tuple[bytes, ...]:
    """The key as text, and as JSON writers encode it."""
    if api_key is None or len(api_key) < SHORTEST_SECRET:
        return ()
    in_json = json.encode(api_key)[1:-1]
    return tuple({api_key.encode(), in_json, in_json.replace(b"/", b"\\/")})
