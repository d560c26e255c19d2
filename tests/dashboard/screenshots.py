"""Takes the pictures of the dashboard in docs/pictures: `make screenshots`.

The gateway is real, with the demo server and a server that is down. The usage is invented, and the same at
every run except for its time.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio
from playwright.sync_api import Page, expect

from bluesminds.common.crypto import uuid7
from storage.usage import DAY, UsageRow, insert_batch
from tests import browser, gateways
from tests.dashboard.site import DashboardSite
from tests.deployment import Callers
from tests.gateways import Gateway, entry
from tests.storage.samples import usage

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SIZE = {"width": 1440, "height": 900}
REQUESTS = 12_000
# Name, share of the requests, and nano-USD of a token in and out.
MODELS = (
    ("gpt-5.1", 0.36, 1250, 10_000),
    ("claude-sonnet-5", 0.14, 3000, 15_000),
    ("gpt-5.1-mini", 0.2, 250, 2000),
    ("gemini-3-pro", 0.12, 2000, 12_000),
    ("mistral-large-3", 0.1, 1500, 4500),
    ("llama-4-70b", 0.08, 200, 600),
)
SERVERS = ("litellm-a", "litellm-b", "azure-west")


def invented_rows(now: int, user_id: str, key_ids: list[str]) -> list[UsageRow]:
    dice = random.Random(7)  # noqa: S311
    rows = []
    for serial in range(REQUESTS):
        at = now - (serial * 9_000 if serial < 40 else int(dice.random() ** 1.15 * 60 * DAY))
        model, _, price_in, price_out = dice.choices(MODELS, [model[1] for model in MODELS])[0]
        failed = serial == 5 or dice.random() < 0.015
        tokens_in = int(dice.lognormvariate(6.6, 1))
        tokens_out = 0 if failed else int(dice.lognormvariate(5.6, 1))
        row = replace(
            usage(serial),
            id=uuid7(at),
            at=at,
            request_id=uuid7(at),
            user_id=user_id,
            key_id=dice.choices(key_ids, [5, 3, 1][: len(key_ids)])[0],
            endpoint="chat.completions",
            model=model,
            server=dice.choice(SERVERS),
            status=502 if failed else 200,
            outcome="upstream_error" if failed else "ok",
            attempts=2 if dice.random() < 0.03 else 1,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            first_byte_ms=int(dice.lognormvariate(6, 0.5)),
            duration_ms=int(dice.lognormvariate(7.6, 0.6)),
            cost_nano=tokens_in * price_in + tokens_out * price_out,
        )
        rows.append(row)
    return rows


async def prepare(gateway: Gateway) -> DashboardSite:
    """An administrator with three keys and two months of usage."""
    site = DashboardSite(Callers(gateway))
    async with gateway.operator() as operator:
        body = {"email": "ada@example.com", "password": "correct horse battery", "role": "admin"}
        made = await operator.post("/api/admin/users", json=body | {"full_name": "Ada Lovelace"})
    user_id = site.callers.users["ada"] = made.json()["id"]
    limits: list[dict[str, Any]] = [{"usd_per_month": "60"}, {"usd_per_month": "25"}, {}]
    keys = [
        await gateway.new_key(name=name, user_id=user_id, limits=limit)
        for name, limit in zip(("support-bot", "laptop", "ci"), limits, strict=True)
    ]
    now = gateway.services.clock.now_ms()
    month = gateway.services.calendar.date(now)
    rows = [
        replace(row, day=month.day, month=month.month)
        for row in invented_rows(now, user_id, [key_id for key_id, _ in keys])
    ]
    for start in range(0, len(rows), 500):
        await gateway.services.store.write(insert_batch, rows[start : start + 500])
    ask = {"model": "demo/text", "messages": [{"role": "user", "content": "hello"}]}
    await gateway.chat(ask, key=keys[0][1])
    return site


def take(url: str, folder: Path, page: Page) -> None:
    def picture(name: str, path: str, act: Callable[[Page], object] = lambda page: None) -> None:
        page.goto(f"{url}/dashboard{path}")
        act(page)
        page.screenshot(path=folder / f"dashboard-{name}.png")

    def hover(page: Page) -> None:
        page.locator(".plot").hover()

    def chat(page: Page) -> None:
        page.get_by_label("Message", exact=True).fill("What does a gateway do?")
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="receipt")).to_be_visible()

    picture("overview", "?range=30d", hover)
    picture("keys", "/keys")
    picture("requests", "/requests")
    picture("playground", "/playground?model=demo/text", chat)
    picture("receipt", "/requests?model=demo/text", lambda page: page.locator(".rows a").first.click())
    picture("servers", "/admin/servers")


async def main(folder: Path) -> None:
    servers = [{"name": "demo", "dialect": "demo"}, entry("ollama", "http://127.0.0.1:9/v1")]
    prices = [{"model": "demo/text", "input_usd": "1.25", "output_usd": "10"}]
    with tempfile.TemporaryDirectory(prefix="bm-") as home, browser.running() as chromium:
        async with trio.open_nursery() as nursery:
            gateway = await gateways.start(nursery, Path(home), servers=servers, prices=prices)
            site = await prepare(gateway)
            look = partial(take, gateway.url, folder)
            await site.look(chromium, "ada", look, viewport=SIZE)
            await gateway.stop()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    target.mkdir(parents=True, exist_ok=True)
    trio.run(main, target)
