"""Two gateways on one database would grant every budget twice, so the second one is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.cli import exits
from tests import gateways
from tests.fakes.model_server import ModelServer
from tests.gateways import entry
from tests.storage.conftest import postgres, postgres_url
from tests.terminal import User

__all__ = ["postgres", "postgres_url"]


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_second_gateway_on_a_database_is_refused(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer, engine: str
) -> None:
    """It has its own state directory and the secrets of the first one, which continues to serve."""
    url = f"sqlite:///{home / 'shared.db'}"
    if engine == "postgres":
        url = request.getfixturevalue("postgres_url")
    storage: dict[str, Any] = {"url": url, "settle_timeout": 60.0}
    first = await gateways.start(nursery, home, servers=[entry("one", models.url)], storage=storage)
    other = home / "other"
    (other / "state").mkdir(parents=True, mode=0o700)
    for name in ("pepper", "master.key"):
        shutil.copy2(first.settings.state_dir / name, other / "state" / name)
    environ = {"BLUESMINDS__STORAGE__URL": url, "BLUESMINDS__STATE_DIR": str(other / "state")}
    user = User(other, environ)
    done = await trio.to_thread.run_sync(user.run, "serve", "--port", "0")
    assert done.returncode == exits.CONFLICT, done.stderr
    said = "serves one process at a time" if engine == "sqlite" else "another gateway serves this database"
    assert said in done.stderr
    assert (await first.chat()).status_code == 200
