"""Resend's API on a real socket: POST /emails and GET /domains, with their checks and errors.

    resend = await nursery.start(serve)
    ... url = resend.url
    assert resend.sent[0]["to"] == ["ada@example.com"]

Formats: https://resend.com/docs/api-reference, and the errors of the SDKs.
"""

import base64
import hmac
import json
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream

API_KEY = "re_0123456789abcdef"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


@dataclass
class ResendServer:
    """`sent` are the bodies of accepted mails, `keys` their idempotency keys. `failures` are the next answers
    (status, name, headers), in order.
    """

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    sent: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    failures: deque[tuple[int, str, tuple[bytes, ...]]] = field(default_factory=deque)
    domains: list[dict[str, str]] = field(
        default_factory=lambda: [{"id": "d1", "name": "example.com", "status": "verified"}]
    )
    restricted: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}"

    async def play(self, peer: Peer) -> None:
        try:
            while True:
                status, body, headers = self._answer(await peer.request())
                line = f"{status} {REASONS.get(status, 'Error')}".encode()
                lines = (b"Content-Type: application/json", *headers)
                await peer.answer(json.dumps(body).encode(), *lines, status=line)
        except EOFError:
            return

    def _answer(self, request: Received) -> tuple[int, dict[str, Any], tuple[bytes, ...]]:
        if not request.values(b"user-agent"):
            return *_error(403, "validation_error"), ()
        if request.values(b"authorization") != [f"Bearer {API_KEY}".encode()]:
            return *_error(403, "invalid_api_key"), ()
        if self.failures:
            status, name, headers = self.failures.popleft()
            return *_error(status, name), headers
        if request.line == b"GET /domains HTTP/1.1":
            if self.restricted:
                return *_error(401, "restricted_api_key"), ()
            return 200, {"object": "list", "data": self.domains}, ()
        if request.line == b"POST /emails HTTP/1.1":
            return *self._send(request), ()
        return *_error(404, "not_found"), ()

    def _send(self, request: Received) -> tuple[int, dict[str, Any]]:
        (key,) = request.values(b"idempotency-key")
        if not 0 < len(key) <= 256:
            return _error(400, "invalid_idempotency_key")
        if found := self.keys.get(key.decode()):
            same, mail_id = found
            return (
                (200, {"id": mail_id}) if same == request.body else _error(409, "invalid_idempotent_request")
            )
        body = json.loads(request.body)
        if missing := {"from", "to", "subject"} - set(body):
            return _error(422, "missing_required_field", f"Missing `{missing.pop()}` field")
        if not all("@" in address for address in body["to"]):
            return _error(422, "validation_error", f"Invalid `to` field: {body['to']}")
        self.sent.append(body)
        mail_id = f"49a3999c-0ce1-4ea6-ab68-{len(self.sent):012}"
        self.keys[key.decode()] = (request.body, mail_id)
        return 200, {"id": mail_id}


def _error(status: int, name: str, message: str = "The request failed.") -> tuple[int, dict[str, Any]]:
    return status, {"statusCode": status, "name": name, "message": message}


async def serve(task_status: trio.TaskStatus[ResendServer]) -> None:
    server = ResendServer()
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(partial(raw_upstream.serve, server.play))
        task_status.started(server)


def signed_webhook(
    event: dict[str, Any], *, now: int, secret: str = WEBHOOK_SECRET, message_id: str = "msg_1"
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a webhook, signed as Svix does. `now` is in seconds."""
    body = json.dumps(event).encode()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{now}.".encode() + body, "sha256")
    return body, {
        "content-type": "application/json",
        "svix-id": message_id,
        "svix-timestamp": str(now),
        "svix-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def bounced(address: str, kind: str = "Permanent") -> dict[str, Any]:
    return _event(
        "email.bounced",
        address,
        bounce={"message": "The mailbox does not exist.", "type": kind, "subType": "General"},
    )


def complained(address: str) -> dict[str, Any]:
    return _event("email.complained", address)


def _event(kind: str, address: str, **data: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "created_at": "2026-11-22T23:41:12.126Z",
        "data": {
            "email_id": "56761188-7520-42d8-8898-ff6fc54ce618",
            "created_at": "2026-11-22T23:41:11.894719+00:00",
            "from": "BluesMinds <gateway@example.com>",
            "to": [address],
            "subject": "Hello",
            **data,
        },
    }
