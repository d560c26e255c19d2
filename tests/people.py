"""People who sign up and in at a real gateway, with a mailbox at a real mail server.

town = await settle(nursery, home, signup="open")
async with town.visitor() as ada:
    await ada.sign_up("ada@example.com")
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio

from bluesminds.common.clock import Clock
from tests import gateways
from tests.fakes import smtp_server
from tests.fakes.smtp_server import MailServer
from tests.gateways import TLS, Gateway

PASSWORD = "correct horse battery"


def code_of(answer: httpx.Response) -> str:
    """The error's code, or the status of an answer that is none."""
    return str(answer.json()["error"]["code"]) if answer.is_error else str(answer.status_code)


@dataclass
class Visitor:
    """Somebody at a browser, or a program with a bearer token."""

    client: httpx.AsyncClient
    post: MailServer

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, json=body, **more)

    async def sign_up(self, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return await self.send("POST", "/api/auth/signup", {"email": email, "password": password, **more})

    async def confirm(self, token: str, password: str = PASSWORD) -> httpx.Response:
        return await self.send("POST", "/api/auth/email/verify", {"token": token, "password": password})

    async def login(self, email: str, password: str = PASSWORD, *, bearer: bool = False) -> httpx.Response:
        """With the answer's CSRF token, or its bearer token, on everything that follows."""
        wanted = {"email": email, "password": password, "bearer": bearer}
        answer = await self.send("POST", "/api/auth/login", wanted)
        self.use(answer)
        return answer

    def use(self, answer: httpx.Response) -> None:
        if answer.is_success:
            begun = answer.json()
            self.client.headers["x-csrf-token"] = begun["csrf_token"]
            if begun["token"] is not None:
                self.client.headers["authorization"] = f"Bearer {begun['token']}"

    async def join(self, email: str, password: str = PASSWORD, *, bearer: bool = False) -> str:
        """Sign up, confirm, sign in; the user's id."""
        before = len(self.post.to(email))
        assert (await self.sign_up(email, password)).status_code == 202
        mail = await self.post.arrived(email, before + 1)
        assert (await self.confirm(mail.token, password)).status_code == 200
        answer = await self.login(email, password, bearer=bearer)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["user"]["id"])

    async def is_in(self) -> bool:
        answer = await self.send("GET", "/api/auth/me")
        assert answer.status_code in (200, 401)
        return answer.is_success


@dataclass
class Town:
    gateway: Gateway
    post: MailServer

    @asynccontextmanager
    async def visitor(self, **headers: str) -> AsyncIterator[Visitor]:
        async with httpx.AsyncClient(
            base_url=self.gateway.url, headers=headers, trust_env=False, timeout=60, verify=TLS
        ) as client:
            yield Visitor(client, self.post)

    async def user(self, email: str, role: str = "user", **more: Any) -> str:
        """An account made by the operator; its id."""
        async with self.gateway.operator() as operator:
            body = {"email": email, "password": PASSWORD, "role": role, **more}
            answer = await operator.post("/api/admin/users", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def settle(
    nursery: trio.Nursery,
    home: Path,
    *,
    servers: list[dict[str, Any]] | None = None,
    clock: Clock | None = None,
    sections: dict[str, dict[str, Any]] | None = None,
    **accounts: Any,
) -> Town:
    """`accounts` are settings of [accounts]."""
    post: MailServer = await nursery.start(smtp_server.serve)
    mail = {"host": "127.0.0.1", "port": post.port, "security": "none", "sender": "gateway@example.com"}
    gateway = await gateways.start(
        nursery,
        home,
        servers=servers or [],
        clock=clock,
        **{"accounts": accounts, "mail": mail, **(sections or {})},
    )
    return Town(gateway, post)
