"""The HTML of every mail in Chromium, on a phone, with made-up and with long values."""

from playwright.sync_api import Page

from bluesminds.notify.mail_samples import SAMPLES
from bluesminds.notify.mail_templates import MailTemplates
from tests import browser

WIDTH = 390
TEMPLATES = MailTemplates("https://ai.example.com")
LONG = "https://hooks.example.com/" + "x" * 200


def wide_mails(page: Page) -> list[str]:
    """Mails that need scrolling to the side."""
    found = []
    page.set_viewport_size({"width": WIDTH, "height": 800})
    for name, sample in SAMPLES.items():
        long = {key: LONG if isinstance(value, str) else value for key, value in sample.items()}
        for values in ({}, {**long, "models": [(LONG, "$8.00")]}):
            mail = TEMPLATES.render(name, "ada@example.com", {"link": LONG, **sample, **values})
            page.set_content(mail.html)
            if page.evaluate("document.documentElement.scrollWidth") > WIDTH:
                found.append(name)
    return found


async def test_mails_fit_on_a_phone() -> None:
    with browser.running() as chromium:
        assert await chromium.visit(TEMPLATES.base_url, wide_mails) == []
