"""/api/chats: stored chats of the playground."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.accounts import chats as service
from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.gateways import eventually
from tests.storage.conftest import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
IMAGE = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(params=["sqlite", "postgres"])
async def site(request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path) -> Deployment:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    return await deploy(nursery, home, sections={"storage": storage})


async def sign_in(site: Deployment, browser: BrowserUser, name: str) -> None:
    email = f"{name}@example.com"
    await site.create_user(email)
    assert (await browser.login(email)).status_code == 200


async def create(browser: BrowserUser, **fields: Any) -> dict[str, Any]:
    answer = await browser.send("POST", "/api/chats", fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def post(browser: BrowserUser, chat: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await browser.send("POST", f"/api/chats/{chat['id']}/messages", {"messages": list(messages)})
    assert answer.status_code == 201, answer.text
    return list(answer.json()["data"])


def said(text: str, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, **more}


async def test_chat_with_messages_is_stored_and_read_back(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        parameters = {"system": "Be short.", "temperature": 0.5, "top_p": None, "max_tokens": 100}
        chat = await create(ada, title="Harbour", model="m", parameters=parameters)
        assert (chat["title"], chat["model"], chat["messages"]) == ("Harbour", "m", 0)
        assert chat["parameters"] == parameters
        facts = {
            "model": "m",
            "request_id": "r-1",
            "input_tokens": 3,
            "output_tokens": 5,
            "cost_usd": "0.0012",
            "first_byte_ms": 12,
            "duration_ms": 90,
            "stopped": True,
        }
        posted = await post(ada, chat, said("Where?", images=[IMAGE]), said("Here.", "assistant", **facts))
        whole = (await ada.send("GET", f"/api/chats/{chat['id']}")).json()
    assert whole["messages"] == posted
    assert whole["chat"]["messages"] == 2
    question, answer = whole["messages"]
    assert (question["position"], question["text"], question["images"]) == (0, "Where?", [IMAGE])
    assert {name: answer[name] for name in facts} == facts
    assert answer["position"] == 1


async def test_list_has_the_changed_chat_first_and_pages(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        made = [await create(ada, title=str(number)) for number in range(3)]
        created = site.gateway.services.clock.now_ms()
        await eventually(lambda: site.gateway.services.clock.now_ms() > created)
        await post(ada, made[0], said("again"))
        first = (await ada.send("GET", "/api/chats?limit=2")).json()
        rest = (await ada.send("GET", f"/api/chats?limit=2&after={first['next_cursor']}")).json()
    titles = [chat["title"] for page in (first, rest) for chat in page["data"]]
    assert titles[0] == "0"
    assert sorted(titles) == ["0", "1", "2"]
    assert rest["next_cursor"] is None


async def test_search_finds_titles_and_messages_in_any_case(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        by_title = await create(ada, title="The HARBOUR of Oslo")
        by_text = await create(ada, title="Other")
        await post(ada, by_text, said("A harbour, please"))
        await create(ada, title="Nothing")
        found = (await ada.send("GET", "/api/chats?search=Harbour")).json()
        assert {chat["id"] for chat in found["data"]} == {by_title["id"], by_text["id"]}
        assert found["next_cursor"] is None
        page = (await ada.send("GET", "/api/chats?search=Harbour&limit=1")).json()
        rest = (await ada.send("GET", f"/api/chats?search=Harbour&after={page['next_cursor']}")).json()
    assert {chat["id"] for part in (page, rest) for chat in part["data"]} == {by_title["id"], by_text["id"]}


async def test_message_edited_replaces_it_and_all_after_it(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        chat = await create(ada)
        path = f"/api/chats/{chat['id']}"
        await post(ada, chat, said("one"), said("1", "assistant"), said("two"), said("2", "assistant"))
        assert (await ada.send("DELETE", f"{path}/messages/2")).status_code == 204
        (posted,) = await post(ada, chat, said("three"))
        assert posted["position"] == 2
        whole = (await ada.send("GET", path)).json()
        assert [message["text"] for message in whole["messages"]] == ["one", "1", "three"]
        for position in ("3", "-1", "x", "9999999999"):
            answer = await ada.send("DELETE", f"{path}/messages/{position}")
            assert code_of(answer) == "message_not_found"


async def test_chat_changed_and_removed(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        chat = await create(ada, title="a", model="m", parameters={"temperature": 1})
        path = f"/api/chats/{chat['id']}"
        changed = (await ada.send("PATCH", path, {"title": "b", "parameters": {"max_tokens": 5}})).json()
        assert (changed["title"], changed["model"]) == ("b", "m")
        assert changed["parameters"] == {
            "system": None,
            "temperature": None,
            "top_p": None,
            "max_tokens": 5,
        }
        assert (await ada.send("DELETE", path)).status_code == 204
        assert code_of(await ada.send("GET", path)) == "chat_not_found"
        await create(ada)
        await create(ada)
        assert (await ada.send("DELETE", "/api/chats")).json() == {"deleted": 2}


async def test_chat_of_another_user_is_not_found(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as eve:
        await sign_in(site, ada, "ada")
        await sign_in(site, eve, "eve")
        chat = await create(ada, title="secret")
        path = f"/api/chats/{chat['id']}"
        message = {"messages": [said("x")]}
        for method, where, body in (
            ("GET", path, None),
            ("PATCH", path, {"title": "x"}),
            ("DELETE", path, None),
            ("POST", f"{path}/messages", message),
            ("DELETE", f"{path}/messages/0", None),
        ):
            assert code_of(await eve.send(method, where, body)) == "chat_not_found", method
        assert (await eve.send("GET", "/api/chats?search=secret")).json()["data"] == []
        assert (await eve.send("GET", "/api/chats/export")).content == b""
        assert (await eve.send("DELETE", "/api/chats")).json() == {"deleted": 0}
        assert (await ada.send("GET", path)).status_code == 200


async def test_database_contains_no_text_of_a_chat(nursery: trio.Nursery, home: Path) -> None:
    site = await deploy(nursery, home)
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        await post(ada, await create(ada, title="Kumquat"), said("Rambutan"))
    await site.gateway.stop()
    stored = b"".join(path.read_bytes() for path in site.gateway.database.parent.glob("*.db*"))
    assert b"Kumquat" not in stored
    assert b"Rambutan" not in stored


async def test_export_has_all_chats_with_messages(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        for number in range(3):
            await post(ada, await create(ada, title=str(number)), said(f"text {number}"))
        answer = await ada.send("GET", "/api/chats/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "attachment" in answer.headers["content-disposition"]
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert {(line["chat"]["title"], line["messages"][0]["text"]) for line in lines} == {
        (str(number), f"text {number}") for number in range(3)
    }


@pytest.mark.parametrize(
    ("limit", "code"),
    [
        ("MAX_MESSAGES", "chat_full"),
        ("MAX_CHAT_BYTES", "chat_full"),
        ("MAX_ACCOUNT_BYTES", "chat_storage_full"),
    ],
)
async def test_chat_that_is_full_takes_no_message(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch, limit: str, code: str
) -> None:
    site = await deploy(nursery, home)
    monkeypatch.setattr(service, limit, 3 if limit == "MAX_MESSAGES" else 1000)
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        chat = await create(ada)
        text = "a" * (1 if limit == "MAX_MESSAGES" else 300)
        await post(ada, chat, said(text), said(text))
        body = {"messages": [said(text), said(text)]}
        refused = await ada.send("POST", f"/api/chats/{chat['id']}/messages", body)
        assert (refused.status_code, code_of(refused)) == (409, code)
        whole = (await ada.send("GET", f"/api/chats/{chat['id']}")).json()
    assert len(whole["messages"]) == 2


async def test_messages_added_at_once_all_have_a_position(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        chat = await create(ada)
        async with trio.open_nursery() as both:
            for number in range(8):
                both.start_soon(post, ada, chat, said(str(number)), said(f"answer {number}", "assistant"))
        messages = (await ada.send("GET", f"/api/chats/{chat['id']}")).json()["messages"]
    assert [message["position"] for message in messages] == list(range(16))
    texts = [message["text"] for message in messages]
    assert [f"answer {text}" for text in texts[::2]] == texts[1::2], "a pair stays together"


async def test_account_deleted_removes_its_chats(site: Deployment) -> None:
    user = await site.create_user("ada@example.com")
    async with site.browser() as ada:
        await ada.login("ada@example.com")
        await post(ada, await create(ada), said("x"))
    async with site.gateway.operator() as operator:
        assert (await operator.delete(f"/api/admin/users/{user}")).status_code == 204
