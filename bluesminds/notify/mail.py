"""Sends mail through an SMTP server, or for development writes it to a directory.

Messages contain single-use tokens, so messages and addresses are never logged, only the kind of a message and
the domain of its recipient. Headers are built by email.message, which rejects line breaks. The recipient of
the envelope is always `Mail.to`, never parsed from a header.
"""

import os
import smtplib
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Final, Literal, Protocol

import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.log import Log

Security = Literal["starttls", "tls", "none"]

NAME: Final = "BluesMinds"
MAX_FILES: Final = 1000  # of mails for development
MAX_LINE: Final = 990  # characters; RFC 5322 allows 998


class MailFailed(Exception):
    """A temporary failure. The message contains no address and no reply of the server. `retry_after`:
    seconds that the server asked to wait.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MailRefused(Exception):
    """A permanent failure: the server does not accept this message."""


class MailFile(Struct, frozen=True):
    """An attached file. `media`: its type, such as "application/pdf"."""

    name: str
    media: str
    content: bytes


class Mail(Struct, frozen=True):
    """A message to one recipient, as text and, if not empty, as HTML. `kind`, such as "reset_password", is
    logged. `opt_out` is the URL that stops such mails with one POST (RFC 8058). `attachment` names what the
    outbox attaches as `files` when it sends the mail, such as "invoice:ID".
    """

    # The content is stored until it is sent: only add fields with a default.

    kind: str
    to: str
    subject: str
    text: str
    html: str = ""
    opt_out: str = ""
    attachment: str = ""
    files: Sequence[MailFile] = ()

    @property
    def domain(self) -> str:
        return self.to.rpartition("@")[2]

    def __repr__(self) -> str:
        return f"Mail({self.kind!r}, {self.domain!r})"


class Mailer(Protocol):
    async def send(self, mail_id: str, mail: Mail) -> None:
        """`mail_id` is the same for each attempt. Raises MailFailed, MailRefused."""


class SmtpAccount(Struct, frozen=True):
    """The SMTP account. `sender` is a plain address; `timeout`, in seconds, bounds each step.

    `password` is called for each message and may raise MailFailed.
    """

    host: str
    port: int
    security: Security
    sender: str
    username: str | None
    password: Callable[[], str] | None
    timeout: float

    def __repr__(self) -> str:
        return f"SmtpAccount({self.host!r}, {self.port!r})"


@contextmanager
def _as_mail_failed() -> Iterator[None]:
    try:
        yield
    except smtplib.SMTPRecipientsRefused as exc:
        ((code, _),) = exc.recipients.values()
        raise _failure(code) from None
    except smtplib.SMTPAuthenticationError as exc:
        raise MailFailed(f"the mail server rejected the user name or password ({exc.smtp_code})") from None
    except smtplib.SMTPResponseException as exc:
        raise _failure(exc.smtp_code) from None
    except (smtplib.SMTPException, OSError) as exc:
        raise MailFailed(f"the connection to the mail server failed: {_reason(exc)}") from None


class SmtpMailer:
    """Opens one connection per message. `tls` verifies the server."""

    def __init__(self, account: SmtpAccount, *, tls: ssl.SSLContext, clock: Clock) -> None:
        self._account = account
        self._tls = tls
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)

    async def send(self, mail_id: str, mail: Mail) -> None:
        message = build_message(mail_id, mail, self._account.sender, self._clock.now_ms())
        # A shutdown does not wait for a slow server; the timeouts end the thread.
        await trio.to_thread.run_sync(
            self._deliver, message, mail.to, limiter=self._limiter, abandon_on_cancel=True
        )

    async def check(self) -> None:
        """Connect and sign in, and send nothing. Raises MailFailed."""
        await trio.to_thread.run_sync(self._sign_in, abandon_on_cancel=True)

    def _deliver(self, message: EmailMessage, to: str) -> None:
        with _as_mail_failed(), self._connect() as server:
            server.send_message(message, self._account.sender, [to])

    def _sign_in(self) -> None:
        with _as_mail_failed(), self._connect():
            pass

    def _connect(self) -> smtplib.SMTP:
        account = self._account
        local_name = account.sender.rpartition("@")[2]
        if account.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                account.host, account.port, local_name, timeout=account.timeout, context=self._tls
            )
        else:
            server = smtplib.SMTP(account.host, account.port, local_name, timeout=account.timeout)
        try:
            if account.security == "starttls":
                server.starttls(context=self._tls)
            if account.username is not None and account.password is not None:
                server.login(account.username, account.password())
        except BaseException:
            server.close()
            raise
        return server


def smtp_tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that trusts the CAs of the system, or only those in `ca_file` (PEM). Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


class FileMailer:
    """For development. Writes one private file per message and keeps the newest MAX_FILES."""

    def __init__(self, directory: Path, *, clock: Clock, log: Log) -> None:
        self._directory = directory
        self._clock = clock
        self._log = log

    async def send(self, mail_id: str, mail: Mail) -> None:
        message = build_message(mail_id, mail, "bluesminds@localhost", self._clock.now_ms())
        name = f"{mail_id}.eml"
        try:
            await trio.to_thread.run_sync(self._write, name, message.as_bytes())
        except OSError as exc:
            raise MailFailed(f"cannot write to the directory of mails: {_reason(exc)}") from None
        self._log.info("mail_written", kind=mail.kind, domain=mail.domain, file=name)

    def _write(self, name: str, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        temporary = self._directory / f"{name}.new"
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
        temporary.rename(self._directory / name)
        for old in sorted(self._directory.glob("*.eml"))[:-MAX_FILES]:
            old.unlink(missing_ok=True)


def build_message(mail_id: str, mail: Mail, sender: str, now_ms: int) -> EmailMessage:
    """Raises ValueError for an invalid address or subject."""
    if not mail.subject.isprintable():  # the library accepts a lone line end, which would end the header
        raise ValueError("the subject must be one line of printable text")
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(NAME, addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = mail.subject
    message["Date"] = datetime.fromtimestamp(now_ms / 1000, UTC)
    message["Message-ID"] = f"<{mail_id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    # Without quoted-printable, links in the raw message can be copied in one piece.
    plain = mail.text.isascii() and all(len(line) < MAX_LINE for line in mail.text.splitlines())
    message.set_content(mail.text, cte="7bit" if plain else "quoted-printable")
    if mail.html:
        message.add_alternative(mail.html, subtype="html", cte="quoted-printable")
    for file in mail.files:
        main, _, sub = file.media.partition("/")
        message.add_attachment(file.content, maintype=main, subtype=sub, filename=file.name)
    for name, value in opt_out_headers(mail).items():
        message[name] = value
    message.policy = SMTP.clone(max_line_length=MAX_LINE)  # folding would break a long URL
    return message


def opt_out_headers(mail: Mail) -> dict[str, str]:
    if not mail.opt_out:
        return {}
    return {"List-Unsubscribe": f"<{mail.opt_out}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def _failure(code: int) -> MailFailed | MailRefused:
    kind = MailRefused if code >= 500 else MailFailed
    return kind(f"the mail server replied with {code}")


def _reason(exc: Exception) -> str:
    """The reason in the words of the system or the library, without an address."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {exc.verify_message}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__
