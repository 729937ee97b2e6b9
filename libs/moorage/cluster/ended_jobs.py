"""Jobs that have ended: the leader shows them for as long as the registry does.

The cleaner takes an ended job out of the registry (``purge_job``) and tells nobody. So the leader looks there now and
then, while it knows a job that has ended. One that was submitted anew meanwhile is another job of the same name: it
stays, whatever the registry said before.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial

from moorage.cluster.job import Job
from moorage.effects import CallError, Effects, ReadJobNames
from moorage.ids import JobId


class EndedJobs:
    """Drops from ``jobs`` what was purged."""

    def __init__(self, effects: Effects, jobs: MutableMapping[JobId, Job], interval_ms: int) -> None:
        self._effects = effects
        self._jobs = jobs
        self._interval_ms = interval_ms
        self._look_at_ms = effects.now_ms + interval_ms
        self._is_looking = False

    def tick(self) -> None:
        if self._is_looking or self._effects.now_ms < self._look_at_ms:
            return
        self._look_at_ms = self._effects.now_ms + self._interval_ms
        ended = [job for job in self._jobs.values() if job.status.is_terminal]
        if ended:
            self._is_looking = True
            self._effects.call(ReadJobNames(), partial(self._read, ended), self._refused, repeats=True)

    def _read(self, ended: list[Job], stored: frozenset[JobId]) -> None:
        self._is_looking = False
        for job in ended:
            if job.job not in stored and self._jobs.get(job.job) is job:
                del self._jobs[job.job]

    def _refused(self, error: CallError) -> None:
        self._effects.step_down(f"the registry can't be read: {error.detail}")
