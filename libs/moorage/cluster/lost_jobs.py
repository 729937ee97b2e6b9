"""Jobs that workers run and the registry does not know: it has lost its data (design, section 8).

The workers show which jobs there are, the checkpoints in the storage hold everything else. A job is brought back once
every worker had the time to say which attempt it runs; when that is the attempt of the newest checkpoint, the job never
notices. A job without any checkpoint is left alone: nothing is known of it, and it may be submitted again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from moorage.cluster.protocol import JobRebuilt, JobUnknown
from moorage.effects import CallError, Effects, JobHistory, RebuildJob
from moorage.ids import Attempt, JobId, VertexId
from moorage.messages.events import WorkerHeartbeat


@dataclass(slots=True)
class _Lost:
    since_ms: int
    attempt: Attempt
    heard_ms: int
    parallelism: dict[VertexId, set[int]] = field(default_factory=dict)
    """Of each vertex, in any attempt that runs."""
    is_asked: bool = False
    is_unknown: bool = False
    """It can't be brought back. Kept while workers run it, so that it is said once."""


class LostJobs:
    """``patience_ms``: in which every worker reports; ``found`` gets what the registry holds again."""

    def __init__(self, effects: Effects, patience_ms: int, found: Callable[[JobHistory], None]) -> None:
        self._effects = effects
        self._patience_ms = patience_ms
        self._found = found
        self._lost: dict[JobId, _Lost] = {}

    def heartbeat(self, message: WorkerHeartbeat, is_known: Callable[[JobId], bool]) -> None:
        for running in message.subtasks:
            if is_known(running.job):
                continue
            now_ms = self._effects.now_ms
            lost = self._lost.setdefault(running.job, _Lost(now_ms, running.attempt, now_ms))
            lost.heard_ms = now_ms
            lost.attempt = max(lost.attempt, running.attempt, running.deployed)
            if running.parallelism:
                lost.parallelism.setdefault(running.vertex, set()).add(running.parallelism)

    def tick(self) -> None:
        silent_ms = self._effects.now_ms - 2 * self._patience_ms
        for job in [job for job, lost in self._lost.items() if lost.is_unknown and lost.heard_ms <= silent_ms]:
            del self._lost[job]
        for job, lost in self._lost.items():
            if not lost.is_asked and self._effects.now_ms - lost.since_ms >= self._patience_ms:
                lost.is_asked = True
                parallelism = {vertex: frozenset(seen) for vertex, seen in lost.parallelism.items()}
                self._effects.call(
                    RebuildJob(epoch=self._effects.epoch, job=job, running=lost.attempt, parallelism=parallelism),
                    partial(self._rebuilt, job),
                    partial(self._refused, job),
                    repeats=True,
                )

    def forget(self, job: JobId) -> None:
        """It was submitted meanwhile."""
        self._lost.pop(job, None)

    def _rebuilt(self, job: JobId, history: JobHistory | None) -> None:
        if history is None or history.record is None:
            self._unknown(job, "the checkpoint storage holds no checkpoint of it")
            return
        self._lost.pop(job, None)
        self._effects.report(JobRebuilt(job=job, checkpoints=len(history.checkpoints), attempt=history.record.attempt))
        self._found(history)

    def _refused(self, job: JobId, error: CallError) -> None:
        self._unknown(job, error.detail)

    def _unknown(self, job: JobId, detail: str) -> None:
        if lost := self._lost.get(job):
            lost.is_unknown = True
        self._effects.report(JobUnknown(job=job, detail=detail))
