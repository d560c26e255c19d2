"""Mail delivery through a real SMTP server, and to files."""

import base64
import socket
import ssl
import stat
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

from bluesminds.common.emails import read_email
from bluesminds.common.log import Log
from bluesminds.notify import mail as mail_module
from bluesminds.notify.mail import (
    FileMailer,
    Mail,
    MailFailed,
    MailRefused,
    SmtpAccount,
    SmtpMailer,
    build_message,
    smtp_tls_context,
)
from tests.fakes import smtp_server
from tests.fakes.smtp_server import MailServer
from tests.gateways import eventually

NOON = 1_800_000_000_000
ID = "01a3b2c4-0000-7000-8000-000000000001"
HELLO = Mail(
    "verify_email",
    "grace@example.com",
    "Confirm",
    "Open this: https://x.test/a#token=" + "t" * 80 + "\n.\nEnd",
)


class Noon:
    def now_ms(self) -> int:
        return NOON


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


def test_build_message_of_plain_text_keeps_links_in_one_piece() -> None:
    for text in (HELLO.text, "caf\u00e9 " + HELLO.text, HELLO.text + "x" * 2000):
        message = build_message(
            ID, Mail("verify_email", "ada@example.com", "Confirm", text), "g@example.com", NOON
        )
        assert (HELLO.text.partition("\n")[0] in message.as_string()) is (text == HELLO.text)
        assert message.get_content().rstrip() == text
        assert max(map(len, message.as_bytes().splitlines())) <= 998


def mailer(server: MailServer, ca_file: Path | None = None, **fields: Any) -> SmtpMailer:
    account = {
        "host": "127.0.0.1",
        "port": server.port,
        "security": "none",
        "sender": "gateway@example.com",
        "username": None,
        "password": None,
        "timeout": 30.0,
    }
    return SmtpMailer(SmtpAccount(**(account | fields)), tls=smtp_tls_context(ca_file), clock=Noon())


def certificate(ca: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_smtp_mailer_delivers_the_message(nursery: trio.Nursery) -> None:
    server: MailServer = await nursery.start(smtp_server.serve)
    await mailer(server).send(ID, HELLO)
    (found,) = server.mails
    assert (found.sender, found.to) == ("gateway@example.com", "grace@example.com")
    assert found.text.rstrip() == HELLO.text, "including long lines and lone dots"
    assert found.message["subject"] == "Confirm"
    assert found.message["from"] == "BluesMinds <gateway@example.com>"
    assert found.message["date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    assert found.message["auto-submitted"] == "auto-generated"
    assert found.message["message-id"] == f"<{ID}@example.com>", "the same at each attempt"
    assert not found.encrypted


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_smtp_mailer_verifies_the_server_before_login(
    nursery: trio.Nursery, ca: trustme.CA, ca_file: Path, security: str
) -> None:
    server: MailServer = await nursery.start(smtp_server.serve, certificate(ca), security == "tls")
    options = {"security": security, "username": "gateway", "password": lambda: "p@ss"}
    await mailer(server, ca_file, **options).send(ID, HELLO)
    (found,) = server.mails
    assert found.encrypted is (security == "starttls")
    assert base64.b64decode(found.signed_in) == b"\0gateway\0p@ss"
    with pytest.raises(MailFailed, match="certificate verification failed"):
        await mailer(server, **options).send(ID, HELLO)
    assert len(server.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_smtp_mailer_with_certificate_for_another_name_fails(
    nursery: trio.Nursery, ca: trustme.CA, ca_file: Path, security: str
) -> None:
    server: MailServer = await nursery.start(
        smtp_server.serve, certificate(ca, "other.example"), security == "tls"
    )
    with pytest.raises(MailFailed, match="certificate verification failed"):
        await mailer(server, ca_file, security=security).send(ID, HELLO)


async def test_smtp_mailer_without_starttls_sends_nothing(nursery: trio.Nursery) -> None:
    server: MailServer = await nursery.start(smtp_server.serve)
    with pytest.raises(MailFailed):
        await mailer(server, security="starttls", username="u", password=lambda: "p").send(ID, HELLO)
    assert server.mails == []


async def test_smtp_mailer_distinguishes_permanent_and_temporary_failures(nursery: trio.Nursery) -> None:
    server: MailServer = await nursery.start(smtp_server.serve)
    server.refusals.extend([b"550 no grace@example.com", b"451 later", b""])
    with pytest.raises(MailRefused, match="replied with 550") as refused:
        await mailer(server).send(ID, HELLO)
    assert "grace" not in str(refused.value) and refused.value.__cause__ is None
    with pytest.raises(MailFailed, match="replied with 451"):
        await mailer(server).send(ID, HELLO)
    with pytest.raises(MailFailed, match="connection to the mail server failed"):
        await mailer(server).send(ID, HELLO)
    await mailer(server).send(ID, HELLO)
    assert len(server.mails) == 1


async def test_smtp_mailer_with_silent_server_times_out_and_can_be_cancelled(nursery: trio.Nursery) -> None:
    server: MailServer = await nursery.start(smtp_server.serve)
    server.silent = True
    with pytest.raises(MailFailed):
        await mailer(server, timeout=0.2).send(ID, HELLO)
    async with trio.open_nursery() as sending:
        sending.start_soon(mailer(server, timeout=600.0).send, ID, HELLO)
        await eventually(lambda: server.connections == 2)
        sending.cancel_scope.cancel()


async def test_smtp_mailer_without_server_fails(unused_port: int) -> None:
    with pytest.raises(MailFailed, match="Connection refused"):
        await mailer(MailServer(port=unused_port)).send(ID, HELLO)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Bound and not listening, so that no other process uses it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@given(st.text(max_size=80), st.text(max_size=80))
@example("", "\n")
def test_build_message_of_any_input_has_only_its_headers(to: str, subject: str) -> None:
    """Each accepted address is one recipient, and no header ends early."""
    address = read_email(to) or "ada@example.com"
    try:
        message = build_message(ID, Mail("k", address, subject, "text"), "gateway@example.com", NOON)
        content = message.as_bytes()
    except ValueError:
        return
    parsed = message_from_bytes(content, policy=default)
    assert isinstance(parsed, EmailMessage)
    assert [one.addr_spec for one in parsed["to"].addresses] == [address]
    assert len(parsed.keys()) == len(message.keys())
    assert set(parsed.keys()) == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted"),
        *("Content-Type", "Content-Transfer-Encoding", "MIME-Version"),
    }


async def test_file_mailer_writes_private_files_and_keeps_the_newest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_module, "MAX_FILES", 3)
    lines: list[bytes] = []
    log = Log(Noon(), json=True, write=lines.append)
    box = FileMailer(home / "outbox", clock=Noon(), log=log)
    for number in range(5):
        await box.send(f"{ID}{number}", HELLO)
    files = list((home / "outbox").iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((home / "outbox").stat().st_mode) == 0o700
    message = message_from_bytes(files[0].read_bytes(), policy=default)
    assert isinstance(message, EmailMessage)
    assert message.get_content().replace("\r\n", "\n").rstrip() == HELLO.text
    logged = b"".join(lines).decode()
    assert '"event":"mail_written"' in logged and '"domain":"example.com"' in logged
    # These letters are not in the hexadecimal file names.
    assert "grace" not in logged and "ttt" not in logged
    (home / "outbox").chmod(0o500)
    (home / "outbox").rename(home / "away")
    (home / "outbox").write_text("a file in its place")
    with pytest.raises(MailFailed):
        await box.send(ID, HELLO)


def test_repr_of_mail_and_account_contains_no_secret() -> None:
    assert repr(HELLO) == "Mail('verify_email', 'example.com')"
    account = SmtpAccount("h", 25, "none", "a@b.cc", "user", lambda: "secret", 1.0)
    assert "secret" not in repr(account)
