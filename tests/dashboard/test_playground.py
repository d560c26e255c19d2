"""The playground without a browser: the list of chats, stored messages, keys, models and parameters."""

import re
from typing import Any

import pytest

from bluesminds.accounts.chats import ChatFacts, ChatMessage, ChatParameters
from tests.dashboard.site import DashboardSite

HOSTILE = '"><img src=x onerror="window.pwned=1">{{7*7}}'


@pytest.fixture
async def site(site: DashboardSite) -> DashboardSite:
    """With the chat "Harbour" of the user."""
    talked = ("What is a *harbour*?", "A place for **ships**.")
    site.chat_id = await site.add_talk("user", "Harbour", talked)
    return site


def entries(text: str) -> list[str]:
    """The titles in the list of chats."""
    return re.findall(r'<li><a href="/dashboard/playground/[^>]*>([^<]*)</a>', text)


async def test_chats_are_listed_by_day_newest_first(site: DashboardSite) -> None:
    await site.add_talk("user", "Second")
    await site.add_talk("user", "")
    async with site.browser_client("user") as ada:
        text = (await ada.get("/dashboard/playground")).text
    assert entries(text) == ["Untitled chat", "Second", "Harbour"]
    assert "<h2>Today</h2>" in text
    async with site.browser_client("other") as eve:
        assert entries((await eve.get("/dashboard/playground")).text) == []


async def test_chats_beyond_the_first_page_are_linked(site: DashboardSite) -> None:
    for number in range(50):
        await site.add_talk("user", f"Chat {number}")
    async with site.browser_client("user") as ada:
        text = (await ada.get("/dashboard/playground")).text
        assert len(entries(text)) == 50
        (older,) = re.findall(r'href="([^"]+)" rel="next"', text)
        text = (await ada.get(older)).text
    assert entries(text) == ["Harbour"]
    assert 'rel="next"' not in text


async def test_search_finds_titles_and_messages(site: DashboardSite) -> None:
    await site.add_talk("user", "Another", ("Where?", "In the SHIPyard."))
    await site.add_talk("user", "No match", ("a", "b"))
    async with site.browser_client("user") as ada:
        text = (await ada.get("/dashboard/playground?search=ship")).text
        assert entries(text) == ["Another", "Harbour"]
        assert "?search=ship" in text, "the search stays when a chat is opened"
        text = (await ada.get("/dashboard/playground?search=nothing")).text
        assert "No chat contains this text." in text


async def test_stored_chat_is_readable_without_script(site: DashboardSite) -> None:
    async with site.browser_client("user") as ada:
        text = (await ada.get(f"/dashboard/playground/{site.chat_id}")).text
    assert "<h1>Harbour</h1>" in text
    assert '<div class="body">What is a *harbour*?</div>' in text
    assert '<div class="body">A place for **ships**.</div>' in text
    assert "1,234 in, 5 out · $0.0012 · first byte 37 ms · 2.20 s" in text
    assert 'data-copy="r-1"' in text


async def test_answers_of_several_models_belong_to_one_turn(site: DashboardSite) -> None:
    chats, user = site.gateway.services.accounts.chats, site.callers.users["user"]
    chat = await chats.create(user, ChatFacts("Two", "m"))
    answers = [ChatMessage("assistant", name, model=name, stopped=True) for name in ("one", "two")]
    await chats.add(user, chat.id, [ChatMessage("user", "?"), *answers, ChatMessage("user", "!")])
    async with site.browser_client("user") as ada:
        text = (await ada.get(f"/dashboard/playground/{chat.id}")).text
    assert re.findall(r'data-position="(\d+)"', text) == ["0", "3"]
    assert text.count('<span class="facts">stopped</span>') == 2


async def test_chat_of_another_user_is_not_found(site: DashboardSite) -> None:
    for name in ("other", "admin"):
        async with site.browser_client(name) as eve:
            answer = await eve.get(f"/dashboard/playground/{site.chat_id}")
        assert answer.status_code == 404
        assert "Harbour" not in answer.text


async def test_new_chat_has_the_parameters_of_the_newest(site: DashboardSite) -> None:
    chats, user = site.gateway.services.accounts.chats, site.callers.users["user"]
    parameters = ChatParameters(system="Be <short>.", temperature=0.5, max_tokens=77)
    await chats.create(user, ChatFacts("x", "m", parameters))
    async with site.browser_client("user") as ada:
        text = (await ada.get("/dashboard/playground")).text
    assert "Be &lt;short&gt;." in text
    assert re.search(r'id="temperature"[^>]* value="0.5"', text)
    assert re.search(r'id="max_tokens"[^>]* value="77"', text)
    assert re.search(r'id="top_p"[^>]* value=""', text)


@pytest.mark.parametrize(
    ("fields", "offered"),
    [
        ({}, True),
        ({"scopes": ["chat.completions"]}, True),
        ({"scopes": ["embeddings"]}, False),
        ({"allowed_models": ["m*"]}, True),
    ],
)
async def test_keys_for_chats_are_offered(site: DashboardSite, fields: dict[str, Any], offered: bool) -> None:
    key_id, _ = await site.gateway.new_key(user_id=site.callers.users["other"], **fields)
    async with site.browser_client("other") as eve:
        text = (await eve.get("/dashboard/playground")).text
    assert (f'value="{key_id}"' in text) == offered
    assert ("You need an API key first" in text) != offered
    if "allowed_models" in fields:
        assert 'data-models="[&#34;m*&#34;]"' in text


async def test_page_without_a_key_leads_to_a_new_one(site: DashboardSite) -> None:
    async with site.browser_client("other") as eve:
        text = (await eve.get("/dashboard/playground")).text
    assert 'href="/dashboard/keys?new=1"' in text
    assert 'id="prompt"' not in text


async def test_temporary_chat_says_that_nothing_is_stored(site: DashboardSite) -> None:
    async with site.browser_client("user") as ada:
        text = (await ada.get("/dashboard/playground?temporary=1")).text
    assert "<h1>Temporary chat</h1>" in text
    assert "data-temporary" in text
    assert "nothing of it is stored" in text


async def test_hostile_chat_is_escaped(site: DashboardSite) -> None:
    chat_id = await site.add_talk("user", HOSTILE, (HOSTILE, HOSTILE))
    async with site.browser_client("user") as ada:
        text = (await ada.get(f"/dashboard/playground/{chat_id}")).text
    assert "<img" not in text
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
