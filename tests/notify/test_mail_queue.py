"""The mail queue: order, retries, drops and shutdown."""

import msgspec
import pytest
import trio
import trio.testing

from bluesminds.common.log import Log
from bluesminds.notify.mail import Mail, MailFailed, MailRefused
from bluesminds.notify.mail_queue import MAX_QUEUED, PAUSES, MailQueue


class Noon:
    def now_ms(self) -> int:
        return 1_800_000_000_000


class Script:
    """A mailer that raises the given failures and records the attempts."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.attempts: list[tuple[float, str]] = []
        self.sent: list[str] = []

    async def send(self, mail: Mail) -> None:
        await trio.lowlevel.checkpoint()
        self.attempts.append((trio.current_time(), mail.subject))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.sent.append(mail.subject)


def mail(number: int) -> Mail:
    return Mail("invite", f"person{number}@example.com", f"subject {number}", "text")


def mail_queue(mailer: Script) -> tuple[MailQueue, list[bytes]]:
    lines: list[bytes] = []
    return MailQueue(mailer, Log(Noon(), json=True, write=lines.append)), lines


def events(lines: list[bytes]) -> list[tuple[str, str]]:
    return [(line["event"], line["reason"]) for line in map(msgspec.json.decode, lines)]


async def test_mail_queue_several_messages_are_sent_in_order(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script()
    queue, lines = mail_queue(script)
    nursery.start_soon(queue.run)
    await trio.sleep(1)
    for number in range(3):
        queue.enqueue(mail(number))
    await trio.sleep(1)
    queue.enqueue(mail(3))
    await trio.sleep(1)
    assert script.sent == [f"subject {number}" for number in range(4)]
    assert lines == []


async def test_mail_queue_temporary_failure_is_retried_without_blocking(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(MailFailed("down"), None, MailFailed("down"))
    queue, lines = mail_queue(script)
    began = trio.current_time()
    nursery.start_soon(queue.run)
    queue.enqueue(mail(0))
    queue.enqueue(mail(1))
    await trio.sleep(sum(PAUSES))
    assert script.sent == ["subject 1", "subject 0"]
    assert [round(at - began) for at, _ in script.attempts] == [0, 0, 5, 35]
    assert events(lines) == [("mail_delayed", "down")] * 2
    assert b"person" not in b"".join(lines)


async def test_mail_queue_undeliverable_message_is_dropped_and_logged(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(MailRefused("answered 550"), *[MailFailed("down")] * 5)
    queue, lines = mail_queue(script)
    nursery.start_soon(queue.run)
    queue.enqueue(mail(0))
    queue.enqueue(mail(1))
    await trio.sleep(2 * sum(PAUSES))
    assert script.sent == []
    assert len(script.attempts) == 1 + 5
    assert events(lines) == [
        ("mail_dropped", "answered 550"),
        *[("mail_delayed", "down")] * 4,
        ("mail_dropped", "down"),
    ]


async def test_mail_queue_full_drops_new_messages(autojump_clock: trio.testing.MockClock) -> None:
    queue, lines = mail_queue(Script())
    for number in range(MAX_QUEUED + 2):
        queue.enqueue(mail(number))
    assert events(lines) == [("mail_dropped", "the mail queue is full")] * 2


async def test_mail_queue_flush_tries_each_message_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(None, MailFailed("down"))
    queue, lines = mail_queue(script)
    for number in range(3):
        queue.enqueue(mail(number))
    await queue.flush(1.0)
    assert script.sent == ["subject 0", "subject 2"]
    assert events(lines) == [("mail_dropped", "down")]

    class Stuck:
        async def send(self, mail: Mail) -> None:
            await trio.sleep_forever()

    lines.clear()
    queue = MailQueue(Stuck(), Log(Noon(), json=True, write=lines.append))
    queue.enqueue(mail(0))
    queue.enqueue(mail(1))
    began = trio.current_time()
    await queue.flush(1.0)
    assert trio.current_time() - began == pytest.approx(1.0)
    queue.close()
    assert events(lines) == [("mail_dropped", "the gateway stopped")] * 2


async def test_mail_queue_internal_error_drops_one_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(ZeroDivisionError())
    queue, lines = mail_queue(script)
    queue.enqueue(mail(0))
    queue.enqueue(mail(1))
    with pytest.raises(ZeroDivisionError):
        await queue.run()
    assert events(lines) == [("mail_dropped", "internal error")]
    with trio.move_on_after(1):
        await queue.run()
    assert script.sent == ["subject 1"]
