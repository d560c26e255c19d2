"""[[servers]]: vendors, and headers whose values may be secrets."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from bluesminds.app.settings_map import configured_server
from bluesminds.cli.config import config_group
from bluesminds.config import MASK, ConfigError, Problem, load
from bluesminds.config.settings import VENDORS_WITHOUT_MODEL_LIST, VENDORS_WITHOUT_URL
from bluesminds.providers.profiles import find_profile
from bluesminds.providers.vendors import VENDORS

SECRET = "Bearer provider-secret"


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text("\n".join(("[[servers]]", 'name = "one"', *lines)) + "\n")
    path.chmod(0o600)
    return path


def problems_of(path: Path, environ: dict[str, str] | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, {})
    return caught.value.problems


def test_vendors_without_url_or_list_are_those_of_the_table() -> None:
    assert {name for name, vendor in VENDORS.items() if not vendor.url} == {*VENDORS_WITHOUT_URL}
    without = {
        name
        for name, vendor in VENDORS.items()
        if not find_profile(vendor.dialect, name, vendor.url, "").lists_models
    }
    assert without == {*VENDORS_WITHOUT_MODEL_LIST}


def test_server_of_a_vendor_has_its_url_and_dialect(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, 'vendor = "anthropic"', 'api_key = {env="KEY"}'), {"KEY": "sk-x"}, {})
    server = configured_server(loaded.settings.servers[0], demo_url="", keyless=False)
    assert (server.vendor, server.url, server.dialect) == (
        *("anthropic", "https://api.anthropic.com/v1", "anthropic"),
    )
    assert loaded.warnings == ()
    loaded = load(written(tmp_path, 'vendor = "vllm"', 'url = "http://gpu:9000"'), {}, {})
    server = configured_server(loaded.settings.servers[0], demo_url="", keyless=False)
    assert (server.url, server.dialect) == ("http://gpu:9000", "openai")


@pytest.mark.parametrize(
    ("lines", "message", "remedy"),
    [
        (
            ('vendor = "grog"',),
            'vendor in [[servers]] "one" must be one of "openai", "anthropic", "azure"',
            'did you mean "groq"?',
        ),
        (
            ('vendor = "something"',),
            'vendor in [[servers]] "one" must be one of "openai", "anthropic", "azure"',
            'write it like vendor = "openai"',
        ),
        (
            ('vendor = "azure"', 'models = ["m"]'),
            'url in [[servers]] "one" is missing: every account of the vendor has its own',
            'add url = "https://NAME.openai.azure.com"',
        ),
        (
            ('dialect = "azure"', 'url = "https://a.openai.azure.com"'),
            'models in [[servers]] "one" is missing: the server does not list its models',
            'name them, on Azure by their deployments: models = ["NAME"]',
        ),
        (
            (
                'dialect = "azure"',
                'url = "https://a.openai.azure.com"',
                'api_key = "entra:t"',
                'models = ["m"]',
            ),
            'the key in [[servers]] "one" is not an application of Microsoft Entra ID',
            "write it like entra:TENANT_ID:CLIENT_ID:CLIENT_SECRET",
        ),
        (
            ('vendor = "openai"', 'dialect = "demo"'),
            'vendor in [[servers]] "one" cannot be used with the demo server, which is built in',
            "remove vendor or dialect",
        ),
        (
            ('vendor = "groq"', 'headers = {Host = "x"}'),
            'headers in [[servers]] "one": the gateway sets the header Host itself',
            'write it like headers = {X-Title = "Our app"}',
        ),
        (
            ('vendor = "groq"', 'headers = ["X-Title"]'),
            'headers in [[servers]] "one" must be a table of header names and values, not a list',
            'write it like headers = {X-Title="Our app"}',
        ),
        (
            ('vendor = "groq"', "headers = {X-A = 5}"),
            '"X-A" in headers in [[servers]] "one" must be text, {env="NAME"}, {file="path"} or',
            'write it like headers = {X-Title="Our app"}',
        ),
        (
            ('vendor = "groq"', 'headers = {X-A = "a", Authorization = {env="NOPE"}}'),
            '"Authorization" in headers in [[servers]] "one" reads the environment variable NOPE',
            "export NOPE=..., or remove the setting",
        ),
        (
            ('vendor = "groq"', 'api_version = "a b"'),
            'api_version in [[servers]] "one" must be a version of Azure\'s API, not "a b"',
            'write it like api_version = "2024-10-21"',
        ),
    ],
)
def test_wrong_server_reports_message_and_fix(
    tmp_path: Path, lines: tuple[str, ...], message: str, remedy: str
) -> None:
    (problem,) = problems_of(written(tmp_path, *lines))
    assert problem.message.startswith(message)
    assert problem.help.startswith(remedy)


def test_headers_are_read_from_every_place_of_secrets(tmp_path: Path) -> None:
    (tmp_path / "team").write_text("red\n")
    line = 'headers = {X-Title = "Our app", Authorization = {env="AUTH"}, X-Team = {file="team"}}'
    path = written(tmp_path, 'vendor = "portkey"', line)
    loaded = load(path, {"AUTH": SECRET}, {})
    server = configured_server(loaded.settings.servers[0], demo_url="", keyless=False)
    assert server.headers == (("X-Title", "Our app"), ("Authorization", SECRET), ("X-Team", "red"))
    shown = CliRunner().invoke(config_group, ["show", "--config", str(path)], env={"AUTH": SECRET}).output
    assert f'headers = {{X-Title="{MASK}", Authorization="{MASK}", X-Team="{MASK}"}}' in shown
    deferred = load(path, {}, {}, defer_secrets=True).settings.servers[0]
    with pytest.raises(ConfigError, match="AUTH"):
        configured_server(deferred, demo_url="", keyless=False)


def test_headers_variable_is_a_json_object(tmp_path: Path) -> None:
    path = written(tmp_path, 'vendor = "groq"')
    variable = "BLUESMINDS__SERVERS__ONE__HEADERS"
    loaded = load(path, {variable: '{"X-Title": "Our app"}'}, {})
    assert {name: value.reveal() for name, value in (loaded.settings.servers[0].headers or {}).items()} == {
        "X-Title": "Our app"
    }
    (problem,) = problems_of(path, {variable: "X-Title: Our app"})
    assert problem.message == 'headers in [[servers]] "one" must be a JSON object of names and values'


def test_headers_with_a_credential_in_a_shared_file_are_a_warning(tmp_path: Path) -> None:
    path = written(
        tmp_path, 'vendor = "groq"', f'headers = {{X-Title = "Our app", Authorization = "{SECRET}"}}'
    )
    path.chmod(0o644)
    (warning,) = load(path, {}, {}).warnings
    assert warning.message == "Authorization of headers in [[servers]] is in a file that other users can read"
