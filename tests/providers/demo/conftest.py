"""The demo server on a real listener, and OpenAI's SDK as its client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest
import trio

from bluesminds.providers.demo import demo_app
from tests.http.serving import start

if TYPE_CHECKING:  # importing the SDK takes as long as many tests
    from openai import AsyncOpenAI


@dataclass
class Demo:
    """A running demo server. It does not wait: `delays` are the seconds that it would have waited."""

    url: str = ""
    delays: list[float] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await trio.lowlevel.checkpoint()

    async def post(self, path: str, **body: object) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            return await client.post(self.url + path, json=body)


@pytest.fixture
async def demo(nursery: trio.Nursery) -> Demo:
    running = Demo()
    served = await start(nursery, demo_app(running.sleep))
    running.url = f"http://127.0.0.1:{served.port}/v1"
    running.errors = served.errors
    return running


@pytest.fixture
async def sdk(demo: Demo) -> AsyncIterator[AsyncOpenAI]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=demo.url, api_key="sk-none", max_retries=0, timeout=60) as client:
        yield client
