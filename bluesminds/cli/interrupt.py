"""Ctrl-C while a command works: where it may strike, and what it ends.

As a KeyboardInterrupt it could strike anywhere in the database's event loop, which would then wait for ever,
or end before its threads. So it cancels the work instead: what has begun comes to its end, within its limits.
"""

import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar, TypeVarTuple, Unpack

import trio

from bluesminds.cli.failures import only

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt within; before and after it ends the process at once, silently. Not if
    the program was started with Ctrl-C ignored.
    """
    with _answered(instead_of=signal.SIG_DFL, by=signal.default_int_handler):
        yield


def run(work: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
    """What the work returns, or raises. Raises KeyboardInterrupt, when the work has been cleared away after
    Ctrl-C; a second one ends the process at once.
    """
    try:
        if threading.current_thread() is not threading.main_thread() or _ignored():
            return trio.run(work, *args, strict_exception_groups=True)
        # Trio would raise one of its own in the work, if it came while the receiver below is not there yet.
        with _answered(instead_of=signal.default_int_handler, by=signal.SIG_DFL):
            return trio.run(_watched, work, args, strict_exception_groups=True)
    except BaseExceptionGroup as exc:
        fault = only(exc)
    raise fault  # with the cause that it has


def _ignored() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def _watched(work: Callable[[Unpack[Ts]], Awaitable[T]], args: tuple[*Ts]) -> T:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, signals)
            result = await work(*args)
            nursery.cancel_scope.cancel()
    return result


async def _give_up(signals: AsyncIterator[int]) -> NoReturn:
    await anext(signals)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


@contextmanager
def _answered(*, instead_of: Any, by: Any) -> Iterator[None]:  # noqa: ANN401
    """Ctrl-C by another handler, if it is `instead_of` now."""
    if signal.getsignal(signal.SIGINT) is not instead_of:
        yield
        return
    try:
        signal.signal(signal.SIGINT, by)
        yield
    finally:
        signal.signal(signal.SIGINT, instead_of)
