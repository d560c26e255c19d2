"""The playground in Chromium: work with the keyboard, streams, images, accessibility, and hostile texts."""

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import PHONE, WIDE, press, violations
from tests.fakes.model_server import DONE, USAGE, ModelServer, Plan, Stall, chunk, error, refusal, streamed

HOSTILE = '"><img src=x onerror="window.pwned=1">{{7*7}}\u202e<script>window.pwned=1</script>'
ANSWER = f"""# Heading {HOSTILE}

Text with **bold**, *weak*, `code <b>` and
[a link](https://example.com/?q="onclick=), [no link](javascript:window.pwned=1), ![x](https://example.com/x.png).

1. one
   - inner
2. two

```html
<img src=x onerror="window.pwned=1">

still code
```
| A | B |
|---|---|
| 1 | {HOSTILE} |

> quoted"""
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
async def site(site: DashboardSite) -> DashboardSite:
    """With the chat "Harbour" of the user."""
    talked = ("What is a *harbour*?", "A place for **ships**.")
    site.chat_id = await site.add_talk("user", "Harbour", talked)
    return site


def answers(*texts: str) -> Plan:
    """Each text in pieces that cut words and marks."""
    pieces = [text[at : at + 7] for text in texts for at in range(0, len(text), 7)]
    chunks = [chunk(piece, usage=None) for piece in pieces]
    return streamed(*chunks, chunk(finish="stop", usage=None), chunk(usage=USAGE), DONE)


def prompt_of(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def send(page: Page, text: str) -> None:
    """Type and send. The request is under way, or its answer is complete."""
    prompt_of(page).focus()
    page.keyboard.type(text)
    press(page, "Enter")
    expect(prompt_of(page)).to_have_value("")


def wait_until_stored(page: Page) -> None:
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator(".wrong")).to_have_count(0)


async def stored(site: DashboardSite, chat_id: str) -> list[dict[str, Any]]:
    async with site.browser_client("user") as ada:
        return list((await ada.get(f"/api/chats/{chat_id}")).json()["messages"])


def talked(bodies: Sequence[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    return [[(one["role"], one["content"]) for one in body["messages"]] for body in bodies]


async def test_chat_by_keyboard_is_answered_stored_and_continued(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(answers("Hello **you**.\n\nSecond part."))
    models.plan(answers("Again."))

    def look(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        page.locator("summary").focus()
        press(page, "Enter")
        page.get_by_label("System message").fill("Be short.")
        page.get_by_label("Temperature").fill("0.5")
        press(page, "Escape")
        expect(page.get_by_label("Temperature")).to_be_hidden()
        send(page, "One <b>question</b>")
        wait_until_stored(page)
        expect(page.locator(".assistant strong")).to_have_text("you")
        expect(page.locator(".assistant .body p")).to_have_count(2)
        expect(page.locator(".facts").first).to_contain_text("11 in, 2 out · no price · first byte")
        expect(page.get_by_role("heading", level=1)).to_have_text("One <b>question</b>")
        expect(page.locator(".history a[aria-current]")).to_have_text("One <b>question</b>")
        assert page.title() == "One <b>question</b> · BluesMinds"
        prompt_of(page).press("Shift+Enter")
        send(page, "and more")
        wait_until_stored(page)
        expect(page.locator("#said")).to_have_text("Again.")
        expect(prompt_of(page)).to_be_focused()
        address = page.url
        page.reload()
        expect(page.locator(".assistant strong")).to_have_text("you")
        expect(page.get_by_label("System message")).to_have_value("Be short.")
        return address.rpartition("/")[2]

    chat_id = await site.look(chromium, "user", look)
    kept = await stored(site, chat_id)
    assert [one["text"] for one in kept] == [
        "One <b>question</b>",
        "Hello **you**.\n\nSecond part.",
        "and more",
        "Again.",
    ]
    assert (kept[1]["model"], kept[1]["input_tokens"], kept[1]["stopped"]) == ("m", 11, False)
    assert kept[1]["request_id"] in {row["request_id"] for row in site.gateway.rows()}
    first, second = [asked.body for asked in models.asked]
    assert (first["temperature"], first["stream"], "top_p" in first) == (0.5, True, False)
    system = ("system", "Be short.")
    assert talked([first, second]) == [
        [system, ("user", "One <b>question</b>")],
        [system, ("user", "One <b>question</b>"), ("assistant", kept[1]["text"]), ("user", "and more")],
    ]


async def test_answer_leads_to_its_receipt(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(answers("Answer."))

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground?model=m")
        send(page, "Question")
        wait_until_stored(page)
        for _ in range(2):
            expect(page.get_by_role("link", name="Receipt")).to_be_visible()
            page.reload()
        page.get_by_role("link", name="Receipt").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("m")
        expect(page).to_have_url(re.compile("/dashboard/requests/"))

    await site.look(chromium, "user", look)


async def test_answer_is_stopped_with_escape_and_keeps_what_came(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(streamed(chunk("Half an answer"), Stall))

    def look(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        send(page, "Go on")
        expect(page.locator(".assistant .body")).to_have_text("Half an answer")
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        page.keyboard.type("typed meanwhile")
        press(page, "Enter", "Escape")
        expect(page.locator("#said")).to_have_text("Stopped. The text so far was counted.")
        wait_until_stored(page)
        expect(page.locator(".facts").first).to_contain_text("stopped · ")
        expect(prompt_of(page)).to_have_value("typed meanwhile")
        return page.url.rpartition("/")[2]

    kept = await stored(site, await site.look(chromium, "user", look))
    assert [(one["text"], one["stopped"]) for one in kept] == [("Go on", False), ("Half an answer", True)]
    assert kept[1]["output_tokens"] is not None


async def test_message_is_edited_and_sent_again_by_keyboard(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(answers("A new answer."))
    models.plan(answers("Another answer."))

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground/{site.chat_id}")
        edit = page.get_by_role("button", name="Edit and send again")
        edit.press("Enter")
        field = page.get_by_label("Edit the message")
        expect(field).to_be_focused()
        press(page, "Escape")
        expect(edit).to_be_focused()
        press(page, "Enter")
        field.fill("Is it deep?")
        press(page, "Enter")
        expect(page.locator(".assistant .body")).to_have_text("A new answer.")
        wait_until_stored(page)
        expect(page.locator(".user .body")).to_have_text("Is it deep?")
        page.get_by_role("button", name="Answer again").press("Enter")
        expect(page.locator(".assistant .body")).to_have_text("Another answer.")
        wait_until_stored(page)

    await site.look(chromium, "user", look)
    kept = await stored(site, site.chat_id)
    assert [one["text"] for one in kept] == ["Is it deep?", "Another answer."]
    assert talked([asked.body for asked in models.asked]) == [[("user", "Is it deep?")]] * 2


async def test_failed_answer_shows_the_error_and_is_tried_again(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(refusal(400, error(HOSTILE)), refusal(400, error("no")), answers("Now it works."))

    def look(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        send(page, "Try this")
        expect(page.get_by_role("alert")).to_contain_text("<img src=x onerror=")
        expect(page.locator(".user .body")).to_have_text("Try this")
        assert page.evaluate("window.pwned") is None
        page.reload()
        expect(prompt_of(page)).to_have_value("Try this")
        prompt_of(page).focus()
        press(page, "Enter")
        expect(prompt_of(page)).to_have_value("")
        page.get_by_role("button", name="Try again").press("Enter")
        expect(page.locator(".assistant .body")).to_have_text("Now it works.")
        wait_until_stored(page)
        expect(page.get_by_role("alert")).to_have_count(0)
        return page.url.rpartition("/")[2]

    kept = await stored(site, await site.look(chromium, "user", look))
    assert [one["text"] for one in kept] == ["Try this", "Now it works."]


async def test_broken_stream_keeps_the_text_and_says_so(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(streamed(chunk("The start"), chunk(error={"message": "The model failed.", "code": "x"})))

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        send(page, "Go")
        expect(page.get_by_role("alert")).to_be_visible()
        expect(page.locator(".assistant .body")).to_contain_text("The start")
        assert "/playground/" not in page.url, "nothing is stored"

    await site.look(chromium, "user", look)


async def test_answer_is_made_of_elements_only(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(answers(ANSWER))

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        send(page, HOSTILE)
        wait_until_stored(page)
        for _ in range(2):
            body = page.locator(".assistant .body")
            expect(body.locator("h3")).to_have_text(f"Heading {HOSTILE}")
            expect(body.locator("ol > li")).to_have_count(2)
            expect(body.locator("ol ul li")).to_have_text("inner")
            expect(body.locator("pre code")).to_have_text(
                '<img src=x onerror="window.pwned=1">\n\nstill code', use_inner_text=False
            )
            expect(body.locator("td").last).to_have_text(HOSTILE)
            expect(body.locator("blockquote")).to_have_text("quoted")
            expect(body.get_by_text("[no link](javascript:window.pwned=1)")).to_be_visible()
            links = body.locator("a").evaluate_all("all => all.map((one) => [one.protocol, one.rel])")
            assert links == [["https:", "noopener noreferrer"]] * 2
            assert page.locator("img").count() == 0
            assert page.evaluate("window.pwned") is None
            assert "49" not in page.get_by_role("heading", level=1).inner_text()
            page.reload()

    await site.look(chromium, "user", look)


async def test_chat_is_renamed_searched_and_deleted_by_keyboard(
    site: DashboardSite, chromium: Chromium
) -> None:
    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground/{site.chat_id}")
        more = page.get_by_role("button", name="More")
        more.press("Enter")
        page.get_by_role("button", name="Rename").press("Enter")
        page.get_by_label("Title").fill(HOSTILE.replace("\u202e", ""))
        press(page, "Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.locator(".history a[aria-current]")).to_contain_text("<img src=x")
        page.locator(".messages").focus()
        press(page, "/")
        page.keyboard.type("SHIPS")
        press(page, "Enter")
        expect(page.get_by_role("link", name="<img src=x")).to_have_count(1)
        page.get_by_role("link", name="Show all chats").press("Enter")
        page.get_by_role("link", name="<img src=x").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x")
        assert page.evaluate("window.pwned") is None
        more.press("Enter")
        page.locator("#more").get_by_role("button", name="Delete").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        press(page, "Tab", "Enter")
        expect(page.get_by_text("The chat is deleted.")).to_be_visible()
        expect(page.get_by_text("Your chats are listed here.")).to_be_visible()

    await site.look(chromium, "user", look)


async def test_chat_is_exported_and_copied_as_code(site: DashboardSite, chromium: Chromium) -> None:
    def look(page: Page) -> tuple[str, str, str]:
        page.goto(f"{site.gateway.url}/dashboard/playground/{site.chat_id}")
        prompt_of(page).fill("It's next")
        copied = []
        for kind in ("curl", "Python"):
            page.get_by_role("button", name="More").press("Enter")
            page.get_by_role("button", name=f"Copy as {kind}").press("Enter")
            expect(page.get_by_text("Copied.")).to_be_visible()
            copied.append(page.evaluate("navigator.clipboard.readText()"))
            page.reload()
        page.get_by_role("button", name="More").press("Enter")
        with page.expect_download() as download:
            page.get_by_role("link", name="Export as JSON").press("Enter")
        return copied[0], copied[1], download.value.path().read_text()

    curl, python, exported = await site.look(
        chromium, "user", look, permissions=["clipboard-read", "clipboard-write"]
    )
    assert curl.startswith(f"curl {site.gateway.url}/v1/chat/completions")
    body = json.loads(curl.partition("-d '")[2][:-1].replace("'\\''", "'"))
    assert [one["content"] for one in body["messages"]][1:] == ["A place for **ships**.", "It's next"]
    compile(python, "copied", "exec")
    assert "stream" not in body
    assert json.loads(exported)["chat"]["title"] == "Harbour"


async def test_temporary_chat_stores_nothing(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    models.plan(answers("Secret answer."))

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        page.get_by_role("link", name="Temporary chat").press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Temporary chat")
        send(page, "Secret question")
        expect(page.locator(".assistant .body")).to_have_text("Secret answer.")
        wait_until_stored(page)
        assert page.url.endswith("/dashboard/playground?temporary=1")
        assert page.evaluate("JSON.stringify([{...sessionStorage}, {...localStorage}])") == "[{},{}]"

    await site.look(chromium, "user", look)
    async with site.browser_client("user") as ada:
        assert [chat["title"] for chat in (await ada.get("/api/chats")).json()["data"]] == ["Harbour"]


async def test_only_models_of_the_chosen_key_are_offered(site: DashboardSite, chromium: Chromium) -> None:
    await site.gateway.new_key(user_id=site.callers.users["user"], name="narrow", allowed_models=["another*"])

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        expect(page.locator("#model")).to_have_value("m")
        page.locator("#key").select_option(label="narrow")
        expect(page.locator("#model")).to_have_value("")
        prompt_of(page).fill("Kept")
        press(page, "Enter")
        expect(page.get_by_text("This key may not use any")).to_be_visible()
        expect(prompt_of(page)).to_have_value("Kept")
        page.reload()
        expect(page.locator("#key option:checked")).to_have_text("narrow")
        expect(prompt_of(page)).to_have_value("Kept")

    await site.look(chromium, "user", look)


async def test_image_is_attached_sent_and_shown_again(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    def look(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        files: list[Any] = [
            {"name": "dot.png", "mimeType": "image/png", "buffer": PNG},
            {"name": "no.png", "mimeType": "image/png", "buffer": b"text"},
        ]
        page.get_by_label("Attach images").set_input_files(files)
        expect(page.get_by_text("no.png is not an image")).to_be_visible()
        expect(page.get_by_role("button", name="Remove dot.png")).to_be_visible()
        send(page, "What is this?")
        wait_until_stored(page)
        expect(page.locator(".user canvas")).to_have_count(1)
        expect(page.locator("#attached canvas")).to_have_count(0)
        page.reload()
        expect(page.get_by_role("img", name="Attached image")).to_be_visible()
        return page.url.rpartition("/")[2]

    kept = await stored(site, await site.look(chromium, "user", look))
    (url,) = kept[0]["images"]
    assert base64.b64decode(url.partition(",")[2]) == PNG
    content = models.asked[0].body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert content[1]["image_url"]["url"] == url


async def test_large_image_is_reduced(site: DashboardSite, chromium: Chromium) -> None:
    draw = """async () => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 3000, height: 1500 });
        const context = canvas.getContext("2d");
        const noise = context.createImageData(3000, 1500);
        let state = 1;
        for (let at = 0; at < noise.data.length; at++) {
            state = (state * 16807) % 2147483647;
            noise.data[at] = state & 255;
        }
        context.putImageData(noise, 0, 0);
        const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
        const files = new DataTransfer();
        files.items.add(new File([blob], "noise.png", { type: "image/png" }));
        const input = document.getElementById("images");
        input.files = files.files;
        input.dispatchEvent(new Event("change"));
    }"""

    def look(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard/playground")
        page.evaluate(draw)
        expect(page.get_by_role("button", name="Remove noise.png")).to_be_visible()
        send(page, "Noise")
        wait_until_stored(page)
        return page.url.rpartition("/")[2]

    kept = await stored(site, await site.look(chromium, "user", look))
    assert kept[0]["images"][0].startswith("data:image/jpeg;base64,")
    assert len(kept[0]["images"][0]) <= 700_000


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_open_parts_have_no_accessibility_violation(
    site: DashboardSite, chromium: Chromium, models: ModelServer, size: Any, scheme: Any
) -> None:
    models.plan(answers(ANSWER))
    models.plan(refusal(400, error("The model refuses this.")))

    def look(page: Page) -> None:
        page.set_viewport_size(size)
        page.goto(f"{site.gateway.url}/dashboard/playground")
        assert violations(page) == []
        send(page, "A long question " * 12)
        wait_until_stored(page)
        send(page, "And an error")
        expect(page.get_by_role("alert")).to_be_visible()
        wait_until_stored(page)
        assert violations(page) == []
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.locator("summary").press("Enter")
        assert violations(page) == []
        press(page, "Escape")
        page.get_by_role("button", name="Edit and send again").first.press("Enter")
        expect(page.get_by_label("Edit the message")).to_be_focused()
        page.get_by_role("button", name="More").press("Enter")
        expect(page.get_by_role("button", name="Rename")).to_be_visible()
        assert violations(page) == []
        page.get_by_role("button", name="Rename").press("Enter")
        assert violations(page) == []
        press(page, "Escape")
        if size is PHONE:
            page.get_by_role("button", name="Chats").press("Enter")
            expect(page.get_by_role("link", name="Harbour")).to_be_visible()
            assert violations(page) == []

    # axe adds a script, which the policy of the page does not allow
    await site.look(chromium, "user", look, color_scheme=scheme, bypass_csp=True)
