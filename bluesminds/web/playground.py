"""POST /api/playground/chat/completions: a chat completion for a signed-in user, with one of the user's keys.

The browser does not have the key, so it sends the session and the id of the key. The request then takes the
path of all requests to models: the limits, models, networks and origins of the key apply, and it is counted.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct, structs
from quart import Request
from werkzeug.datastructures import Headers

from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import InvalidRequest, NotFound, Unavailable
from bluesminds.common.values import RequestContext
from bluesminds.http.asgi import Scope
from bluesminds.web.guard import Access, Guard
from storage.base import StorageError

PLAYGROUND_PATH: Final = "/api/playground/chat/completions"
CHAT_PATH: Final = "/v1/chat/completions"  # whose operation it is
KEY_HEADER: Final = "X-Bluesminds-Key"


class Playground(Struct, frozen=True):
    """`find_digest` returns the digest of a key of a user, by the ids of the user and the key; None if the
    user has no such key.
    """

    guard: Guard
    find_digest: Callable[[str, str], Awaitable[bytes | None]]

    async def admit(self, scope: Scope, context: RequestContext) -> RequestContext:
        """The request with the key of the user as its credential.

        Raises Unauthenticated and Forbidden as every endpoint of a session does, InvalidRequest, NotFound and
        Unavailable.
        """
        request = _request(scope)
        key_id = request.headers.get(KEY_HEADER, "")
        try:
            principal = await self.guard.authorize(Access.SESSION, request)
            if not key_id:
                raise InvalidRequest(
                    "missing_key_id", f"Send the id of one of your API keys in the {KEY_HEADER} header."
                )
            digest = await self.find_digest(principal.user_id, key_id) if is_uuid(key_id) else None
        except StorageError as exc:
            raise Unavailable("storage_unavailable", "The database is unavailable. Try again later.") from exc
        if digest is None:
            raise NotFound(
                "key_not_found", "You have no API key with this id. GET /api/keys lists your keys."
            )
        return structs.replace(context, credential=None, credential_header=None, key_digest=digest)


def _request(scope: Scope) -> Request:
    """What the guard reads of a request."""
    headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return Request(
        scope["method"],
        scope["scheme"],
        scope["path"],
        scope["query_string"],
        headers,
        scope.get("root_path", ""),
        scope["http_version"],
        scope,  # type: ignore[arg-type]
        send_push_promise=_no_push,
    )


async def _no_push(path: str, headers: Headers) -> None:
    """HTTP/2 pushes are not used."""
