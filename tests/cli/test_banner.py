"""What the banner prints can be pasted into a shell on this machine, wherever the gateway listens."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bluesminds.cli import banner
from bluesminds.config import load
from bluesminds.main import FirstRun, Running
from bluesminds.state import StateDir

KEY = "bm_0000000000000000000000000000000000EF"


def said(
    capsys: pytest.CaptureFixture[str],
    address: Any,
    *,
    models: list[str],
    key: str | None = KEY,
    **server: Any,
) -> str:
    loaded = load(None, {}, {})
    settings = msgspec.structs.replace(
        loaded.settings, server=msgspec.structs.replace(loaded.settings.server, **server)
    )
    banner.show(
        Running([address], models, FirstRun(key=key, bootstrap_token=None), cast("Any", None)), settings, None
    )
    out, err = capsys.readouterr()
    assert out == ""
    return err


def curl(text: str) -> list[str]:
    start = text.index("  curl")
    return shlex.split(text[start : text.index("\n\n", start)].replace("\\\n", " "))


def test_a_journal_gets_no_secret(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    core = SimpleNamespace(state=StateDir(tmp_path))
    first = FirstRun(key=KEY, bootstrap_token="one-time-token")
    settings = load(None, {}, {}).settings
    banner.show(Running([("127.0.0.1", 3000)], ["m"], first, cast("Any", core)), settings, None, journal=True)
    text = capsys.readouterr().err
    assert KEY not in text
    assert "one-time-token" not in text
    for name, secret in (("first-key", KEY), ("bootstrap-token", "one-time-token")):
        path = tmp_path / name
        assert f"$(cat {path})" in text
        assert path.read_text().strip() == secret
        assert path.stat().st_mode & 0o777 == 0o600


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
def test_curl_gets_there(
    capsys: pytest.CaptureFixture[str], address: Any, server: dict[str, Any], reach: list[str]
) -> None:
    words = curl(said(capsys, address, models=["m"], **server))
    assert words[1 : words.index("-H")] == [*reach[:-1], f"{reach[-1]}/v1/chat/completions"]


def test_a_model_with_a_quote_in_its_name_stays_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    words = curl(said(capsys, ("127.0.0.1", 1), models=["it's; rm -rf"]))
    assert msgspec.json.decode(words[-1])["model"] == "it's; rm -rf"
    assert words[-2] == "-d"


def test_without_a_new_key_it_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, ("127.0.0.1", 1), models=["m"], key=None)
    assert "bluesminds keys create NAME" in text
    assert "Bearer $BLUESMINDS_KEY" in text


def test_many_models_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, ("127.0.0.1", 1), models=["a", "b", "c", "d", "demo/echo", "z"])
    assert "  models    demo/echo, a, b, c and 2 more\n" in text
