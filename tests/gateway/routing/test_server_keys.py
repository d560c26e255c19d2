"""Which of several API keys of a server is used, and how long a failed one rests."""

import pytest

from bluesminds.common.values import Server
from bluesminds.gateway.routing.server_keys import KeyRest, ServerKeyRegistry, ServerKeyStatus

KEYS = ("sk-00000000-aaaa", "sk-00000000-bbbb", "sk-00000000-cccc")
SERVER = Server(
    *("one", "openai", "http://127.0.0.1:9/v1", KEYS[0], ("m",), 1, 0, "table"), more_keys=KEYS[1:]
)


class Time:
    now = 100.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def rests() -> list[KeyRest]:
    return []


@pytest.fixture
def registry(time: Time, rests: list[KeyRest]) -> ServerKeyRegistry:
    return ServerKeyRegistry(rests.append, lambda: time.now)


def test_choose_uses_the_keys_in_turn(registry: ServerKeyRegistry) -> None:
    assert [registry.choose(SERVER) for _ in range(6)] == [*KEYS, *KEYS]


def test_choose_leaves_out_a_resting_key(registry: ServerKeyRegistry, time: Time) -> None:
    registry.rest(SERVER, KEYS[1], "refused")
    assert [registry.choose(SERVER) for _ in range(4)] == [KEYS[0], KEYS[2], KEYS[0], KEYS[2]]
    assert registry.statuses(SERVER)[1] == ServerKeyStatus("bbbb", "resting", 60.0, "refused")
    assert registry.resting() == {"one": 1.0}
    time.now += 60
    assert KEYS[1] in [registry.choose(SERVER) for _ in range(3)]
    assert registry.resting() == {}


def test_rest_doubles_with_each_failure_up_to_an_hour(
    registry: ServerKeyRegistry, time: Time, rests: list[KeyRest]
) -> None:
    for _ in range(8):
        registry.rest(SERVER, KEYS[0], "refused")
        time.now += rests[-1].seconds
    assert [rest.seconds for rest in rests] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert rests[0].key == "aaaa"


def test_requests_that_fail_together_count_once(registry: ServerKeyRegistry, rests: list[KeyRest]) -> None:
    registry.rest(SERVER, KEYS[0], "refused")
    registry.rest(SERVER, KEYS[0], "refused")
    assert [rest.seconds for rest in rests] == [60, 60]


def test_limited_key_rests_as_long_as_the_server_says(registry: ServerKeyRegistry) -> None:
    registry.rest(SERVER, KEYS[0], "limited", 7.0)
    assert registry.statuses(SERVER)[0].seconds == 7.0
    registry.rest(SERVER, KEYS[1], "limited", 10_000.0)
    assert registry.statuses(SERVER)[1].seconds == 3600.0


def test_choose_uses_the_key_that_rests_least_if_all_rest(registry: ServerKeyRegistry) -> None:
    for key, seconds in zip(KEYS, (30.0, 10.0, 20.0), strict=True):
        registry.rest(SERVER, key, "limited", seconds)
    assert registry.find_usable(SERVER) is None
    assert registry.choose(SERVER) == KEYS[1]
    assert registry.seconds_until_usable(SERVER) == 10.0


def test_success_ends_the_failures_of_a_key(
    registry: ServerKeyRegistry, time: Time, rests: list[KeyRest]
) -> None:
    registry.rest(SERVER, KEYS[0], "refused")
    time.now += 61
    registry.record_success("one", KEYS[0])
    registry.rest(SERVER, KEYS[0], "refused")
    assert [rest.seconds for rest in rests] == [60, 60]
    registry.rest(SERVER, KEYS[1], "limited", 5.0)
    registry.record_success("one", KEYS[1])  # of a request that was sent before
    assert registry.statuses(SERVER)[1].state == "resting"


def test_removed_keys_are_forgotten(registry: ServerKeyRegistry) -> None:
    registry.rest(SERVER, KEYS[0], "refused")
    registry.keep_only([])
    assert registry.statuses(SERVER)[0].state == "active"


def test_short_key_has_no_shown_end() -> None:
    server = Server("one", "openai", "http://127.0.0.1:9/v1", "sk-1234", (), 1, 0, "file")
    assert ServerKeyRegistry(monotonic=lambda: 0.0).statuses(server) == [ServerKeyStatus("", "active")]
