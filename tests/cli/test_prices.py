"""`bluesminds prices`: list, set and remove."""

import json
from pathlib import Path

from bluesminds.cli import exits
from tests.terminal import User


def test_prices_are_set_listed_and_removed(home: Path) -> None:
    user = User(home).prepare()
    assert user.call("prices", "set", "m", "--input", "1.25", "--output", "10").returncode == 0
    flex = user.call("prices", "set", "m", "--service-tier", "flex", "--input", "0.5", "--json")
    shown = [
        (row["service_tier"], row["input_usd"], row["output_usd"]) for row in json.loads(flex.stdout)["data"]
    ]
    assert shown == [(None, "1.25", "10"), ("flex", "0.5", "10")]
    table = user.call("prices", "list").stdout.splitlines()
    assert table[0].split("\t")[:4] == ["model", "server", "since", "until"]
    assert len(table) == 3
    assert user.call("prices", "set", "m", "--until", "2099-01-01", "--input", "1").returncode == 0
    assert user.call("prices", "list").stdout.splitlines()[1].split("\t")[3] == "2099-01-01"
    assert user.call("prices", "remove", "m", "--service-tier", "flex").stdout == "removed the price of m\n"
    again = user.call("prices", "remove", "m", "--service-tier", "flex")
    assert (again.returncode, "bluesminds prices list" in again.stderr) == (exits.NOT_FOUND, True)


def test_price_in_force_is_shown_with_its_source(home: Path) -> None:
    user = User(home).prepare()
    (row,) = json.loads(user.call("prices", "list", "whisper-1", "--json").stdout)["data"]
    assert (row["source"], row["second_usd"], row["input_usd"]) == ("bundled", "0.0001", None)
    assert json.loads(user.call("prices", "list", "no-such-model", "--json").stdout)["data"] == []


def test_prices_wrong_input_is_refused(home: Path) -> None:
    user = User(home).prepare()
    for words in (
        ["set", "m"],
        ["set", "m", "--input", "-1"],
        ["set", "m", "--input", "1", "--since", "2026-02-30"],
        ["set", "m", "--input", "1", "--since", "2026-03-01", "--until", "2026-02-28"],
        ["list", "--server", "one"],
    ):
        assert user.call("prices", *words).returncode == exits.USAGE, words
