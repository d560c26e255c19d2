"""`bluesminds limits`: show and set."""

import json
from pathlib import Path

from bluesminds.cli import exits
from tests.cli.test_users import ADA, make
from tests.terminal import User


def test_limits_show_and_set_succeed(home: Path) -> None:
    user = User(home).prepare()
    make(user, ADA, "--tier", "starter")
    first = json.loads(user.call("limits", "show", ADA, "--json").stdout)
    assert first["rpm"] == {"limit": 60, "origin": "tier", "used": 0}
    changed = user.call("limits", "set", ADA, "--rpm", "7", "--usd-per-month", "12.5", "--json")
    after = json.loads(changed.stdout)
    assert after["rpm"] == {"limit": 7, "origin": "user", "used": 0}
    assert after["usd_per_month"] == {"limit": "12.5", "origin": "user", "used": "0"}
    table = user.call("limits", "show", ADA).stdout.splitlines()
    assert table[:2] == ["name\tlimit\tused\tfrom", "rpm\t7\t0\tuser"]
    back = json.loads(user.call("limits", "set", ADA, "--rpm", "tier", "--json").stdout)
    assert (back["rpm"]["limit"], back["usd_per_month"]["limit"]) == (60, "12.5")
    tiers = json.loads(user.call("limits", "tiers", "--json").stdout)["data"]
    assert [(row["name"], row["limits"]["rpm"]) for row in tiers] == [
        ("free", 10),
        ("starter", 60),
        ("pro", 200),
        ("enterprise", 1000),
    ]


def test_limits_of_tiers_show_shared_budgets(home: Path) -> None:
    user = User(home, {"BLUESMINDS__TIERS__FREE__SHARED_USD_PER_MONTH": "100"}).prepare()
    head, free, starter, *_ = (line.split("\t") for line in user.call("limits", "tiers").stdout.splitlines())
    assert head[-2:] == ["shared_usd_per_day", "shared_usd_per_month"]
    assert (free[0], free[-2:], starter[-2:]) == ("free", ["-", "0 of 100"], ["-", "-"])


def test_limits_wrong_input_is_refused(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    for words in (
        ["set", ADA],
        ["set", ADA, "--rpm", "many"],
        ["set", ADA, "--rpm", "0"],
        ["show"],
        ["show", ADA, "--key", "x"],
        ["show", "--key", "../users"],
    ):
        done = user.call("limits", *words)
        assert (done.returncode, done.stdout) == (exits.USAGE, ""), words
        assert done.stderr.startswith("error: ")
    assert user.call("limits", "set", ADA, "--usd-total", "-1").returncode == exits.USAGE
    assert user.call("limits", "show", "bob@example.com").returncode == exits.NOT_FOUND
