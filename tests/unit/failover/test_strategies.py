from __future__ import annotations

import pytest

from moorage.failover.strategies import (
    ExponentialDelay,
    FailureRate,
    FixedDelay,
    GiveUp,
    NoRestart,
    RestartAfter,
    restart_strategy,
)
from moorage.graph.job_graph import RestartConfig


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fixed_delay", FixedDelay),
        ("exponential_delay", ExponentialDelay),
        ("failure_rate", FailureRate),
        ("none", NoRestart),
    ],
)
def test_the_configuration_names_the_strategy(name: str, kind: type) -> None:
    assert type(restart_strategy(RestartConfig(strategy=name))) is kind  # type: ignore[arg-type]


def test_none_never_restarts() -> None:
    assert isinstance(NoRestart().failed(0, 0.0), GiveUp)


def test_fixed_delay_restarts_a_number_of_times() -> None:
    strategy = FixedDelay(RestartConfig(initial_delay_ms=500, max_attempts=2))
    assert strategy.failed(0, 1.0) == RestartAfter(500)
    assert strategy.failed(1_000_000, -1.0) == RestartAfter(500)
    gave_up = strategy.failed(2_000_000, 0.0)
    assert isinstance(gave_up, GiveUp)
    assert "restarted 2 times" in gave_up.reason


GROWING = RestartConfig(initial_delay_ms=100, multiplier=2.0, max_delay_ms=1_000, reset_after_ms=5_000, max_attempts=6)


def test_exponential_delay_grows_to_its_limit() -> None:
    strategy = ExponentialDelay(GROWING)
    delays = []
    now_ms = 0
    for _ in range(5):
        decision = strategy.failed(now_ms, 0.0)
        assert isinstance(decision, RestartAfter)
        delays.append(decision.delay_ms)
        now_ms += decision.delay_ms + 10
    assert delays == [100, 200, 400, 800, 1_000]


def test_a_run_without_failure_sets_the_delay_back() -> None:
    strategy = ExponentialDelay(GROWING)
    strategy.failed(0, 0.0)
    strategy.failed(200, 0.0)
    # The second delay ends at 400; the run is counted from there.
    assert strategy.failed(400 + 4_999, 0.0) == RestartAfter(400)
    assert strategy.failed(400 + 4_999 + 400 + 5_000, 0.0) == RestartAfter(100)


def test_exponential_delay_gives_up_after_a_number_in_a_row() -> None:
    strategy = ExponentialDelay(GROWING)
    for attempt in range(6):
        assert isinstance(strategy.failed(attempt * 1_000, 0.0), RestartAfter)
    assert isinstance(strategy.failed(6_000, 0.0), GiveUp)


@pytest.mark.parametrize(("jitter", "delay_ms"), [(-1.0, 90), (0.0, 100), (1.0, 110)])
def test_jitter_varies_the_delay_by_a_tenth(jitter: float, delay_ms: int) -> None:
    assert ExponentialDelay(GROWING).failed(0, jitter) == RestartAfter(delay_ms)


def test_jitter_does_not_go_beyond_the_limit() -> None:
    strategy = ExponentialDelay(RestartConfig(initial_delay_ms=1_000, max_delay_ms=1_000))
    assert strategy.failed(0, 1.0) == RestartAfter(1_000)


def test_failure_rate_gives_up_when_failures_come_too_often() -> None:
    strategy = FailureRate(RestartConfig(initial_delay_ms=10, failure_interval_ms=1_000, max_attempts=2))
    assert strategy.failed(0, 0.0) == RestartAfter(10)
    assert strategy.failed(600, 0.0) == RestartAfter(10)
    assert strategy.failed(1_100, 0.0) == RestartAfter(10)
    assert isinstance(strategy.failed(1_200, 0.0), GiveUp)


@pytest.mark.parametrize("name", ["fixed_delay", "failure_rate"])
def test_one_restart_is_the_default(name: str) -> None:
    strategy = restart_strategy(RestartConfig(strategy=name, initial_delay_ms=10))  # type: ignore[arg-type]
    assert strategy.failed(0, 0.0) == RestartAfter(10)
    assert isinstance(strategy.failed(1_000, 0.0), GiveUp)


def test_exponential_delay_has_no_limit_of_its_own() -> None:
    strategy = restart_strategy(RestartConfig())
    assert all(isinstance(strategy.failed(second * 1_000, 0.0), RestartAfter) for second in range(5_000))
