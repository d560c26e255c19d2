"""The prompt log: what is kept, of whom, and who reads it."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bluesminds.common.clock import SystemClock
from bluesminds.common.crypto import Vault, new_master_key
from bluesminds.common.log import Log
from bluesminds.common.redaction import Redactor
from bluesminds.gateway.prompt_log import PromptLog
from storage.base import IntegrityError, StorageUnavailable
from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.fakes.model_server import DONE, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateways import ASK, STREAM, entry, eventually
from tests.storage.conftest import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
SECRET = "the-secret-of-the-prompt"
ANSWER = "the-secret-of-the-answer"
ASKED = ASK | {"messages": [{"role": "user", "content": SECRET}]}
PATH = "/api/prompt-log"


async def site_with(
    nursery: trio.Nursery, home: Path, models: ModelServer, url: str | None = None, **settings: Any
) -> Deployment:
    sections: dict[str, Any] = {"prompt_log": settings, "log": {"level": "debug"}}
    if url:
        sections["storage"] = {"url": url}
    return await deploy(nursery, home, servers=[entry("one", models.url)], sections=sections)


@pytest.fixture(params=["sqlite", "postgres"])
async def site(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer
) -> Deployment:
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    return await site_with(nursery, home, models, url)


class Person:
    """A signed-in user with a key."""

    def __init__(self, site: Deployment, browser: BrowserUser, user_id: str, key: dict[str, Any]) -> None:
        self.site, self.browser, self.id, self.key = site, browser, user_id, key

    async def chat(self, body: Any = ASKED) -> str:
        """The id of the request."""
        answer = await self.site.gateway.chat(body, key=self.key["key"])
        return answer.headers["x-request-id"]

    async def entries(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.browser.send("GET", PATH + query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"])

    async def kept(self, count: int) -> list[dict[str, Any]]:
        async def check() -> bool:
            return len(await self.entries()) >= count

        await eventually(check)
        return await self.entries()

    async def one(self, request_id: str) -> dict[str, Any]:
        await eventually(lambda: self._has(request_id))
        return dict((await self.browser.send("GET", f"{PATH}/{request_id}")).json())

    async def _has(self, request_id: str) -> bool:
        return (await self.browser.send("GET", f"{PATH}/{request_id}")).is_success


async def person(
    stack: contextlib.AsyncExitStack,
    site: Deployment,
    name: str = "ada",
    *,
    role: str = "user",
    **key: Any,
) -> Person:
    browser = await stack.enter_async_context(site.browser())
    user_id = await site.create_user(f"{name}@example.com", role, tier=None)
    assert (await browser.login(f"{name}@example.com")).is_success
    made = await browser.send("POST", "/api/keys", {"name": "laptop", **key})
    assert made.status_code == 201, made.text
    return Person(site, browser, user_id, made.json())


async def test_request_of_a_key_that_wants_it_is_kept(site: Deployment, models: ModelServer) -> None:
    models.plan(whole(completion(ANSWER)))
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        request_id = await ada.chat()
        (head,) = await ada.kept(1)
        assert (head["id"], head["model"], head["preview"]) == (request_id, "m", SECRET)
        await site.gateway.services.store.read(_nothing)
        found = await ada.one(request_id)
        assert msgspec.json.decode(found["request"]) == ASKED
        assert found["answer"] == ANSWER
        assert msgspec.json.decode(found["response"])["choices"][0]["message"]["content"] == ANSWER
        assert (found["streamed"], found["cut"], found["redacted"]) == (False, [], 0)


async def _nothing(connection: object) -> None:
    """Waits for earlier units."""


async def test_text_of_a_stream_is_joined(site: Deployment, models: ModelServer) -> None:
    models.plan(streamed(chunk("the-secret"), chunk("-of-"), chunk("the-answer"), chunk(finish="stop"), DONE))
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        found = await ada.one(await ada.chat(STREAM))
    assert (found["answer"], found["streamed"], found["response"]) == (ANSWER, True, None)


# By `prompt_log` of the settings: those of the account and of the key, and whether requests are kept.
DECISIONS: dict[bool, list[tuple[str | None, str | None, bool]]] = {
    False: [(None, None, False), (None, "on", True), ("on", None, True), ("on", "off", False)],
    True: [(None, None, True), ("off", None, False), ("off", "on", True), (None, "off", False)],
}


@pytest.mark.parametrize("default", [False, True])
async def test_key_decides_before_account_before_settings(
    nursery: trio.Nursery, home: Path, models: ModelServer, default: bool, subtests: pytest.Subtests
) -> None:
    site = await site_with(nursery, home, models, default=default)
    async with contextlib.AsyncExitStack() as stack:
        for number, (account, key, kept) in enumerate(DECISIONS[default]):
            with subtests.test(f"account {account}, key {key}"):
                ada = await person(stack, site, f"ada{number}", prompt_log=key)
                changed = await ada.browser.send("PATCH", "/api/auth/me", {"prompt_log": account})
                assert changed.json()["prompt_log"] == account
                await ada.chat()
                # A key that certainly is kept shows when the queue has been stored.
                made = await ada.browser.send("POST", "/api/keys", {"name": "other", "prompt_log": "on"})
                await site.gateway.chat(ASK, key=made.json()["key"])
                await ada.kept(1)
                assert [row["key_id"] for row in await ada.entries()].count(ada.key["id"]) == kept


async def test_nothing_is_kept_without_retention(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    site = await site_with(nursery, home, models, default=True, retention_days=0)
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        await ada.chat()
        await site.gateway.stop()
    with site.gateway.reading() as database:
        assert database.execute("SELECT count(*) FROM prompt_log").fetchone() == (0,)


async def test_texts_are_nowhere_in_clear(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    site = await site_with(nursery, home, models)
    models.plan(whole(completion(ANSWER)), refusal(500), refusal(500), refusal(500))
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        await ada.chat()
        await ada.chat()
        await ada.kept(2)
        metrics = (await site.gateway.get("/metrics")).text
    await site.gateway.stop()
    stored = b"".join(path.read_bytes() for path in (home / "state").rglob("*") if path.is_file())
    for text in (SECRET, ANSWER):
        assert text.encode() not in stored
        assert text not in site.gateway.log
        assert text not in metrics


async def test_texts_are_redacted_and_cut(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    site = await site_with(
        nursery, home, models, max_bytes=256, redact=["email", "card"], redact_patterns=["EMP-[0-9]+"]
    )
    text = "ada@example.com 4111 1111 1111 1111 EMP-12"
    models.plan(whole(completion(text + "x" * 1000)))
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        body = ASK | {"messages": [{"role": "user", "content": text}]}
        found = await ada.one(await ada.chat(body))
        content = msgspec.json.decode(found["request"])["messages"][0]["content"]
        assert content == "[email] [card] [redacted]"
        assert found["answer"].startswith("[email] [card] [redacted]xxx")
        assert found["cut"] == ["response"] and found["redacted"] >= 3
        models.plan(whole(completion("yes")))
        long = await ada.one(await ada.chat(ASK | {"user": "y" * 500}))
        assert (len(long["request"]), long["cut"][0]) == (256, "request")
        assert (await ada.entries())[0]["preview"]


async def test_users_see_export_and_delete_only_their_own(site: Deployment, models: ModelServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        bob = await person(stack, site, "bob", prompt_log="on")
        ids = [await ada.chat() for _ in range(3)]
        theirs = await bob.chat()
        await ada.kept(3)
        await bob.kept(1)
        for method in ("GET", "DELETE"):
            answer = await ada.browser.send(method, f"{PATH}/{theirs}")
            assert (answer.status_code, code_of(answer)) == (404, "prompt_not_found")
        first = (await ada.browser.send("GET", f"{PATH}?limit=2")).json()
        assert [row["id"] for row in first["data"]] == [ids[2], ids[1]]
        assert [row["id"] for row in await ada.entries(f"?after={first['next_cursor']}")] == [ids[0]]
        assert len(await ada.entries("?model=m")) == 3 and await ada.entries("?model=other") == []
        export = await ada.browser.send("GET", f"{PATH}/export")
        lines = [msgspec.json.decode(line) for line in export.content.splitlines()]
        assert [line["id"] for line in lines] == ids[::-1]
        assert SECRET in lines[0]["request"]
        assert (await ada.browser.send("DELETE", f"{PATH}/{ids[0]}")).status_code == 204
        assert (await ada.browser.send("DELETE", PATH)).json() == {"deleted": 2}
        assert await ada.entries() == []
        assert len(await bob.entries()) == 1


@pytest.mark.parametrize("allowed", [False, True])
async def test_administrators_read_by_the_rule_and_each_look_is_audited(
    nursery: trio.Nursery, home: Path, models: ModelServer, allowed: bool
) -> None:
    site = await site_with(nursery, home, models, administrators=allowed)
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        admin = await person(stack, site, "admin", role="admin")
        request_id = await ada.chat()
        await ada.kept(1)
        (head,) = (await admin.browser.send("GET", "/api/admin/prompt-log")).json()["data"]
        assert (head["id"], head["preview"]) == (request_id, None)
        assert (await admin.browser.send("GET", f"{PATH}/{request_id}")).status_code == 404
        one = await admin.browser.send("GET", f"/api/admin/prompt-log/{request_id}")
        export = await admin.browser.send("GET", f"/api/admin/users/{ada.id}/prompt-log")
        audit = (await admin.browser.send("GET", "/api/admin/audit?limit=5")).json()["data"]
        looks = [(row["action"], row["subject"], row["actor"]) for row in audit if "prompt" in row["action"]]
        if not allowed:
            assert code_of(one) == code_of(export) == "prompt_log_private"
            assert looks == []
        else:
            assert SECRET in one.json()["request"] and SECRET in export.text
            assert looks == [
                ("prompt_log.export", ada.id, admin.id),
                ("prompt_log.read", request_id, admin.id),
            ]
            assert SECRET not in str(audit)
        gone = await admin.browser.send("DELETE", f"/api/admin/users/{ada.id}/prompt-log")
        assert gone.json() == {"deleted": 1}
        assert await ada.entries() == []


async def test_log_is_erased_with_the_account(site: Deployment, models: ModelServer) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, prompt_log="on")
        await ada.chat()
        await ada.kept(1)
        async with site.gateway.operator() as operator:
            assert (await operator.delete(f"/api/admin/users/{ada.id}")).status_code == 204
            assert (await operator.get("/api/admin/prompt-log")).json()["data"] == []


class FailingStore:
    """Fails with these errors, one for each write, and then accepts."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.rows: list[Any] = []

    async def write(self, unit: Callable[..., Any], rows: Any) -> None:
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        self.rows += rows


class FinishedRecord:
    """What the queue needs of a record."""

    def __init__(self, size: int) -> None:
        self.size = size


def log_on(store: Any, **settings: Any) -> PromptLog:
    return PromptLog(
        store,
        Vault([new_master_key()]),
        Redactor(),
        log=Log(SystemClock(), write=lambda line: None),
        **({"max_bytes": 1000, "queue_bytes": 1000} | settings),
    )


async def test_full_queue_drops_and_counts() -> None:
    log: Any = log_on(FailingStore(), queue_bytes=100)
    for _ in range(5):
        log.add(FinishedRecord(40))
    assert (log.dropped, log.held) == (3, 80)


async def test_database_that_fails_for_a_while_gets_the_rows_later(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FailingStore(StorageUnavailable("busy"), StorageUnavailable("busy"))
    log: Any = log_on(store)
    monkeypatch.setattr(log, "_rows", lambda batch: ["row"] * len(batch))
    nursery.start_soon(log.run)
    log.add(FinishedRecord(40))
    await log.wait_stored()
    assert (store.rows, log.stored, log.dropped, log.held) == (["row"], 1, 0, 0)


async def test_row_of_a_deleted_account_does_not_hinder_the_others(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FailingStore(IntegrityError("batch"), IntegrityError("first"))
    log: Any = log_on(store)
    monkeypatch.setattr(log, "_rows", lambda batch: [f"row {n}" for n in range(len(batch))])
    nursery.start_soon(log.run)
    for _ in range(3):
        log.add(FinishedRecord(40))
    await log.wait_stored()
    assert (store.rows, log.stored, log.dropped) == (["row 1", "row 2"], 2, 1)
