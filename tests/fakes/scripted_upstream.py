"""Servers that play the reply cases of tests/wire/cases on a real socket.

    upstream = await nursery.start(scripted_upstream.serve, case("fo-429-then-ok"))
    url = upstream.url("fo1")  # of one of the case's servers; url() of its only one

A case has `upstream`, or `upstreams` by the first segment of the path, and `models_answer` for the list of
models. Pieces are sent without pauses.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream
from tests.wire.replies import piece_bytes

Reply = dict[str, Any]
EVENTS = {"Content-Type": "text/event-stream"}


@dataclass(slots=True)
class ScriptedUpstream:
    """`asked`: the model requests, each with the segment of its server. `left`: clients that went away while
    a reply was hanging. With `hold_before` every reply hangs before the piece of this number.
    """

    case: dict[str, Any]
    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    asked: list[tuple[str, Received]] = field(default_factory=list)
    hold_before: int | None = None
    left: int = 0

    def url(self, name: str = "only") -> str:
        return f"http://127.0.0.1:{self.upstream.port}/{name}/v1"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            method, path, _ = received.line.decode().split(" ", 2)
            name = path.split("/")[1]
            if method == "GET":
                reply = self.case.get("models_answer")
            else:
                self.asked.append((name, received))
                reply = self.case.get("upstreams", {}).get(name, self.case.get("upstream"))
            if not await self._send(peer, _chosen(reply or {"status": 404}, received)):
                return

    async def _send(self, peer: Peer, reply: Reply) -> bool:
        """Whether the connection can be used again."""
        pieces = [piece_bytes(piece) for piece in reply.get("pieces", [])]
        framing = reply.get("framing", "chunked")
        headers = dict(reply.get("headers", EVENTS))
        if framing == "length":
            headers["Content-Length"] = str(sum(map(len, pieces)))
        elif framing == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        lines = [
            f"HTTP/1.1 {reply.get('status', 200)} Reply",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        await peer.send("\r\n".join([*lines, "", ""]).encode())
        for number, piece in enumerate(pieces):
            if number == self.hold_before:
                return await self._end(peer, "hang", framing)
            await (peer.chunk(piece) if framing == "chunked" else peer.send(piece))
        return await self._end(peer, reply.get("end", "normal"), framing)

    async def _end(self, peer: Peer, end: str, framing: str) -> bool:
        if end == "abort":
            peer.reset()
        elif end == "hang":
            await peer.wait_closed()
            self.left += 1
        elif framing == "close":
            await peer.close()
        else:
            if framing == "chunked":
                await peer.send(b"0\r\n\r\n")
            return True
        return False


def _chosen(reply: Reply, received: Received) -> Reply:
    when = reply.get("when")
    if when is None or when["body_has"].encode() in received.body:
        return reply
    return dict(when["else"])


async def serve(case: dict[str, Any], *, task_status: trio.TaskStatus[ScriptedUpstream]) -> None:
    """Play the case on a free loopback port until cancelled."""
    scripted = ScriptedUpstream(json.loads(json.dumps(case)))
    async with trio.open_nursery() as nursery:
        scripted.upstream = await nursery.start(raw_upstream.serve, scripted.play)
        task_status.started(scripted)
