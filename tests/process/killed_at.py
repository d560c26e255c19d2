"""Runs the command and kills its process at a certain point of the COUNT-th request that reaches it.

`python -m tests.process.killed_at POINT COUNT serve ...`
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any, Final

import storage.sqlite
from bluesminds.__main__ import main
from bluesminds.gateway.admission import Admission
from bluesminds.gateway.recorder import Recorder
from bluesminds.web import data_plane
from storage.postgres import PostgresTransaction

_passed = count(1)
_deadly: list[int] = []


def _pass() -> None:
    if next(_passed) in _deadly:
        os.kill(os.getpid(), signal.SIGKILL)


def _after(owner: Any, name: str) -> None:
    """Kill after a function has returned."""
    function = getattr(owner, name)

    @wraps(function)
    def call(*args: Any, **more: Any) -> Any:
        result = function(*args, **more)
        _pass()
        return result

    setattr(owner, name, call)


def _after_await(owner: Any, name: str) -> None:
    """As `_after`, for a coroutine function."""
    function = getattr(owner, name)

    @wraps(function)
    async def call(*args: Any, **more: Any) -> Any:
        result = await function(*args, **more)
        _pass()
        return result

    setattr(owner, name, call)


def _before_commit() -> None:
    """The statements of a unit have run, and COMMIT has not."""
    _after(storage.sqlite, "execute_all")
    end = PostgresTransaction._end

    async def call(self: PostgresTransaction, final: bool, alone: bool) -> None:
        if final and not alone:
            _pass()
        await end(self, final, alone)

    PostgresTransaction._end = call  # type: ignore[method-assign]


POINTS: Final[dict[str, Callable[[], None]]] = {
    "reserved": lambda: _after(Admission, "_open"),
    "first_byte": lambda: _after_await(data_plane.ASGIResponseWriter, "write"),
    "before_commit": _before_commit,
    "committed": lambda: _after_await(Recorder, "_try_insert"),
}

if __name__ == "__main__":
    _deadly.append(int(sys.argv.pop(2)))
    POINTS[sys.argv.pop(1)]()
    main()
