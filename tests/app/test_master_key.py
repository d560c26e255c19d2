"""The rotation of the master key encrypts everything again, and can be interrupted anywhere."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.vendor_keys import VendorKeyTest
from bluesminds.app import master_key
from bluesminds.app.master_key import RotatedMasterKey, rotate_master_key
from bluesminds.app.services import Services, open_services
from bluesminds.app.state_dir import BadState, StateBusy
from bluesminds.common.clock import SystemClock
from bluesminds.common.crypto import uuid7
from bluesminds.common.log import Log
from bluesminds.common.prompts import LoggedPrompt, write_prompt
from bluesminds.common.values import Server
from bluesminds.config import Settings, load
from storage.base import StorageUnavailable
from storage.prompt_log import PromptQuery, PromptRow, insert_prompts
from tests.storage.conftest import postgres, postgres_url
from tests.terminal import User

__all__ = ["postgres", "postgres_url"]
CLOCK = SystemClock()
ONE = Server(
    *("one", "openai", "http://127.0.0.1:9/v1", "sk-one-00000001", ("m",), 1, 0, "table"),
    headers=(("X-Key", "secret"),),
    more_keys=("sk-one-00000002",),
)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, home: Path) -> Settings:
    environ = {"BLUESMINDS__STATE_DIR": str(home / "state")}
    if request.param == "postgres":
        environ["BLUESMINDS__STORAGE__URL"] = request.getfixturevalue("postgres_url")
    return load(None, environ, {}).settings


async def on_services(settings: Settings, work: Callable[[Services], Awaitable[None]]) -> None:
    async with open_services(settings, clock=CLOCK, log=Log(CLOCK)) as services:
        await work(services)


async def add_servers(services: Services) -> None:
    await services.accounts.servers.add(OPERATOR, ONE)
    for number in range(120):
        server = Server(f"s{number}", "openai", "http://127.0.0.1:9/v1", f"sk-{number}", (), 1, 0, "table")
        await services.accounts.servers.add(OPERATOR, server)


async def check_servers(services: Services) -> None:
    servers = {server.name: server for server in await services.accounts.servers.load()}
    assert services.accounts.servers.locked == ()
    assert servers["one"].api_keys == ("sk-one-00000001", "sk-one-00000002")
    assert servers["one"].headers == (("X-Key", "secret"),)
    assert {servers[f"s{number}"].api_key for number in range(120)} == {f"sk-{n}" for n in range(120)}


async def rotate(settings: Settings) -> RotatedMasterKey:
    return await rotate_master_key(settings, clock=CLOCK, log=Log(CLOCK))


async def test_rotation_encrypts_everything_with_a_new_key(settings: Settings) -> None:
    await on_services(settings, add_servers)
    path = settings.state_dir / "master.key"
    old = path.read_bytes()
    assert await rotate(settings) == RotatedMasterKey(changed=122, unreadable=0)
    new = path.read_bytes()
    assert new != old and len(new.split()) == 1
    await on_services(settings, check_servers)
    path.write_bytes(old)
    with pytest.raises(BadState, match="not the one this database"):
        await on_services(settings, check_servers)


async def test_rotation_encrypts_the_prompt_log_again(settings: Settings) -> None:
    request_id = uuid7(CLOCK.now_ms())

    async def keep(services: Services) -> None:
        user_id, _ = await services.accounts.users.local_user(OPERATOR)
        text = write_prompt(LoggedPrompt('{"model": "m"}', "/v1/chat/completions", answer="Hi"))
        seal = services.vault.seal_bytes
        row = PromptRow(
            request_id, user_id, "key", CLOCK.now_ms(), "chat.completions", "m", seal(b"begin"), seal(text), 9
        )
        await services.store.write(insert_prompts, [row])

    async def check(services: Services) -> None:
        user_id, _ = await services.accounts.users.local_user(OPERATOR)
        prompts = services.accounts.prompts
        assert (await prompts.get(user_id, request_id)).prompt.answer == "Hi"
        (row,) = await prompts.list(PromptQuery(10, user_id=user_id))
        assert prompts.preview(row) == "begin"

    await on_services(settings, keep)
    assert await rotate(settings) == RotatedMasterKey(changed=2, unreadable=0)
    await on_services(settings, check)


async def test_rotation_encrypts_keys_for_vendors_again(settings: Settings) -> None:
    async def store(services: Services) -> None:
        user_id, _ = await services.accounts.users.local_user(OPERATOR)
        await services.accounts.vendor_keys.add(
            OPERATOR,
            user_id,
            vendor="openai",
            api_key="sk-own",
            mode="only",
            models=("m",),
            test=VendorKeyTest(),
        )

    async def check(services: Services) -> None:
        user_id, _ = await services.accounts.users.local_user(OPERATOR)
        keys = services.accounts.vendor_keys
        (row,) = await keys.list(user_id)
        assert not keys.is_locked(row)
        assert keys.open_server(row).api_key == "sk-own"

    await on_services(settings, store)
    assert await rotate(settings) == RotatedMasterKey(changed=1, unreadable=0)
    await on_services(settings, check)


async def test_interrupted_rotation_is_continued(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    await on_services(settings, add_servers)
    path = settings.state_dir / "master.key"
    batches = 0
    reseal_batch = master_key.reseal_batch

    async def fail(*args: object) -> object:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise StorageUnavailable("interrupted")
        return await reseal_batch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(master_key, "reseal_batch", fail)
    with pytest.raises(BaseExceptionGroup):
        await rotate(settings)
    both = path.read_bytes().split()
    assert len(both) == 2
    await on_services(settings, check_servers)  # a gateway can start meanwhile
    monkeypatch.undo()
    await rotate(settings)
    assert path.read_bytes().split() == both[:1]
    await on_services(settings, check_servers)


async def test_rotation_beside_a_running_gateway_is_refused(settings: Settings) -> None:
    async with open_services(settings, clock=CLOCK, log=Log(CLOCK)):
        with pytest.raises(StateBusy):
            await rotate(settings)


def test_rotate_command_prints_the_number_of_values(home: Path) -> None:
    user = User(home).prepare()
    words = ("--url", "http://127.0.0.1:9/v1", "--api-key-stdin")
    assert user.call("servers", "add", "one", *words, stdin="sk-one\n").returncode == 0
    done = user.call("master-key", "rotate")
    assert done.stdout == "encrypted 1 value with the new master key\n", done.stderr
