"""Subtests with Trio: a test that is cancelled ends."""

import pytest
import trio


async def test_subtests_cancelled_test_runs_no_further_case(subtests: pytest.Subtests) -> None:
    tried = []
    with trio.CancelScope() as scope:
        for case in range(3):
            tried.append(case)
            with subtests.test(case=case):
                scope.cancel()
                await trio.lowlevel.checkpoint()
    assert (tried, scope.cancelled_caught) == ([0], True)


async def test_subtests_cancelled_group_runs_no_further_case(subtests: pytest.Subtests) -> None:
    tried = []
    with trio.CancelScope() as scope:
        for case in range(3):
            tried.append(case)
            with subtests.test(case=case):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever)
                    scope.cancel()
    assert (tried, scope.cancelled_caught) == ([0], True)
