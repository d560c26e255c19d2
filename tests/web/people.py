"""Everybody who might call: users with sessions, and keys of every kind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from storage import Connection
from tests.gateways import TLS, Gateway

PASSWORD = "correct horse battery"


@dataclass
class Cast:
    """Everybody who might call, by name; sessions are made when they are needed, because some calls end
    them.
    """

    gateway: Gateway
    users: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    key_ids: dict[str, str] = field(default_factory=dict)

    async def session(self, name: str) -> tuple[str, str, str]:
        """A token, its CSRF token and its id."""
        core = self.gateway.core
        opened = core.sessions.new(self.users[name], address="127.0.0.1", user_agent="tests")
        await core.store.write(core.sessions.open_in, opened)
        return opened.token, opened.csrf, opened.row.id


EVERYBODY = ("user", "other", "admin", "disabled")


async def assemble(gateway: Gateway, only: tuple[str, ...] = EVERYBODY) -> Cast:
    """With a part of everybody there is one key, a good one."""
    found = Cast(gateway)
    async with gateway.operator() as operator:
        for name in only:
            role = "admin" if name == "admin" else "user"
            body = {"email": f"{name}@example.com", "password": PASSWORD, "role": role, "tier": None}
            answer = await operator.post("/api/admin/users", json=body)
            assert answer.status_code == 201, answer.text
            found.users[name] = answer.json()["id"]
        for name, more in KEYS.items() if only == EVERYBODY else [("good", {})]:
            owner = "disabled" if name == "of a disabled user" else "user"
            body = {"name": name, "user_id": found.users[owner]} | more
            answer = await operator.post("/api/admin/keys", json=body)
            assert answer.status_code == 201, answer.text
            found.keys[name], found.key_ids[name] = answer.json()["key"], answer.json()["id"]
        if only != EVERYBODY:
            return found
        answer = await operator.delete(f"/api/admin/keys/{found.key_ids['revoked']}")
        assert answer.status_code == 204
        for name, seconds in ROTATED.items():  # and it is the old form that calls
            rotation = {"overlap_seconds": seconds}
            answer = await operator.post(f"/api/admin/keys/{found.key_ids[name]}/rotate", json=rotation)
            assert answer.status_code == 201, answer.text
        answer = await operator.patch(f"/api/admin/users/{found.users['disabled']}", json={"disabled": True})
        assert answer.status_code == 200, answer.text
    await gateway.core.store.write(_expire)
    return found


async def _expire(connection: Connection) -> None:
    await connection.execute("UPDATE api_keys SET expires_at = 1 WHERE name = 'expired'")


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


ROTATED = {
    "rotated": 0,
    "rotated, in its overlap": 600,
    "of a disabled user": 600,
    "from elsewhere": 600,
    "for models": 600,
}


@asynccontextmanager
async def stranger(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60, verify=TLS) as client:
        yield client
