"""The dashboard of a gateway: clients with the sessions of users, and the data that they see.

async with site.browser_client("user") as ada:
    text = (await ada.get("/dashboard")).text
await site.add_usage("user", 3, model="m")
await site.look(chromium, "user", look)
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
from playwright.sync_api import Page

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.chats import ChatFacts, ChatMessage
from bluesminds.accounts.ledger import CreditEntry, CreditKind
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import NANO
from bluesminds.web.guard import PLAIN_COOKIE
from storage.usage import UsageRow, insert_batch
from tests.browser import Chromium
from tests.deployment import Callers, anonymous_client
from tests.gateways import Gateway
from tests.storage.samples import usage

T = TypeVar("T")
HTML = {"accept": "text/html,application/xhtml+xml"}


@dataclass
class DashboardSite:
    """`request_id` is the id of the first request that `add_usage` stored."""

    callers: Callers
    request_id: str = "00000000-0000-7000-8000-000000000000"
    chat_id: str = "00000000-0000-7000-8000-000000000001"
    batch_id: str = ""
    route_id: str = ""

    @property
    def gateway(self) -> Gateway:
        return self.callers.gateway

    @property
    def key_id(self) -> str:
        """The key of the user."""
        return self.callers.key_ids["good"]

    @asynccontextmanager
    async def browser_client(self, name: str | None, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """A client that asks for pages, with a session of this user or without one."""
        async with anonymous_client(self.gateway, **HTML, **headers) as client:
            if name is not None:
                token, csrf, _ = await self.callers.session(name)
                client.cookies.set(PLAIN_COOKIE, token)
                client.headers["x-csrf-token"] = csrf
            yield client

    async def add_chat(self, text: str = "hello") -> None:
        """Store a chat of the user."""
        messages = [{"role": role, "text": text} for role in ("user", "assistant")]
        async with self.browser_client("user") as client:
            created = await client.post(
                "/api/chats", json={"title": " ".join(text.split())[:100], "model": "m"}
            )
            self.chat_id = created.json()["id"]
            answer = await client.post(f"/api/chats/{self.chat_id}/messages", json={"messages": messages})
        assert answer.status_code == 201, answer.text

    async def add_talk(self, name: str, title: str, *talked: tuple[str, str]) -> str:
        """Store a chat of questions and answers. The id of the chat."""
        chats, user = self.gateway.services.accounts.chats, self.callers.users[name]
        chat = await chats.create(user, ChatFacts(title, "m"))
        for question, answer in talked:
            answered = ChatMessage(
                "assistant",
                answer,
                model="m",
                request_id="r-1",
                input_tokens=1234,
                output_tokens=5,
                cost_usd="0.0012",
                first_byte_ms=37,
                duration_ms=2200,
            )
            await chats.add(user, chat.id, [ChatMessage("user", question), answered])
        return chat.id

    async def add_usage(self, name: str, count: int, **fields: Any) -> list[UsageRow]:
        """Store `count` requests of this user, the last one now, and one in each second before."""
        now = self.gateway.services.clock.now_ms()
        defaults = {
            "user_id": self.callers.users[name],
            "key_id": self.key_id if name == "user" else "",
            "server": "one",
            "outcome": "ok",
        }
        rows = [
            replace(usage(serial), at=now - serial * 1000, id=uuid7(now), **(defaults | fields))
            for serial in range(count)
        ]
        await self.gateway.services.store.write(insert_batch, rows)
        if rows and name == "user" and int(self.request_id[:8], 16) == 0:
            self.request_id = rows[0].id
        return rows

    async def add_codes(self, name: str = "batch", count: int = 2) -> Sequence[str]:
        """Make redeem codes of 5 USD, and redeem the first one by the user."""
        codes = self.gateway.services.accounts.redeem_codes
        made = await codes.create(OPERATOR, name, 5 * NANO, count, expires_at=None, ends_at=None)
        await codes.redeem(OPERATOR, self.callers.users["user"], made.codes[0])
        self.batch_id = made.row.id
        return made.codes

    async def add_route(self, model: str = "m", **fields: Any) -> str:
        """Add a route to the server `one`. Its id."""
        body = {"model": model, "targets": [{"server": "one", "weight": 3}], **fields}
        async with self.gateway.operator() as operator:
            made = await operator.post("/api/admin/routes", json=body)
        assert made.status_code == 201, made.text
        self.route_id = made.json()["id"]
        return self.route_id

    async def add_credit(self, name: str, kind: CreditKind = "topup", usd: int = 25, **given: Any) -> None:
        """Post an entry for this user."""
        ledger = self.gateway.services.accounts.ledger
        await ledger.post(OPERATOR, self.callers.users[name], CreditEntry(kind, usd * NANO, **given))

    async def look(
        self, chromium: Chromium, name: str | None, look: Callable[[Page], T], **context: Any
    ) -> T:
        """What `look` returns, in a browser with a session of this user."""
        cookies: list[Any] = []
        if name is not None:
            token, _, _ = await self.callers.session(name)
            cookies = [{"name": PLAIN_COOKIE, "value": token, "url": self.gateway.url}]

        def signed_in(page: Page) -> T:
            page.context.add_cookies(cookies)
            return look(page)

        return await chromium.visit(self.gateway.url, signed_in, **context)
