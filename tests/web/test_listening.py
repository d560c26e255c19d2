"""The settings of the listener and its log lines."""

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import trio

from bluesminds.app.settings_map import listener_limits
from bluesminds.config import ListenSettings
from bluesminds.http.server.serve import ListenerLimits
from tests import gateways


def test_listener_limits_come_from_settings() -> None:
    assert listener_limits(ListenSettings()) == ListenerLimits()
    numbers: dict[str, Any] = {
        name: value + 1
        for name, value in zip(
            ListenSettings.__struct_fields__, ListenSettings.__struct_defaults__, strict=True
        )
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    changed = listener_limits(ListenSettings(**numbers))
    for limit in dataclasses.fields(ListenerLimits):
        assert getattr(changed, limit.name) != limit.default, limit.name


async def test_listener_rejection_is_logged(home: Path, nursery: trio.Nursery) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    async with gateway.client() as client:
        answer: httpx.Response = await client.get("/v1/" + "a" * 9000)
    assert answer.status_code == 414
    (line,) = gateway.events("connection_refused")
    found = {name: line[name] for name in ("level", "client", "status", "code", "suppressed")}
    assert found == {
        "level": "info",
        "client": "127.0.0.1",
        "status": 414,
        "code": "url_too_long",
        "suppressed": 0,
    }
