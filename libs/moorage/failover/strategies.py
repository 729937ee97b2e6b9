"""Restart strategies (Flink: RestartBackoffTimeStrategy and its four implementations).

A strategy is told of each failure and answers how long to wait, or why not to go on. Time and jitter are handed in.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol, assert_never

from moorage.graph.job_graph import RestartConfig

JITTER_SHARE = 0.1
"""An exponential delay varies by this share of itself, so that many jobs don't restart in step."""


class RestartAfter(NamedTuple):
    delay_ms: int


class GiveUp(NamedTuple):
    reason: str


class RestartStrategy(Protocol):
    def failed(self, now_ms: int, jitter: float) -> RestartAfter | GiveUp:
        """Decide about one failure of the job. ``jitter`` is random between -1 and 1."""
        ...


def restart_strategy(config: RestartConfig) -> RestartStrategy:
    match config.strategy:
        case "fixed_delay":
            return FixedDelay(config)
        case "exponential_delay":
            return ExponentialDelay(config)
        case "failure_rate":
            return FailureRate(config)
        case "none":
            return NoRestart()
        case _ as never:
            assert_never(never)


class NoRestart:
    def failed(self, now_ms: int, jitter: float) -> RestartAfter | GiveUp:
        return GiveUp("the restart strategy is 'none'")


class FixedDelay:
    """The same delay each time, ``max_attempts`` times over the life of the job."""

    def __init__(self, config: RestartConfig) -> None:
        self._config = config
        self._attempts = config.attempts
        self._restarts = 0

    def failed(self, now_ms: int, jitter: float) -> RestartAfter | GiveUp:
        if self._attempts is not None and self._restarts >= self._attempts:
            return GiveUp(f"it was restarted {_times(self._restarts)}, the most that max_attempts allows")
        self._restarts += 1
        return RestartAfter(self._config.initial_delay_ms)


class ExponentialDelay:
    """The delay grows by ``multiplier`` with each failure up to ``max_delay_ms``. A run of ``reset_after_ms`` without
    failure, counted from the end of the last delay, starts anew."""

    def __init__(self, config: RestartConfig) -> None:
        self._config = config
        self._attempts = config.attempts
        self._restarts = 0
        self._delay_ms = float(config.initial_delay_ms)
        self._restarted_ms: int | None = None

    def failed(self, now_ms: int, jitter: float) -> RestartAfter | GiveUp:
        config = self._config
        if self._restarted_ms is not None and now_ms - self._restarted_ms >= config.reset_after_ms:
            self._restarts = 0
            self._delay_ms = float(config.initial_delay_ms)
        if self._attempts is not None and self._restarts >= self._attempts:
            return GiveUp(f"it was restarted {_times(self._restarts)} in a row, the most that max_attempts allows")
        self._restarts += 1
        delay_ms = min(self._delay_ms * (1 + JITTER_SHARE * jitter), float(config.max_delay_ms))
        self._delay_ms = min(self._delay_ms * config.multiplier, float(config.max_delay_ms))
        self._restarted_ms = now_ms + round(delay_ms)
        return RestartAfter(round(delay_ms))


class FailureRate:
    """At most ``max_attempts`` failures within ``failure_interval_ms``."""

    def __init__(self, config: RestartConfig) -> None:
        self._config = config
        self._attempts = config.attempts
        self._failures_ms: deque[int] = deque()

    def failed(self, now_ms: int, jitter: float) -> RestartAfter | GiveUp:
        config = self._config
        while self._failures_ms and now_ms - self._failures_ms[0] > config.failure_interval_ms:
            self._failures_ms.popleft()
        self._failures_ms.append(now_ms)
        if self._attempts is not None and len(self._failures_ms) > self._attempts:
            return GiveUp(
                f"it failed {_times(len(self._failures_ms))} within {config.failure_interval_ms} ms,"
                f" max_attempts allows {self._attempts}"
            )
        return RestartAfter(config.initial_delay_ms)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
