"""Commands with a running gateway, concurrent commands, and listening on a public address."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import httpx
import pytest

from bluesminds.cli import exits
from tests.terminal import User, demo_user

ASK = {"model": "demo/echo", "messages": [{"role": "user", "content": "one two three"}]}


def ask(url: str, key: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"}, trust_env=False
    )


@pytest.mark.process
def test_commands_with_running_gateway_take_effect_there(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        made = json.loads(user.run("keys", "create", "second", "--rpm", "2", "--json").stdout)
        assert [ask(gateway.url, made["key"]).status_code for _ in range(3)] == [200, 200, 429]
        shown = json.loads(user.run("usage", "show", "--by", "key", "--json").stdout)
        assert shown["data"][0] | {"average_ms": 0} == {
            "key": made["id"],
            "requests": 2,
            "errors": 0,
            "average_ms": 0,
            "duration_ms": {"p50": None, "p95": None, "p99": None},
            "first_byte_ms": {"p50": None, "p95": None, "p99": None},
            "input_tokens": 12,
            "output_tokens": 6,
            "cache_read_tokens": 0,
            "cache_write_tokens": 0,
            "reasoning_tokens": 0,
            "audio_input_tokens": 0,
            "audio_output_tokens": 0,
            "image_input_tokens": 0,
            "image_output_tokens": 0,
            "images": 0,
            "audio_ms": 0,
            "characters": 0,
            "cost_usd": "0",
            "unpriced": 2,
        }
        assert user.run("keys", "revoke", made["id"]).returncode == 0
        assert ask(gateway.url, made["key"]).status_code == 401, "revocation takes effect immediately"
        assert user.run("servers", "test", "demo").returncode == 0

        second = user.run("serve", "--port", "0")
        assert second.returncode == exits.CONFLICT
        assert f"in use by process {gateway.process.pid}" in second.stderr
        assert gateway.stop() == 0
    assert not (user.state_dir / "admin.sock").exists()
    assert {row["name"] for row in json.loads(user.run("keys", "list", "--json").stdout)["data"]} == {
        *("guest", "second")
    }


LIST_MODULES = """
import sys
from bluesminds.__main__ import main
try:
    main()
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.process
def test_command_loads_only_modules_that_it_uses(home: Path) -> None:
    user = demo_user(home)

    def modules(*words: str) -> set[str]:
        done = user.run(*words, launcher=(sys.executable, "-c", LIST_MODULES))
        assert done.returncode == 0
        return set(done.stderr.split())

    assert not {"trio", "bluesminds.config"} & modules("version")
    with user.serving("demo", "--port", "0") as gateway:
        assert not {"quart", "storage.store"} & modules("keys", "list")
        assert gateway.stop() == 0
    assert not {"asyncpg", "fontTools", "pydyf"} & modules("keys", "list")


# Waits longer than the default, for slow disks.
PATIENT = """
from bluesminds.app import operator
from bluesminds.__main__ import main
operator.LOCK_TIMEOUT = 60
main()
"""


@pytest.mark.process
def test_commands_started_together_wait_for_each_other(home: Path) -> None:
    user = User(home).prepare()

    def create(name: str) -> subprocess.CompletedProcess[str]:
        return user.run("keys", "create", name, launcher=(sys.executable, "-c", PATIENT))

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(create, "abcd"))
    assert [one.returncode for one in done] == [0, 0, 0, 0], [one.stderr for one in done]
    assert sorted(name for (name,) in user.rows("SELECT name FROM api_keys")) == ["a", "b", "c", "d"]


@pytest.mark.process
def test_serve_public_address_needs_administrator(home: Path) -> None:
    user = User(home)
    refused = user.run("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104 - refused
    assert refused.returncode == exits.CONFIG_INVALID
    error, remedy = refused.stderr.splitlines()
    assert error.startswith("error: refusing to listen on 0.0.0.0: create an administrator before")
    command = remedy.removeprefix("help: bluesminds ").split()
    assert user.run(*command, stdin="correct horse battery\n").returncode == 0
    with user.serving("serve", "--host", "0.0.0.0", "--port", "0") as gateway:  # noqa: S104
        assert "listening on http://0.0.0.0:" in gateway.said
        assert "administrator" not in gateway.said
        assert gateway.stop() == 0


@pytest.mark.process
def test_replay_prints_both_sides(home: Path) -> None:
    user = demo_user(home)
    kept = {"BLUESMINDS__PROMPT_LOG__DEFAULT": "true", "BLUESMINDS__PROMPT_LOG__ADMINISTRATORS": "true"}
    with user.serving("demo", "--port", "0", environ=kept) as gateway:
        first = ask(gateway.url, gateway.key).headers["x-request-id"]
        give_up = monotonic() + 60
        while not json.loads(user.call("prompt-log", "list", "--json").stdout)["data"]:
            assert monotonic() < give_up  # it is stored after its response
        shown = user.call("replay", first)
        assert shown.returncode == 0, shown.stderr
        rows = dict(line.split("\t", 1) for line in shown.stdout.splitlines() if "\t" in line)
        assert rows["figure"] == "original\treplay"
        assert rows["model"] == "demo/echo\tdemo/echo"
        assert rows["input_tokens"] == "6\t6"
        answers = shown.stdout.partition("Response of the original:")[2].partition("Response of the replay:")
        assert answers[0].strip() == answers[2].strip() != ""
        other = user.call("replay", first, "--model", "no-such-model")
        assert other.returncode == exits.NOT_FOUND and "no-such-model" in other.stderr
        found = json.loads(user.call("replay", first, "--json").stdout)
        assert found["replay"]["status"] == 200 and found["error"] is None
    user.environ |= kept
    stopped = user.call("replay", first)
    assert stopped.returncode == exits.UNAVAILABLE and "No gateway is running" in stopped.stderr
    assert user.call("replay", "x").returncode == exits.USAGE
