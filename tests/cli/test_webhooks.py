"""`bluesminds webhooks`: the commands, and the receiver for development."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from bluesminds.cli import exits
from bluesminds.notify.webhook_format import new_secret, sign
from tests.terminal import User

CONFIG = """
[webhooks]
enabled = true
"""


@pytest.fixture
def user(home: Path) -> User:
    (home / "gateway.toml").write_text(CONFIG)
    return User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")}).prepare()


def test_webhooks_are_added_listed_triggered_and_removed(user: User) -> None:
    assert user.call("users", "create", "--email", "ada@example.com", stdin="correct horse battery\n").stdout
    added = user.call("webhooks", "add", "https://hooks.example.com/", "--event", "key.*", "--json")
    made = json.loads(added.stdout)
    assert made["secret"].startswith("whsec_")
    webhook = made["webhook"]["id"]
    rows = json.loads(user.call("webhooks", "list", "--json").stdout)["data"]
    assert [(row["id"], row["events"]) for row in rows] == [(webhook, ["key.*"])]
    sent = user.call("webhooks", "trigger", webhook, "--event", "key.created")
    assert sent.stdout.startswith("sent key.created as ")
    rows = json.loads(user.call("webhooks", "deliveries", webhook, "--json").stdout)["data"]
    assert [(row["event"], row["state"]) for row in rows] == [("key.created", "pending")]
    rotated = user.call("webhooks", "rotate", webhook)
    assert rotated.stdout.strip() != made["secret"]
    rows = json.loads(user.call("webhooks", "list", "--user", "ada@example.com", "--json").stdout)
    assert rows["data"] == []
    assert user.call("webhooks", "remove", webhook).stdout == f"removed {webhook}\n"
    assert user.call("webhooks", "trigger", webhook).returncode == exits.NOT_FOUND


def test_webhooks_that_are_not_enabled_are_not_found(home: Path) -> None:
    user = User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")}).prepare()
    assert user.call("webhooks", "list").returncode == exits.NOT_FOUND


def test_listen_with_an_invalid_secret_says_what_to_do(user: User) -> None:
    found = user.call("webhooks", "listen", stdin="nothing\n")
    assert found.returncode == exits.USAGE
    assert "whsec_" in found.stderr


@pytest.mark.process
def test_listen_prints_events_with_a_valid_signature_only(home: Path) -> None:
    secret = new_secret()
    command = [sys.executable, "-m", "bluesminds", "webhooks", "listen", "--port", "0", "--count", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(secret + "\n")
        process.stdin.flush()
        url = process.stderr.readline().split()[-1]
        body, now = b'{"type":"key.created"}', int(time.time())
        signature = sign("one", now, body, (secret,))
        headers = {"webhook-id": "one", "webhook-timestamp": str(now), "webhook-signature": signature}
        Webhook(secret).verify(body, headers)
        with httpx.Client(trust_env=False, timeout=60) as client:
            assert client.post(url, content=body).status_code == 401
            assert client.post(url, content=body + b" ", headers=headers).status_code == 401
            assert client.post(url, content=body, headers=headers).status_code == 204
        assert process.wait(60) == 0
        assert process.stdout.read() == 'one\n{\n  "type": "key.created"\n}\n'
        assert process.stderr.read().count("rejected: ") == 2
