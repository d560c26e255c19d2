"""Replay: a request of the prompt log is sent again, within the limits and at the cost of its key."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from storage.base import Connection
from tests.deployment import Deployment, code_of, deploy
from tests.fakes.model_server import DONE, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateway.test_prompt_log import ANSWER, ASKED, SECRET, Person, person
from tests.gateways import ASK, STREAM, entry

Start = Callable[..., Any]
PRICES = [
    {"model": "m", "input_usd": 1, "output_usd": 2},
    {"model": "other", "input_usd": 10, "output_usd": 20},
]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer) -> Start:
    async def started(**settings: Any) -> Deployment:
        log = {"default": True} | settings.pop("prompt_log", {})
        servers = [entry("one", models.url, models=["m", "other"])]
        sections = {"prompt_log": log, "prices": PRICES, **settings}
        return await deploy(nursery, home, servers=servers, sections=sections)

    return started


def counts(prompt: int, answer: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


async def replay(who: Person, request_id: str, **body: Any) -> httpx.Response:
    return await who.browser.send("POST", f"/api/requests/{request_id}/replay", body)


async def test_replay_with_another_model_shows_both_answers(start: Start, models: ModelServer) -> None:
    site = await start()
    models.plan(
        whole(completion(ANSWER, usage=counts(1000, 500))),
        whole(completion("Better", usage=counts(2000, 100))),
    )
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat()
        await ada.one(first)
        answer = await replay(ada, first, model="other")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        before, after = found["original"], found["replay"]
        assert (before["id"], before["model"], before["answer"]) == (first, "m", ANSWER)
        assert (before["status"], before["input_tokens"], before["output_tokens"]) == (200, 1000, 500)
        assert (before["cost_usd"], after["cost_usd"]) == ("0.002", "0.022")
        assert (after["model"], after["answer"], after["server"]) == ("other", "Better", "one")
        assert (after["status"], after["input_tokens"], after["output_tokens"]) == (200, 2000, 100)
        assert before["duration_ms"] >= 0 and after["duration_ms"] >= 0
        assert (found["error"], found["redacted"], after["cut"]) == (None, 0, False)
        sent = models.asked[-1].body
        assert (sent["model"], sent["messages"]) == ("other", ASKED["messages"])
        receipt = (await ada.browser.send("GET", f"/api/requests/{after['id']}")).json()
        assert (receipt["receipt"]["replay_of"], receipt["key_id"]) == (first, ada.key["id"])
        again = await ada.one(after["id"])  # it is in the prompt log as well
        assert again["answer"] == "Better"


async def test_replay_of_a_stream_joins_its_text(start: Start, models: ModelServer) -> None:
    site = await start()
    models.plan(
        *2 * [streamed(chunk("the-secret"), chunk("-of-the-answer"), chunk(finish="stop"), DONE)],
    )
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat(STREAM)
        await ada.one(first)
        found = (await replay(ada, first)).json()
    assert found["replay"]["answer"] == found["original"]["answer"] == ANSWER
    assert (found["replay"]["response"], found["error"]) == (None, None)
    assert models.asked[-1].body["stream"] is True


async def test_replay_in_gemini_format_has_the_model_in_its_path(start: Start, models: ModelServer) -> None:
    site = await start()
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        body = {"contents": [{"role": "user", "parts": [{"text": SECRET}]}]}
        async with site.gateway.client(ada.key["key"]) as client:
            answer = await client.post("/v1beta/models/m:generateContent", json=body)
        assert answer.status_code == 200, answer.text
        (head,) = await ada.kept(1)
        found = (await replay(ada, head["id"], model="other")).json()
    assert (found["original"]["model"], found["replay"]["model"]) == ("m", "other")
    assert found["replay"]["answer"] == found["original"]["answer"] != ""


async def test_replay_of_another_user_is_not_found(start: Start, models: ModelServer) -> None:
    site = await start()
    async with contextlib.AsyncExitStack() as stack:
        ada, eve = await person(stack, site), await person(stack, site, "eve")
        first = await ada.chat()
        await ada.one(first)
        count = len(models.asked)
        assert code_of(await replay(eve, first)) == "prompt_not_found"
        admin = await person(stack, site, "root", role="admin")
        assert code_of(await replay(admin, first)) == "prompt_log_private"
        assert len(models.asked) == count


async def test_replay_by_an_administrator_is_charged_to_the_user(start: Start) -> None:
    site = await start(prompt_log={"administrators": True})
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, allowed_ips=["127.0.0.1"], allowed_origins=None)
        admin = await person(stack, site, "root", role="admin")
        first = await ada.chat()
        await ada.one(first)
        found = (await replay(admin, first)).json()
        receipt = (await ada.browser.send("GET", f"/api/requests/{found['replay']['id']}")).json()
        assert (receipt["user_id"], receipt["key_id"]) == (ada.id, ada.key["id"])
        async with site.gateway.operator() as operator:
            other = (await operator.post(f"/api/admin/requests/{first}/replay", json={})).json()
            assert other["replay"]["status"] == 200  # the operator has no IP address that a key could allow
            audit = (await operator.get("/api/admin/audit?action=prompt_log.replay")).json()["data"]
        assert [(one["subject"], one["actor"]) for one in audit] == [(first, "operator"), (first, admin.id)]


async def test_replay_over_a_limit_is_rejected_like_a_request(start: Start, models: ModelServer) -> None:
    site = await start()
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site, limits={"rpm": 1})
        first = await ada.chat()
        await ada.one(first)
        count = len(models.asked)
        assert code_of(await replay(ada, first)) == "rate_limit_exceeded"
        assert code_of(await replay(ada, first, model="")) == "invalid_value"
        assert len(models.asked) == count


async def test_replay_that_a_server_refuses_shows_the_error(start: Start, models: ModelServer) -> None:
    site = await start()
    models.plan(whole(completion(ANSWER)), refusal(400))
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat()
        await ada.one(first)
        found = (await replay(ada, first)).json()
    assert found["replay"]["status"] == 400
    assert (found["original"]["answer"], found["replay"]["answer"]) == (ANSWER, "")


async def test_replay_of_a_request_that_was_not_kept_is_not_found(start: Start) -> None:
    site = await start(prompt_log={"default": False})
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat()
        answer = await replay(ada, first)
    assert code_of(answer) == "prompt_not_found"
    assert "not stored" in answer.json()["error"]["message"]


async def test_replay_of_a_request_that_was_cut_is_impossible(start: Start) -> None:
    site = await start(prompt_log={"max_bytes": 1024})
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat(ASK | {"messages": [{"role": "user", "content": "x" * 2000}]})
        assert (await ada.one(first))["cut"] == ["request"]
        assert code_of(await replay(ada, first)) == "replay_impossible"


async def test_replay_with_a_revoked_key_is_refused(start: Start) -> None:
    site = await start()
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat()
        await ada.one(first)
        assert (await ada.browser.send("DELETE", f"/api/keys/{ada.key['id']}")).is_success
        assert code_of(await replay(ada, first)) == "replay_key_unusable"


async def test_replay_with_an_expired_key_is_refused(start: Start) -> None:
    site = await start()
    async with contextlib.AsyncExitStack() as stack:
        ada = await person(stack, site)
        first = await ada.chat()
        await ada.one(first)
        services = site.gateway.services
        await services.store.write(_expire, ada.key["id"])
        services.key_changes.notify()
        assert code_of(await replay(ada, first)) == "replay_key_unusable"


async def _expire(connection: Connection, key_id: str) -> None:
    await connection.execute("UPDATE api_keys SET expires_at = 1 WHERE id = :id", id=key_id)
