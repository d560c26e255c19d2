"""A real browser: Chromium with an empty profile, which may only send requests to the gateway.

await chromium.visit(site.gateway.url, look)     # look(page) uses Playwright's synchronous API
"""

import asyncio  # noqa: TID251 - the driver's, in a thread of its own
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect, sync_playwright

EXECUTABLE = "/usr/bin/chromium"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT = 60_000  # milliseconds
T = TypeVar("T")


class Chromium:
    """Playwright's objects belong to the thread that created them, so all work is done there."""

    def __init__(self, thread: ThreadPoolExecutor, browser: Browser) -> None:
        self._thread = thread
        self._browser = browser

    async def visit(self, site: str, look: Callable[[Page], T], *, expected: str = "\0", **context: Any) -> T:
        """The result of `look`, in a new browser context. Fails if the page logs an error or a warning that
        does not contain `expected`, or requests anything outside `site`.
        """
        task = self._thread.submit(self._visit, site, look, expected, context)
        return await trio.to_thread.run_sync(task.result)

    def _visit(self, site: str, look: Callable[[Page], T], expected: str, context: dict[str, Any]) -> T:
        complaints: list[str] = []
        with self._browser.new_context(**context) as window:
            page = window.new_page()
            page.set_default_timeout(TIMEOUT)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.extend(_complaint(message)))
            page.on("request", lambda one: complaints.extend([] if one.url.startswith(site) else [one.url]))
            found = look(page)
        unexpected = [complaint for complaint in complaints if expected not in complaint]
        assert unexpected == [], unexpected
        return found


def _complaint(message: ConsoleMessage) -> list[str]:
    """Chromium also logs error responses of the API; these are not errors of the page."""
    if message.type not in ("error", "warning") or message.text.startswith("Failed to load resource"):
        return []
    return [message.text]


@contextmanager
def running() -> Iterator[Chromium]:
    with ThreadPoolExecutor(1, "browser", _with_plain_loops) as thread:
        driver: Playwright = thread.submit(sync_playwright().start).result()
        try:
            browser: Browser = thread.submit(_launch, driver).result()
            try:
                yield Chromium(thread, browser)
            finally:
                thread.submit(browser.close).result()
        finally:
            thread.submit(driver.stop).result()


def _launch(driver: Playwright) -> Browser:
    expect.set_options(timeout=TIMEOUT)  # the default is 5 s
    return driver.chromium.launch(executable_path=EXECUTABLE, args=OPTIONS)


def _with_plain_loops() -> None:
    """Playwright needs asyncio's default event loop; trio-asyncio installs another policy."""
    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())
