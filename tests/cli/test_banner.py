"""Commands in the banner work in a shell on this machine, for every listening address."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bluesminds.app.first_run import FirstRun
from bluesminds.app.serve import Running
from bluesminds.app.state_dir import StateDir
from bluesminds.cli import banner
from bluesminds.common.values import Server
from bluesminds.config import load
from bluesminds.gateway.routing.health import ServerStatus

KEY = "bm_0000000000000000000000000000000000EF"


def banner_text(
    capsys: pytest.CaptureFixture[str],
    address: Any,
    *,
    models: list[str],
    key: str | None = KEY,
    token: str | None = None,
    **server: Any,
) -> str:
    loaded = load(None, {}, {})
    settings = msgspec.structs.replace(
        loaded.settings, server=msgspec.structs.replace(loaded.settings.server, **server)
    )
    first_run = FirstRun(key=key, bootstrap_token=token)
    banner.show(running([address], models, first_run), dataclasses.replace(loaded, settings=settings))
    out, err = capsys.readouterr()
    assert out == ""
    return err


def running(
    addresses: list[Any],
    models: list[str],
    first_run: FirstRun,
    state: StateDir | None = None,
    servers: list[tuple[Server, ServerStatus]] | None = None,
) -> Running:
    services = cast("Any", SimpleNamespace(state=state))
    return Running(
        [],
        addresses,
        models,
        servers or [],
        first_run,
        services,
        healthy=lambda: True,
        reload=cast("Any", None),
        running_requests=lambda: 0,
    )


def server(name: str, **more: Any) -> Server:
    return Server(
        name=name,
        dialect="openai",
        url=f"http://{name}/v1",
        api_key=None,
        models=(),
        weight=1,
        priority=0,
        **{"origin": "file"} | more,
    )


def test_banner_shows_state_of_each_server(capsys: pytest.CaptureFixture[str]) -> None:
    servers = [
        (server("one"), ServerStatus("up", 1)),
        (server("four"), ServerStatus("up", 4)),
        (server("dead"), ServerStatus("down", None, "cannot connect to dead: connection refused\x1b[2J")),
        (server("slow"), ServerStatus("unknown")),
    ]
    here = running([("127.0.0.1", 1)], ["m"], FirstRun(key=KEY, bootstrap_token=None), servers=servers)
    banner.show(here, load(None, {}, {}))
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("  servers"))
    assert line == (
        "  servers   one ok (1 model); four ok (4 models);"
        " dead: cannot connect to dead: connection refused\ufffd[2J; slow: no response yet"
    )


def test_banner_found_vendor_key_without_response_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    vendor = server("openai", origin="environment", vendor="openai")
    servers = [(vendor, ServerStatus("down", None, "name not resolved"))]
    here = running([("127.0.0.1", 1)], [], FirstRun(key=KEY, bootstrap_token=None), servers=servers)
    banner.show(here, load(None, {}, {}))
    text = capsys.readouterr().err
    assert "Found OPENAI_API_KEY, but http://openai/v1 does not respond.\n" in text
    assert "The gateway retries every 60 s." in text
    assert "servers add" not in text


def test_banner_names_the_variables_of_detected_servers(capsys: pytest.CaptureFixture[str]) -> None:
    servers = [
        (server("groq", origin="environment", vendor="groq"), ServerStatus("up", 2)),
        (server("ollama", origin="environment", vendor="ollama"), ServerStatus("up", 1)),
    ]
    here = running([("127.0.0.1", 1)], ["m"], FirstRun(key=KEY, bootstrap_token=None), servers=servers)
    banner.show(here, load(None, {}, {}))
    lines = capsys.readouterr().err.splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("  servers"))
    assert lines[at + 1] == (
        "            found by GROQ_API_KEY, http://ollama/v1; [[servers]] in the configuration replaces them"
    )


def curl(text: str) -> list[str]:
    start = text.index("  curl")
    return shlex.split(text[start : text.index("\n\n", start)].replace("\\\n", " "))


@pytest.mark.parametrize(("is_guest", "name"), [(False, "first-key"), (True, "guest-key")])
def test_banner_in_journal_contains_no_secret(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, is_guest: bool, name: str
) -> None:
    first = FirstRun(key=KEY, bootstrap_token="one-time-token", is_guest=is_guest)
    here = running([("127.0.0.1", 3000)], ["m"], first, StateDir(tmp_path))
    banner.show(here, load(None, {}, {}), journal=True, secrets_in_files=True)
    text = capsys.readouterr().err
    assert KEY not in text
    assert "one-time-token" not in text
    assert "Ctrl-C" not in text and "cannot be shown again" not in text
    assert f"$(cat {tmp_path / name})" in curl(text)[curl(text).index("-H") + 1]
    for file, secret in ((name, KEY), ("bootstrap-token", "one-time-token")):
        path = tmp_path / file
        assert f"in {path}; read it once, then delete the file" in text
        assert path.read_text().strip() == secret
        assert path.stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 2, "a guest's key does not take the first key's file"


@pytest.mark.parametrize(
    ("address", "server", "reach"),
    [
        (("127.0.0.1", 3000), {}, ["http://127.0.0.1:3000"]),
        (("0.0.0.0", 3000), {}, ["http://127.0.0.1:3000"]),  # noqa: S104 - as the system names it
        (("::", 3000, 0, 0), {}, ["http://[::1]:3000"]),
        (("10.0.0.1", 3000), {"tls_cert": Path("c"), "tls_key": Path("k")}, ["https://10.0.0.1:3000"]),
        (("127.0.0.1", 3000), {"public_url": "https://ai.example.com/"}, ["https://ai.example.com"]),
        ("/run/bm.sock", {}, ["--unix-socket", "/run/bm.sock", "http://localhost"]),
    ],
)
def test_banner_curl_uses_reachable_address(
    capsys: pytest.CaptureFixture[str], address: Any, server: dict[str, Any], reach: list[str]
) -> None:
    words = curl(banner_text(capsys, address, models=["m"], **server))
    assert words[1 : words.index("-H")] == [*reach[:-1], f"{reach[-1]}/v1/chat/completions"]


def test_banner_setup_curl_uses_reachable_address(capsys: pytest.CaptureFixture[str]) -> None:
    text = banner_text(capsys, "/run/bm.sock", models=["m"], token="t0ken")
    claim, line = text.partition("  printf")[2].splitlines()[:2]
    written, token = shlex.split(claim.removesuffix("\\"))
    assert json.loads(written % token)["token"] == "t0ken"
    reach = ["curl", "--unix-socket", "/run/bm.sock", "http://localhost/api/setup"]
    assert shlex.split(line)[:5] == ["|", *reach]


@pytest.mark.parametrize(
    ("sign_in_token", "title"),
    [(None, "No administrator yet"), ("t0ken", "No administrator with a password yet")],
)
def test_banner_with_a_link_for_the_operator_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], sign_in_token: str | None, title: str
) -> None:
    first = FirstRun(key=KEY, bootstrap_token="token", sign_in_token=sign_in_token)
    banner.show(running([("127.0.0.1", 1)], ["m"], first), load(None, {}, {}))
    text = capsys.readouterr().err
    assert f"\n{title}, so the gateway" in text
    assert ("once, as an administrator" in text) == (sign_in_token is not None)


def test_banner_commands_name_config_and_state_dir(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "my gateway.toml"
    path.write_text("")
    state = tmp_path / "state"
    first = FirstRun(key=None, bootstrap_token="token")
    banner.show(running([("127.0.0.1", 1)], [], first), load(path, {"STATE_DIRECTORY": str(state)}, {}))
    text = capsys.readouterr().err
    commands = re.findall(r"^  (\S*.*bluesminds .*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == [f"BLUESMINDS__STATE_DIR={state}", "bluesminds"]
        assert words[-2:] == ["--config", str(path)]


def test_banner_model_with_quote_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    words = curl(banner_text(capsys, ("127.0.0.1", 1), models=["it's; rm -rf"]))
    assert msgspec.json.decode(words[-1])["model"] == "it's; rm -rf"
    assert words[-2] == "-d"


def test_banner_without_new_key_shows_create_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = banner_text(capsys, ("127.0.0.1", 1), models=["m"], key=None)
    assert "bluesminds keys create NAME" in text
    assert "Bearer $BLUESMINDS_KEY" in text


def test_banner_many_models_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    text = banner_text(capsys, ("127.0.0.1", 1), models=["a", "b", "c", "d", "demo/echo", "z"])
    assert "  models    demo/echo, a, b, c and 2 more\n" in text


def test_banner_without_model_shows_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = banner_text(capsys, ("127.0.0.1", 1), models=[])
    assert "bluesminds servers add " in text
    words = curl(text)
    assert f"Authorization: Bearer {KEY}" in words
    assert msgspec.json.decode(words[-1])["model"] == "MODEL"
