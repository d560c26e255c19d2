"""The way of mail out of a request: it is put down here, and a task of its own delivers it.

An answer takes as long whether there is mail or not, so it tells nothing. What waits is bounded and in
memory; a message that cannot be delivered is tried again after growing pauses, and then given up with a line
in the log.
"""

from collections import deque
from typing import Final

import trio
from msgspec import Struct

from bluesminds.common.log import Log
from bluesminds.notify.mail import Mail, Mailer, MailFailed, MailRefused

MAX_WAITING: Final = 1000
PAUSES: Final = (5.0, 30.0, 120.0, 600.0)  # seconds after each failure but the last


class _Waiting(Struct, frozen=True):
    mail: Mail
    tried: int
    due: float  # Trio's clock


class MailQueue:
    def __init__(self, mailer: Mailer, log: Log) -> None:
        self._mailer = mailer
        self._log = log
        self._waiting: deque[_Waiting] = deque()
        self._posted = trio.Event()

    def post(self, mail: Mail) -> None:
        """Never waits and never fails; when too much waits the message is dropped and the log says so."""
        if len(self._waiting) >= MAX_WAITING:
            self._give_up(mail, "too many messages wait")
            return
        self._waiting.append(_Waiting(mail, 0, trio.current_time()))
        self._posted.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            due = self._next_due()
            if due <= trio.current_time():
                await self._deliver_one(due)
            else:
                self._posted = trio.Event()
                with trio.move_on_at(due):
                    await self._posted.wait()

    async def flush(self, seconds: float) -> None:
        """When nothing more will be posted: try each message that waits once more, as many as there is time
        for.
        """
        with trio.move_on_after(seconds):
            while self._waiting:
                await self._send_last(self._waiting[0].mail)
                self._waiting.popleft()

    def close(self) -> None:
        """Give up what still waits."""
        while self._waiting:
            self._give_up(self._waiting.popleft().mail, "the gateway ends")

    async def _send_last(self, mail: Mail) -> None:
        try:
            await self._mailer.send(mail)
        except (MailFailed, MailRefused) as exc:
            self._give_up(mail, str(exc))

    def _next_due(self) -> float:
        return min((one.due for one in self._waiting), default=float("inf"))

    async def _deliver_one(self, due: float) -> None:
        one = next(one for one in self._waiting if one.due == due)
        try:
            await self._mailer.send(one.mail)
        except MailRefused as exc:
            self._give_up(one.mail, str(exc))
        except MailFailed as exc:
            self._put_off(one, str(exc))
        except Exception:
            self._give_up(one.mail, "a fault of the gateway")
            self._waiting.remove(one)
            raise
        self._waiting.remove(one)

    def _put_off(self, one: _Waiting, reason: str) -> None:
        if one.tried == len(PAUSES):
            self._give_up(one.mail, reason)
            return
        mail, pause = one.mail, PAUSES[one.tried]
        self._log.warning("mail_delayed", kind=mail.kind, domain=mail.domain, reason=reason)
        self._waiting.append(_Waiting(mail, one.tried + 1, trio.current_time() + pause))

    def _give_up(self, mail: Mail, reason: str) -> None:
        self._log.error("mail_dropped", kind=mail.kind, domain=mail.domain, reason=reason)
