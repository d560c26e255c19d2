"""A server of the Realtime API for tests: every `response.create` gets a response.

    realtime = await nursery.start(realtime_server.serve)
    gateway = await gateways.start(nursery, home, servers=[entry("one", realtime.url)])

A client event {"type": "test.send", "events": [...]} makes the server send these events.
"""

from typing import Any

import trio

from tests.fakes import socket_upstream
from tests.fakes.socket_upstream import ServerSocket, SocketUpstream

USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"text_tokens": 12, "audio_tokens": 8, "cached_tokens": 4},
    "output_token_details": {"text_tokens": 3, "audio_tokens": 7},
}


def created(response_id: str) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": response_id, "status": "in_progress"}}


def delta(response_id: str, text: str = "Hello") -> dict[str, Any]:
    return {"type": "response.output_text.delta", "response_id": response_id, "delta": text}


def done(response_id: str, usage: Any = USAGE, status: str = "completed") -> dict[str, Any]:
    response = {"id": response_id, "object": "realtime.response", "status": status, "usage": usage}
    return {"type": "response.done", "response": response}


async def script(socket: ServerSocket) -> None:
    """Answer until the client closes."""
    await socket.send({"type": "session.created", "session": {"id": "sess_1", "model": "m"}})
    count = 0
    while True:
        event = await socket.receive()
        match event["type"]:
            case "response.create":
                count += 1
                name = f"resp_{count}"
                for answer in (created(name), delta(name), done(name)):
                    await socket.send(answer)
            case "session.update":
                await socket.send({"type": "session.updated", "session": event["session"]})
            case "test.send":
                for answer in event["events"]:
                    await socket.send(answer)


async def serve(*, task_status: trio.TaskStatus[SocketUpstream]) -> None:
    await socket_upstream.serve(script, task_status=task_status)
