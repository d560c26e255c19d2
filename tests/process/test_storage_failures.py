"""A full disk and a failed sync under a running gateway: it rejects requests and loses no answered one."""

import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateways import eventually
from tests.process.crashes import CrashSite, Member
from tests.terminal import SECONDS, User

MANY = 2000  # requests; far more than fit


@pytest.fixture
def site(home: Path) -> Iterator[CrashSite]:
    site = CrashSite(home)
    yield site
    site.close()


@dataclass
class Asker:
    """Sends one request after the other. `complete` are the ids of complete responses."""

    site: CrashSite
    member: Member
    complete: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    async def ask(self) -> str:
        """The code of the error; empty if the response is complete. Every other request streams."""
        number = next(self.numbers)
        body: dict[str, Any] = {
            "model": "demo/text",
            "stream": number % 2 == 1,
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "Hello!"}],
        }
        request_id = f"ask-{number}"
        headers = {"authorization": f"Bearer {self.member.key}", "x-request-id": request_id}
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
            url = f"{self.site.gateway.url}/v1/chat/completions"
            answer = await client.post(url, json=body, headers=headers)
        if (answer.status_code == 200 and not body["stream"]) or answer.content.endswith(b"data: [DONE]\n\n"):
            self.complete.append(request_id)
            return ""
        assert answer.status_code in (200, 503), answer.text
        assert "storage_unavailable" in answer.text
        return "storage_unavailable"

    async def ask_until_refused(self) -> None:
        for _ in range(MANY):
            if await self.ask():
                return
        pytest.fail("no request was rejected")


async def test_disk_is_full_requests_are_rejected_until_space_is_free(site: CrashSite) -> None:
    """A limit on file sizes simulates the full disk."""
    process = site.start().process
    asker = Asker(site, await site.add_member("first", prepaid=True))
    for _ in range(5):
        assert await asker.ask() == ""
    used = User(site.home).database.with_name("bluesminds.db-wal").stat().st_size
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (used, before[1]))
    await asker.ask_until_refused()
    assert [await asker.ask() for _ in range(4)] == ["storage_unavailable"] * 4
    assert process.poll() is None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)

    async def is_answered() -> bool:
        return await asker.ask() == ""

    await eventually(is_answered)
    assert [await asker.ask() for _ in range(4)] == [""] * 4
    assert site.gateway.stop() == 0
    site.start()
    await site.check(asker.complete)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs the strace program")
async def test_sync_has_failed_requests_are_rejected_until_the_restart(site: CrashSite) -> None:
    """The kernel reports a lost page once; a later sync that succeeds proves nothing."""
    site.start()
    member = await site.add_member("first", prepaid=True)
    assert site.gateway.stop() == 0
    wal = str(User(site.home).database.with_name("bluesminds.db-wal"))
    options = ["-f", "-qq", "-o", "/dev/null", "-P", wal, "-e", "trace=fsync,fdatasync"]
    fault = ["-e", "inject=fsync,fdatasync:error=EIO:when=30"]
    site.start(["strace", *options, *fault, sys.executable, "-m", "bluesminds"])
    asker = Asker(site, member)
    await asker.ask_until_refused()
    assert [await asker.ask() for _ in range(6)] == ["storage_unavailable"] * 6
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        assert (await client.get(f"{site.gateway.url}/ready")).status_code == 503
    assert len(asker.complete) > 0
    site.close()
    site.start()
    await site.check(asker.complete)
    assert await asker.ask() == ""
