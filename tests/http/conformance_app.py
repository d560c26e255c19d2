"""The app of the conformance suite."""

import json

from bluesminds.http.asgi import Receive, Scope, Send
from tests.http.serving import answer, body_of


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        scope["state"]["started"] = True
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    route = ROUTES.get(scope["path"], echo)
    await route(scope, receive, send)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await body_of(receive)
    if body is None:
        return
    seen = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "version": scope["http_version"],
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
        "state": dict(scope.get("state", {})),
    }
    await answer(send, json.dumps(seen).encode(), headers=[(b"content-type", b"application/json")])


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-kind", b"stream")]})
    for index in range(3):
        await send({"type": "http.response.body", "body": b"%d" % index, "more_body": True})
    await send({"type": "http.response.body", "body": b"3"})


async def sized(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    await send({"type": "http.response.body", "body": b"cd", "more_body": False})


async def empty(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"", 204)


async def cookies(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"", 200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")])


async def early(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"no", 401)


async def fail(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("secret")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def half(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("secret")


async def late(scope: Scope, receive: Receive, send: Send) -> None:
    """Responds, and checks that `receive` then returns http.disconnect."""
    await body_of(receive)
    await answer(send, b"late")
    assert (await receive())["type"] == "http.disconnect"


ROUTES = {
    "/stream": stream,
    "/sized": sized,
    "/empty": empty,
    "/cookies": cookies,
    "/early": early,
    "/fail": fail,
    "/silent": silent,
    "/half": half,
    "/late": late,
}
