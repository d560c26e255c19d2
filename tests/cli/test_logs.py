"""`bluesminds logs`."""

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from bluesminds.cli import exits
from tests.terminal import COMMAND, User, demo_user

ASK = {"model": "demo/echo", "messages": [{"role": "user", "content": "one"}]}


def test_logs_without_a_gateway_say_what_to_start(home: Path) -> None:
    for words in (("logs",), ("logs", "--follow")):
        done = User(home).prepare().call(*words)
        assert done.returncode == exits.UNAVAILABLE
        assert "No gateway is running" in done.stderr and "bluesminds serve" in done.stderr


@pytest.mark.process
def test_logs_follow_a_running_gateway(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:

        def ask(request_id: str) -> None:
            headers = {"authorization": f"Bearer {gateway.key}", "x-request-id": request_id}
            answer = httpx.post(
                f"{gateway.url}/v1/chat/completions", json=ASK, headers=headers, trust_env=False
            )
            assert answer.status_code == 200

        ask("first")
        assert "first" in user.run("logs", "--model", "demo/echo").stdout
        follower = subprocess.Popen(
            (*COMMAND, "logs", "--follow", "--event", "request", "--json"),
            stdout=subprocess.PIPE,
            cwd=user.home,
            env=user.environment({}),
            text=True,
        )
        try:
            assert follower.stdout is not None
            assert json.loads(follower.stdout.readline())["request_id"] == "first"
            ask("second")
            assert json.loads(follower.stdout.readline())["request_id"] == "second"
        finally:
            follower.kill()
            follower.communicate()
        assert gateway.stop() == 0
