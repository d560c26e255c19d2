"""Data for requests to a server, computed once per server."""

from collections.abc import Mapping

from msgspec import Struct, json, structs

from bluesminds.common.server_headers import holds_credential
from bluesminds.common.values import Server, last_four
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.routing.server_keys import AttemptKey
from bluesminds.gateway.stand_ins import StandIns, restore_ids
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.providers.dialects import Headers, fill_path
from bluesminds.providers.profiles import join_path, profile_of

ANTHROPIC_PREFIX = b"anthropic-"
SHORTEST_SECRET = 8  # characters; a shorter key could be part of ordinary words


class UpstreamEndpoint(Struct, frozen=True):
    """A server with its parsed URL and its key. `own_key`: the key is the client's, not the gateway's.
    `stand_ins` are in the request: see stand_ins.py. A server with several keys has an endpoint for each of
    them in `by_key`; there, `key` is set, and `earlier` has the keys that failed for the same request.
    """

    server: Server
    origin: UpstreamOrigin
    base: str
    headers: Headers
    secrets: tuple[bytes, ...]
    own_key: bool = False
    stand_ins: StandIns = ()
    key: str = ""
    earlier: tuple[AttemptKey, ...] = ()
    by_key: Mapping[str, "UpstreamEndpoint"] = {}

    @classmethod
    def to(cls, server: Server) -> "UpstreamEndpoint":
        origin, base = UpstreamOrigin.parse(server.url, trusted=server.is_trusted)
        profile = profile_of(server)
        endpoint = cls(
            server=server,
            origin=origin,
            base=base,
            headers=profile.headers(server.api_key, server.headers),
            secrets=server_secrets(server),
        )
        if not server.more_keys:
            return endpoint
        by_key = {
            key: structs.replace(endpoint, headers=profile.headers(key, server.headers), key=key)
            for key in server.api_keys
        }
        return structs.replace(endpoint, by_key=by_key)

    def key_uses(self, reason: str = "") -> tuple[AttemptKey, ...]:
        """The keys of this request, the last one with the reason if it has failed."""
        return (*self.earlier, AttemptKey(last_four(self.key), reason)) if self.key else ()

    def with_key(self, api_key: str) -> "UpstreamEndpoint":
        """The same endpoint for a client that brings its own key for the server. It does not use credentials
        among the configured headers: those are the operator's.
        """
        own = tuple(header for header in self.server.headers if not holds_credential(header[0]))
        headers = profile_of(self.server).headers(api_key, own)
        secrets = (*secret_encodings(api_key), *self.secrets)
        return structs.replace(self, headers=headers, secrets=secrets, own_key=True)

    def target(self, path: str, model: str, *, stream: bool) -> bytes:
        """The path to send."""
        if "{" in path:
            path = fill_path(path, model, stream=stream)
        return join_path(self.base, path).encode()

    def headers_for(self, plan: Plan, forward: Headers) -> Headers:
        """The server's headers, and the forwarded headers of the client. Headers of Anthropic's API (version
        and features) are only forwarded with an untranslated request.
        """
        if not forward:
            return self.headers
        if plan.format not in ("messages", "count_tokens") or plan.translated:
            return (*self.headers, *(one for one in forward if not one[0].startswith(ANTHROPIC_PREFIX)))
        sent = {name for name, _ in forward}
        return (*(one for one in self.headers if one[0] not in sent), *forward)

    def redact(self, data: bytes) -> bytes:
        """Complete data without the server's key, and with the ids of the client."""
        if self.stand_ins:
            data = restore_ids(data, self.stand_ins)
        for secret in self.secrets:
            if secret in data:
                data = data.replace(secret, b"[redacted]")
        return data


class StreamRedactor:
    """Masks secrets in bytes that arrive in pieces. The length stays the same: the client may know it.
    Bytes that may begin a secret are held back.
    """

    __slots__ = ("_held", "_secrets")

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._secrets = secrets
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        data = self._held + piece
        for secret in self._secrets:
            if secret in data:
                data = data.replace(secret, b"*" * len(secret))
        end = len(data) - max((_begun(data, secret) for secret in self._secrets), default=0)
        self._held = data[end:]
        return data[:end]

    def finish(self) -> bytes:
        """The bytes that were held back."""
        held, self._held = self._held, b""
        return held


def _begun(data: bytes, secret: bytes) -> int:
    """The number of bytes at the end of the data with which the secret begins."""
    at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
    while at >= 0 and not secret.startswith(data[at:]):
        at = data.find(secret[:1], at + 1)
    return 0 if at < 0 else len(data) - at


def server_secrets(server: Server) -> tuple[bytes, ...]:
    """What must not reach a client: the server's keys, and the credentials among its headers."""
    secrets = [one for key in server.api_keys for one in secret_encodings(key)]
    for name, value in server.headers:
        if holds_credential(name):
            secrets += secret_encodings(value.removeprefix("Bearer ").removeprefix("Basic "))
    return tuple(dict.fromkeys(secrets))


def secret_encodings(api_key: str | None) -> tuple[bytes, ...]:
    """The key as text, and as JSON writers encode it."""
    if api_key is None or len(api_key) < SHORTEST_SECRET:
        return ()
    in_json = json.encode(api_key)[1:-1]
    return tuple({api_key.encode(), in_json, in_json.replace(b"/", b"\\/")})
