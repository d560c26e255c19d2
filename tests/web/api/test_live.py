"""Live streams of requests and log events over HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.common import broadcast
from bluesminds.web.api import live
from tests import gateways
from tests.deployment import Callers, code_of, create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry, eventually


@pytest.fixture
async def callers(nursery: trio.Nursery, home: Path, models: ModelServer) -> Callers:
    return await create_callers(await gateways.start(nursery, home, servers=[entry("one", models.url)]))


class Reader:
    """`names` and `data` of the events so far."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.names: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.begun = trio.Event()
        self.ended = trio.Event()

    async def run(self) -> None:
        name = "message"
        async for line in self.response.aiter_lines():
            self.begun.set()
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                self.names.append(name)
                self.data.append(json.loads(value))
                name = "message"
        self.ended.set()


@asynccontextmanager
async def reading(client: httpx.AsyncClient, path: str) -> AsyncIterator[Reader]:
    async with client.stream("GET", path) as response, trio.open_nursery() as nursery:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        reader = Reader(response)
        nursery.start_soon(reader.run)
        await reader.begun.wait()
        yield reader
        nursery.cancel_scope.cancel()


async def user_client(callers: Callers, name: str) -> httpx.AsyncClient:
    token, _, _ = await callers.session(name)
    return callers.gateway.client(token)


async def test_stream_of_requests_has_only_own_rows(callers: Callers) -> None:
    gateway = callers.gateway
    path = "/api/usage/logs/stream"
    async with (
        await user_client(callers, "user") as user,
        await user_client(callers, "other") as other,
        await user_client(callers, "admin") as admin,
        reading(user, path) as own,
        reading(other, path) as others,
        reading(admin, f"/api/admin{path[4:]}") as all_users,
    ):
        assert (await gateway.chat(key=callers.keys["good"])).status_code == 200
        assert (await gateway.chat()).status_code == 200
        await eventually(lambda: len(all_users.data) == 2)
        await eventually(lambda: len(own.data) == 1)
        assert own.names == ["message"] and others.data == []
        assert own.data[0]["key"] == callers.key_ids["good"]
        assert "server" not in own.data[0] and "user" not in own.data[0]
        assert [row["server"] for row in all_users.data] == ["one", "one"]
        row = (await user.get("/api/usage/logs")).json()["data"][0]
        assert row == own.data[0]


async def test_stream_of_requests_with_filters_has_matching_rows(callers: Callers) -> None:
    gateway, of_all = callers.gateway, "/api/admin/usage/logs/stream"
    async with (
        await user_client(callers, "admin") as admin,
        reading(admin, f"{of_all}?request_id=second&status=2xx") as by_id,
        reading(admin, f"{of_all}?key={callers.key_ids['good']}&user={callers.users['user']}") as by_key,
        reading(admin, f"{of_all}?failed=true") as failed,
        reading(admin, of_all) as every,
    ):
        for name in ("first", "second"):
            await gateway.chat(key=callers.keys["good"], headers={"x-request-id": name})
        await gateway.chat(headers={"x-request-id": "third"})
        await eventually(lambda: len(every.data) == 3 and len(by_key.data) == 2 and len(by_id.data) == 1)
        assert [row["request_id"] for row in every.data] == ["first", "second", "third"]
        assert [row["request_id"] for row in by_key.data] == ["first", "second"]
        assert [row["request_id"] for row in by_id.data] == ["second"]
        assert failed.data == []


async def test_stream_of_the_log_has_recent_and_new_events(callers: Callers) -> None:
    gateway = callers.gateway
    await gateway.chat(key=callers.keys["good"], headers={"x-request-id": "before"})
    async with await user_client(callers, "admin") as admin:
        path = f"/api/admin/logs/stream?recent=5&key={callers.key_ids['good']}&level=info&event=request"
        async with reading(admin, path) as reader:
            await gateway.chat(headers={"x-request-id": "of another key"})
            await gateway.chat(key=callers.keys["good"], headers={"x-request-id": "after"})
            await eventually(lambda: len(reader.data) == 2)
        assert [event["request_id"] for event in reader.data] == ["before", "after"]
        latest = (await admin.get("/api/admin/logs?request_id=after")).json()["data"]
        assert latest == [reader.data[1]]
        assert latest == [event for event in gateway.events("request") if event["request_id"] == "after"]
        assert (await admin.get("/api/admin/logs?level=error")).json()["data"] == []
        assert len((await admin.get("/api/admin/logs?recent=1")).json()["data"]) == 1


async def test_stream_is_ended_when_its_reader_leaves(callers: Callers) -> None:
    log = callers.gateway.services.log
    async with await user_client(callers, "admin") as admin:
        async with reading(admin, "/api/admin/logs/stream"):
            assert log.followers.readers == 1
        await eventually(lambda: log.followers.readers == 0)


async def test_stream_is_ended_when_the_gateway_stops(callers: Callers) -> None:
    gateway: Gateway = callers.gateway
    async with (
        await user_client(callers, "user") as user,
        await user_client(callers, "admin") as admin,
        reading(user, "/api/usage/logs/stream") as requests,
        reading(admin, "/api/admin/logs/stream") as events,
    ):
        await gateway.stop()
        with trio.fail_after(60):
            await requests.ended.wait()
            await events.ended.wait()


async def test_stream_over_its_time_ends(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SECONDS", 0.0)
    async with await user_client(callers, "user") as user:
        answer = await user.get("/api/usage/logs/stream")
    assert answer.text == "retry: 1000\n\n"


async def test_stream_without_events_sends_comments(
    callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PAUSE", 0.0)
    async with await user_client(callers, "user") as user, user.stream("GET", "/api/usage/logs/stream") as it:
        text = ""
        async for piece in it.aiter_text():
            text += piece
            if ":\n\n:\n\n" in text:
                break
    assert text.startswith("retry: 1000\n\n")


async def test_streams_over_the_bound_are_refused(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "READERS_OF_OWNER", 1)
    path = "/api/usage/logs/stream"
    async with (
        await user_client(callers, "user") as user,
        await user_client(callers, "other") as other,
        reading(user, path),
    ):
        refused = await user.get(path)
        assert (refused.status_code, code_of(refused)) == (429, "too_many_streams")
        async with reading(other, path):
            pass
