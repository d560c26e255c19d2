"""GitHub's sign-in and API on a real socket, as a GitHub Enterprise Server has them.

Formats: https://docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps and
https://docs.github.com/rest/users.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import trio

from tests.fakes import raw_upstream
from tests.fakes.identity_server import base64url
from tests.fakes.raw_upstream import Peer, Received, Upstream

CLIENT_ID, CLIENT_SECRET, TOKEN = "Iv1.0123456789abcdef", "f" * 40, "gho_16C7e42F292c6912E7710c838347Ae178B4a"
EMAIL = {"email": "ada@example.com", "primary": True, "verified": True, "visibility": "private"}
OTHER = {"email": "eve@example.com", "primary": False, "verified": True, "visibility": None}


@dataclass
class GitHubServer:
    """`answer` is added to the query of the callback. `statuses` replace that of a path."""

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    user: dict[str, Any] = field(
        default_factory=lambda: {"id": 583231, "login": "ada", "name": "Ada Lovelace"}
    )
    emails: list[dict[str, Any]] = field(default_factory=lambda: [OTHER, EMAIL])
    answer: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, bytes] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}"

    def authorize(self, location: str) -> str:
        """The address that the browser returns to, after a sign-in at `location`."""
        assert location.startswith(f"{self.url}/login/oauth/authorize?")
        query = dict(parse_qsl(urlsplit(location).query))
        assert query["client_id"] == CLIENT_ID
        assert query["scope"] == "read:user user:email"
        self.codes["c0ffee"] = query
        answer = {"code": "c0ffee", "state": query["state"]} | self.answer
        return f"{query['redirect_uri']}?{urlencode(answer)}"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            path = received.line.split(b" ")[1].decode()
            body = self._respond(path, received)
            status = b"404 Not Found" if body is None else self.statuses.get(path, b"200 OK")
            content = b"Content-Type: application/json; charset=utf-8"
            await peer.answer(json.dumps(body).encode(), content, status=status)

    def _respond(self, path: str, received: Received) -> Any:
        if path == "/login/oauth/access_token":
            return self._token(received)
        if received.values(b"authorization") != [f"Bearer {TOKEN}".encode()] or not received.values(
            b"user-agent"
        ):
            return {
                "message": "Bad credentials",
                "documentation_url": "https://docs.github.com/rest",
                "status": "401",
            }
        public = {"node_id": "MDQ6VXNlcjU4MzIzMQ==", "type": "User", "email": None, "site_admin": False}
        return {"/api/v3/user": public | self.user, "/api/v3/user/emails": self.emails}.get(path)

    def _token(self, received: Received) -> dict[str, Any]:
        assert received.values(b"accept") == [b"application/json"], "otherwise GitHub sends a form"
        form = {name: values[0] for name, values in parse_qs(received.body.decode()).items()}
        query = self.codes.pop(form["code"], None)
        verifier = form["code_verifier"].encode()
        if query is None or query["code_challenge"] != base64url(hashlib.sha256(verifier).digest()):
            return {
                "error": "bad_verification_code",
                "error_description": "The code passed is incorrect or expired.",
                "error_uri": "https://docs.github.com/apps/troubleshooting",
            }
        if (form["client_id"], form["client_secret"]) != (CLIENT_ID, CLIENT_SECRET):
            return {"error": "incorrect_client_credentials"}
        return {"access_token": TOKEN, "token_type": "bearer", "scope": "read:user,user:email"}


async def serve(*, task_status: trio.TaskStatus[GitHubServer]) -> None:
    """Serve on a free loopback port until cancelled."""
    server = GitHubServer()
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
