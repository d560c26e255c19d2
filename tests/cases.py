"""One test for a table of cases. For pure functions, a test of its own takes longer than a case."""

from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import Any

import pytest

Check = Callable[..., None]


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Check], Callable[[], None]]:
    """Like `pytest.mark.parametrize`, but all cases are one test, which names each case that fails. For
    functions without fixtures.
    """
    rows = [
        {names: case} if isinstance(names, str) else dict(zip(names, case, strict=True)) for case in cases
    ]
    assert rows

    def decorate(check: Check) -> Callable[[], None]:
        assert not iscoroutinefunction(check), "only for synchronous tests"

        def test() -> None:
            failed: list[BaseException] = []
            for number, row in enumerate(rows):
                try:
                    check(**row)
                except (Exception, pytest.fail.Exception) as exc:
                    exc.add_note(f"case {number}: {row!r}")
                    failed.append(exc)
            if len(failed) == 1:
                raise failed[0]
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(rows)} cases failed", failed)

        test.__name__, test.__module__, test.__doc__ = check.__name__, check.__module__, check.__doc__
        return test

    return decorate
