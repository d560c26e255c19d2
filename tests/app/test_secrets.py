"""The secrets that a database depends on are created once; a start without them fails."""

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from bluesminds.app.services import open_services
from bluesminds.app.state_dir import BadState
from bluesminds.common.clock import SystemClock
from bluesminds.common.crypto import chain_key, fingerprint
from bluesminds.common.log import Log
from bluesminds.config import Settings, load

PEPPER = "BLUESMINDS__KEYS__PEPPER"


def settings_in(state_dir: Path, **environ: str) -> Settings:
    return load(None, {"BLUESMINDS__STATE_DIR": str(state_dir), **environ}, {}).settings


async def opened(settings: Settings) -> bytes:
    """Open the services and close them again; the pepper."""
    clock = SystemClock()
    async with open_services(settings, clock=clock, log=Log(clock)) as services:
        return services.pepper


async def test_audit_chain_key_is_derived_from_the_pepper(home: Path) -> None:
    clock, settings = SystemClock(), settings_in(home / "state")
    async with open_services(settings, clock=clock, log=Log(clock)) as services:
        assert services.store.chain_key == chain_key(services.pepper) != chain_key(b"")
        assert services.pepper not in services.store.chain_key


async def test_secrets_second_start_keeps_them(home: Path) -> None:
    state = home / "state"
    pepper = await opened(settings_in(state))
    master = (state / "master.key").read_bytes()
    assert len(pepper) >= 32 and len(base64.urlsafe_b64decode(master)) == 32
    assert await opened(settings_in(state)) == pepper == (state / "pepper").read_bytes().strip()
    assert (state / "master.key").read_bytes() == master


@pytest.mark.parametrize("name", ["pepper", "master.key"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing, and the database depends on it"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(base64.urlsafe_b64encode(bytes(32))), "is not the one this database"),
    ],
    ids=["missing", "empty", "different"],
)
async def test_start_unusable_secret_is_refused(
    home: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    settings = settings_in(home / "state")
    pepper = await opened(settings)
    path = home / "state" / name
    kept = path.read_bytes()
    damage(path)
    for _ in range(2):
        with pytest.raises(BadState, match=message) as caught:
            await opened(settings)
        assert str(path) in str(caught.value) and str(path) in caught.value.remedy
    path.write_bytes(kept)
    assert await opened(settings) == pepper


async def test_start_malformed_master_key_is_refused(home: Path) -> None:
    settings = settings_in(home / "state")
    await opened(settings)
    (home / "state" / "master.key").write_bytes(b"not a key\n")
    with pytest.raises(BadState, match=r"master\.key is damaged"):
        await opened(settings)


async def test_start_different_configured_pepper_is_refused(home: Path) -> None:
    await opened(settings_in(home / "state", **{PEPPER: "the first pepper"}))
    assert not (home / "state" / "pepper").exists()
    with pytest.raises(BadState, match=r"pepper in \[keys\] is not the one") as caught:
        await opened(settings_in(home / "state", **{PEPPER: "a different pepper value"}))
    assert "a different pepper value" not in str(caught.value) + caught.value.remedy
    with pytest.raises(BadState, match="pepper is missing"):
        await opened(settings_in(home / "state"))


async def test_start_second_directory_on_one_database_needs_the_same_secrets(home: Path) -> None:
    url = {"BLUESMINDS__STORAGE__URL": f"sqlite:///{home}/shared.db"}
    await opened(settings_in(home / "one", **url))
    with pytest.raises(BadState, match="is missing"):
        await opened(settings_in(home / "two", **url))
    for name in ("pepper", "master.key"):
        (home / "two" / name).write_bytes((home / "one" / name).read_bytes())
    await opened(settings_in(home / "two", **url))


def test_fingerprint_different_secrets_differ_and_are_not_revealed() -> None:
    one, other = fingerprint(b"secret"), fingerprint(b"secret2")
    assert one != other and len(one) == 16 and fingerprint(b"secret") == one
    assert b"secret".hex() not in one
