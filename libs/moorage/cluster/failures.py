"""The failures of one job: what people are shown of them, and what follows from each.

Both are stored with the job, so a new leader goes on where the last one was: the restart strategy is a function of the
times of the failures, and is told of them again.

What people are shown has one entry per cause: a record that can't be processed fails every attempt, with another offset
perhaps, and must not push everything else out of the history.
"""

from __future__ import annotations

import re
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
        self.history = with_failure(self.history, failure)
        if permanent:
            return GiveUp("a restart would not help")
        self._times_ms = (*self._times_ms, failure.failed_ms)[-TIMES_KEPT:]
        return self._strategy.failed(self._effects.now_ms, self._jitter())

    def stored_with(self, record: JobRecord) -> JobRecord:
        return msgspec.structs.replace(record, failures=self.history, failure_times_ms=self._times_ms)


def with_failure(history: tuple[JobFailure, ...], failure: JobFailure) -> tuple[JobFailure, ...]:
    """``history``, newest first, with one more; it takes the place of those with the same cause and counts them."""
    cause = cause_of(failure)
    alike = next((former for former in history if cause_of(former) == cause), None)
    if alike is not None:
        first_ms = alike.failed_ms if alike.first_ms is None else alike.first_ms
        failure = msgspec.structs.replace(failure, times=alike.times + 1, first_ms=first_ms)
    others = (former for former in history if former is not alike)
    return (failure, *others)[:FAILURES_KEPT]


_FRAME = re.compile(r'^ *File "([^"]*)", line (\d+)', re.MULTILINE)
_ERROR = re.compile(r"^([A-Za-z_][\w.]*)(?=:|$)", re.MULTILINE)
_VARIABLE = re.compile(r"""'[^']*'|"[^"]*"|\b[0-9a-f]*[0-9][0-9a-f]*\b""")
"""What differs from one failure to the next for the same cause: values, offsets, times, incarnations."""


def cause_of(failure: JobFailure) -> tuple[object, ...]:
    """What failures that are the same to people have in common: the vertex, and the kind of error with the lines of
    code that it came through; without such lines the words of the cause, and the worker that was lost."""
    vertex = None if failure.subtask is None else failure.subtask.vertex
    frames = _FRAME.findall(failure.trace or "")
    if frames:
        return vertex, _ERROR.findall(failure.trace or "")[-1:], frames
    worker = failure.worker or ""
    cause = failure.cause.replace(worker, "") if worker else failure.cause
    name = worker.rpartition("/")[0] if failure.subtask is None else ""
    return vertex, name, _VARIABLE.sub("#", cause)
