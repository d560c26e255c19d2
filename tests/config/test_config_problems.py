"""Every error has a message, a location and a fix; all are reported at once, and loading never crashes."""

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tomli_w
import trustme
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.config import ConfigError, Problem, load
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


def problems_of(
    path: Path | None, environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, flags or {})
    assert caught.value.__context__ is None
    return caught.value.problems


ONE_PROBLEM = [
    ("prot = 1\n", 'unknown key "prot"', 1, 'did you mean "port" in [server]?'),
    ("[sever]\nport = 1\n", 'unknown key "sever"', 1, 'did you mean "server"?'),
    (
        '[[identity.providers]]\nname = "x"\n',
        'client_id in [[identity.providers]] "x" is missing',
        1,
        'add a line like client_id = "bluesminds"',
    ),
    (
        "[limits]\n\nqueue_rows = 4\n",
        'unknown key "queue_rows" in [limits]',
        3,
        'did you mean "queue_rows" in [storage]?',
    ),
    (
        '[[prices]]\nmodel = "m"\ninput_usd = 1.25\noutput_usd = "x"\n',
        'output_usd in [[prices]] "m" must be an amount of USD below 100000, such as 12.5, not "x"',
        4,
        'write it like output_usd = "12.5"',
    ),
    (
        '[[prices]]\nmodel = "m"\ninput_usd = -1\noutput_usd = 1\n',
        'input_usd in [[prices]] "m" must be an amount of USD below 100000, such as 12.5, not -1',
        3,
        'write it like input_usd = "12.5"',
    ),
    (
        '[[prices]]\nmodel = "m"\ninput_usd = 1\nsince = "2026-12-01"\nuntil = "2026-12-01"\n',
        '[[prices]] "m" ends before it begins',
        5,
        "set until to a day after since; the price ends before this day",
    ),
    (
        '[[prices]]\nmodel = "m"\ninput_usd = 1\noutput_us = 1\n',
        '"output_us" in [[prices]] "m" is not a known key',
        4,
        'did you mean "output_usd"?',
    ),
    (
        MAIN + 'api_key = "${OPENAI_API_KEY}"\n',
        'api_key in [[servers]] "main" is a reference that is not supported',
        4,
        'write {env="OPENAI_API_KEY"} without quotes around it',
    ),
    (
        MAIN + 'api_key = "os.environ/OPENAI_API_KEY"\n',
        'api_key in [[servers]] "main" is a reference that is not supported',
        4,
        'write {env="OPENAI_API_KEY"} without quotes around it',
    ),
    (
        MAIN + 'api_key = "env:KEY"\n',
        'api_key in [[servers]] "main" is a reference that is not supported',
        4,
        'write {env="KEY"} without quotes around it',
    ),
    (
        MAIN + 'api_key = "{{ secrets.key }}"\n',
        'api_key in [[servers]] "main" is a reference that is not supported',
        4,
        'write {env="NAME"} without quotes around it',
    ),
    (
        "[tiers]\npro = 1\n",
        "pro in [tiers] must be one table",
        2,
        "write the settings under [tiers.pro]",
    ),
    ("[tiers.fre]\nrpm = 1\n", 'unknown key "fre" in [tiers]', 1, 'did you mean "free"?'),
    ("[tiers.pro]\nrpn = 1\n", 'unknown key "rpn" in [tiers.pro]', 2, 'did you mean "rpm"?'),
    (
        '[limits]\ntime_zone = "Mars/Olympus"\n',
        "time_zone in [limits] is not a known time zone",
        2,
        'use an IANA name such as "Europe/Berlin" or "UTC"',
    ),
    ("tiers = 1\n", "tiers must be one table", 1, "write the settings under [tiers.free]"),
    ("[keys]\nx = 4\n", 'unknown key "x" in [keys]', 2, "known names: pepper, cache_seconds"),
    (MAIN + "\nmoddels = []\n", 'unknown key "moddels" in [[servers]]', 5, 'did you mean "models"?'),
    ("server = 1\n", "server must be one table", 1, "write the settings under [server]"),
    ("[[server]]\n", "server must be one table", 1, "write the settings under [server]"),
    (
        "\n[servers]\n",
        "servers must be a list of tables",
        2,
        "write the settings under [[servers]]",
    ),
    (
        '[server]\nport = "3000"\n',
        'port in [server] must be a port number from 0 to 65535, not "3000"',
        2,
        "write it like port = 3000",
    ),
    (
        "[server]\nport = 65536\n",
        "port in [server] must be a port number from 0 to 65535, not 65536",
        2,
        "write it like port = 3000",
    ),
    (
        f"[server]\nport = 0x{'f' * 5000}\n",
        "port in [server] must be a port number from 0 to 65535, not a number this large",
        2,
        "write it like port = 3000",
    ),
    (
        "[server]\nhttp2 = 1\n",
        "http2 in [server] must be true or false, not 1",
        2,
        "write it like http2 = false",
    ),
    (
        "[server]\nidle_timeout = nan\n",
        'idle_timeout in [server] must be seconds above 0, at most 86400, or text like "30s", not nan',
        2,
        "write it like idle_timeout = 75.0",
    ),
    (
        '[log]\nformat = "xml"\n',
        'format in [log] must be one of "auto", "json", "text", not "xml"',
        2,
        'write it like format = "auto"',
    ),
    (
        '[server]\nhost = "a\\nb"\n',
        'host in [server] must be an address or host name, not "a\\nb"',
        2,
        'write it like host = "127.0.0.1"',
    ),
    (
        "[server]\ntls_cert = true\n",
        "tls_cert in [server] must be a path, not true",
        2,
        'write it like tls_cert = "/etc/bluesminds/example.pem"',
    ),
    (
        '[server]\nport = {env="PORT"}\n',
        "port in [server] must be a port number from 0 to 65535, not a table",
        2,
        "only secrets accept a reference; any setting can be set by an environment variable",
    ),
    (
        MAIN + "models = [1]\n",
        'models in [[servers]] "main" must be a list of model names, not a list',
        4,
        'write it like models = ["gpt-5", "gpt-5-mini"]',
    ),
    ("\n[[servers]]\n", "a server has no name", 2, 'add a line like name = "main" under [[servers]]'),
    (
        '[[servers]]\nname = "Main"\n',
        (
            'name in [[servers]] "Main" must be 1 to 64 of a-z, 0-9, "-", "_" and ".", not starting with ".",'
            ' not "Main"'
        ),
        2,
        'write it like name = "main"',
    ),
    (MAIN + MAIN, 'two [[servers]] are named "main"', 5, "give each server a unique name"),
    (
        '[[servers]]\nname = "a"\n',
        'url in [[servers]] "a" is missing',
        2,
        'add url = "http://127.0.0.1:4000/v1" or a vendor, or correct the name',
    ),
    (
        MAIN + 'api_key = {env="NOPE"}\n',
        'api_key in [[servers]] "main" reads the environment variable NOPE, which is not set',
        4,
        "export NOPE=..., or remove the setting",
    ),
    (
        MAIN + 'api_key = {file="/none"}\n',
        'api_key in [[servers]] "main" reads the file /none, which cannot be used: No such file or directory',
        4,
        "write only the secret to /none and let the gateway read it",
    ),
    (
        MAIN + 'api_key = {cred="x"}\n',
        'api_key in [[servers]] "main" reads the credential x, but the service has no credentials',
        4,
        "add LoadCredential=x:/path/to/file to the systemd unit",
    ),
    (
        MAIN + 'api_key = {env="A", file="b"}\n',
        'api_key in [[servers]] "main" must be text, {env="NAME"}, {file="path"} or {cred="name"}',
        4,
        'write it like api_key = {env="NAME"}',
    ),
    (
        MAIN + 'api_key = ""\n',
        'api_key in [[servers]] "main" is empty',
        4,
        "remove the setting, or give it a value",
    ),
    (
        MAIN + 'api_key = "a\\nb"\n',
        'api_key in [[servers]] "main" contains a line break or control character',
        4,
        "store only the secret there",
    ),
    (
        MAIN + 'api_key = "clé"\n',
        'api_key in [[servers]] "main" must be ASCII',
        4,
        "copy the key again, without quotes around it",
    ),
    (
        '[keys]\npepper = "short"\n',
        "pepper in [keys] must have at least 16 characters",
        2,
        "generate one with: openssl rand -hex 32",
    ),
    (
        '[storage]\nurl = "mysql://x"\n',
        "url in [storage] is not a SQLite or PostgreSQL URL",
        2,
        "write sqlite:///absolute/path.db or postgresql://user:password@host/name",
    ),
    (
        '[server]\ntls_cert = "c.pem"\n',
        "tls_cert in [server] needs tls_key",
        2,
        'add tls_key = "/path/key.pem"',
    ),
    (
        '[server]\ntls_key = "k.pem"\n',
        "tls_key in [server] needs tls_cert",
        2,
        'add tls_cert = "/path/cert.pem"',
    ),
    (
        "[server]\nhttp2 = true\n",
        "http2 in [server] needs TLS",
        2,
        "set tls_cert and tls_key, or remove http2",
    ),
    (
        '[server]\ntrusted_proxies = ["10.0.0.1/8"]\n',
        "trusted_proxies in [server]: an entry has host bits set; its network is 10.0.0.0/8",
        2,
        'write it like trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]',
    ),
    (
        '[server]\ntrusted_proxies = ["localhost"]\n',
        (
            "trusted_proxies in [server]: an entry is not an IP address or a network such as 10.0.0.0/8 or"
            " 2001:db8::/32"
        ),
        2,
        'write it like trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]',
    ),
    (
        "[server]\nproxy_protocol = true\n",
        "proxy_protocol in [server] needs trusted_proxies",
        2,
        "list the addresses your proxies connect from; other connections are refused",
    ),
    (
        '[upstream]\nca_file = "/nonexistent"\n',
        "ca_file in [upstream] cannot be used: /nonexistent",
        2,
        "name a readable PEM file with CA certificates",
    ),
    (
        '[server]\npublic_url = "https://a.example"\n[mail]\nbackend = "resend"\nsender = "a@b.cc"\n',
        'backend = "resend" in [mail] needs api_key',
        4,
        'add api_key = {env="RESEND_API_KEY"}',
    ),
    (
        '[mail]\napi_key = "re_1"\n',
        "api_key in [mail] is only for Resend",
        2,
        'set backend = "resend", or remove api_key',
    ),
    (
        '[mail]\nca_file = "/nonexistent"\n',
        "ca_file in [mail] cannot be used: /nonexistent",
        2,
        "name a readable PEM file with CA certificates",
    ),
    (
        '[accounts]\nadmin_emails = ["ada@example.com", "ada"]\n',
        "admin_emails in [accounts] contains an invalid e-mail address",
        2,
        'write it like admin_emails = ["ada@example.com"]',
    ),
    (
        '[mail]\nhost = "smtp.example.com"\n',
        "host in [mail] needs sender",
        2,
        'add sender = "gateway@example.com"',
    ),
    (
        '[mail]\nsender = "Gateway <gateway@example.com>"\n',
        "sender in [mail] is not an e-mail address",
        2,
        "write only the address, without a name",
    ),
    (
        '[mail]\nusername = "gateway"\n',
        "username and password in [mail] must be set together",
        2,
        "set both, or neither",
    ),
    (
        '[mail]\nsecurity = "none"\nusername = "gateway"\npassword = "p"\n',
        "password in [mail] would be sent unencrypted",
        2,
        'set security = "starttls"',
    ),
    (
        "[accounts]\nsession_idle = 5\n",
        'session_idle in [accounts] must be seconds from 60 to 31622400 (a year), or text like "7d", not 5',
        2,
        "write it like session_idle = 604800.0",
    ),
    (
        '[server]\nidle_timeout = "5 minutes"\n',
        (
            'idle_timeout in [server] must be seconds above 0, at most 86400, or text like "30s",'
            ' not "5 minutes"'
        ),
        2,
        "write it like idle_timeout = 75.0",
    ),
    (
        '[server]\nidle_timeout = "2d"\n',
        'idle_timeout in [server] must be seconds above 0, at most 86400, or text like "30s", not "2d"',
        2,
        "write it like idle_timeout = 75.0",
    ),
]


@pytest.mark.parametrize(("text", "message", "line", "remedy"), ONE_PROBLEM)
def test_load_wrong_file_reports_message_line_and_fix(
    write: Write, text: str, message: str, line: int, remedy: str
) -> None:
    path = write(text)
    assert problems_of(path) == [Problem(f"{path}:{line}", message, remedy)]


BAD_URLS = [
    ("ftp://host", "is not an http or https URL"),
    ("host:80", "is not an http or https URL"),
    ("http://", "is not an http or https URL"),
    ("http://host:99999/", "is not an http or https URL"),
    ("http://[::1/", "is not an http or https URL"),
    ("http://ho st/", "is not an http or https URL"),
    ("http://user:pass@host/", "must not contain a user or password"),
    ("http://host/v1?key=secret", 'must not contain "?" or "#"'),
]


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
def test_load_bad_url_is_refused_without_its_secret(write: Write, url: str, message: str) -> None:
    path = write(f'[server]\npublic_url = "{url}"\n[[servers]]\nname = "a"\nurl = "{url}"\n')
    found = problems_of(path)
    assert [(one.where, one.message) for one in found] == [
        (f"{path}:2", f"public_url in [server] {message}"),
        (f"{path}:5", f'url in [[servers]] "a" {message}'),
    ]
    assert not any("pass" in one.help + one.message.removesuffix("password") for one in found if "@" in url)


VARIABLES = [
    (
        {PORT: "80x"},
        'port in [server] must be a port number from 0 to 65535, not "80x"',
        f"for example {PORT}=3000",
    ),
    (
        {"BLUESMINDS__SERVER__HTTP2": "maybe"},
        'http2 in [server] must be true or false, not "maybe"',
        "for example BLUESMINDS__SERVER__HTTP2=false",
    ),
    (
        {"BLUESMINDS__SERVER__HOST": "a\x1b[0m"},
        "host in [server] must be an address or host name, not text with control characters",
        "for example BLUESMINDS__SERVER__HOST=127.0.0.1",
    ),
    (
        {"BLUESMINDS__SERVERS__MAIN__MODELS": "[1"},
        'models in [[servers]] "main" must be a JSON array or a comma-separated list',
        "for example BLUESMINDS__SERVERS__MAIN__MODELS=gpt-5,gpt-5-mini",
    ),
    (
        {"BLUESMINDS__SERVER__PRT": "1"},
        "unknown environment variable BLUESMINDS__SERVER__PRT",
        f"did you mean {PORT}?",
    ),
    (
        {f"{PORT}_FILE": "x"},
        f"unknown environment variable {PORT}_FILE",
        f"only secrets are read from files; set {PORT}",
    ),
    (
        {"BLUESMINDS__SERVERS__MAIN__KEY": "1"},
        "unknown environment variable BLUESMINDS__SERVERS__MAIN__KEY",
        "did you mean BLUESMINDS__SERVERS__MAIN__API_KEY?",
    ),
    (
        {"BLUESMINDS__SERVERS__MAIN__NAME": "x"},
        "unknown environment variable BLUESMINDS__SERVERS__MAIN__NAME",
        "unset it, or write BLUESMINDS__SECTION__SETTING",
    ),
    (
        {"BLUESMINDS__SERVERS__URL": "x"},
        "unknown environment variable BLUESMINDS__SERVERS__URL",
        "did you mean BLUESMINDS__SERVERS__NAME__URL?",
    ),
    (
        {"BLUESMINDS__ZZZ": "1"},
        "unknown environment variable BLUESMINDS__ZZZ",
        "unset it, or write BLUESMINDS__SECTION__SETTING",
    ),
    (
        {PEPPER: "a" * 16, f"{PEPPER}_FILE": "x"},
        f"{PEPPER} and {PEPPER}_FILE are both set",
        f"unset {PEPPER}; a file is safer",
    ),
    (
        {"BLUESMINDS__SERVERS": "[1]"},
        "BLUESMINDS__SERVERS must be a JSON array of objects",
        'for example BLUESMINDS__SERVERS=\'[{"name": "main", "url": "http://127.0.0.1:4000/v1"}]\'',
    ),
]


@pytest.mark.parametrize(("environ", "message", "remedy"), VARIABLES)
def test_load_wrong_variable_reports_message_and_fix(
    write: Write, environ: dict[str, str], message: str, remedy: str
) -> None:
    (found,) = problems_of(write(MAIN), environ)
    assert (found.message, found.help) == (message, remedy)
    assert found.where in {"environment", *(f"env {name}" for name in environ)}


def test_load_variable_matching_two_servers_is_refused(write: Write) -> None:
    path = write(MAIN.replace("main", "a-b") + MAIN.replace("main", "a.b"))
    (found,) = problems_of(path, {"BLUESMINDS__SERVERS__A_B__WEIGHT": "2"})
    assert found.message == "BLUESMINDS__SERVERS__A_B__WEIGHT matches several servers"


def test_load_misspelt_server_variable_reports_missing_url(write: Write) -> None:
    (found,) = problems_of(write(MAIN), {"BLUESMINDS__SERVERS__MIAN__API_KEY": "k"})
    assert str(found) == 'url in [[servers]] "mian" is missing (env BLUESMINDS__SERVERS__MIAN__API_KEY)'


def test_load_many_problems_reports_all_in_file_order(write: Write) -> None:
    path = write(
        'prot = 1\n[server]\nport = "x"\nhttp2 = true\nwait = 3\n[log]\nlevel = 3\n[[servers]]\nurl = "x"\n'
    )
    found = problems_of(path, {"BLUESMINDS__NO": "1"}, {"upstream.attempts": "3"})
    assert [one.where.removeprefix(f"{path}:") for one in found] == [*"1345789", "environment", "flag"]
    assert all(one.help for one in found)


FILES = [
    (b"[server\n", ":1:8"),
    (b"a = 1\na = 2\n", ":2:6"),
    (b"[server]\nport = 1e\n", ":2:9"),
    (b"a = '\xff'\n", ""),
    (b"a = " + b"[" * 100_000, ""),
    (b"a = " + b"9" * 5_000 + b"\n", ""),
    (b'a = "', ""),
]


@pytest.mark.parametrize(("content", "place"), FILES)
def test_load_unparsable_file_reports_one_problem(tmp_path: Path, content: bytes, place: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    (found,) = problems_of(path)
    assert found.where.startswith(f"{path}{place}")
    assert found.help


def test_load_unreadable_file_reports_one_problem(tmp_path: Path) -> None:
    (found,) = problems_of(tmp_path / "none.toml")
    assert found.message == "the configuration cannot be read: No such file or directory"
    (found,) = problems_of(tmp_path)
    assert found.message == "the configuration cannot be read: Is a directory"


def test_load_certificate_is_loaded_before_it_is_accepted(write: Write, tmp_path: Path) -> None:
    first, second = (trustme.CA().issue_cert("localhost") for _ in range(2))
    first.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    first.private_key_pem.write_to_path(tmp_path / "key.pem")
    second.private_key_pem.write_to_path(tmp_path / "other.pem")
    text = '[server]\nhttp2 = true\ntls_cert = "cert.pem"\ntls_key = "{}"\n[upstream]\nca_file = "cert.pem"\n'
    settings = load(write(text.format("key.pem")), {}, {}).settings
    assert (settings.server.tls_cert, settings.server.tls_key) == (
        tmp_path / "cert.pem",
        tmp_path / "key.pem",
    )
    (found,) = problems_of(write(text.format("other.pem")))
    assert found.message == "tls_cert and tls_key in [server] cannot be used together"
    key = serialization.load_pem_private_key(first.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    (found,) = problems_of(write(text.format("locked.pem")))
    assert found.message == "tls_cert and tls_key in [server] cannot be used together"
    (found,) = problems_of(write(text.format("none.pem")))
    assert found == Problem(
        f"{tmp_path}/gateway.toml:4",
        f"tls_key in [server] cannot be read: {tmp_path}/none.pem",
        "name a readable PEM file",
    )


def test_load_wrong_value_suppresses_dependent_findings(write: Write) -> None:
    (found,) = problems_of(write('[server]\ntls_cert = 1\ntls_key = "key.pem"\nhttp2 = true\n'))
    assert found.message.startswith("tls_cert in [server] must be a path")


def test_load_unreadable_credentials_are_refused(tmp_path: Path) -> None:
    (found,) = problems_of(None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")})
    assert found.message == "the credentials cannot be read: No such file or directory"


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["main", "http://x", "~unknown/x", "\0", "{}", "demo"]),
)
SETTINGS = [key for name in ("", "servers", *sections()) for key in fields_in(name)]
KEYS = st.sampled_from([*SETTINGS, *sections(), "servers", "env", "file", "cred", "a\nb", "\x1b"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4), st.sampled_from(["", *sections(), "servers"]))
def test_load_any_tree_loads_or_is_refused(data: dict[str, object], section: str) -> None:
    tree = {"servers": [data]} if section == "servers" else data
    for name in reversed(section.split(".") if section not in ("", "servers") else []):
        tree = {name: tree}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.toml"
        path.write_text(tomli_w.dumps(tree))
        last = len(path.read_text().splitlines())
        try:
            load(path, {"CREDENTIALS_DIRECTORY": folder}, {})
        except ConfigError as error:
            assert error.problems
            for problem in error.problems:
                assert 1 <= int(problem.where.removeprefix(f"{path}:")) <= last
                assert problem.help
                assert "\n" not in problem.message + problem.help
                assert "\x1b" not in problem.message


@given(st.binary())
def test_load_any_bytes_loads_or_is_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.toml"
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            load(path, {}, {})


def test_load_table_given_twice_names_it_as_in_the_file(write: Write) -> None:
    (problem,) = problems_of(write("[server]\nport = 1\n[server]\n"))
    assert problem.message == "not valid TOML: Cannot declare [server] twice"
