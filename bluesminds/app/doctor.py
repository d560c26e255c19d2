"""The checks of `bluesminds doctor`: this machine, the database, the running gateway and what it connects to.

Each check is one line of the report. A check that finds a problem names the command that fixes it.
"""

import os
import shutil
import sqlite3
import ssl
import stat
import tempfile
import time
from _ssl import _test_decode_cert  # type: ignore[attr-defined]  # typeshed leaves it out
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import trio
from msgspec import Struct

from bluesminds.app import preflight
from bluesminds.app.backup import newest_backup_ms
from bluesminds.app.database import database_url, storage_remedy
from bluesminds.app.doctor_services import ServiceCheck, check_services
from bluesminds.app.errors import BadDatabaseURL, NoDatabase
from bluesminds.app.listeners import OTHER_DESCRIPTORS
from bluesminds.app.operator import operator_client
from bluesminds.app.outbound import outbound
from bluesminds.app.settings_map import alert_channels, configured_mailer, mail_backend
from bluesminds.app.state_dir import MASTER_KEY, PEPPER, BadState, StateBusy
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.config import ConfigError, Loaded, Settings
from bluesminds.http.client.pool import Pool, tls_context
from bluesminds.http.server.sockets import bind_tcp, raise_descriptor_limit
from bluesminds.notify.mail import MailFailed, MailRefused
from storage import StorageError, sqlite_path
from storage.backup import check_sqlite
from storage.store import ping

Verdict = Literal["ok", "warning", "failed", "skipped"]

LOW_DISK: Final = 1 << 30  # bytes; less is a warning
FULL_DISK: Final = 100 << 20  # bytes; less is a failure
SLOW_SYNC_MS: Final = 50.0  # each response waits for one sync
CERTIFICATE_DAYS: Final = 21  # a warning before the end of a certificate
CLOCK_SECONDS: Final = 60  # how far the clock may be behind an entry of the audit log
REQUEST_SECONDS: Final = 120.0  # a ledger or a slow server takes its time
UNREACHABLE: Final = (StateBusy, BadState, BadDatabaseURL, ConfigError, StorageError, httpx.HTTPError)
"""Why neither a running gateway nor its database can be used."""
CHANNEL_SECONDS: Final = 10.0
_SYNCS: Final = 5
_DAY_MS: Final = 86_400_000


class Diagnosis(Struct, frozen=True):
    """`message` says what was found, `fix` which command or change fixes it."""

    name: str
    verdict: Verdict
    message: str
    fix: str = ""


async def diagnose(loaded: Loaded, *, offline: bool, clock: Clock, log: Log) -> list[Diagnosis]:
    """Run all checks. `offline`: without a connection to servers and the mail server. Never raises for what
    the checks find.
    """
    settings = loaded.settings
    found = [await trio.to_thread.run_sync(check, loaded) for check in _LOCAL]
    found.append(await _database(settings))
    try:
        async with operator_client(settings, clock=clock, log=log) as client:
            client.timeout = httpx.Timeout(REQUEST_SECONDS)
            found += await _gateway(client, settings)
            found += await _records(client, clock)
            found += [] if offline else await _servers(client)
    except* NoDatabase:
        found.append(_not_running(settings))
    except* UNREACHABLE as group:
        found += [Diagnosis("gateway", "failed", str(exc), _fix_of(exc)) for exc in _leaves(group)]
    if not offline:
        found.append(await _mail(settings, clock))
        found += await _alert_channels(settings)
        found += [_service(one) for one in await check_services(settings, clock)]
    found.append(_backup(settings, clock))
    hosts = ", ".join(outbound(settings))
    return [*found, Diagnosis("outbound", "ok", f"connects to {hosts}")]


def _fix_of(error: BaseException) -> str:
    if isinstance(error, StorageError):
        return storage_remedy(error)
    return getattr(error, "remedy", "") or "bluesminds check"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error


# This machine. Each of these functions blocks.


def _configuration(loaded: Loaded) -> Diagnosis:
    problems = list(preflight.static_checks(loaded))
    if problems:
        return Diagnosis("configuration", "failed", "; ".join(map(str, problems)), problems[0].help)
    if loaded.warnings:
        text = "; ".join(map(str, loaded.warnings))
        return Diagnosis("configuration", "warning", text, loaded.warnings[0].help)
    return Diagnosis("configuration", "ok", str(loaded.path or "no file: defaults and environment"))


def _permissions(loaded: Loaded) -> Diagnosis:
    state = loaded.settings.state_dir
    paths = (state, *(state / name for name in (PEPPER, MASTER_KEY, "bluesminds.db")))
    others = stat.S_IRWXG | stat.S_IRWXO
    open_to_others = [path for path in paths if path.exists() and path.stat().st_mode & others]
    if not open_to_others:
        return Diagnosis("permissions", "ok", f"only the owner can use {state}")
    names = ", ".join(path.name for path in open_to_others)
    return Diagnosis("permissions", "warning", f"other users can use {names}", f"chmod -R go= {state}")


def _disk(loaded: Loaded) -> Diagnosis:
    usage = shutil.disk_usage(_existing(loaded.settings.state_dir))
    text = f"{usage.free / (1 << 30):.1f} GiB of {usage.total / (1 << 30):.1f} GiB are free"
    if usage.free < LOW_DISK:
        verdict: Verdict = "failed" if usage.free < FULL_DISK else "warning"
        return Diagnosis("disk", verdict, text, "free space, or set state_dir to a directory on another disk")
    return Diagnosis("disk", "ok", text)


def _disk_speed(loaded: Loaded) -> Diagnosis:
    """The median time to write and sync a page in the directory of the database."""
    times = []
    try:
        with tempfile.TemporaryFile(dir=_existing(loaded.settings.state_dir)) as file:
            for _ in range(_SYNCS):
                started = time.perf_counter()
                file.write(bytes(4096))
                file.flush()
                os.fsync(file.fileno())
                times.append((time.perf_counter() - started) * 1000)
    except OSError as exc:
        return Diagnosis("disk speed", "failed", f"cannot write: {exc.strerror}", "bluesminds check")
    median = sorted(times)[_SYNCS // 2]
    text = f"a sync takes {median:.1f} ms"
    if median > SLOW_SYNC_MS:
        return Diagnosis("disk speed", "warning", text, 'use a faster disk, or durability = "relaxed"')
    return Diagnosis("disk speed", "ok", text)


def _descriptors(loaded: Loaded) -> Diagnosis:
    settings = loaded.settings
    needed = settings.server.max_connections + settings.upstream.max_connections + OTHER_DESCRIPTORS
    limit = raise_descriptor_limit(needed)
    text = f"{limit} files can be open, {needed} are needed"
    if limit < needed:
        fix = f"LimitNOFILE={needed} in the unit, or lower max_connections"
        return Diagnosis("descriptors", "warning", text, fix)
    return Diagnosis("descriptors", "ok", text)


def _certificate(loaded: Loaded) -> Diagnosis:
    server = loaded.settings.server
    if server.tls_cert is None:
        local = server.host in ("127.0.0.1", "::1", "localhost")
        if local or server.public_url is not None:
            return Diagnosis("tls", "skipped", "no certificate is configured")
        fix = "set tls_cert and tls_key, or use a proxy with TLS and set public_url"
        return Diagnosis("tls", "warning", f"clients connect to {server.host} without TLS", fix)
    try:
        decoded = _test_decode_cert(server.tls_cert)  # cryptography.x509 would take 70 ms to import
    except (OSError, ValueError) as exc:
        return Diagnosis("tls", "failed", f"{server.tls_cert}: {exc}", "bluesminds check")
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(decoded["notAfter"]), UTC)
    days = (ends - datetime.now(UTC)).days
    text = f"the certificate is valid until {ends:%Y-%m-%d} ({days} days)"
    fix = "renew the certificate, then: bluesminds reload"
    if days < 0:
        return Diagnosis("tls", "failed", f"the certificate expired on {ends:%Y-%m-%d}", fix)
    return Diagnosis("tls", "warning", text, fix) if days < CERTIFICATE_DAYS else Diagnosis("tls", "ok", text)


def _sign_in(loaded: Loaded) -> Diagnosis:
    settings = loaded.settings
    if settings.accounts.signup != "open":
        return Diagnosis("sign-in", "ok", f"sign-up is {settings.accounts.signup}")
    if not settings.mail.configured:
        text = "sign-up is open, but no mail is sent: [mail] has no host"
        return Diagnosis("sign-in", "warning", text, "set host and sender in [mail]")
    if settings.server.public_url is None:
        text = "sign-up is open, but links in mail contain the listening address"
        return Diagnosis("sign-in", "warning", text, "set public_url in [server]")
    return Diagnosis("sign-in", "ok", "sign-up is open, and mail is configured")


_LOCAL: Final[tuple[Callable[[Loaded], Diagnosis], ...]] = (
    _configuration,
    _permissions,
    _disk,
    _disk_speed,
    _descriptors,
    _certificate,
    _sign_in,
)


def _existing(directory: Path) -> Path:
    return directory if directory.exists() else _existing(directory.absolute().parent)


# The database and the gateway


async def _database(settings: Settings) -> Diagnosis:
    started = time.perf_counter()
    try:
        path = sqlite_path(database_url(settings))
        if path is None:
            await ping(database_url(settings), seconds=settings.storage.settle_timeout)
        elif not path.exists():
            return Diagnosis("database", "skipped", "there is no database yet; `bluesminds serve` creates it")
        else:
            await trio.to_thread.run_sync(check_sqlite, path)
    except (BadDatabaseURL, ConfigError, StorageError) as exc:
        return Diagnosis("database", "failed", str(exc), _fix_of(exc))
    except sqlite3.Error as exc:
        return Diagnosis("database", "failed", str(exc), "bluesminds restore --replace FILE")
    milliseconds = (time.perf_counter() - started) * 1000
    what = "PostgreSQL responds" if path is None else "SQLite is intact"
    return Diagnosis("database", "ok", f"{what} ({milliseconds:.0f} ms)")


_READY_FIXES: Final = {
    "store": "check that the database runs and that its disk has space",
    "limits": "stop the other gateway on this database, and restart this one",
    "tasks": "read the gateway's log, and restart the gateway",
    "servers": "bluesminds servers list; add one with bluesminds servers add NAME",
}


async def _gateway(client: httpx.AsyncClient, settings: Settings) -> list[Diagnosis]:
    ready = await client.get("/ready")
    if ready.status_code == 404:  # the API runs in this process
        return [_not_running(settings)]
    checks: Mapping[str, str] = ready.json()["checks"]
    wrong = {name: text for name, text in checks.items() if text != "ok"}
    if wrong:
        text = "; ".join(f"{name}: {text}" for name, text in wrong.items())
        return [
            Diagnosis(
                "gateway", "failed", f"not ready: {text}", _READY_FIXES.get(next(iter(wrong)), "see its log")
            )
        ]
    address = f"{settings.server.host}:{settings.server.port}"
    return [Diagnosis("gateway", "ok", f"ready, listens on {address}")]


def _not_running(settings: Settings) -> Diagnosis:
    server = settings.server
    try:
        for sock in bind_tcp(server.host, server.port):
            sock.close()
    except (OSError, UnicodeError) as exc:
        text = f"not running, and it cannot listen on {server.host}:{server.port}: {exc}"
        return Diagnosis("gateway", "failed", text, f"ss -ltnp sport = :{server.port}")
    return Diagnosis("gateway", "skipped", f"not running; port {server.port} is free", "bluesminds serve")


async def _records(client: httpx.AsyncClient, clock: Clock) -> list[Diagnosis]:
    """The audit log, the ledger, and the clock by the newest entry."""
    found = []
    for name, path, count in (("audit log", "audit", "rows"), ("ledger", "ledger", "entries")):
        answer = (await client.get(f"/api/admin/{path}/verify")).raise_for_status().json()
        text = f"{answer['message']}, {answer[count]} entries"
        fix = f"bluesminds {path} verify"
        found.append(Diagnosis(name, "ok", text) if answer["ok"] else Diagnosis(name, "failed", text, fix))
    newest = (await client.get("/api/admin/audit", params={"limit": 1})).raise_for_status().json()["data"]
    behind = max((_ms(row["at"]) - clock.now_ms() for row in newest), default=0) // 1000
    if behind > CLOCK_SECONDS:
        text = f"the clock is {behind} s behind the newest entry of the audit log"
        found.append(Diagnosis("clock", "failed", text, "timedatectl set-ntp true"))
    else:
        found.append(Diagnosis("clock", "ok", "not behind the newest entry of the audit log"))
    return found


async def _servers(client: httpx.AsyncClient) -> list[Diagnosis]:
    """Each server with its name, connection, TLS, list of models and a small completion, all at once."""
    rows = (await client.get("/api/admin/servers")).raise_for_status().json()["data"]
    found: dict[str, Diagnosis] = {}

    async def test(name: str) -> None:
        found[name] = _server_diagnosis(name, await client.post(f"/api/admin/servers/{name}/test"))

    async with trio.open_nursery() as nursery:
        for row in rows:
            if row["mode"] != "off":
                nursery.start_soon(test, row["name"])
    if not found:
        return [Diagnosis("servers", "warning", "no server is configured", "bluesminds servers add --help")]
    return [found[row["name"]] for row in rows if row["name"] in found]


def _server_diagnosis(name: str, answer: httpx.Response) -> Diagnosis:
    title = f"server {name}"
    result: Mapping[str, Any] = answer.json()
    if answer.status_code != 200:
        return Diagnosis(title, "skipped", result["error"]["message"])
    if result["ok"]:
        return Diagnosis(title, "ok", f"{result['steps'][-1]['message']} ({result['latency_ms']} ms)")
    return Diagnosis(title, "failed", result["problem"], f"bluesminds servers test {name}")


async def _mail(settings: Settings, clock: Clock) -> Diagnosis:
    pool = Pool(tls=tls_context(settings.upstream.ca_file))
    mailer = configured_mailer(settings.mail, pool, clock)
    if mailer is None:
        return Diagnosis("mail", "skipped", "no mail server is configured")
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        try:
            await mailer.check()
            found = Diagnosis("mail", "ok", f"{mail_backend(settings.mail)} accepts the connection")
        except (MailFailed, MailRefused) as exc:
            found = Diagnosis("mail", "failed", str(exc), "correct [mail]")
        nursery.cancel_scope.cancel()
    return found


def _service(found: ServiceCheck) -> Diagnosis:
    if found.problem:
        return Diagnosis(found.name, "failed", found.problem, found.fix)
    if found.warning:
        return Diagnosis(found.name, "warning", found.warning, found.fix)
    return Diagnosis(found.name, "ok", "works")


async def _alert_channels(settings: Settings) -> list[Diagnosis]:
    """Connects to each channel and sends nothing."""
    found = []
    pool = Pool(tls=tls_context(settings.upstream.ca_file))
    for channel in alert_channels(settings):
        name = f"alert channel {channel.name}"
        try:
            origin, _ = channel.target()
        except ValueError as exc:
            found.append(Diagnosis(name, "failed", str(exc), "correct its url in [alerts]"))
            continue
        error: str | None = "the connection took too long"
        with trio.move_on_after(CHANNEL_SECONDS):
            steps = await pool.diagnose(origin)
            error = next((step.error for step in steps if step.error is not None), None)
        if error is not None:
            found.append(Diagnosis(name, "failed", error, "correct its url in [alerts]"))
        else:
            found.append(Diagnosis(name, "ok", f"{origin.host} accepts the connection"))
    return found


def _backup(settings: Settings, clock: Clock) -> Diagnosis:
    backup = settings.backup
    if backup.directory is None:
        return Diagnosis("backup", "skipped", "none are scheduled", "set directory in [backup]")
    newest = newest_backup_ms(backup.directory)
    fix = "look for backup_failed in the log"
    if newest is None:
        return Diagnosis("backup", "warning", f"no backup in {backup.directory}", fix)
    days = (clock.now_ms() - newest) / _DAY_MS
    text = f"the newest backup is {days:.1f} days old"
    late = clock.now_ms() - newest > 2 * backup.every * 1000
    return Diagnosis("backup", "warning", text, fix) if late else Diagnosis("backup", "ok", text)


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
