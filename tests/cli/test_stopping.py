"""The text of the first Ctrl-C."""

from bluesminds.cli.serve import _stopping_text


def test_stopping_text_counts_running_responses() -> None:
    assert _stopping_text(0, 30.0) == "Stopping."
    assert _stopping_text(1, 30.0) == (
        "Stopping. 1 response is still running (at most 30 s). Press Ctrl-C again to stop now."
    )
    assert _stopping_text(2, 0.5).startswith("Stopping. 2 responses are still running (at most 0.5 s).")
