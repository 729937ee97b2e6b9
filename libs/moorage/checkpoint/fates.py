"""What became of each checkpoint of a job, as sinks are told with every heartbeat.

A fate is final. A checkpoint is pending until the registry has answered; only then it is completed or aborted. The list
that is sent reaches back to the slowest sink.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.commands import CheckpointFate, JobFates
from moorage.ports import COMPLETED_IDS_KEPT

FATES_SENT_MIN = 64
"""Newest completed ids that are sent even when every sink is further."""


class Fates:
    """``base``: ids up to this one belong to an earlier job of the same name and are nobody's business."""

    def __init__(
        self,
        job: JobId,
        base: CheckpointId,
        completed_ids: Iterable[CheckpointId] = (),
        last_id: CheckpointId | None = None,
    ) -> None:
        known = sorted(completed_ids)
        # A full list may have lost older ids; a shorter one has them all.
        first_known = known[0] if len(known) >= COMPLETED_IDS_KEPT else CheckpointId(0)
        self._job = job
        self._completed = [checkpoint for checkpoint in known if checkpoint > base]
        self._complete_from = CheckpointId(max(first_known, base + 1))
        self._pending: set[CheckpointId] = set()
        self.last_id = CheckpointId(max(last_id or 0, base, *known[-1:]))

    def triggered(self, checkpoint: CheckpointId) -> None:
        self._pending.add(checkpoint)
        self.last_id = max(self.last_id, checkpoint)

    def completed(self, checkpoint: CheckpointId) -> None:
        self._pending.discard(checkpoint)
        insort(self._completed, checkpoint)
        if len(self._completed) > COMPLETED_IDS_KEPT:
            self._complete_from = CheckpointId(max(self._complete_from, self._completed.pop(0) + 1))

    def aborted(self, checkpoint: CheckpointId) -> None:
        self._pending.discard(checkpoint)

    def fate(self, checkpoint: CheckpointId) -> CheckpointFate:
        if checkpoint in self._pending or not self._complete_from <= checkpoint <= self.last_id:
            return CheckpointFate.UNKNOWN
        return CheckpointFate.COMPLETED if self._is_completed(checkpoint) else CheckpointFate.ABORTED

    def completed_ids(self) -> tuple[CheckpointId, ...]:
        """As far as they are known, ascending."""
        return tuple(self._completed)

    def message(self, attempt: Attempt, committed: CheckpointId | None) -> JobFates:
        """``committed``: every sink has committed up to here; None: not known, so all that is known is sent."""
        keep_from = max(0, len(self._completed) - FATES_SENT_MIN)
        first = 0 if committed is None else min(keep_from, bisect_left(self._completed, committed))
        completed = tuple(self._completed[first:])
        complete_from = self._complete_from if first == 0 else completed[0]
        return JobFates(
            job=self._job,
            attempt=attempt,
            last_id=self.last_id,
            pending=tuple(sorted(self._pending)),
            completed=completed,
            complete_from=complete_from,
        )

    def _is_completed(self, checkpoint: CheckpointId) -> bool:
        index = bisect_left(self._completed, checkpoint)
        return index < len(self._completed) and self._completed[index] == checkpoint

    def validate(self) -> None:
        assert self._completed == sorted(set(self._completed))
        assert self._pending.isdisjoint(self._completed)
        assert all(checkpoint <= self.last_id for checkpoint in self._pending)
        assert all(checkpoint <= self.last_id for checkpoint in self._completed)
