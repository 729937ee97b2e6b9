"""Which files nobody will ask for any more, and who is told.

Files of checkpoints lie under the job's own prefix: the cleaner is told, and would find them by itself in the end.
Those of a savepoint may lie anywhere and are nobody's but the savepoint's: what a failed one left is deleted from here,
at once and again for those who were still writing.
"""

from __future__ import annotations

from functools import partial

import msgspec

from moorage.checkpoint.notices import SavepointNotDeleted
from moorage.checkpoint.pending import PendingCheckpoint, paths_written_for
from moorage.effects import CallError, DiscardSavepoint, Effects
from moorage.ids import CheckpointId, JobId
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState, TrimExchange
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.state.shared_registry import SharedStateRegistry

FAILED_SAVEPOINTS_KEPT = 16
GATHER_MS = 1_000
"""After a late acknowledgement: others follow, and one look at the folder is enough for all."""
LATE_WRITERS_MS = 60_000
"""After a failure: who was writing then and can't say so any more has ended."""


class _Folder(msgspec.Struct):
    path: str
    due_ms: int | None
    """When its files are deleted again; None: when somebody tells of more."""


class Discards:
    def __init__(self, effects: Effects, job: JobId, shared: SharedStateRegistry) -> None:
        self._effects = effects
        self._job = job
        self._shared = shared
        self._failed_savepoints: dict[CheckpointId, _Folder] = {}
        """The newest ones: acknowledgements that come late tell of files there."""

    def aborted(self, pending: PendingCheckpoint) -> None:
        """What a subtask writes after this is found by the cleaner's sweep, of a savepoint by the acknowledgement that
        tells of it."""
        folder = pending.options.location
        if folder is None:
            self.checkpoint(pending.checkpoint)
            return
        self._failed_savepoints[pending.checkpoint] = _Folder(folder, self._effects.now_ms + LATE_WRITERS_MS)
        if len(self._failed_savepoints) > FAILED_SAVEPOINTS_KEPT:
            oldest = self._failed_savepoints.pop(min(self._failed_savepoints))
            if oldest.due_ms is not None:
                self._savepoint(oldest.path)
        self._savepoint(folder)

    def tick(self) -> None:
        for folder in self._failed_savepoints.values():
            if folder.due_ms is not None and folder.due_ms <= self._effects.now_ms:
                folder.due_ms = None
                self._savepoint(folder.path)

    def checkpoint(self, checkpoint: CheckpointId) -> None:
        """It was subsumed or aborted."""
        self._effects.cleanup(DiscardCheckpoint(epoch=self._effects.epoch, job=self._job, checkpoint=checkpoint))

    def acknowledged_in_vain(self, message: AcknowledgeCheckpoint, fate: CheckpointFate) -> None:
        """An acknowledgement that does not count brings files."""
        if folder := self._failed_savepoints.get(message.checkpoint):
            due_ms = self._effects.now_ms + GATHER_MS
            folder.due_ms = due_ms if folder.due_ms is None else min(due_ms, folder.due_ms)
            return
        if fate is CheckpointFate.UNKNOWN:
            return  # It may still be completed by others, or was long ago: the cleaner's sweep knows better.
        if paths := tuple(self._shared.unreferenced(paths_written_for(message))):
            self._effects.cleanup(
                DiscardState(epoch=self._effects.epoch, job=self._job, checkpoint=message.checkpoint, paths=paths)
            )

    def log_is_longer_than_needed(self) -> None:
        """A checkpoint was subsumed, or the slowest sink has committed."""
        self._effects.cleanup(TrimExchange(epoch=self._effects.epoch, job=self._job))

    def _savepoint(self, folder: str) -> None:
        self._effects.call(DiscardSavepoint(folder=folder), lambda _: None, partial(self._not_deleted, folder))

    def _not_deleted(self, folder: str, error: CallError) -> None:
        self._effects.report(SavepointNotDeleted(job=self._job, folder=folder, detail=error.detail))
