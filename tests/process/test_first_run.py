"""The first start: run the printed command, become administrator."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from bluesminds.cli import exits
from tests.fakes import model_server
from tests.terminal import SECONDS, Serving, User, demo_user

CLAIM = {"email": "ada@example.com", "password": "correct horse battery"}


def printed_command(said: str) -> str:
    """The curl command of the banner, as a user would copy it."""
    found = re.search(r"^  curl (?:.*\\\n)*.*$", said, re.MULTILINE)
    assert found, said
    return found[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the curl program")
def test_printed_command_is_run_gets_an_answer(home: Path) -> None:
    user = demo_user(home)
    with (home / "out").open("wb") as out, user.serving("demo", "--port", "0", stdout=out) as gateway:
        command = printed_command(gateway.said)
        done = subprocess.run(
            ("sh", "-c", command.replace("curl ", "curl --silent --noproxy '*' ", 1)),
            capture_output=True,
            timeout=SECONDS,
            check=True,
        )
        assert gateway.stop() == 0
    answer = msgspec.json.decode(done.stdout)
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    assert (home / "out").read_bytes() == b"", "standard output is for data"
    assert user.rows("SELECT model, status FROM usage") == [("demo/echo", 200)]


def test_demo_key_second_start_is_replaced(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        first = gateway.said
        key, token = gateway.key, token_in(first)
        assert gateway.stop() == 0
    with user.serving("demo", "--port", "0") as gateway:
        again = gateway.said
        assert ask(gateway, key).status_code == 401
        assert ask(gateway, gateway.key).status_code == 200
        assert gateway.stop() == 0
    assert key not in again and token not in again
    assert "bm_" in again, "every demo prints a curl that answers"
    assert user.rows("SELECT name, expires_at IS NOT NULL FROM api_keys ORDER BY id") == [("guest", 1)]
    kept = b"".join(path.read_bytes() for path in user.state_dir.iterdir())
    assert key.encode() not in kept and token.encode() not in kept


def test_demo_state_dir_is_not_set_has_its_own(home: Path) -> None:
    user = User(home)
    with user.serving("demo", "--port", "0") as gateway:
        assert gateway.stop() == 0
    assert [path.name for path in user.state_dir.iterdir()] == ["demo"]
    missing = user.call("keys", "list")
    assert missing.returncode == exits.NOT_FOUND
    assert f"BLUESMINDS__STATE_DIR={user.state_dir}/demo bluesminds" in missing.stderr
    assert user.run("keys", "list", BLUESMINDS__STATE_DIR=f"{user.state_dir}/demo").returncode == 0
    with user.serving("serve", "--port", "0") as gateway:
        assert f"data      {user.state_dir}\n" in gateway.said
        assert user.run("keys", "list").stdout.count("first key") == 1
        assert gateway.stop() == 0


def test_setup_token_is_used_creates_one_administrator(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        token = token_in(gateway.said)
        assert setup(gateway, CLAIM | {"token": "wrong"}).json()["error"]["code"] == "invalid_bootstrap_token"
        assert setup(gateway, CLAIM | {"token": token, "password": "short"}).status_code == 400
        made = setup(gateway, CLAIM | {"token": token})
        assert (made.status_code, made.json()["role"]) == (201, "admin")
        second = setup(gateway, CLAIM | {"token": token, "email": "eve@example.com"})
        assert (second.status_code, second.json()["error"]["code"]) == (403, "invalid_bootstrap_token")
        assert gateway.stop() == 0
        assert token not in gateway.said.partition("Ctrl-C")[2]
    with user.serving("demo", "--port", "0") as gateway:
        assert "Create one" not in gateway.said
        assert setup(gateway, CLAIM | {"token": token}).status_code == 403
        assert gateway.stop() == 0
    # The demo makes the local operator an administrator, who has no address.
    admins = user.rows("SELECT email FROM users WHERE role = 'admin' AND email IS NOT NULL")
    assert admins == [("ada@example.com",)]
    assert CLAIM["password"].encode() not in user.database.read_bytes()


async def test_ollama_is_running_is_used_without_configuration(home: Path, nursery: trio.Nursery) -> None:
    ollama = await nursery.start(model_server.serve)
    user = User(home, {"OLLAMA_HOST": ollama.url.removesuffix("/v1")})
    gateway = await trio.to_thread.run_sync(lambda: user.start("serve", "--port", "0"))
    try:
        answer = await trio.to_thread.run_sync(lambda: ask(gateway, gateway.key, model="m"))
        assert answer.headers["x-bluesminds-server"] == "ollama"
        assert answer.json()["choices"][0]["message"]["content"] == "Hello world"
        assert await trio.to_thread.run_sync(gateway.stop) == 0
    finally:
        gateway.process.kill()


def test_banner_no_model_explains_how_to_add_a_server(home: Path) -> None:
    with User(home).serving("serve", "--port", "0") as gateway:
        assert "bluesminds servers add " in gateway.said
        assert '"model": "MODEL"' in printed_command(gateway.said)
        assert ask(gateway, gateway.key, model="MODEL").json()["error"]["code"] == "model_not_found"
        ready = httpx.get(f"{gateway.url}/ready", trust_env=False, timeout=SECONDS)
        assert (ready.status_code, ready.json()["checks"]["servers"]) == (503, "no usable server")
        root = httpx.get(f"{gateway.url}/", trust_env=False, timeout=SECONDS)
        assert (root.status_code, root.json()["name"]) == (200, "BluesMinds")
        for name in ("health", "metrics"):
            url = gateway.url + root.json()[name]
            assert httpx.get(url, trust_env=False, timeout=SECONDS).status_code == 200
        assert gateway.stop() == 0


def token_in(said: str) -> str:
    found = re.search(r'^  printf .* "([A-Za-z0-9_-]{43})" \\$', said, re.MULTILINE)
    assert found, said
    return found[1]


def setup(gateway: Serving, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{gateway.url}/api/setup", json=body, trust_env=False, timeout=SECONDS)


def ask(gateway: Serving, key: str, model: str = "demo/echo") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"authorization": f"Bearer {key}"}
    url = f"{gateway.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=headers, trust_env=False, timeout=SECONDS)
