"""Background mail queue with retries.

Requests enqueue mail and do not wait, so that the response time does not reveal whether mail is sent. The
queue is bounded and in memory. Failed messages are retried with increasing pauses, then dropped and logged.
"""

from collections import deque
from typing import Final

import trio
from msgspec import Struct

from bluesminds.common.log import Log
from bluesminds.notify.mail import Mail, Mailer, MailFailed, MailRefused

MAX_QUEUED: Final = 1000
PAUSES: Final = (5.0, 30.0, 120.0, 600.0)  # seconds before each retry


class _QueuedMail(Struct, frozen=True):
    mail: Mail
    retries: int
    due: float  # Trio's clock


class MailQueue:
    def __init__(self, mailer: Mailer, log: Log) -> None:
        self._mailer = mailer
        self._log = log
        self._queued: deque[_QueuedMail] = deque()
        self._enqueued = trio.Event()

    @property
    def length(self) -> int:
        """Mails that wait."""
        return len(self._queued)

    def enqueue(self, mail: Mail) -> None:
        """Never blocks or raises. A message that does not fit is dropped and logged."""
        if len(self._queued) >= MAX_QUEUED:
            self._drop(mail, "the mail queue is full")
            return
        self._queued.append(_QueuedMail(mail, 0, trio.current_time()))
        self._enqueued.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            due = min((queued.due for queued in self._queued), default=float("inf"))
            if due <= trio.current_time():
                await self._deliver(next(queued for queued in self._queued if queued.due == due))
            else:
                self._enqueued = trio.Event()
                with trio.move_on_at(due):
                    await self._enqueued.wait()

    async def flush(self, seconds: float) -> None:
        """Call it when `run` has ended. Try each queued message once more, for at most `seconds`."""
        with trio.move_on_after(seconds):
            while self._queued:
                mail = self._queued[0].mail
                try:
                    await self._mailer.send(mail)
                except (MailFailed, MailRefused) as exc:
                    self._drop(mail, str(exc))
                self._queued.popleft()

    def close(self) -> None:
        """Drop all queued messages."""
        while self._queued:
            self._drop(self._queued.popleft().mail, "the gateway stopped")

    async def _deliver(self, queued: _QueuedMail) -> None:
        try:
            await self._mailer.send(queued.mail)
        except MailRefused as exc:
            self._drop(queued.mail, str(exc))
        except MailFailed as exc:
            self._retry_later(queued, str(exc))
        except Exception:
            self._drop(queued.mail, "internal error")
            self._queued.remove(queued)
            raise
        self._queued.remove(queued)

    def _retry_later(self, queued: _QueuedMail, reason: str) -> None:
        mail = queued.mail
        if queued.retries == len(PAUSES):
            self._drop(mail, reason)
            return
        self._log.warning("mail_delayed", kind=mail.kind, domain=mail.domain, reason=reason)
        due = trio.current_time() + PAUSES[queued.retries]
        self._queued.append(_QueuedMail(mail, queued.retries + 1, due))

    def _drop(self, mail: Mail, reason: str) -> None:
        self._log.error("mail_dropped", kind=mail.kind, domain=mail.domain, reason=reason)
