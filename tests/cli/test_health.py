"""`bluesminds health`, and what it says without a gateway."""

from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User, demo_user


def test_health_without_a_gateway_fails(home: Path) -> None:
    done = User(home).prepare().call("health")
    assert done.returncode == exits.UNAVAILABLE
    assert "no gateway responds on" in done.stderr and "admin.sock: No such file" in done.stderr
    assert "start it: bluesminds serve" in done.stderr


@pytest.mark.process
def test_health_of_a_running_gateway_succeeds(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0"):
        assert user.run("health").stdout == "ok\n"
        assert user.run("health", "--ready").stdout == "ready\n"
        assert user.run("health", "--ready", "--json").returncode == 0
