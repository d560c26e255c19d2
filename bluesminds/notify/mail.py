"""Mail: the port, and what is behind it: an SMTP server, or for development a directory of files.

Messages hold single-use tokens. Neither a message nor an address is ever logged, only the kind of a message
and the domain it went to. Headers are made by email.message, which refuses line breaks; the recipient of the
envelope is the one address given, whatever a header would be parsed as.
"""

import os
import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Final, Literal, Protocol

import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.log import Log

Security = Literal["starttls", "tls", "none"]

NAME: Final = "BluesMinds"
MAX_FILES: Final = 1000  # in the outbox
MAX_LINE: Final = 990  # characters; RFC 5322 allows 998


class MailFailed(Exception):
    """Not delivered this time; later it may be. Says nothing of what the server said about an address."""


class MailRefused(Exception):
    """Not delivered, and never to be: the server does not take this message."""


class Mail(Struct, frozen=True):
    """One message to one person. `kind` is what logs may say of it, such as "reset_password"."""

    kind: str
    to: str
    subject: str
    text: str

    @property
    def domain(self) -> str:
        return self.to.rpartition("@")[2]

    def __repr__(self) -> str:
        return f"Mail({self.kind!r}, {self.domain!r})"


class Mailer(Protocol):
    async def send(self, mail: Mail) -> None:
        """Raises MailFailed, MailRefused."""


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


class SmtpMailer:
    """Hands each message to a server, on a connection of its own. `tls` verifies the server."""

    def __init__(self, account: SmtpAccount, *, tls: ssl.SSLContext, clock: Clock) -> None:
        self._account = account
        self._tls = tls
        self._clock = clock
        self._limiter = trio.CapacityLimiter(1)

    async def send(self, mail: Mail) -> None:
        message = written(mail, self._account.sender, self._clock.now_ms())
        # A stop does not wait for a slow server; the thread ends with its own time-outs.
        await trio.to_thread.run_sync(
            self._deliver, message, mail.to, limiter=self._limiter, abandon_on_cancel=True
        )

    def _deliver(self, message: EmailMessage, to: str) -> None:
        try:
            with self._connected() as server:
                server.send_message(message, self._account.sender, [to])
        except smtplib.SMTPRecipientsRefused as exc:
            ((code, _),) = exc.recipients.values()
            raise _failure(code) from None
        except smtplib.SMTPAuthenticationError as exc:
            raise MailFailed(
                f"the mail server does not accept the user name and password ({exc.smtp_code})"
            ) from None
        except smtplib.SMTPResponseException as exc:
            raise _failure(exc.smtp_code) from None
        except (smtplib.SMTPException, OSError) as exc:
            raise MailFailed(f"the mail server cannot be used: {_why(exc)}") from None

    def _connected(self) -> smtplib.SMTP:
        account = self._account
        own_name = account.sender.rpartition("@")[2]
        if account.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                account.host, account.port, own_name, timeout=account.timeout, context=self._tls
            )
        else:
            server = smtplib.SMTP(account.host, account.port, own_name, timeout=account.timeout)
        try:
            if account.security == "starttls":
                server.starttls(context=self._tls)
            if account.username is not None and account.password is not None:
                server.login(account.username, account.password())
        except BaseException:
            server.close()
            raise
        return server


def verifying(ca_file: Path | None) -> ssl.SSLContext:
    """A client context that trusts the system's authorities, or only those of `ca_file` (PEM). Raises
    OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


class OutboxMailer:
    """For development: a file per message, for its owner's eyes only; the newest MAX_FILES are kept."""

    def __init__(self, directory: Path, *, clock: Clock, log: Log) -> None:
        self._directory = directory
        self._clock = clock
        self._log = log

    async def send(self, mail: Mail) -> None:
        now = self._clock.now_ms()
        message = written(mail, "bluesminds@localhost", now)
        name = f"{uuid7(now)}.eml"
        try:
            await trio.to_thread.run_sync(self._write, name, message.as_bytes())
        except OSError as exc:
            raise MailFailed(f"the outbox cannot be written to: {_why(exc)}") from None
        self._log.info("mail_written", kind=mail.kind, domain=mail.domain, file=name)

    def _write(self, name: str, content: bytes) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        draft = self._directory / f"{name}.new"
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        draft.rename(self._directory / name)
        for old in sorted(self._directory.glob("*.eml"))[:-MAX_FILES]:
            old.unlink(missing_ok=True)


def written(mail: Mail, sender: str, now_ms: int) -> EmailMessage:
    """The message as it travels. Raises ValueError for an address or a subject that no header can hold."""
    if not mail.subject.isprintable():  # the library takes a lone line end, and the header would end there
        raise ValueError("a subject is text on one line")
    message = EmailMessage(policy=SMTP)
    message["From"] = Address(NAME, addr_spec=sender)
    message["To"] = Address(addr_spec=mail.to)
    message["Subject"] = mail.subject
    message["Date"] = datetime.fromtimestamp(now_ms / 1000, UTC)
    message["Message-ID"] = f"<{uuid7(now_ms)}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    # Links stay in one piece also for who reads the file itself.
    plain = mail.text.isascii() and all(len(line) < MAX_LINE for line in mail.text.splitlines())
    message.set_content(mail.text, cte="7bit" if plain else "quoted-printable")
    return message


def _failure(code: int) -> MailFailed | MailRefused:
    kind = MailRefused if code >= 500 else MailFailed
    return kind(f"the mail server answered {code}")


def _why(exc: Exception) -> str:
    """The reason in the system's or the library's words, which hold no address."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {exc.verify_message}"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__
