"""A real gateway with a real mail server, and the users and keys that call it.

site = await deploy(nursery, home, signup="open")
async with site.browser() as ada:
    await ada.sign_up("ada@example.com")

callers = await create_callers(gateway)
token, csrf, session_id = await callers.session("admin")
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import trio

from bluesminds.common.clock import Clock
from storage import Connection
from tests import gateways
from tests.fakes import smtp_server
from tests.fakes.smtp_server import MailServer
from tests.gateways import TLS, Gateway

PASSWORD = "correct horse battery"


def code_of(answer: httpx.Response) -> str:
    """The code of an error response; the status of any other response."""
    return str(answer.json()["error"]["code"]) if answer.is_error else str(answer.status_code)


@asynccontextmanager
async def anonymous_client(gateway: Gateway, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client without credentials."""
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, trust_env=False, timeout=60, verify=TLS
    ) as client:
        yield client


@dataclass
class BrowserUser:
    """A client with a cookie jar, as a browser has, or with a bearer token."""

    client: httpx.AsyncClient
    mail: MailServer

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return await self.client.request(method, path, json=body, **more)

    async def sign_up(self, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return await self.send("POST", "/api/auth/signup", {"email": email, "password": password, **more})

    async def confirm(self, token: str, password: str = PASSWORD) -> httpx.Response:
        return await self.send("POST", "/api/auth/email/verify", {"token": token, "password": password})

    async def login(self, email: str, password: str = PASSWORD, *, bearer: bool = False) -> httpx.Response:
        """Log in; later requests carry the CSRF token or the bearer token of the response."""
        body = {"email": email, "password": password, "bearer": bearer}
        answer = await self.send("POST", "/api/auth/login", body)
        self.use_session(answer)
        return answer

    def use_session(self, answer: httpx.Response) -> None:
        if answer.is_success:
            session = answer.json()
            self.client.headers["x-csrf-token"] = session["csrf_token"]
            if session["token"] is not None:
                self.client.headers["authorization"] = f"Bearer {session['token']}"

    async def register(self, email: str, password: str = PASSWORD, *, bearer: bool = False) -> str:
        """Sign up, confirm the address and log in; the user's id."""
        before = len(self.mail.to(email))
        assert (await self.sign_up(email, password)).status_code == 202
        mail = await self.mail.arrived(email, before + 1)
        assert (await self.confirm(mail.token, password)).status_code == 200
        answer = await self.login(email, password, bearer=bearer)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["user"]["id"])

    async def is_signed_in(self) -> bool:
        answer = await self.send("GET", "/api/auth/me")
        assert answer.status_code in (200, 401)
        return answer.is_success


@dataclass
class Deployment:
    """A running gateway and the mail server that it sends to."""

    gateway: Gateway
    mail: MailServer

    @asynccontextmanager
    async def browser(self, **headers: str) -> AsyncIterator[BrowserUser]:
        async with anonymous_client(self.gateway, **headers) as client:
            yield BrowserUser(client, self.mail)

    async def create_user(self, email: str, role: str = "user", **more: Any) -> str:
        """An account that the operator creates; its id."""
        async with self.gateway.operator() as operator:
            body = {"email": email, "password": PASSWORD, "role": role, **more}
            answer = await operator.post("/api/admin/users", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


async def deploy(
    nursery: trio.Nursery,
    home: Path,
    *,
    servers: list[dict[str, Any]] | None = None,
    clock: Clock | None = None,
    sections: dict[str, dict[str, Any]] | None = None,
    notifications: bool = False,
    **accounts: Any,
) -> Deployment:
    """Start both servers. `accounts` are settings of [accounts]. `notifications`: events cause mail."""
    mail_server: MailServer = await nursery.start(smtp_server.serve)
    mail = {
        "host": "127.0.0.1",
        "port": mail_server.port,
        "security": "none",
        "sender": "gateway@example.com",
        "notifications": notifications,
    }
    gateway = await gateways.start(
        nursery,
        home,
        servers=servers or [],
        clock=clock,
        **{"accounts": accounts, "mail": mail, **(sections or {})},
    )
    return Deployment(gateway, mail_server)


@dataclass
class Callers:
    """Users and API keys of every kind, by name. Sessions are created on demand, because some requests end
    them.
    """

    gateway: Gateway
    users: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    key_ids: dict[str, str] = field(default_factory=dict)

    async def session(self, name: str) -> tuple[str, str, str]:
        """A token, its CSRF token and its id."""
        services = self.gateway.services
        sessions = services.accounts.sessions
        session = sessions.new(self.users[name], address="127.0.0.1", user_agent="tests")
        await services.store.write(sessions.insert, session)
        return session.token, session.csrf, session.row.id


ALL_USERS = ("user", "other", "admin", "disabled")
KEYS: dict[str, dict[str, Any]] = {
    "good": {},
    "for chats": {"scopes": ["chat.completions"]},
    "for models": {"scopes": ["models"]},
    "for both": {"scopes": ["chat.completions", "models"]},
    "for another model": {"allowed_models": ["other"]},
    "revoked": {},
    "rotated": {},
    "rotated, in its overlap": {},
    "expired": {"expires_at": "2099-01-01T00:00:00Z"},
    "of a disabled user": {},
    "from elsewhere": {"allowed_ips": ["192.0.2.0/24", "2001:db8::/32"]},
    "from here": {"allowed_ips": ["127.0.0.0/8"]},
    "for a page": {"allowed_origins": ["https://app.example.com"]},
}
OVERLAP_SECONDS = {
    "rotated": 0,
    "rotated, in its overlap": 600,
    "of a disabled user": 600,
    "from elsewhere": 600,
    "for models": 600,
}
"""The keys that are rotated once; the tests call with their old secret."""


async def create_callers(gateway: Gateway, only: tuple[str, ...] = ALL_USERS) -> Callers:
    """With fewer users than ALL_USERS there is one key, "good"."""
    callers = Callers(gateway)
    async with gateway.operator() as operator:
        await _create_users(operator, callers, only)
        await _create_keys(operator, callers, KEYS if only == ALL_USERS else {"good": {}})
        if only != ALL_USERS:
            return callers
        answer = await operator.delete(f"/api/admin/keys/{callers.key_ids['revoked']}")
        assert answer.status_code == 204
        for name, seconds in OVERLAP_SECONDS.items():
            rotation = {"overlap_seconds": seconds}
            answer = await operator.post(f"/api/admin/keys/{callers.key_ids[name]}/rotate", json=rotation)
            assert answer.status_code == 201, answer.text
        path = f"/api/admin/users/{callers.users['disabled']}"
        answer = await operator.patch(path, json={"disabled": True})
        assert answer.status_code == 200, answer.text
    await gateway.services.store.write(_expire)
    return callers


async def _create_users(operator: httpx.AsyncClient, callers: Callers, names: tuple[str, ...]) -> None:
    for name in names:
        role = "admin" if name == "admin" else "user"
        body = {"email": f"{name}@example.com", "password": PASSWORD, "role": role, "tier": None}
        answer = await operator.post("/api/admin/users", json=body)
        assert answer.status_code == 201, answer.text
        callers.users[name] = answer.json()["id"]


async def _create_keys(
    operator: httpx.AsyncClient, callers: Callers, keys: dict[str, dict[str, Any]]
) -> None:
    for name, more in keys.items():
        owner = "disabled" if name == "of a disabled user" else "user"
        body = {"name": name, "user_id": callers.users[owner]} | more
        answer = await operator.post("/api/admin/keys", json=body)
        assert answer.status_code == 201, answer.text
        callers.keys[name], callers.key_ids[name] = answer.json()["key"], answer.json()["id"]


async def _expire(connection: Connection) -> None:
    await connection.execute("UPDATE api_keys SET expires_at = 1 WHERE name = 'expired'")


def forget_changes(gateway: Gateway) -> None:
    """For tests that make more changes than users may."""
    gateway.services.accounts.throttle._changes._empty_at.clear()
