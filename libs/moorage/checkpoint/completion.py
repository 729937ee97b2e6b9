"""From the last acknowledgement to the registry's word.

``_metadata`` is written, then the registry is asked to add the checkpoint: one at a time and the oldest first, for one
may only be added above every completed one. From then on nothing but the registry's answer decides: the call is
repeated until it comes. Should the registry stay away, the lease runs out with it, and what the next leader finds
stored is the answer; so an outage costs the checkpoints that fall into it and never the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from moorage.checkpoint.pending import PendingCheckpoint, PendingState
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import reason_of_registration
from moorage.effects import AddCheckpoint, CallError, Effects, WriteMetadata, WrittenMetadata
from moorage.ids import CheckpointId, JobId
from moorage.messages.registry import CheckpointRecord
from moorage.naming import metadata_of, metadata_path
from moorage.state.operator_state import CheckpointOrigin

Completed = Callable[[PendingCheckpoint, AddCheckpoint, Sequence[CheckpointRecord]], None]
Failed = Callable[[PendingCheckpoint, Reason, str], None]


class Completion:
    """``pending``: every checkpoint that is not decided. ``waits``: one is just being triggered, and what it will build
    on must not be subsumed behind its back; ``register_next`` follows. ``completed`` is called with what the registry
    was asked for and with what it says was subsumed, ``failed`` with the reason, ``late`` when the file came after the
    checkpoint was aborted."""

    def __init__(
        self,
        effects: Effects,
        job: JobId,
        retained: int,
        pending: Mapping[CheckpointId, PendingCheckpoint],
        *,
        waits: Callable[[], bool],
        completed: Completed,
        failed: Failed,
        late: Callable[[PendingCheckpoint], None],
    ) -> None:
        self._effects = effects
        self._job = job
        self._retained = retained
        self._pending = pending
        self._waits = waits
        self._completed = completed
        self._failed = failed
        self._late = late

    @property
    def has_unknown_outcome(self) -> bool:
        """The registry was asked to add a checkpoint and has not answered."""
        return any(pending.state is PendingState.REGISTERING for pending in self._pending.values())

    def begin(self, pending: PendingCheckpoint, origin: CheckpointOrigin) -> None:
        """All have acknowledged."""
        pending.go(PendingState.WRITING)
        self._effects.call(
            WriteMetadata(path=self._metadata_path(pending), metadata=pending.metadata(), origin=origin),
            partial(self._written, pending),
            partial(self._not_written, pending),
        )

    def _metadata_path(self, pending: PendingCheckpoint) -> str:
        folder = pending.options.location
        return metadata_path(self._job, pending.checkpoint) if folder is None else metadata_of(folder)

    def _not_written(self, pending: PendingCheckpoint, error: CallError) -> None:
        if pending.state is PendingState.WRITING:
            self._failed(pending, Reason.METADATA_NOT_WRITTEN, error.detail)

    def _written(self, pending: PendingCheckpoint, written: WrittenMetadata) -> None:
        if pending.state is not PendingState.WRITING:
            self._late(pending)
            return
        pending.record = CheckpointRecord(
            checkpoint=pending.checkpoint,
            attempt=pending.attempt,
            kind="savepoint" if pending.is_savepoint else "checkpoint",
            metadata_path=self._metadata_path(pending),
            metadata_bytes=written.size_bytes,
            metadata_checksum=written.checksum,
            base=pending.base,
            triggered_ms=pending.triggered_ms,
            completed_ms=self._effects.wall_ms,
            state_bytes=pending.state_bytes,
            ends_as=pending.request.ends_as,
        )
        self.register_next()

    def register_next(self) -> None:
        """Ask the registry for the next that is written, unless it has to wait."""
        written = [p for p in self._pending.values() if p.record is not None]
        if not written or self.has_unknown_outcome or self._waits():
            return
        pending = min(written, key=lambda p: p.checkpoint)
        assert pending.record is not None
        pending.go(PendingState.REGISTERING)
        others = [p.base for p in self._pending.values() if p is not pending and p.base > 0]
        operation = AddCheckpoint(
            epoch=self._effects.epoch,
            job=self._job,
            attempt=pending.attempt,
            record=pending.record,
            retain=self._retained,
            keep_from=min(others, default=None),
        )
        self._effects.call(
            operation,
            partial(self._registered, pending, operation),
            partial(self._not_registered, pending),
            repeats=True,
        )

    def _registered(
        self, pending: PendingCheckpoint, added: AddCheckpoint, subsumed: Sequence[CheckpointRecord]
    ) -> None:
        pending.go(PendingState.COMPLETED)
        self._completed(pending, added, subsumed)
        self.register_next()

    def _not_registered(self, pending: PendingCheckpoint, error: CallError) -> None:
        self._failed(pending, reason_of_registration(error.failure), error.detail)
        self.register_next()
