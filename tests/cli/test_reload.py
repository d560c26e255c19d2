"""`bluesminds reload`."""

from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User


def test_reload_without_gateway_says_so(home: Path) -> None:
    done = User(home).prepare().call("reload")
    assert done.returncode == exits.UNAVAILABLE
    assert "No gateway is running" in done.stderr


@pytest.mark.process
def test_reload_prints_what_is_in_force_or_every_problem(home: Path) -> None:
    config = home / "gateway.toml"
    server = '[[servers]]\nname = "one"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
    config.write_text("[server]\nport = 0\n" + server)
    user = User(home)
    with user.serving("serve") as gateway:
        config.write_text("[server]\nport = 0\nhttp2 = true\n" + server + server.replace("one", "two"))
        done = user.run("reload")
        assert done.returncode == exits.CONFIG_INVALID, "HTTP/2 needs TLS"
        assert f"({config.name}:3)" in done.stderr and done.stderr.startswith("error: ")
        config.write_text(
            "[server]\nport = 0\nmax_connections = 50\n" + server + server.replace("one", "two")
        )
        done = user.run("reload")
        assert done.stdout == (
            "reloaded: 2 servers, 0 routes, 0 prices\na restart is needed for: server.max_connections\n"
        )
        assert gateway.stop() == 0
