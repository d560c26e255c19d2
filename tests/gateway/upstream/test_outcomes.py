"""Which failures of attempts count against a server."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.gateway.call import Call
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.plans import Plan, Target
from bluesminds.gateway.upstream.failures import AttemptFailure
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from tests.gateway.routing.test_policies import server

LIMITED = AttemptFailure(
    "429", blames_server=False, error=UpstreamFailed(429, "upstream_rate_limited", "slower"), kind="limit"
)


@pytest.mark.parametrize(("own_key", "usable"), [(False, False), (True, True)])
def test_limit_of_a_clients_own_key_does_not_count_for_others(own_key: bool, usable: bool) -> None:
    health = ServerHealthRegistry(eject_after=5, eject_seconds=30, monotonic=lambda: 0.0)
    lines: list[bytes] = []
    log = Log(cast(Any, SimpleNamespace(now_ms=lambda: 0)), level="info", json=True, write=lines.append)
    outcomes = AttemptOutcomes(health, Metrics(), log)
    call = SimpleNamespace(model="m", own_key=own_key, context=SimpleNamespace(request_id="r"))
    target = Target(server("a"), Plan("chat", "/chat/completions"))
    outcomes.record_failure(cast(Call, call), target, LIMITED)
    assert health.is_usable("a", "m") is usable
    assert b"attempt_failed" in lines[0]
