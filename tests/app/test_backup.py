"""Backups: a restored database has everything, a bad backup changes nothing, and the schedule is kept."""

import gzip
import io
import sqlite3
import tarfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry
from bluesminds.app.backup import Backups
from bluesminds.app.errors import BackupFailed, DatabaseExists
from bluesminds.app.restore import RestoredBackup, restore_backup
from bluesminds.app.services import Services, open_services
from bluesminds.app.state_dir import BadState, StateBusy, StateDir
from bluesminds.common.clock import Clock, SystemClock
from bluesminds.common.errors import Unavailable
from bluesminds.common.log import Log
from bluesminds.common.money import NANO
from bluesminds.common.values import Server
from bluesminds.config import Settings, load
from bluesminds.gateway.limits.lease import LeaseHeld
from storage.base import Connection
from storage.leases import take_lease
from storage.settings import select_setting
from storage.store import open_store
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import Gateway, entry, eventually
from tests.storage.conftest import postgres, postgres_url
from tests.storage.postgres_server import PostgresServer
from tests.storage.samples import all_usage

__all__ = ["postgres", "postgres_url"]
CLOCK = SystemClock()
LOG = Log(CLOCK)
PASSPHRASE = "a long passphrase"
ONE = Server("one", "openai", "http://127.0.0.1:9/v1", "sk-one-00000001", ("m",), 1, 0, "table")


def settings_in(home: Path, url: str | None = None, **backup: object) -> Settings:
    environ = {"BLUESMINDS__STATE_DIR": str(home / "state")}
    environ |= {f"BLUESMINDS__BACKUP__{name.upper()}": str(value) for name, value in backup.items()}
    if url is not None:
        environ["BLUESMINDS__STORAGE__URL"] = url
    return load(None, environ, {}).settings


@pytest.fixture(params=["sqlite", "postgres"])
def both(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Settings, Settings]]:
    """The settings of a gateway, and those of an empty one."""
    if request.param == "sqlite":
        yield settings_in(home / "old"), settings_in(home / "new")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    monkeypatch.setenv("PATH", str(server.programs), prepend=":")
    other = server.create_database()
    yield settings_in(home / "old", request.getfixturevalue("postgres_url")), settings_in(home / "new", other)
    server.drop_database(other)


@asynccontextmanager
async def running(settings: Settings, clock: Clock = CLOCK) -> AsyncIterator[Services]:
    async with open_services(settings, clock=clock, log=LOG) as services:
        yield services


async def write(services: Services, file: Path, *, with_secrets: bool = True) -> Path:
    chunks = await services.backups.open(PASSPHRASE, with_secrets=with_secrets)
    await trio.Path(file).write_bytes(b"".join([chunk async for chunk in chunks]))
    return file


async def add_data(services: Services) -> None:
    await services.accounts.servers.add(OPERATOR, ONE)
    user_id, _ = await services.accounts.users.local_user(OPERATOR)
    await services.accounts.ledger.post(OPERATOR, user_id, CreditEntry("topup", 5_000_000_000))
    if services.store.engine == "postgres":
        await services.store.write(take_lease, "limits", "the gateway of the backup", 60_000)


async def check_data(settings: Settings) -> None:
    async with running(settings) as services:
        (server,) = await services.accounts.servers.load()
        assert (server.name, server.api_key) == ("one", "sk-one-00000001")
        assert await services.store.read(select_setting, "fingerprint:pepper") is not None


async def restore(
    settings: Settings,
    file: Path,
    passphrase: str | None = PASSPHRASE,
    *,
    replace: bool = False,
    check_only: bool = False,
) -> RestoredBackup:
    return await restore_backup(
        settings, file, passphrase, replace=replace, check_only=check_only, clock=CLOCK, log=LOG
    )


async def test_backup_restored_elsewhere_has_everything(both: tuple[Settings, Settings], home: Path) -> None:
    old, new = both
    async with running(old) as services:
        await add_data(services)
        file = await write(services, home / "one.tar.gz")
        assert not (old.state_dir / "backup.partial").exists()
    done = await restore(new, file)
    assert (done.audit_entries, done.ledger_entries, done.kept) == (3, 1, ())
    await check_data(new)
    for name in ("pepper", "master.key"):
        assert (new.state_dir / name).read_bytes() == (old.state_dir / name).read_bytes()
        assert (new.state_dir / name).stat().st_mode & 0o777 == 0o600
    assert not (new.state_dir / "restore.partial").exists()


async def test_backup_members_reveal_no_secret(home: Path) -> None:
    settings = settings_in(home)
    async with running(settings) as services:
        await add_data(services)
        file = await write(services, home / "one.tar.gz")
        bare = await write(services, home / "bare.tar.gz", with_secrets=False)
    with tarfile.open(file) as tar, tarfile.open(bare) as without:
        assert without.getnames() == ["manifest.json", "database"]
        assert tar.getnames() == ["manifest.json", "secrets", "database"]
        for member in tar.getmembers():
            assert (member.mode, member.uid, member.uname) == (0o600, 0, "")
            content = tar.extractfile(member)
            assert content is not None
            text = content.read()
            for name in ("pepper", "master.key"):
                assert (settings.state_dir / name).read_bytes().strip() not in text, member.name


@pytest.fixture
async def backup(home: Path) -> Path:
    async with running(settings_in(home / "old")) as services:
        await add_data(services)
        return await write(services, home / "one.tar.gz")


async def test_restore_with_wrong_passphrase_changes_nothing(
    home: Path, backup: Path, subtests: pytest.Subtests
) -> None:
    for passphrase in ["another one", "", None]:
        with subtests.test(passphrase=passphrase):
            settings = settings_in(home / "new")
            with pytest.raises(BackupFailed, match="passphrase"):
                await restore(settings, backup, passphrase)
            assert [path.name for path in settings.state_dir.iterdir()] == ["lock"]


def changed(backup: Path, name: str, content: bytes) -> None:
    """Replace a member of the backup, or add it."""
    with tarfile.open(backup) as tar:
        members = {one.name: tar.extractfile(one) for one in tar.getmembers()}
        kept = {one: "" if file is None else file.read() for one, file in members.items()}
    kept[name] = content
    with tarfile.open(backup, "w:gz") as tar:
        for one, text in kept.items():
            info = tarfile.TarInfo(one)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(bytes(text)))  # type: ignore[arg-type]


async def test_restore_of_truncated_file_is_refused(
    home: Path, backup: Path, subtests: pytest.Subtests
) -> None:
    path = trio.Path(backup)
    content = await path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        await path.write_bytes(content[: int(len(content) * share)])
        with subtests.test(share=share), pytest.raises(BackupFailed, match="not a complete backup"):
            await restore(settings_in(home / "new"), backup)


async def test_restore_of_file_with_changed_byte_is_refused(home: Path, backup: Path) -> None:
    path = trio.Path(backup)
    content = bytearray(await path.read_bytes())
    unchanged = gzip.decompress(content)
    for place in range(20, len(content), len(content) // 25):
        content[place] ^= 0x55
        await path.write_bytes(content)
        if unpacked(content) != unchanged:  # some bytes have several compressed forms
            with pytest.raises(BackupFailed):
                await restore(settings_in(home / "new"), backup)
        content[place] ^= 0x55


def unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


CHANGED_MEMBERS = [
    ("database", b"SQLite format 3\0" + bytes(100), "checksum"),
    ("manifest.json", b"{}", "not a complete backup"),
    ("manifest.json", b"", "not a complete backup"),
    ("secrets", b"x" * 100, "passphrase"),
    ("secrets", b"x" * 70_000, "not a complete backup"),
    ("../escape", b"x", "not a complete backup"),
]


async def test_restore_of_changed_member_is_refused(
    home: Path, backup: Path, subtests: pytest.Subtests
) -> None:
    path = trio.Path(backup)
    kept = await path.read_bytes()
    for member, content, message in CHANGED_MEMBERS:
        await path.write_bytes(kept)
        changed(backup, member, content)
        with subtests.test(member=member, size=len(content)):
            with pytest.raises(BackupFailed, match=message):
                await restore(settings_in(home / "new"), backup)
            assert not (home / "new" / "state" / "bluesminds.db").exists()
            assert not (home / "new" / "state" / "escape").exists()


async def test_restore_of_newer_format_or_other_engine_is_refused(home: Path, backup: Path) -> None:
    with tarfile.open(backup) as tar:
        content = tar.extractfile("manifest.json")
        assert content is not None
        manifest = content.read()
    for old, new, message in (
        (b'"format":1', b'"format":2', "a newer version wrote"),
        (b'"engine":"sqlite"', b'"engine":"postgres"', "is another kind"),
    ):
        assert old in manifest
        changed(backup, "manifest.json", manifest.replace(old, new))
        with pytest.raises(BackupFailed, match=message):
            await restore(settings_in(home / "new"), backup)


async def test_restore_of_missing_file_says_so(home: Path) -> None:
    with pytest.raises(BackupFailed, match="does not exist"):
        await restore(settings_in(home / "new"), home / "missing.tar.gz")


async def test_restore_over_database_needs_replace_and_keeps_it(home: Path, backup: Path) -> None:
    settings = settings_in(home / "new")
    async with running(settings):
        pass
    before = {path.name: path.read_bytes() for path in settings.state_dir.iterdir()}
    with pytest.raises(DatabaseExists):
        await restore(settings, backup)
    assert (await restore(settings, backup, check_only=True)).kept == ()
    assert {path.name: path.read_bytes() for path in settings.state_dir.iterdir()} == before
    done = await restore(settings, backup, replace=True)
    await check_data(settings)
    kept = {
        path.name.partition(".replaced-")[0]: await path.read_bytes() for path in map(trio.Path, done.kept)
    }
    assert kept == {name: before[name] for name in ("bluesminds.db", "pepper", "master.key")}


async def test_restore_over_used_postgres_database_is_refused(
    both: tuple[Settings, Settings], home: Path
) -> None:
    old, new = both
    async with running(old) as services:
        await add_data(services)
        file = await write(services, home / "one.tar.gz")
    async with running(new):
        pass
    with pytest.raises(DatabaseExists):
        await restore(new, file)
    if new.storage.url is not None:
        async with open_store(new.database_url.reveal()) as store:
            await store.write(take_lease, "limits", "another", 60_000)
        with pytest.raises((LeaseHeld, BaseExceptionGroup)):
            await restore(new, file, replace=True)
        async with open_store(new.database_url.reveal()) as store:
            await store.write(take_lease, "limits", "another", 0)
    await restore(new, file, replace=True)
    await check_data(new)


async def test_restore_beside_running_gateway_is_refused(home: Path, backup: Path) -> None:
    """It also leaves the files of another restore alone."""
    settings = settings_in(home / "new")
    async with running(settings):
        scratch = settings.state_dir / "restore.partial"
        scratch.mkdir()
        with pytest.raises(StateBusy):
            await restore(settings, backup, replace=True)
        assert scratch.exists()


async def test_restore_without_secrets_uses_those_of_the_directory(home: Path) -> None:
    old, new = settings_in(home / "old"), settings_in(home / "new")
    async with running(old) as services:
        await add_data(services)
        file = await write(services, home / "bare.tar.gz", with_secrets=False)
    with pytest.raises(BackupFailed, match=r"made without the secrets") as refused:
        await restore(new, file, None)
    assert "pepper and master.key" in refused.value.remedy
    for name in ("pepper", "master.key"):
        (new.state_dir / name).write_bytes(b"not the secret of this database")
    with pytest.raises((BadState, BaseExceptionGroup)):
        await restore(new, file, None)
    assert not (new.state_dir / "bluesminds.db").exists()
    for name in ("pepper", "master.key"):
        (new.state_dir / name).write_bytes((old.state_dir / name).read_bytes())
    await restore(new, file, None)
    await check_data(new)


async def test_backup_of_postgres_without_its_programs_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    settings = settings_in(home).backup
    state = StateDir(home / "state")
    state.create()
    url = "postgresql://user:secret@127.0.0.1:9/name"
    backups = Backups(settings, url, state, b"pepper", clock=CLOCK, log=LOG)
    with pytest.raises(Unavailable, match=r"pg_dump is not installed.*postgresql-client"):
        await backups.open(None, with_secrets=False)


# Schedule


class TrioWallClock:
    """A wall clock that moves with Trio's clock."""

    def now_ms(self) -> int:
        return 1_800_000_000_000 + round(trio.current_time() * 1000)


async def test_schedule_writes_backups_and_keeps_the_newest(
    home: Path, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    mock_clock.rate = 1
    directory = home / "backups"
    settings = settings_in(home, directory=directory, every=3600, keep=2, passphrase=PASSPHRASE)

    def names() -> list[str]:
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    async with running(settings, TrioWallClock()) as services:
        nursery.start_soon(services.backups.run)
        await eventually(lambda: services.backups.last_ms is not None)
        (first,) = names()
        for _ in range(2):
            before = services.backups.last_ms
            mock_clock.jump(3600)
            await eventually(lambda before=before: services.backups.last_ms != before)
        assert len(names()) == 2
        assert first not in names()
        nursery.cancel_scope.cancel()


async def test_schedule_continues_after_restart_and_failure(
    home: Path, mock_clock: MockClock, nursery: trio.Nursery
) -> None:
    mock_clock.rate = 1
    directory = home / "backups"
    directory.mkdir()
    (directory / "bluesminds-20270115T080000Z.tar.gz").write_bytes(b"")  # at the start of the clock
    (directory / "notes.txt").write_bytes(b"")
    lines: list[bytes] = []
    clock = TrioWallClock()
    settings = settings_in(home, directory=directory, every=3600, keep=1)
    async with open_services(
        settings, clock=clock, log=Log(clock, json=True, write=lines.append)
    ) as services:
        nursery.start_soon(services.backups.run)
        await eventually(lambda: services.backups.last_ms == 1_800_000_000_000)
        assert len(list(directory.iterdir())) == 2
        directory.rename(home / "moved")
        directory.write_bytes(b"a file")
        mock_clock.jump(3600)
        await eventually(lambda: any(b"backup_failed" in line for line in lines))
        directory.unlink()
        (home / "moved").rename(directory)
        mock_clock.jump(300)
        await eventually(lambda: any(b"backup_written" in line for line in lines))
        written = {path.name for path in directory.iterdir()} - {"notes.txt"}
        assert len(written) == 1
        assert written != {"bluesminds-20270115T080000Z.tar.gz"}
        nursery.cancel_scope.cancel()
    for path in directory.glob("*.tar.gz"):
        assert path.stat().st_mode & 0o777 == 0o600
        with tarfile.open(path) as tar:
            assert tar.getnames() == ["manifest.json", "database"], "no passphrase is configured"


# Load


async def back_up_under_load(gateway: Gateway, home: Path) -> tuple[list[str], Path]:
    """The ids of the requests that were answered before, and the backup. All requests succeed."""
    answered: list[str] = []
    done = trio.Event()

    async def ask() -> None:
        while not done.is_set():
            answer = await gateway.chat()
            assert answer.status_code == 200, answer.text
            answered.append(answer.headers["x-request-id"])

    async with trio.open_nursery() as clients:
        for _ in range(8):
            clients.start_soon(ask)
        await eventually(lambda: len(answered) >= 50)
        before = list(answered)
        file = await write(gateway.services, home / "one.tar.gz")
        seen = len(answered)
        await eventually(lambda: len(answered) > seen)
        done.set()
    return before, file


async def test_backup_under_load_has_every_request_answered_before(home: Path, nursery: trio.Nursery) -> None:
    """No request fails meanwhile, and the restored database passes every check."""
    models: ModelServer = await nursery.start(model_server.serve)
    (home / "old").mkdir()
    gateway = await gateways.start(nursery, home / "old", servers=[entry("one", models.url)])
    before, file = await back_up_under_load(gateway, home)
    await gateway.stop()
    settings = settings_in(home / "new")
    await restore(settings, file)
    with closing(sqlite3.connect(settings.state_dir / "bluesminds.db")) as database:
        assert {id_ for (id_,) in database.execute("SELECT id FROM usage")} >= set(before)


PRICE = {"model": "m", "input_usd": 0, "output_usd": "10", "max_output_tokens": 1000}
BILLED = {"prompt_tokens": 5, "completion_tokens": 100, "total_tokens": 105}  # 0.001 USD


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_backup_under_load_of_prepaid_requests_has_sums_that_agree(
    engine: str,
    home: Path,
    nursery: trio.Nursery,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The restored ledger is proven, and balance, charges and usage are those of the same moment."""
    old_url, new_url = None, None
    if engine == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        monkeypatch.setenv("PATH", str(server.programs), prepend=":")
        old_url, new_url = request.getfixturevalue("postgres_url"), server.create_database()
        request.addfinalizer(lambda: server.drop_database(new_url))
    models: ModelServer = await nursery.start(model_server.serve)
    models.default = whole(completion(usage=BILLED))
    (home / "old").mkdir()
    storage = {"settle_timeout": 60.0} | ({"url": old_url} if old_url else {})
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home / "old", servers=servers, storage=storage, prices=[PRICE])
    user_id, _ = await gateway.services.accounts.users.local_user(OPERATOR)
    await gateway.services.accounts.ledger.post(OPERATOR, user_id, CreditEntry("topup", 5 * NANO))
    before, file = await back_up_under_load(gateway, home)
    await gateway.stop()
    settings = settings_in(home / "new", new_url)
    await restore(settings, file)
    async with running(settings) as services:
        proof = await services.accounts.ledger.verify()
        assert proof.problem is None, proof
        rows = await services.store.read(all_usage)
        wallet = await services.accounts.ledger.balance(user_id)
        (total,) = await services.store.read(_totals)
    assert {row.id for row in rows} >= set(before)
    charged = sum(row.charged_nano or 0 for row in rows)
    assert wallet is not None and wallet.balance_nano + charged == 5 * NANO
    assert charged == sum(row.cost_nano or 0 for row in rows) == len(rows) * NANO // 1000
    assert total == (charged, len(rows))


async def _totals(connection: Connection) -> list[tuple[int, int]]:
    rows = await connection.all("SELECT sum(cost_nano), sum(requests) FROM usage_daily")
    return [(int(row[0]), int(row[1])) for row in rows]
