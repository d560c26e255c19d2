"""Mail through Resend: a fake of its API on a real socket."""

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from msgspec import structs

from bluesminds.http.client.pool import Pool, UpstreamOrigin
from bluesminds.notify.mail import Mail, MailFailed, MailFile, MailRefused
from bluesminds.notify.resend import ResendAccount, ResendMailer
from tests.fakes import resend_server
from tests.fakes.resend_server import API_KEY, ResendServer

HELLO = Mail("welcome", "grace@example.com", "Hello", "text\n", "<p>text</p>")
ID = "01a3b2c4-0000-7000-8000-000000000001"


@dataclass
class Site:
    server: ResendServer
    pool: Pool

    def mailer(self, **fields: Any) -> ResendMailer:
        origin, path = UpstreamOrigin.parse(self.server.url)
        account = {
            "origin": origin,
            "path": path,
            "sender": "gateway@example.com",
            "api_key": lambda: API_KEY,
            "timeout": 60.0,
        }
        return ResendMailer(ResendAccount(**(account | fields)), self.pool)


@pytest.fixture
async def site(nursery: trio.Nursery) -> AsyncIterator[Site]:
    pool = Pool(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    await nursery.start(pool.run)
    yield Site(await nursery.start(resend_server.serve), pool)


async def test_resend_mailer_sends_the_mail_once(site: Site) -> None:
    for _ in range(2):
        await site.mailer().send(ID, HELLO)
    (body,) = site.server.sent
    assert body == {
        "from": "BluesMinds <gateway@example.com>",
        "to": ["grace@example.com"],
        "subject": "Hello",
        "text": "text\n",
        "html": "<p>text</p>",
        "headers": {"Auto-Submitted": "auto-generated"},
        "tags": [{"name": "kind", "value": "welcome"}],
    }
    request = site.server.upstream.requests[0]
    assert request.values(b"idempotency-key") == [ID.encode()]
    assert request.values(b"user-agent")[0].startswith(b"BluesMinds/")
    await site.mailer(sender="other@example.com").send(ID, HELLO)
    assert len(site.server.sent) == 1, "an earlier attempt was accepted"


async def test_resend_mailer_attaches_files(site: Site) -> None:
    file = MailFile("a.pdf", "application/pdf", b"%PDF")
    await site.mailer().send(ID, structs.replace(HELLO, files=(file,)))
    assert site.server.sent[0]["attachments"] == [
        {"filename": "a.pdf", "content": "JVBERg==", "content_type": "application/pdf"}
    ]


@pytest.mark.parametrize(
    ("status", "name", "error"),
    [
        (422, "validation_error", MailRefused),
        (400, "validation_error", MailRefused),
        (422, "missing_required_field", MailRefused),
        (403, "validation_error", MailFailed),
        (422, "invalid_from_address", MailFailed),
        (401, "missing_api_key", MailFailed),
        (409, "concurrent_idempotent_requests", MailFailed),
        (429, "daily_quota_exceeded", MailFailed),
        (500, "application_error", MailFailed),
        (502, "<script>grace@example.com", MailFailed),
    ],
)
async def test_resend_mailer_distinguishes_permanent_and_temporary_failures(
    site: Site, status: int, name: str, error: type[Exception]
) -> None:
    site.server.failures.append((status, name, ()))
    with pytest.raises(error, match=f"Resend responded with status {status}") as failed:
        await site.mailer().send(ID, HELLO)
    assert (name in str(failed.value)) is ("<" not in name)
    assert "grace" not in str(failed.value)


async def test_resend_mailer_waits_as_long_as_the_answer_asks(site: Site) -> None:
    for header, seconds in ((b"retry-after: 7", 7.0), (b"retry-after: 999999", 3600.0), (b"x: y", None)):
        site.server.failures.append((429, "rate_limit_exceeded", (header,)))
        with pytest.raises(MailFailed) as failed:
            await site.mailer().send(ID, HELLO)
        assert failed.value.retry_after == seconds


async def test_resend_mailer_with_a_wrong_key_or_without_a_server_fails(site: Site) -> None:
    with pytest.raises(MailFailed, match="403 invalid_api_key") as failed:
        await site.mailer(api_key=lambda: "re_wrong").send(ID, HELLO)
    assert "re_wrong" not in str(failed.value)
    with pytest.raises(MailFailed, match="not a valid key"):
        await site.mailer(api_key=lambda: "re\nx: y").send(ID, HELLO)
    origin, _ = UpstreamOrigin.parse("http://127.0.0.1:1")
    with pytest.raises(MailFailed, match="connection to Resend failed"):
        await site.mailer(origin=origin).send(ID, HELLO)


async def test_resend_mailer_check_finds_domains_that_are_not_verified(site: Site) -> None:
    await site.mailer().check()
    with pytest.raises(MailFailed, match=r"the domain other\.test of the sender is not verified"):
        await site.mailer(sender="gateway@other.test").check()
    site.server.restricted = True
    await site.mailer(sender="gateway@other.test").check()
    with pytest.raises(MailFailed, match="403 invalid_api_key"):
        await site.mailer(api_key=lambda: "re_wrong").check()
    assert site.server.sent == []
