"""The retained completed checkpoints of a job, as the registry holds them (Flink: CompletedCheckpointStore).

The registry decides; this mirror follows what it answered. A leader builds it from the registry when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from moorage.ids import Attempt, CheckpointId
from moorage.messages.registry import CheckpointRecord


class CompletedCheckpoints:
    """``base`` is the last id of an earlier job of the same name; its checkpoints are retained until they are subsumed,
    but never restored."""

    def __init__(self, records: Iterable[CheckpointRecord], base: CheckpointId) -> None:
        self._records = {record.checkpoint: record for record in sorted(records, key=lambda r: r.checkpoint)}
        self._base = base

    def add(
        self,
        record: CheckpointRecord,
        subsumed: Iterable[CheckpointRecord],
        *,
        retain: int | None = None,
        keep_from: CheckpointId | None = None,
    ) -> Sequence[CheckpointRecord]:
        """Follow an ``add_checkpoint``; returns what is not retained any more.

        A repeated call may return less than was subsumed. But the registry keeps ``retain``, and none from
        ``keep_from`` on is subsumed; and the oldest go first, so whatever is older than something subsumed is gone too.
        """
        self._records[record.checkpoint] = record
        self._records = dict(sorted(self._records.items()))
        counted = [r for r in self._records.values() if r.kind == "checkpoint"]
        surplus = 0 if retain is None else max(0, len(counted) - retain)
        newest_subsumed = max((s.checkpoint for s in subsumed), default=CheckpointId(0))
        gone = [
            old
            for index, old in enumerate(counted)
            if old.checkpoint <= newest_subsumed
            or (index < surplus and (keep_from is None or old.checkpoint < keep_from))
        ]
        for old in gone:
            del self._records[old.checkpoint]
        return gone

    @property
    def latest(self) -> CheckpointRecord | None:
        """The newest of this job."""
        return next(self._newest_first(), None)

    @property
    def newest_id(self) -> CheckpointId:
        """The newest that the registry holds, of whatever job of this name; 0: none."""
        return max(self._records, default=CheckpointId(0))

    @property
    def oldest_id(self) -> CheckpointId:
        """The oldest retained checkpoint, savepoints not counted; 0: none."""
        return min((r.checkpoint for r in self._records.values() if r.kind == "checkpoint"), default=CheckpointId(0))

    def restorable(self, unreadable: Iterable[CheckpointId] = ()) -> CheckpointRecord | None:
        """The newest of this job but for those."""
        excluded = frozenset(unreadable)
        return next((record for record in self._newest_first() if record.checkpoint not in excluded), None)

    def newest_of(self, attempt: Attempt, restored: CheckpointId | None) -> CheckpointRecord | None:
        """The newest in the history of an attempt that started from ``restored``."""
        return next((r for r in self._newest_first() if r.attempt == attempt or r.checkpoint == restored), None)

    @property
    def stop(self) -> CheckpointRecord | None:
        """The savepoint that this job was stopped with; None: it was not."""
        newest = self.latest
        return newest if newest is not None and newest.ends_as is not None else None

    def retained(self) -> Sequence[CheckpointRecord]:
        """Oldest first."""
        return list(self._records.values())

    def __contains__(self, checkpoint: CheckpointId) -> bool:
        return checkpoint in self._records

    def _newest_first(self) -> Iterator[CheckpointRecord]:
        """What this job restarts from: no savepoint, as its owner may delete it at any time, but the one that the job
        was stopped with."""
        return (
            record
            for record in reversed(self._records.values())
            if record.checkpoint > self._base and (record.kind == "checkpoint" or record.ends_as is not None)
        )

    def validate(self) -> None:
        assert list(self._records) == sorted(self._records)
        assert all(number == record.checkpoint for number, record in self._records.items())
