"""`bluesminds doctor` and `support-bundle`."""

import json
import socket
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from bluesminds.accounts.audit import OPERATOR
from bluesminds.app.doctor import diagnose
from bluesminds.app.doctor_services import check_services
from bluesminds.app.services import open_services
from bluesminds.cli import exits
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Secret, Settings, load
from bluesminds.config.settings import BillingSettings, StripeSettings
from tests.fakes import payment_server
from tests.fakes.payment_server import KEY
from tests.terminal import User, demo_user

FREE = "[server]\nport = 0\n"
DEAD = '[[servers]]\nname = "one"\nurl = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'


def checks(user: User, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = user.call("doctor", "--json", *words)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    return done.returncode, {row["name"]: row for row in report["checks"]}


def test_doctor_before_first_start_finds_nothing_wrong(home: Path) -> None:
    (home / "gateway.toml").write_text(FREE)
    (home / "gateway.toml").chmod(0o600)
    done = User(home).call("doctor")
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("skipped  database") for line in lines)
    assert any(line.startswith("skipped  gateway") and "port 0 is free" in line for line in lines)
    assert not (home / "s").exists(), "the command creates nothing"


def test_doctor_reports_server_with_command_that_shows_more(home: Path) -> None:
    (home / "gateway.toml").write_text(FREE + DEAD)
    user = User(home).prepare()
    done = user.call("doctor")
    assert done.returncode == exits.FAILURE
    assert "error: 1 check failed\n" in done.stderr
    (at,) = [n for n, line in enumerate(done.stdout.splitlines()) if line.startswith("failed")]
    failed, fix = done.stdout.splitlines()[at : at + 2]
    assert "server one" in failed and "127.0.0.1" not in failed.partition("server one")[0]
    assert fix.strip() == "fix: bluesminds servers test one"
    code, found = checks(user, "--offline")
    assert code == 0
    assert "server one" not in found and "mail" not in found
    assert found["outbound"]["message"] == (
        "connects to 127.0.0.1:9 (server one), servers in the database, if any,"
        " vendors of stored user keys, if any"
    )
    assert {found[name]["verdict"] for name in ("database", "audit log", "ledger", "clock")} == {"ok"}


def test_doctor_reports_other_users_old_backups_and_mail(home: Path) -> None:
    backups = home / "backups"
    backups.mkdir()
    (backups / "bluesminds-20260101T000000Z.tar.gz").touch()
    mail = '[mail]\nhost = "127.0.0.1"\nport = 9\nsecurity = "none"\nsender = "a@example.com"\n'
    text = FREE + mail + f'[backup]\ndirectory = "{backups}"\n[accounts]\nsignup = "open"\n'
    (home / "gateway.toml").write_text(text)
    user = User(home).prepare()
    user.state_dir.chmod(0o755)
    code, found = checks(user)
    assert code == exits.FAILURE
    assert found["permissions"]["verdict"] == "warning"
    assert found["permissions"]["fix"] == f"chmod -R go= {user.state_dir}"
    assert found["backup"]["verdict"] == "warning" and "days old" in found["backup"]["message"]
    assert found["mail"]["verdict"] == "failed" and "connection" in found["mail"]["message"]
    assert found["sign-in"]["verdict"] == "warning" and "public_url" in found["sign-in"]["fix"]


def test_doctor_reports_resend_that_cannot_be_reached(home: Path) -> None:
    mail = (
        '[mail]\nbackend = "resend"\nsender = "a@example.com"\napi_key = "re_1"\nurl = "http://127.0.0.1:9"\n'
    )
    (home / "gateway.toml").write_text(FREE + mail)
    _, found = checks(User(home).prepare())
    assert found["mail"]["verdict"] == "failed"
    assert found["mail"]["message"] == "the connection to Resend failed: ConnectFailed"
    assert "127.0.0.1:9 (mail)" in found["outbound"]["message"]


def test_doctor_reports_channel_of_alerts_that_cannot_be_reached(home: Path) -> None:
    channel = '[[alerts.channels]]\nname = "team"\nkind = "slack"\nurl = "http://127.0.0.1:9/hidden"\n'
    (home / "gateway.toml").write_text(FREE + channel)
    _, found = checks(User(home).prepare())
    assert found["alert channel team"]["verdict"] == "failed"
    assert "127.0.0.1:9 (alert channel team)" in found["outbound"]["message"]
    assert "hidden" not in str(found)


SERVICES = """
[billing]
enabled = true
[stripe]
api_key = "sk_test_canary"
url = "http://127.0.0.1:9"
[[identity.providers]]
name = "company"
kind = "oidc"
issuer = "http://127.0.0.1:9"
client_id = "a"
client_secret = "canary"
"""


def test_doctor_reports_services_that_cannot_be_reached(home: Path) -> None:
    public = FREE.replace("[server]\n", '[server]\npublic_url = "https://ai.example.com"\n')
    (home / "gateway.toml").write_text(public + SERVICES)
    _, found = checks(User(home).prepare())
    for name, fix in (
        ("payments stripe", "[stripe]"),
        ("sign-in company", '[[identity.providers]] "company"'),
    ):
        assert found[name]["verdict"] == "failed" and found[name]["fix"] == f"correct {fix}"
    assert "canary" not in str(found)


@pytest.mark.parametrize(("key", "problem"), [(KEY, ""), ("sk_test_other", "responded with 401")])
async def test_doctor_asks_the_payment_provider_with_its_key(
    nursery: trio.Nursery, home: Path, key: str, problem: str
) -> None:
    shop = await nursery.start(payment_server.serve_stripe)
    stripe = StripeSettings(api_key=Secret(key), url=shop.url)
    settings = Settings(state_dir=home, billing=BillingSettings(enabled=True), stripe=stripe)
    (found,) = await check_services(settings, SystemClock())
    assert found.name == "payments stripe" and "webhook_secret" in found.warning
    assert problem in found.problem and bool(problem) == bool(found.problem)


def test_doctor_reports_damaged_database(home: Path) -> None:
    (home / "gateway.toml").write_text(FREE)
    user = User(home).prepare()
    content = bytearray(user.database.read_bytes())
    content[4096:8192] = bytes(4096)
    user.database.write_bytes(content)
    code, found = checks(user)
    assert code == exits.FAILURE
    assert found["database"]["verdict"] == "failed"
    assert "bluesminds restore" in found["database"]["fix"]
    assert "bluesminds restore" in found["gateway"]["fix"]


def test_doctor_reports_port_of_another_program(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (home / "gateway.toml").write_text(f"[server]\nport = {port}\n")
        code, found = checks(User(home))
    assert code == exits.FAILURE
    assert f"cannot listen on 127.0.0.1:{port}" in found["gateway"]["message"]


def test_doctor_with_invalid_configuration_exits_with_its_code(home: Path) -> None:
    (home / "gateway.toml").write_text("[server]\nprot = 1\n")
    done = User(home).call("doctor")
    assert done.returncode == exits.CONFIG_INVALID
    assert "gateway.toml:2" in done.stderr


class LateClock:
    """An hour behind."""

    def now_ms(self) -> int:
        return SystemClock().now_ms() - 3_600_000


def test_doctor_reports_certificate_and_public_address(home: Path) -> None:
    (home / "gateway.toml").write_text('[server]\nport = 0\nhost = "0.0.0.0"\n')
    _, found = checks(User(home))
    assert found["tls"]["verdict"] == "warning" and "without TLS" in found["tls"]["message"]


@pytest.mark.parametrize(
    ("days", "verdict", "text"),
    [(-1, "failed", "expired on"), (5, "warning", "valid until"), (90, "ok", "valid until")],
)
def test_doctor_reports_end_of_certificate(home: Path, days: int, verdict: str, text: str) -> None:
    ends = datetime.now(UTC) + timedelta(days=days, hours=1)
    issued = trustme.CA().issue_cert("localhost", not_before=ends - timedelta(days=30), not_after=ends)
    issued.private_key_pem.write_to_path(home / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(home / "cert.pem", append=True)
    tls = FREE + 'tls_cert = "cert.pem"\ntls_key = "key.pem"\n'
    (home / "gateway.toml").write_text(tls)
    _, found = checks(User(home))
    assert found["tls"]["verdict"] == verdict
    assert text in found["tls"]["message"]


async def test_doctor_reports_clock_that_is_behind(home: Path) -> None:
    environ = {"BLUESMINDS__STATE_DIR": str(home / "state"), "BLUESMINDS__SERVER__PORT": "0"}
    loaded = load(None, environ, {})
    clock = SystemClock()
    async with open_services(loaded.settings, clock=clock, log=Log(clock)) as services:
        await services.accounts.users.local_user(OPERATOR)
    late = LateClock()
    found = {one.name: one for one in await diagnose(loaded, offline=True, clock=late, log=Log(late))}
    assert found["clock"].verdict == "failed", found
    assert "s behind" in found["clock"].message


SECRETS = """
[server]
port = 0
[keys]
pepper = "canary-pepper-0123456789abcdef-0123456789"
[backup]
passphrase = "canary-passphrase"
[mail]
host = "127.0.0.1"
port = 9
sender = "a@example.com"
username = "gateway"
password = "canary-password"
[[servers]]
name = "one"
url = "http://127.0.0.1:9/v1"
api_key = "canary-api-key"
headers = {X-Key = "canary-header"}
models = ["m"]
"""


def test_support_bundle_has_no_secret(home: Path) -> None:
    (home / "gateway.toml").write_text(SECRETS)
    (home / "gateway.toml").chmod(0o600)
    user = User(home).prepare()
    key = user.call("keys", "create", "kept").stdout.strip()
    done = user.call("support-bundle", "one.tar.gz", "--offline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote one.tar.gz: doctor.json, version.json, machine.json, settings.json")
    assert (home / "one.tar.gz").stat().st_mode & 0o777 == 0o600
    with tarfile.open(home / "one.tar.gz") as tar:
        text = b"".join(file.read() for one in tar.getmembers() if (file := tar.extractfile(one)))
    assert b"canary" not in text
    assert key.encode() not in text
    for name in ("master.key",):
        assert (user.state_dir / name).read_bytes().strip() not in text
    assert b'"name": "one"' in text, "the settings are in it"
    again = user.call("support-bundle", "one.tar.gz", "--offline")
    assert again.returncode == exits.CONFLICT


@pytest.mark.process
def test_doctor_of_a_gateway_without_servers_says_how_to_add_one(home: Path) -> None:
    user = User(home)
    with user.serving("serve", "--port", "0"):
        report = json.loads(user.run("doctor", "--json", "--offline").stdout)
    (found,) = [one for one in report["checks"] if one["name"] == "gateway"]
    assert (found["verdict"], "no usable server" in found["message"]) == ("failed", True)
    assert "bluesminds servers add" in found["fix"]


@pytest.mark.process
def test_doctor_and_bundle_ask_the_running_gateway(home: Path) -> None:
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        report = json.loads(user.run("doctor", "--json").stdout)
        found = {row["name"]: row for row in report["checks"]}
        assert report["ok"]
        assert found["gateway"]["verdict"] == found["server demo"]["verdict"] == "ok"
        assert user.run("support-bundle", "one.tar.gz").returncode == 0
        assert gateway.stop() == 0
    with tarfile.open(home / "one.tar.gz") as tar:
        names = {name.removeprefix("bluesminds-support/") for name in tar.getnames()}
        assert {"ready.json", "metrics.txt", "monitor.json", "health.json"} <= names
        text = b"".join(file.read() for one in tar.getmembers() if (file := tar.extractfile(one)))
    assert gateway.key.encode() not in text
