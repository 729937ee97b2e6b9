"""Which files nobody will ask for any more, and who is told.

Files of checkpoints lie under the job's own prefix: the cleaner is told, and would find them by itself in the end.
Those of a savepoint may lie anywhere and are nobody's but the savepoint's: what a failed one left is deleted from here.
"""

from __future__ import annotations

from functools import partial

from moorage.checkpoint.notices import SavepointNotDeleted
from moorage.checkpoint.pending import PendingCheckpoint, paths_written_for
from moorage.effects import CallError, DiscardSavepoint, Effects
from moorage.ids import CheckpointId, JobId
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState, TrimExchange
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.state.shared_registry import SharedStateRegistry

FAILED_SAVEPOINTS_KEPT = 16


class Discards:
    def __init__(self, effects: Effects, job: JobId, shared: SharedStateRegistry) -> None:
        self._effects = effects
        self._job = job
        self._shared = shared
        self._failed_savepoints: dict[CheckpointId, str] = {}
        """Folders of the newest ones: acknowledgements that come late tell of files there."""

    def aborted(self, pending: PendingCheckpoint) -> None:
        """What a subtask writes after this is found by the cleaner's sweep, of a savepoint by the acknowledgement that
        tells of it."""
        folder = pending.options.location
        if folder is None:
            self.checkpoint(pending.checkpoint)
            return
        self._failed_savepoints[pending.checkpoint] = folder
        if len(self._failed_savepoints) > FAILED_SAVEPOINTS_KEPT:
            del self._failed_savepoints[min(self._failed_savepoints)]
        self._savepoint(folder)

    def checkpoint(self, checkpoint: CheckpointId) -> None:
        """It was subsumed or aborted."""
        self._effects.cleanup(DiscardCheckpoint(epoch=self._effects.epoch, job=self._job, checkpoint=checkpoint))

    def acknowledged_in_vain(self, message: AcknowledgeCheckpoint, fate: CheckpointFate) -> None:
        """An acknowledgement that does not count brings files."""
        if folder := self._failed_savepoints.get(message.checkpoint):
            self._savepoint(folder)
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
