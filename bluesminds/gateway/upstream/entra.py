"""Tokens of Microsoft Entra ID for Azure servers whose key names an application (`entra:...`).

A token is renewed when two thirds of its lifetime are over, and used until it expires. Source: Microsoft,
"OAuth 2.0 client credentials flow".
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
import trio
from msgspec import Struct, structs

from bluesminds.common.entra import EntraApp, is_entra_app
from bluesminds.common.values import Server
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.providers.azure import token_service

RETRY: Final = (5.0, 60.0)  # the first and the longest pause after a failure, in seconds
PREPARE: Final = 5.0  # seconds
LIMIT: Final = 65_536  # bytes of an answer
_ERROR_CODE: Final = re.compile(r"[a-z_]{1,40}\Z", re.ASCII)
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=5.0, first_byte=10.0, between_chunks=10.0)


class TokenFailed(Exception):
    """The service gave no token. The message has no secret."""


class _Answer(Struct):
    access_token: str = ""
    expires_in: float = 0.0
    error: str = ""


class _Grant(Struct, frozen=True):
    """What a token is for: `credential` is the configured key; `service` and `scope` are URLs."""

    credential: str
    service: str
    scope: str

    def __repr__(self) -> str:
        return f"_Grant({self.service!r})"


class _Token:
    __slots__ = ("failures", "renew_at", "text", "until")

    def __init__(self) -> None:
        self.text = ""
        self.until = -math.inf  # Trio's clock
        self.renew_at = -math.inf
        self.failures = 0  # in a row


class EntraTokens:
    """`service_url` replaces the sign-in service that follows from a server's URL. `on_failure` gets the URL
    of the service and the reason.
    """

    def __init__(
        self,
        pool: Pool,
        service_url: str | None = None,
        on_failure: Callable[[str, str], None] = lambda service, reason: None,
    ) -> None:
        self._pool = pool
        self._on_failure = on_failure
        self._service_url = service_url
        self._tokens: dict[_Grant, _Token] = {}
        self._wanted = trio.Event()
        self._renewing = trio.Lock()

    def fill_in(self, servers: Iterable[Server]) -> list[Server]:
        """The servers with tokens instead of applications. A server without a token yet has no key. The
        tokens that these servers need are renewed from now on; others are dropped.
        """
        filled, used = [], {}
        for server in servers:
            grants = {key: self._grant(server, key) for key in server.api_keys if is_entra_app(key)}
            for grant in grants.values():
                used[grant] = self._tokens.get(grant) or _Token()
            filled.append(_replace_keys(server, {key: used[grant] for key, grant in grants.items()}))
        added = used.keys() - self._tokens.keys()
        self._tokens = used
        if added:
            self._wanted.set()
        return filled

    async def prepare(self, servers: Iterable[Server]) -> None:
        """Get the tokens that `fill_in` will need for these servers, for at most PREPARE seconds, so that a
        server with another application is not without a key.
        """
        grants = {
            self._grant(server, key) for server in servers for key in server.api_keys if is_entra_app(key)
        }
        new = {grant: _Token() for grant in grants - self._tokens.keys()}
        self._tokens = {**self._tokens, **new}
        with trio.move_on_after(PREPARE):
            async with trio.open_nursery() as nursery:
                for grant, token in new.items():
                    nursery.start_soon(self._renew, grant, token)

    async def obtain(self, server: Server) -> Server:
        """The server with tokens, for a server that may not be in use. Raises TokenFailed."""
        tokens: dict[str, _Token] = {}
        for key in server.api_keys:
            if is_entra_app(key):
                grant = self._grant(server, key)
                token = tokens[key] = self._tokens.get(grant) or _Token()
                if trio.current_time() >= token.until:
                    await self._request(grant, token)
        return _replace_keys(server, tokens)

    async def run(self, changed: Callable[[], None]) -> None:
        """Renew tokens until cancelled. `changed` is called when there are new ones."""
        while True:
            if await self.renew():
                changed()
            self._wanted = trio.Event()
            due = min((token.renew_at for token in self._tokens.values()), default=math.inf)
            with trio.move_on_at(due):
                await self._wanted.wait()

    async def renew(self) -> bool:
        """Get the tokens that are missing or due, all at once. Returns whether there are new ones."""
        async with self._renewing:
            now = trio.current_time()
            due = [(grant, token) for grant, token in self._tokens.items() if token.renew_at <= now]
            async with trio.open_nursery() as nursery:
                for grant, token in due:
                    nursery.start_soon(self._renew, grant, token)
        return any(not token.failures for _, token in due)

    async def _renew(self, grant: _Grant, token: _Token) -> None:
        try:
            await self._request(grant, token)
        except TokenFailed as exc:
            token.failures += 1
            pause = min(RETRY[0] * 2.0 ** (token.failures - 1), RETRY[1])
            token.renew_at = trio.current_time() + pause
            self._on_failure(grant.service, str(exc))
        else:
            token.failures = 0

    def _grant(self, server: Server, key: str) -> _Grant:
        service, scope = token_service(server.url)
        return _Grant(key, self._service_url or service, scope)

    async def _request(self, grant: _Grant, token: _Token) -> None:
        """Raises TokenFailed."""
        try:
            app = EntraApp.read(grant.credential)
            origin, base = UpstreamOrigin.parse(grant.service)
        except ValueError as exc:
            raise TokenFailed(str(exc)) from None
        fields = {
            "grant_type": "client_credentials",
            "client_id": app.client_id,
            "client_secret": app.secret,
            "scope": grant.scope,
        }
        target = f"{base}/{quote(app.tenant, safe='')}/oauth2/v2.0/token".encode()
        sent = trio.current_time()
        answer = await self._post(origin, target, urlencode(fields).encode())
        if not (answer.access_token and answer.access_token.isascii() and answer.expires_in > 0):
            raise TokenFailed("the response contains no token")
        token.text = answer.access_token
        token.until = sent + answer.expires_in
        token.renew_at = sent + answer.expires_in * 2 / 3

    async def _post(self, origin: UpstreamOrigin, target: bytes, body: bytes) -> _Answer:
        headers = ((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json"))
        try:
            response = await self._pool.request(b"POST", origin, target, headers, body, timeouts=_TIMEOUTS)
            try:
                read = await response.read(LIMIT)
            finally:
                response.close()
        except UpstreamError as exc:
            raise TokenFailed(f"no answer: {exc}") from None
        try:
            answer = msgspec.json.decode(read, type=_Answer, strict=False)
        except msgspec.MsgspecError:
            answer = _Answer()
        if response.status != 200:
            # The description of an error can repeat what was sent.
            code = f" {answer.error}" if _ERROR_CODE.match(answer.error) else ""
            raise TokenFailed(f"the service responded with {response.status}{code}")
        return answer


def _replace_keys(server: Server, tokens: dict[str, _Token]) -> Server:
    """The server with the tokens that are valid, and without the other keys among `tokens`."""
    if not tokens:
        return server
    now = trio.current_time()
    keys: Sequence[str] = [
        tokens[key].text if key in tokens else key
        for key in server.api_keys
        if key not in tokens or now < tokens[key].until
    ]
    return structs.replace(server, api_key=keys[0] if keys else None, more_keys=tuple(keys[1:]))
