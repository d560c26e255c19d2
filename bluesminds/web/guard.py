"""Who may call the control plane, and what they may send.

The operator's API answers on the local socket only: whoever can open that socket owns the state directory.
The listener of the socket marks its requests in the ASGI scope, where no client can write.
"""

import re
from typing import Final, TypeVar

import msgspec
from quart import Request, request

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.config.fields import fields_of
from bluesminds.errors import Forbidden, InvalidRequest
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send

LOCAL = "bluesminds.local"
# How msgspec words what is wrong.
_WRONG: Final = re.compile(r" - at `\$\.(\w+)")
_MISSING: Final = re.compile(r"^Object missing required field `(\w+)`")
_UNKNOWN: Final = "Object contains unknown field "
T = TypeVar("T", bound=msgspec.Struct)


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
        raise _invalid_value(model, str(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc


def _invalid_value(model: type[msgspec.Struct], reason: str) -> InvalidRequest:
    """msgspec's reason in words of ours: the field and its rule, never the value."""
    fields = fields_of(model)
    if found := _WRONG.search(reason):
        return InvalidRequest(
            "invalid_value", f"{found[1]} must be {fields[found[1]].expected}.", param=found[1]
        )
    if missing := _MISSING.match(reason):
        message = f"{missing[1]} is missing; it must be {fields[missing[1]].expected}."
        return InvalidRequest("invalid_value", message, param=missing[1])
    if reason.startswith(_UNKNOWN):
        return InvalidRequest("invalid_value", f"Unknown field. Known here: {', '.join(fields)}.")
    return InvalidRequest("invalid_value", "The request body must be a JSON object.")
