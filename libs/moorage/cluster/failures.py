"""The failures of one job: what people are shown of them, and what follows from each.

Both are stored with the job, so a new leader goes on where the last one was: the restart strategy is a function of the
times of the failures, and is told of them again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from moorage.effects import Effects
from moorage.failover.strategies import GiveUp, RestartAfter, restart_strategy
from moorage.messages.registry import JobFailure, JobRecord

FAILURES_KEPT = 32
TIMES_KEPT = 1_000
TRACE_CHARS_MAX = 8_000
"""Of a trace that is stored, its end: that is where the error is."""


class Failures:
    """``jitter`` gives a random number between -1 and 1 at each call."""

    def __init__(self, effects: Effects, record: JobRecord, jitter: Callable[[], float]) -> None:
        self.history = record.failures
        """Newest first."""
        self._times_ms = record.failure_times_ms
        self._effects = effects
        self._jitter = jitter
        self._strategy = restart_strategy(record.graph.restart)
        for failed_ms in self._times_ms:
            self._strategy.failed(effects.now_ms - max(0, effects.wall_ms - failed_ms), 0.0)

    def failed(self, failure: JobFailure, *, permanent: bool) -> RestartAfter | GiveUp:
        """``permanent``: every other attempt would fail alike."""
        if failure.trace is not None and len(failure.trace) > TRACE_CHARS_MAX:
            failure = msgspec.structs.replace(failure, trace=f"[...]{failure.trace[-TRACE_CHARS_MAX:]}")
        self.history = (failure, *self.history)[:FAILURES_KEPT]
        if permanent:
            return GiveUp("a restart would not help")
        self._times_ms = (*self._times_ms, failure.failed_ms)[-TIMES_KEPT:]
        return self._strategy.failed(self._effects.now_ms, self._jitter())

    def stored_with(self, record: JobRecord) -> JobRecord:
        return msgspec.structs.replace(record, failures=self.history, failure_times_ms=self._times_ms)
