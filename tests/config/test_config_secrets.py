"""No output contains a secret of the configuration."""

import copy
import json
import logging
import pickle
import traceback
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from bluesminds.cli.config import check, config_group
from bluesminds.config import MASK, ConfigError, Secret, load

CANARY = "canary-0123456789abcdef"


def test_secret_printed_any_way_is_masked(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    logging.getLogger("test").warning("%s %r", secret, [secret])
    assert [str(secret), repr(secret), f"{secret}", f"{secret!r}"] == [MASK] * 4
    assert CANARY not in caplog.text
    assert secret.reveal() == CANARY


def test_secret_serialised_raises() -> None:
    secret = Secret(CANARY)
    for serialise in (
        pickle.dumps,
        copy.deepcopy,
        copy.copy,
        json.dumps,
        msgspec.json.encode,
        msgspec.to_builtins,
    ):
        with pytest.raises(TypeError) as caught:
            serialise(secret)
        assert CANARY not in str(caught.value)
    assert not hasattr(secret, "__dict__")


def test_secret_equality_compares_text() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a"), Secret("é")}) == 2


GOOD = f'''
[storage]
url = "postgresql://user:{CANARY}@host/name"
[keys]
pepper = "{CANARY}"
[[servers]]
name = "main"
url = "http://127.0.0.1:4000/v1"
api_key = {{env="KEY"}}
[[servers]]
name = "demo"
dialect = "demo"
'''


def test_config_commands_mask_every_secret(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    path.chmod(0o644)
    environ = {"KEY": CANARY, "BLUESMINDS__SERVERS__DEMO__API_KEY": CANARY}
    loaded = load(path, environ, {})
    assert loaded.settings.servers[1].api_key == Secret(CANARY)
    assert CANARY not in repr(loaded) + str(loaded.settings.database_url)
    runner = CliRunner()
    for command, arguments in [
        (config_group, ["show"]),
        (config_group, ["show", "--origin"]),
        (config_group, ["show", "--json"]),
        (config_group, ["show", "--json", "--origin"]),
        (check, []),
    ]:
        assert isinstance(command, click.Command)
        result = runner.invoke(command, [*arguments, "--config", str(path)], env=environ)
        assert result.exit_code == 0, result.output
        assert CANARY not in result.output
        assert command is check or result.stdout.count(MASK) == 4


BAD = [
    f'[keys]\npepper = ["{CANARY}"]\n',
    f'[keys]\npepper = {{env="NONE", value="{CANARY}"}}\n',
    f'[keys]\npepper = {{value="{CANARY}"}}\n',
    f'[keys]\npepper = "{CANARY}\\n\\u0000"\n',
    f'[keys]\npeper = "{CANARY}"\n',
    f"[keys]\npepper = {CANARY}\n",
    f'[keys]\npepper = "{CANARY}\n',
    f'[keys]\npepper = {{env="{CANARY}"}}\n',
    f'[storage]\nurl = "{CANARY}"\n',
    f'[[servers]]\nname = "a"\nurl = "http://user:{CANARY}@host"\n',
    f'[[servers]]\nname = "a"\nurl = "ftp://{CANARY}"\n',
    f'[[servers]]\nname = "a"\nurl = "http://host?key={CANARY}"\n',
    f'[[servers]]\nname = "a"\ndialect = "demo"\napi_key = "é{CANARY}"\n',
]


@pytest.mark.parametrize("text", BAD)
def test_load_wrong_file_error_contains_no_secret(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    problems = "".join(f"{problem} {problem.help} {problem!r}" for problem in caught.value.problems)
    assert CANARY not in problems + "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    result = CliRunner().invoke(check, ["--config", str(path)])
    assert result.exit_code == 3
    assert CANARY not in result.output


VARIABLES = [
    {"BLUESMINDS__KEYS__PEPPER": f"{CANARY}\x00"},
    {"BLUESMINDS__KEYS__PEPER": CANARY},
    {"BLUESMINDS__SERVERS": f'[{{"name": "a", "api_key": "{CANARY}"'},
    {"BLUESMINDS__SERVERS": f'[{{"name": "a", "api_key": ["{CANARY}"]}}]'},
    {"BLUESMINDS__STORAGE__URL": CANARY},
    {"BLUESMINDS__KEYS__PEPPER": CANARY, "BLUESMINDS__KEYS__PEPPER_FILE": "pepper"},
]


@pytest.mark.parametrize("environ", VARIABLES)
def test_load_wrong_variable_error_contains_no_secret(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, environ, {})
    assert CANARY not in "".join(f"{problem} {problem.help}" for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\xff", "it is not UTF-8 text"), (b"a" * 70_000, "it is too large for a secret")],
)
def test_load_bad_secret_file_reports_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "pepper").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(None, {"BLUESMINDS__KEYS__PEPPER_FILE": str(tmp_path / "pepper")}, {})
    (problem,) = caught.value.problems
    assert problem.message.endswith(reason)


REFERENCES = [
    'cred="../pepper"',
    'cred="a/b"',
    'cred=".."',
    'cred="."',
    'env="sk-a-key"',
    'env=""',
    'file="\\u0000"',
]


@pytest.mark.parametrize("reference", REFERENCES)
def test_load_invalid_reference_is_refused_without_its_name(tmp_path: Path, reference: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f"[keys]\npepper = {{{reference}}}\n")
    with pytest.raises(ConfigError) as caught:
        load(path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}, {})
    (problem,) = caught.value.problems
    assert problem.message == 'pepper in [keys] must be text, {env="NAME"}, {file="path"} or {cred="name"}'


MODES = [(0o600, 0), (0o700, 0), (0o640, 0), (0o604, 2)]


@pytest.mark.parametrize(("mode", "warnings"), MODES)
def test_load_secret_in_readable_file_warns(tmp_path: Path, mode: int, warnings: int) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    path.chmod(mode)
    found = load(path, {"KEY": "k"}, {}).warnings
    assert [(one.where, one.help) for one in found] == [
        (f"{path}:3", f"chmod o-rwx {path}"),
        (f"{path}:5", f"chmod o-rwx {path}"),
    ][:warnings]


@pytest.mark.parametrize(
    ("url", "warnings"),
    [
        ("sqlite:///var/x.db", 0),
        ("postgresql://user@host/name", 0),
        ("postgresql://user:pass@host/name", 1),
        ("postgresql://user@host/name?password=pass", 1),
    ],
)
def test_load_readable_database_url_warns_only_with_password(tmp_path: Path, url: str, warnings: int) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f'[storage]\nurl = "{url}"\n')
    path.chmod(0o644)
    assert len(load(path, {}, {}).warnings) == warnings


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1)])
def test_load_readable_secret_file_warns(tmp_path: Path, mode: int, warnings: int) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[keys]\npepper = {file="pepper"}\n')
    path.chmod(0o644)
    (tmp_path / "pepper").write_text(CANARY)
    (tmp_path / "pepper").chmod(mode)
    found = [(one.where, one.message, one.help) for one in load(path, {}, {}).warnings]
    assert (
        found
        == [
            (
                f"{path}:2",
                "pepper in [keys] is read from a file that other users can read",
                f"chmod o-rwx {tmp_path / 'pepper'}",
            )
        ][:warnings]
    )
