"""The token endpoint of Microsoft Entra ID for applications, on a real socket.

service = await nursery.start(entra_service.serve)
"""

import json
from collections import deque
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import trio

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Upstream

LIFETIME = 3600  # seconds


def token(number: int) -> str:
    return f"eyJ0eXAiOiJKV1QifQ.eyJudW1iZXIiOiJ4In0.token-{number}"


@dataclass
class EntraService:
    """`paths` and `forms` are those of all requests. `failures` are answered first, with their status."""

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    paths: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)
    failures: deque[tuple[bytes, str]] = field(default_factory=deque)
    issued: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            self.paths.append(received.line.split()[1].decode())
            self.forms.append({name: values[0] for name, values in parse_qs(received.body.decode()).items()})
            status, answer = b"200 OK", json.dumps(self._issue() if not self.failures else {})
            if self.failures:
                status, code = self.failures.popleft()
                described = f"AADSTS7000215: {self.forms[-1]['client_secret']} is not a valid secret."
                answer = json.dumps({"error": code, "error_description": described})
            await peer.answer(answer.encode(), b"Content-Type: application/json", status=status)

    def _issue(self) -> dict[str, object]:
        self.issued += 1
        return {
            "token_type": "Bearer",
            "expires_in": LIFETIME,
            "ext_expires_in": LIFETIME,
            "access_token": token(self.issued),
        }


async def serve(*, task_status: trio.TaskStatus[EntraService]) -> None:
    """Serve on a free loopback port until cancelled."""
    service = EntraService()
    async with trio.open_nursery() as nursery:
        service.upstream = await nursery.start(raw_upstream.serve, service.play)
        task_status.started(service)
