"""One test for a table of cases. For pure functions, a test of its own takes longer than a case."""

from collections.abc import Callable, Iterable
from typing import Any

Check = Callable[..., None]


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Check], Callable[[], None]]:
    """Like `pytest.mark.parametrize`, but all cases are one test. It ends at the first case that fails, and
    names it. For functions without fixtures.
    """
    rows = [
        {names: case} if isinstance(names, str) else dict(zip(names, case, strict=True)) for case in cases
    ]
    assert rows

    def decorate(check: Check) -> Callable[[], None]:
        def test() -> None:
            for number, row in enumerate(rows):
                try:
                    check(**row)
                except BaseException as exc:
                    exc.add_note(f"case {number}: {row!r}")
                    raise

        test.__name__, test.__module__, test.__doc__ = check.__name__, check.__module__, check.__doc__
        return test

    return decorate
