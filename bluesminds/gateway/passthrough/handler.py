"""Relays requests that match no operation to a server that allows it, with the checks of all other requests.

The gateway does not know what these requests mean, except for one thing: which ids of objects they name. An
object belongs to the account that created it, and its requests go to the server that made it.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import Forbidden, GatewayError, InvalidRequest, NotFound
from bluesminds.common.values import Caller, RequestContext, Requirement, Server, join_requirements
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.call import with_scoped_idempotency
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.operations import PASSTHROUGH, method_not_allowed, unknown_path
from bluesminds.gateway.passthrough.bodies import ClientRequest, read_relay_body
from bluesminds.gateway.passthrough.exchange import RelayedRequest
from bluesminds.gateway.passthrough.paths import (
    RelayPath,
    check_segments,
    collections_of,
    find_relay_path,
)
from bluesminds.gateway.passthrough.references import ids_in_query, read_query
from bluesminds.gateway.passthrough.runner import RelayRunner
from bluesminds.gateway.response_writer import ResponseWriter
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.server_objects import FoundObjects, ServerObjects
from bluesminds.providers.profiles import profile_of, relay_base
from bluesminds.wire.base import Format
from bluesminds.wire.formats import FORMATS

SERVER_HEADER: Final = b"x-bluesminds-server"
_FREE: Final = frozenset(("GET", "HEAD", "DELETE"))  # methods that make a server do no paid work


class PassthroughHandler(Struct, frozen=True):
    """`own_keys`: users may have their own vendor keys."""

    keys: KeyAuthenticator
    registry: ServerRegistry
    health: ServerHealthRegistry
    limiter: RateLimiter
    objects: ServerObjects
    runner: RelayRunner
    own_keys: bool

    def find(self, path: str) -> RelayPath | None:
        """The path if a server, or a user's own key, allows to relay it. It must match no operation."""
        return find_relay_path(path, self.registry.catalog.servers, own_keys=self.own_keys)

    async def handle(
        self,
        path: RelayPath,
        context: RequestContext,
        request: ClientRequest,
        client_format: Format | None,
        out: ResponseWriter,
    ) -> None:
        """Raises GatewayError only while nothing has been written, else ResponseAborted. `client_format`: of
        the client's API where it is not OpenAI's.
        """
        caller = None
        try:
            check_segments(path)
            _check_method(path, context.method)
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            if not self._relays(path, caller):
                raise unknown_path(f"/v1{path.text}")
            _check_key(caller)
            if caller.own_keys is None:  # before its body is read
                _check_budget(caller, context.method)
            relayed = await self._read(path, context, caller, request, client_format)
            entry = self.runner.admit(relayed, PASSTHROUGH)
        except BaseException as exc:
            self.runner.accounting.observer.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        await self.runner.run(relayed, entry, out)

    async def _read(
        self,
        path: RelayPath,
        context: RequestContext,
        caller: Caller,
        request: ClientRequest,
        client_format: Format | None,
    ) -> RelayedRequest:
        """Read the request as far as it is not a form, check its ids, and choose its server."""
        self.limiter.check_exhausted(caller)
        query = read_query(request.query)
        changes = self.keys.changes
        body = await read_relay_body(context.method, request)
        if self.keys.changes != changes:  # a key may be revoked while its body is being read
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            _check_key(caller)
        ids = body.ids.with_ids(ids_in_query(query))
        references = ids.references.union(filter(None, (path.object_id,)))
        found = await self.objects.find(caller, references, ids.mentions.union(path.below))
        required = join_requirements((caller.required, context.required))
        candidates = self._candidates(
            path, caller, request, found, required, anthropic=client_format is not None
        )
        server = candidates[0]
        if context.method == "GET" and not path.object_id:
            server = await self._server_of_list(caller, path, candidates)
        if not server.is_own:
            _check_budget(caller, context.method)
        found.check_mentions(server.name)
        base, fixed = relay_base(server)
        return RelayedRequest(
            context=with_scoped_idempotency(context, caller),
            caller=caller,
            path=path,
            target=base + path.text,
            query=[*fixed, *query],
            server=server,
            body=body,
            request=request,
            named=references | ids.mentions,
            client_format=client_format or FORMATS["chat"],
            anthropic=client_format is not None,
        )

    def _candidates(
        self,
        path: RelayPath,
        caller: Caller,
        request: ClientRequest,
        found: FoundObjects,
        required: Requirement | None,
        *,
        anthropic: bool,
    ) -> Sequence[Server]:
        """The servers that can serve the request, best first: those with its objects, else the one that the
        client names, else by health, with the caller's own keys first, and priority. Raises InvalidRequest
        and NotFound.
        """
        own = [key for key in caller.own_keys or () if path.collection in collections_of(key.server)]
        only_own = any(key.mode == "only" for key in own)
        servers = [*(key.server for key in own), *(() if only_own else self.registry.catalog.servers)]
        allowed = [
            server
            for server in servers
            if path.collection in collections_of(server)
            and (server.api_key is not None or not server.keyless)
            and (required is None or required.allows(server))
        ]
        if named := request.header(SERVER_HEADER).decode("latin-1"):
            allowed = [server for server in allowed if server.name == named]
            if not allowed:
                message = "The server in x-bluesminds-server does not exist or does not relay this path."
                raise InvalidRequest("unknown_server", message)
        if found.servers is None:
            allowed = [server for server in allowed if server.mode != "draining"]
            wanted = "messages" if anthropic or path.collection.startswith("messages/") else "chat"
            fitting = [server for server in allowed if wanted in profile_of(server).speaks]
            candidates = sorted(fitting or allowed, key=self._rank)
        else:
            candidates = [server for server in allowed if server.name in found.servers]
        if not candidates:
            raise NotFound(
                "object_server_missing",
                "The server of the object is no longer configured, does not relay this path, or is "
                "not the one in x-bluesminds-server.",
            )
        return candidates

    def _relays(self, path: RelayPath, caller: Caller) -> bool:
        """Whether a server, or a vendor key of the caller, allows the path."""
        servers = (*(key.server for key in caller.own_keys or ()), *self.registry.catalog.servers)
        return any(path.collection in collections_of(server) for server in servers)

    async def _server_of_list(self, caller: Caller, path: RelayPath, candidates: Sequence[Server]) -> Server:
        for server in candidates:
            if await self.objects.has_any(caller, server.name, path.collection):
                return server
        return candidates[0]

    def _rank(self, server: Server) -> tuple[bool, bool, int, str]:
        """Without chance, so that the objects of an account are at one server."""
        usable = self.health.is_usable(server.name, "")
        return not usable, not server.is_own, server.priority, server.name


def _check_method(path: RelayPath, method: str) -> None:
    if method not in path.methods:
        raise method_not_allowed(method, ", ".join(path.methods))


def _check_key(caller: Caller) -> None:
    """Raises Forbidden if the request could evade what restricts the key."""
    if caller.address:
        raise Forbidden("scope_not_allowed", "This endpoint needs an API key of this gateway.")
    if caller.models is not None and caller.scopes is None:
        raise Forbidden(
            "scope_not_allowed",
            "This API key is restricted to some models, and relayed requests could use others. To "
            "allow them, add the scope `passthrough` to the key.",
        )


def _check_budget(caller: Caller, method: str) -> None:
    """Raises Forbidden for a request with an unknown cost. Own keys cost nothing here."""
    limits = (caller.key_limits, caller.user_limits)
    if method not in _FREE and any(one.usd_per_day or one.usd_per_month or one.usd_total for one in limits):
        raise Forbidden(
            "model_not_priced",
            "This API key or its account has a budget, and the cost of relayed requests is unknown. Only"
            " GET, HEAD and DELETE are allowed.",
        )
