"""Loading: defaults, precedence, types, provenance."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.config import ConfigError, Loaded, Secret, ServerSettings, Settings, find_file, load
from bluesminds.config.fields import fields_in, sections

Write = Callable[..., Path]
PORT = "BLUESMINDS__SERVER__PORT"
PEPPER = "BLUESMINDS__KEYS__PEPPER"
MAIN = '[[servers]]\nname = "main"\nurl = "http://127.0.0.1:4000/v1"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, mode: int = 0o600) -> Path:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def test_load_without_sources_gives_defaults(tmp_path: Path) -> None:
    loaded = load(None, {"STATE_DIRECTORY": f"{tmp_path}:/elsewhere"}, {})
    assert loaded.settings == Settings(state_dir=tmp_path)
    assert str(loaded.origins["state_dir"]) == "env STATE_DIRECTORY"
    assert {str(origin) for name, origin in loaded.origins.items() if name != "state_dir"} == {"default"}
    assert loaded.settings.database_url.reveal() == f"sqlite:///{tmp_path}/bluesminds.db"
    assert load(None, {}, {}).settings.state_dir.parts[-1] == "bluesminds"


def test_load_records_origin_of_every_setting(write: Write) -> None:
    names = set(fields_in("")) | {f"{name}.{key}" for name in sections() for key in fields_in(name)}
    names |= {f"servers.main.{key}" for key in fields_in("servers")}
    assert set(load(write(MAIN), {}, {}).origins) == names


PRECEDENCE = [
    (frozenset({"flag", "environment", "file"}), 1, "flag"),
    (frozenset({"environment", "file"}), 2, f"env {PORT}"),
    (frozenset({"flag", "file"}), 1, "flag"),
    (frozenset({"file"}), 3, "gateway.toml:2"),
    (frozenset({"environment"}), 2, f"env {PORT}"),
    (frozenset[str](), 3000, "default"),
]


@pytest.mark.parametrize(("sources", "port", "origin"), PRECEDENCE)
def test_load_several_sources_highest_precedence_wins(
    write: Write, sources: frozenset[str], port: int, origin: str
) -> None:
    path = write("[server]\nport = 3\n" if "file" in sources else "")
    environ = {PORT: "2" if "environment" in sources else ""}
    loaded = load(path, environ, {"server.port": 1 if "flag" in sources else None})
    assert loaded.settings.server.port == port
    assert str(loaded.origins["server.port"]).removeprefix(f"{path.parent}/") == origin


def test_load_credential_overrides_file_but_not_variable(write: Write, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "keys.pepper").write_text("from-the-credential\n")
    (credentials / "servers.main.api_key").write_text("key-in-credential")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    path = write(f'[keys]\npepper = "from-the-file-012"\n{MAIN}')
    loaded = load(path, environ, {})
    assert loaded.settings.keys.pepper == Secret("from-the-credential")
    assert str(loaded.origins["keys.pepper"]) == "credential keys.pepper"
    assert loaded.settings.servers[0].api_key == Secret("key-in-credential")
    loaded = load(path, {**environ, PEPPER: "from-the-variable"}, {})
    assert loaded.settings.keys.pepper == Secret("from-the-variable")


def test_load_unknown_credential_warns(write: Write, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("keys.peper", "server.port", "unrelated", "servers.x"):
        (credentials / name).write_text("0123456789abcdef")
    path = write('[keys]\npepper = {cred="servers.x"}\n')
    loaded = load(path, {"CREDENTIALS_DIRECTORY": str(credentials)}, {})
    assert [warning.where for warning in loaded.warnings] == [
        "credential keys.peper",
        "credential server.port",
    ]


def test_load_variable_is_parsed_by_setting_type(write: Write) -> None:
    environ = {
        "BLUESMINDS__STATE_DIR": "relative/dir",
        "BLUESMINDS__SERVER__HTTP2": "False",
        "BLUESMINDS__SERVER__IDLE_TIMEOUT": "7",
        "BLUESMINDS__SERVER__HOST": "123",
        "BLUESMINDS__STORAGE__DURABILITY": "relaxed",
        "BLUESMINDS__SERVERS__MAIN__MODELS": "a, b,,c",
        "BLUESMINDS__SERVERS__MAIN__WEIGHT": "7",
        "UNRELATED": "1",
        "BLUESMINDS_PORT": "tcp://10.0.0.1:80",
    }
    settings = load(write(MAIN), environ, {}).settings
    assert settings.state_dir == Path("relative/dir")
    assert (settings.server.http2, settings.server.host, settings.server.idle_timeout) == (False, "123", 7.0)
    assert settings.storage.durability == "relaxed"
    assert (settings.servers[0].models, settings.servers[0].weight) == (("a", "b", "c"), 7)
    environ["BLUESMINDS__SERVERS__MAIN__MODELS"] = '["x,y"]\n'
    assert load(write(MAIN), environ, {}).settings.servers[0].models == ("x,y",)


def test_load_duration_text_is_converted_to_seconds(write: Write) -> None:
    environ = {"BLUESMINDS__UPSTREAM__TOTAL_TIMEOUT": "1h30m", "BLUESMINDS__UPSTREAM__POOL_TIMEOUT": "2.5"}
    loaded = load(write('[server]\nidle_timeout = "90s"\n[accounts]\nsession_idle = "7d"\n'), environ, {})
    assert loaded.settings.server.idle_timeout == 90.0
    assert loaded.settings.accounts.session_idle == 7 * 86_400.0
    assert loaded.settings.upstream.total_timeout == 5_400.0
    assert loaded.settings.upstream.pool_timeout == 2.5


def test_load_server_variables_change_and_add_servers(write: Write) -> None:
    text = '[[servers]]\nname = "my-srv.eu"\nurl = "http://a"\n'
    environ = {
        "BLUESMINDS__SERVERS__MY_SRV_EU__API_KEY": "k1",
        "BLUESMINDS__SERVERS__NEW_ONE__URL": "https://b/v1",
    }
    loaded = load(write(text), environ, {})
    assert loaded.settings.servers == (
        ServerSettings(name="my-srv.eu", url="http://a", api_key=Secret("k1")),
        ServerSettings(name="new_one", url="https://b/v1"),
    )
    assert str(loaded.origins["servers.my-srv.eu.api_key"]) == "env BLUESMINDS__SERVERS__MY_SRV_EU__API_KEY"
    assert str(loaded.origins["servers.new_one.url"]) == "env BLUESMINDS__SERVERS__NEW_ONE__URL"


def test_load_servers_variable_replaces_all_servers(write: Write) -> None:
    environ = {"BLUESMINDS__SERVERS": json.dumps([{"name": "only", "dialect": "demo"}])}
    assert load(write(MAIN), environ, {}).settings.servers == (ServerSettings(name="only", dialect="demo"),)


def test_load_relative_path_starts_at_its_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("kept-beside-the-file\r\n")
    path = write('state_dir = "data"\n[keys]\npepper = {file="pepper"}\n')
    loaded = load(path, {}, {})
    assert loaded.settings.state_dir == tmp_path / "data"
    assert loaded.settings.keys.pepper == Secret("kept-beside-the-file")
    assert str(loaded.origins["keys.pepper"]) == f"{path}:3 (file pepper)"
    assert load(path, {}, {"state_dir": Path("here")}).settings.state_dir == Path("here")


def test_load_unknown_flag_raises_key_error() -> None:
    with pytest.raises(KeyError):
        load(None, {}, {"server.prot": 1})


def test_find_file_prefers_variable_then_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file({"BLUESMINDS_CONFIG": "/named.toml"}) == Path("/named.toml")
    assert find_file({}) in (None, Path("/etc/bluesminds/gateway.toml"))
    Path("gateway.toml").touch()
    assert find_file({}) == Path("gateway.toml")


def test_load_demo_server_with_url_warns(write: Write) -> None:
    loaded = load(write(MAIN + 'dialect = "demo"\n'), {}, {})
    assert [warning.message for warning in loaded.warnings] == [
        'url in [[servers]] "main" is ignored: the demo server is built in'
    ]


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
NAMES = sorted(
    {key for name in ("", "servers", *sections()) for key in fields_in(name)} | {*sections(), "servers"}
)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
    JSONISH,
)
def test_load_any_environment_loads_or_is_refused(texts: dict[str, str], servers: object) -> None:
    environ = {f"BLUESMINDS__{name.upper()}": text for name, text in texts.items()}
    environ |= {f"BLUESMINDS__SERVER__{name.upper()}": text for name, text in texts.items()}
    environ |= {f"BLUESMINDS__SERVERS__X__{name.upper()}": text for name, text in texts.items()}
    environ["BLUESMINDS__SERVERS"] = json.dumps(servers)
    try:
        loaded = load(None, environ, {})
    except ConfigError as error:
        assert error.problems
        assert all(one.help for one in error.problems)
    else:
        assert isinstance(loaded, Loaded)


def test_settings_assignment_raises(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    with pytest.raises(AttributeError):
        settings.server.port = 1  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"state_dir": tmp_path, "x": 1}, Settings)


@pytest.mark.process
def test_config_import_loads_no_event_loop() -> None:
    heavy = ("asyncio", "trio", "quart", "httpx")
    code = f"import sys, bluesminds.config; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert run.stdout == "[]\n"


def test_load_open_signup_without_mail_warns(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[accounts]\nsignup = "open"\n')
    (warning,) = load(path, {}, {}).warnings
    assert warning.message == 'signup in [accounts] is "open", but no mail server is configured'
    mail = '[accounts]\nsignup = "open"\n[mail]\nhost = "h"\nsender = "a@b.cc"\n'
    path.write_text(mail)
    (warning,) = load(path, {}, {}).warnings
    assert warning.message == "[mail] is configured, but public_url in [server] is not set"
    path.write_text(mail + '[server]\npublic_url = "https://ai.example.com"\n')
    assert load(path, {}, {}).warnings == ()


def test_load_trusting_every_address_warns(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    for trusted in ("0.0.0.0/0", "::/0", "::ffff:0:0/96"):
        path.write_text(f'[server]\ntrusted_proxies = ["127.0.0.1", "{trusted}"]\n')
        (warning,) = load(path, {}, {}).warnings
        assert warning.message.startswith("trusted_proxies in [server] contains every address")
    path.write_text('[server]\ntrusted_proxies = ["10.0.0.0/8", "::1"]\n')
    assert load(path, {}, {}).warnings == ()


@pytest.mark.parametrize(
    ("url", "warning"),
    [
        ("https://api.openai.com", "has no path, but most servers have their API under /v1"),
        ("https://api.openai.com/", "has no path, but most servers have their API under /v1"),
        (
            "https://api.openai.com/v1/chat/completions",
            "ends in /chat/completions, but the gateway adds the endpoint itself",
        ),
        ("https://api.openai.com/v1/models/", "ends in /models, but the gateway adds the endpoint itself"),
        ("https://api.openai.com/v1", None),
    ],
)
def test_load_url_that_is_no_base_url_warns(write: Write, url: str, warning: str | None) -> None:
    found = load(write(f'[[servers]]\nname = "a"\nurl = "{url}"\n'), {}, {}).warnings
    assert [one.message for one in found] == ([f'url in [[servers]] "a" {warning}'] if warning else [])


def test_load_url_of_gemini_without_its_version_warns(write: Write) -> None:
    server = (
        '[[servers]]\nname = "a"\ndialect = "gemini"\nurl = "https://generativelanguage.googleapis.com"\n'
    )
    (warning,) = load(write(server), {}, {}).warnings
    assert warning.message.endswith("most servers have their API under /v1beta")


def test_load_money_as_number_is_exact(write: Write) -> None:
    text = '[[prices]]\nmodel = "m"\ninput_usd = 0.000001\noutput_usd = 10\n[tiers.pro]\nusd_per_day = 12.5\n'
    settings = load(write(text), {}, {}).settings
    (price,) = settings.prices
    assert (price.input_usd, price.output_usd) == ("0.000001", "10")
    assert settings.tiers.pro.usd_per_day == "12.5"


def test_load_tier_accepts_largest_account_limits(write: Write) -> None:
    text = '[tiers.enterprise]\ntokens_per_month = 50_000_000_000\nusd_per_month = "2500000.5"\n'
    tier = load(write(text), {}, {}).settings.tiers.enterprise
    assert (tier.tokens_per_month, tier.usd_per_month) == (50_000_000_000, "2500000.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[mail]\nsender = "a@example.com"\n', "sender in [mail] has no effect without host"),
        ("[billing]\nenabled = true\n", "[billing] is enabled, but there is no way to pay"),
    ],
)
def test_setting_without_effect_is_a_warning(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    assert message in [warning.message for warning in load(path, {}, {}).warnings]
