"""Who may call the control plane, and what they may send.

The operator's API answers on the local socket only: whoever can open that socket owns the state directory.
The listener of the socket marks its requests in the ASGI scope, where no client can write.
"""

from typing import TypeVar

import msgspec
from quart import Request, request

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.errors import Forbidden, InvalidRequest
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send

LOCAL = "bluesminds.local"
T = TypeVar("T")


def through_local_socket(app: ASGIApp) -> ASGIApp:
    """The application as the local socket serves it. Its lifespan belongs to the public listener."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        scope[LOCAL] = True
        await app(scope, receive, send)

    return marked


async def require_local() -> None:
    """Raises Forbidden unless the request came through the local socket."""
    if not request.scope.get(LOCAL):
        raise Forbidden("local_only", "This part of the API answers on the gateway's local socket only.")


def actor() -> Actor:
    if request.scope.get(LOCAL):
        return OPERATOR
    return Actor(name="anonymous", address=request.remote_addr or "unknown")


async def read_input(model: type[T], incoming: Request) -> T:
    """The body as a model that forbids unknown fields. Raises InvalidRequest with the field's name."""
    try:
        return msgspec.json.decode(await incoming.get_data(cache=False), type=model)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$.")
        raise InvalidRequest("invalid_value", f"{reason}.", param=path.rstrip("`") or None) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc
