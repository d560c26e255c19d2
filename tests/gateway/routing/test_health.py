"""Ejection of servers by failed requests and probes."""

from trio.testing import MockClock

from bluesminds.gateway.routing.health import MAX_EJECTION_FACTOR, ServerHealthRegistry


async def test_server_is_ejected_after_consecutive_failures(mock_clock: MockClock) -> None:
    health = ServerHealthRegistry(eject_after=3, eject_seconds=10)
    for _ in range(4):
        health.record_failure("a", "500")
        health.record_failure("a", "500")
        assert health.is_usable("a")
        health.record_success("a")
    for _ in range(3):
        health.record_failure("a", "UpstreamCut")
    assert not health.is_usable("a")
    assert health.get("a").last_error == "UpstreamCut"
    assert health.is_usable("b")
    mock_clock.jump(9.75)
    assert not health.is_usable("a")
    mock_clock.jump(0.25)
    assert health.is_usable("a")


async def test_consecutive_ejections_last_longer_up_to_limit(mock_clock: MockClock) -> None:
    health = ServerHealthRegistry(eject_after=1, eject_seconds=10)
    for factor in [*range(1, MAX_EJECTION_FACTOR + 1), MAX_EJECTION_FACTOR, MAX_EJECTION_FACTOR]:
        health.record_failure("a", "500")
        mock_clock.jump(10 * factor - 0.25)
        assert not health.is_usable("a")
        mock_clock.jump(0.25)
        assert health.is_usable("a")
    health.record_success("a")
    health.record_failure("a", "500")
    mock_clock.jump(10)
    assert health.is_usable("a")


async def test_success_ends_ejection() -> None:
    health = ServerHealthRegistry(eject_after=1, eject_seconds=10)
    health.record_failure("a", "500")
    health.record_success("a")
    assert health.is_usable("a")


async def test_probes_and_requests_are_counted_separately(mock_clock: MockClock) -> None:
    health = ServerHealthRegistry(eject_after=2, eject_seconds=10)
    health.record_failure("a", "500")
    health.record_probe("a", alive=False)
    assert health.is_usable("a")
    health.record_probe("a", alive=False)
    assert not health.is_usable("a")
    mock_clock.jump(1000)
    assert not health.is_usable("a")
    health.record_probe("a", alive=True)
    assert health.is_usable("a")
    health.record_failure("a", "500")
    health.record_probe("a", alive=True)
    assert not health.is_usable("a")
    for _ in range(2):
        health.record_probe("b", alive=False)
    health.record_success("b")
    assert health.is_usable("b")


async def test_keep_only_drops_other_servers() -> None:
    health = ServerHealthRegistry(eject_after=1, eject_seconds=10)
    health.record_failure("a", "500")
    health.record_failure("b", "500")
    health.keep_only({"b"})
    assert health.is_usable("a")
    assert not health.is_usable("b")
