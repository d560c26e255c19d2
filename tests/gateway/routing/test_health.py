"""Circuits per server and model: ejection, trials, slow start, and the bound on what is left out."""

import pytest

from bluesminds.gateway.routing.health import (
    FIRST_REST,
    LONGEST_REST,
    MAX_CIRCUITS,
    MAX_EJECTION_FACTOR,
    MIN_REQUESTS,
    SLOW_START_SECONDS,
    TRIAL_SECONDS,
    TRIALS,
    WINDOW_SECONDS,
    HealthChange,
    ServerHealthRegistry,
)


class Health:
    """A registry with a clock that the test moves. `changes`: the reported states."""

    def __init__(self, *, eject_after: int = 5, eject_seconds: float = 30) -> None:
        self.now = 1000.0
        self.changes: list[HealthChange] = []
        self.registry = ServerHealthRegistry(
            eject_after=eject_after,
            eject_seconds=eject_seconds,
            on_change=self.changes.append,
            monotonic=lambda: self.now,
        )

    def fail(self, count: int = 1, server: str = "a", model: str = "m") -> None:
        for _ in range(count):
            self.registry.record_failure(server, model, "500")

    def succeed(self, count: int = 1, server: str = "a", model: str = "m") -> None:
        for _ in range(count):
            self.registry.begin(server, model)
            self.registry.record_success(server, model)

    def usable(self, server: str = "a", model: str = "m") -> bool:
        return self.registry.is_usable(server, model)

    def state(self) -> str:
        rows = self.registry.circuits()
        return rows[0].state if rows else "flawless"


@pytest.fixture
def health() -> Health:
    return Health()


def test_consecutive_failures_eject_the_server_for_the_model(health: Health) -> None:
    for _ in range(4):
        health.fail(4)
        assert health.usable()
        health.succeed()
    health.fail(5)
    assert not health.usable()
    assert health.usable(model="other") and health.usable("b")
    assert health.changes == [HealthChange("a", "m", "open", "500", 30)]


def test_share_of_failures_ejects_the_server(health: Health) -> None:
    for _ in range(MIN_REQUESTS // 2 - 1):
        health.fail()
        health.succeed()
    health.fail(2)
    assert not health.usable(), "11 of 20 requests failed"
    other = Health()
    for _ in range(100):
        other.fail()
        other.succeed()
    assert other.usable(), "half is not over half"


def test_failures_before_the_window_do_not_count(health: Health) -> None:
    for _ in range(MIN_REQUESTS // 4):
        health.fail(2)
        health.succeed()
    health.now += WINDOW_SECONDS + 1
    health.fail(2)
    assert health.usable()


def test_ejection_lasts_longer_with_the_outage_up_to_the_limit(health: Health) -> None:
    health.fail(5)
    lasted = []
    for _ in range(40):
        lasted.append(health.changes[-1].seconds)
        health.now += lasted[-1] - 0.5
        assert not health.usable()
        health.now += 0.5
        assert health.usable()
        health.registry.begin("a", "m")
        health.fail()
    assert lasted[:4] == [30, 30, 60, 90]
    assert lasted == sorted(lasted)
    assert lasted[-1] == 30 * MAX_EJECTION_FACTOR == 600


def test_one_trial_at_a_time_is_sent_to_a_half_open_server(health: Health) -> None:
    health.fail(5)
    health.now += 30
    assert health.usable()
    health.registry.begin("a", "m")
    assert not health.usable()
    health.registry.release("a", "m")
    assert health.usable()
    health.registry.begin("a", "m")
    health.now += TRIAL_SECONDS
    assert health.usable(), "a trial whose end is not reported blocks no longer"


def test_three_successes_close_the_circuit_and_a_slow_start_follows(health: Health) -> None:
    health.fail(5)
    health.now += 30
    health.succeed(TRIALS - 1)
    assert health.state() == "half_open"
    health.succeed()
    assert health.state() == "slow_start"
    assert health.registry.is_slow_start("a", "m") and health.usable()
    health.now += SLOW_START_SECONDS
    assert not health.registry.is_slow_start("a", "m")
    health.succeed()
    assert health.registry.flawless
    assert [one.state for one in health.changes] == ["open", "half_open", "closed"]


def test_failed_trial_ejects_again(health: Health) -> None:
    health.fail(5)
    health.now += 30
    health.succeed(TRIALS - 1)
    health.fail()
    assert not health.usable()
    health.now += 30
    health.succeed(TRIALS)
    assert health.state() == "slow_start"
    health.fail(4)
    assert health.usable()


def test_success_of_an_ejected_server_makes_it_half_open(health: Health) -> None:
    health.fail(5)
    health.succeed()
    assert health.usable()
    assert health.state() == "half_open"


def test_late_failures_of_an_ejected_server_do_not_extend_the_ejection(health: Health) -> None:
    health.fail(5)
    health.now += 29
    health.fail(3)
    health.now += 1
    assert health.usable()


def test_at_most_half_of_the_targets_are_left_out(health: Health) -> None:
    targets = [(name, "m") for name in "abcd"]
    for name in "dcb":
        health.now += 1
        health.fail(5, name)
    assert health.registry.left_out(targets) == {("d", "m"), ("c", "m")}, "those that were ejected first"
    assert health.registry.left_out(targets[1:]) == {("d", "m")}
    assert health.registry.left_out([("a", "m"), ("b", "m")]) == {("b", "m")}
    assert health.registry.left_out([("b", "m")]) == {("b", "m")}, "the only one comes last anyway"


def test_probes_and_requests_are_counted_separately() -> None:
    health = Health(eject_after=2, eject_seconds=10)
    registry = health.registry
    health.fail()
    registry.record_probe("a", alive=False)
    assert health.usable()
    registry.record_probe("a", alive=False)
    assert not health.usable() and not health.usable(model="other")
    health.now += 1000
    assert not health.usable()
    registry.record_probe("a", alive=True)
    assert health.usable()
    health.fail()
    registry.record_probe("a", alive=True)
    assert not health.usable()
    for _ in range(2):
        registry.record_probe("b", alive=False)
    health.succeed(server="b")
    assert health.usable("b")


def test_keep_only_drops_other_servers() -> None:
    health = Health(eject_after=1)
    for name in ("a", "b"):
        health.fail(server=name)
        health.registry.record_probe(name, alive=False)
    health.registry.keep_only({"b"})
    assert health.usable("a")
    assert not health.usable("b")


def test_number_of_circuits_is_bounded() -> None:
    health = Health(eject_after=1)
    for number in range(MAX_CIRCUITS + 10):
        health.fail(model=f"m{number}")
    assert len(health.registry.circuits()) == MAX_CIRCUITS


def test_server_with_a_rate_limit_rests_longer_each_time_until_it_answers(health: Health) -> None:
    rests = []
    for _ in range(9):
        for _ in range(5):  # requests that fail together
            health.registry.rest("a", "m", None)
        assert (health.usable(), health.usable(model="other")) == (False, True)
        begun = health.now
        while not health.usable():
            health.now += 0.5
        rests.append(health.now - begun)
    assert rests[:4] == [FIRST_REST, 2 * FIRST_REST, 4 * FIRST_REST, 8 * FIRST_REST]
    assert rests[-1] == LONGEST_REST
    assert health.changes == [], "no failure of the server"
    health.succeed()
    assert health.registry.flawless
    health.registry.rest("a", "m", None)
    health.now += FIRST_REST
    assert health.usable()


def test_requests_that_are_limited_together_with_a_time_count_once(health: Health) -> None:
    for _ in range(9):
        health.registry.rest("a", "m", 1)
    health.now += 1
    health.registry.rest("a", "m", None)
    health.now += 2 * FIRST_REST
    assert health.usable()


def test_later_rate_limit_does_not_shorten_the_rest(health: Health) -> None:
    health.registry.rest("a", "m", 30)
    health.registry.rest("a", "m", 1)
    health.registry.rest("a", "m", None)
    health.succeed()  # a request that began before
    health.now += 29
    assert not health.usable()
    assert health.state() == "resting"
    health.now += 1
    assert health.usable()
