"""Mail is tried again, given up in the end, never lost silently and never waited for."""

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
    """A mailer that fails as it is told to, and remembers when it was asked for what."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[float, str]] = []
        self.sent: list[str] = []

    async def send(self, mail: Mail) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), mail.subject))
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


async def test_messages_go_in_the_order_they_came(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script()
    man, lines = mail_queue(script)
    nursery.start_soon(man.run)
    await trio.sleep(1)
    for number in range(3):
        man.enqueue(mail(number))
    await trio.sleep(1)
    man.enqueue(mail(3))
    await trio.sleep(1)
    assert script.sent == [f"subject {number}" for number in range(4)]
    assert lines == []


async def test_a_failure_is_tried_again_and_holds_up_nobody(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(MailFailed("down"), None, MailFailed("down"))
    man, lines = mail_queue(script)
    began = trio.current_time()
    nursery.start_soon(man.run)
    man.enqueue(mail(0))
    man.enqueue(mail(1))
    await trio.sleep(sum(PAUSES))
    assert script.sent == ["subject 1", "subject 0"]
    assert [round(at - began) for at, _ in script.asked] == [0, 0, 5, 35]
    assert events(lines) == [("mail_delayed", "down")] * 2
    assert b"person" not in b"".join(lines)


async def test_what_never_goes_is_given_up_with_a_word(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    script = Script(MailRefused("answered 550"), *[MailFailed("down")] * 5)
    man, lines = mail_queue(script)
    nursery.start_soon(man.run)
    man.enqueue(mail(0))
    man.enqueue(mail(1))
    await trio.sleep(2 * sum(PAUSES))
    assert script.sent == []
    assert len(script.asked) == 1 + 5
    assert events(lines) == [
        ("mail_dropped", "answered 550"),
        *[("mail_delayed", "down")] * 4,
        ("mail_dropped", "down"),
    ]


async def test_too_many_are_dropped_at_once(autojump_clock: trio.testing.MockClock) -> None:
    man, lines = mail_queue(Script())
    for number in range(MAX_QUEUED + 2):
        man.enqueue(mail(number))
    assert events(lines) == [("mail_dropped", "the mail queue is full")] * 2


async def test_the_end_sends_what_waits_and_names_what_it_cannot(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(None, MailFailed("down"))
    man, lines = mail_queue(script)
    for number in range(3):
        man.enqueue(mail(number))
    await man.flush(1.0)
    assert script.sent == ["subject 0", "subject 2"]
    assert events(lines) == [("mail_dropped", "down")]

    class Stuck:
        async def send(self, mail: Mail) -> None:
            await trio.sleep_forever()

    lines.clear()
    man = MailQueue(Stuck(), Log(Noon(), json=True, write=lines.append))
    man.enqueue(mail(0))
    man.enqueue(mail(1))
    began = trio.current_time()
    await man.flush(1.0)
    assert trio.current_time() - began == pytest.approx(1.0)
    man.close()
    assert events(lines) == [("mail_dropped", "the gateway stopped")] * 2


async def test_a_fault_of_ours_costs_one_message_not_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script(ZeroDivisionError())
    man, lines = mail_queue(script)
    man.enqueue(mail(0))
    man.enqueue(mail(1))
    with pytest.raises(ZeroDivisionError):
        await man.run()
    assert events(lines) == [("mail_dropped", "internal error")]
    with trio.move_on_after(1):
        await man.run()
    assert script.sent == ["subject 1"]
