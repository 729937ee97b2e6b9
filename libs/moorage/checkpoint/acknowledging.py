"""What becomes of an acknowledgement (Flink: CheckpointCoordinator.receiveAcknowledgeMessage).

One that a pending checkpoint waits for counts. Any other brings files that may be garbage: those of a checkpoint that
was aborted go, those of one that may still be completed stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.discards import Discards
from moorage.checkpoint.fates import Fates
from moorage.checkpoint.pending import PendingCheckpoint, paths_of_message
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.stats_tracker import CheckpointStatsTracker
from moorage.effects import Effects
from moorage.ids import CheckpointId, OperatorUid, SubtaskId
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.state.operator_state import MasterState
from moorage.state.shared_registry import SharedStateRegistry

_OUTCOME_OF_DECIDED = {
    CheckpointFate.COMPLETED: AcknowledgeOutcome.DUPLICATE,
    CheckpointFate.ABORTED: AcknowledgeOutcome.DISCARDED,
    CheckpointFate.UNKNOWN: AcknowledgeOutcome.UNKNOWN,
}


class Acknowledging:
    """``pending``: every checkpoint that is not decided. ``acknowledged`` is called for one that waits for less now,
    ``failed`` with the reason to abort it."""

    def __init__(
        self,
        effects: Effects,
        pending: Mapping[CheckpointId, PendingCheckpoint],
        completed: CompletedCheckpoints,
        fates: Fates,
        shared: SharedStateRegistry,
        discards: Discards,
        stats: CheckpointStatsTracker,
        *,
        acknowledged: Callable[[PendingCheckpoint], None],
        failed: Callable[[PendingCheckpoint, Reason, str], None],
    ) -> None:
        self._effects = effects
        self._pending = pending
        self._completed = completed
        self._fates = fates
        self._shared = shared
        self._discards = discards
        self._stats = stats
        self._acknowledged = acknowledged
        self._failed = failed

    def subtask(self, message: AcknowledgeCheckpoint) -> AcknowledgeOutcome:
        self._check_references(message)
        pending = self._pending.get(message.checkpoint)
        outcome = pending.acknowledge(message) if pending else self._outcome_of_decided(message.checkpoint)
        match outcome:
            case AcknowledgeOutcome.SUCCESS:
                assert pending is not None
                self._stats.acknowledged(message, self._effects.wall_ms)
                self._acknowledged(pending)
            case AcknowledgeOutcome.UNKNOWN | AcknowledgeOutcome.DISCARDED:
                self._stats.acknowledged_in_vain(message.checkpoint, outcome)
                self._discards.acknowledged_in_vain(message, self._fates.fate(message.checkpoint))
            case AcknowledgeOutcome.DUPLICATE:
                # The same files as before: they are part of the checkpoint.
                self._stats.acknowledged_in_vain(message.checkpoint, outcome)
        return outcome

    def subtask_of_a_former_attempt(self, message: AcknowledgeCheckpoint) -> None:
        """Nobody waits for it, but it brings files."""
        outcome = self._outcome_of_decided(message.checkpoint)
        self._stats.acknowledged_in_vain(message.checkpoint, outcome)
        if outcome is AcknowledgeOutcome.DISCARDED:
            self._discards.acknowledged_in_vain(message, CheckpointFate.ABORTED)

    def hooks(self, pending: PendingCheckpoint, states: tuple[MasterState, ...]) -> bool:
        """True: the checkpoint goes on."""
        outcome = pending.hooks_acknowledged(states)
        if outcome is AcknowledgeOutcome.SUCCESS:
            state_bytes = sum(len(state.data) for state in states)
            self._stats.hooks_acknowledged(pending.checkpoint, state_bytes, self._effects.wall_ms)
            return True
        self._stats.acknowledged_in_vain(pending.checkpoint, outcome)
        return False

    def operator_coordinator(self, pending: PendingCheckpoint, operator: OperatorUid, state: bytes) -> None:
        outcome = pending.coordinator_acknowledged(operator, state)
        if outcome is AcknowledgeOutcome.SUCCESS:
            now_ms = self._effects.wall_ms
            self._stats.coordinator_acknowledged(pending.checkpoint, operator, len(state), now_ms)
            self._acknowledged(pending)
        else:
            self._stats.acknowledged_in_vain(pending.checkpoint, outcome)

    def finished(self, subtask: SubtaskId) -> None:
        """Nothing more comes from it: checkpoints that wait for it need not any more."""
        for pending in list(self._pending.values()):
            if pending.finished(subtask):
                self._stats.finished(pending.checkpoint, subtask)
                self._acknowledged(pending)

    def _check_references(self, message: AcknowledgeCheckpoint) -> None:
        """A checkpoint that refers to a file which may be gone tomorrow must not be completed."""
        pending = self._pending.get(message.checkpoint)
        subtask = SubtaskId(message.vertex, message.subtask)
        if pending is None or not pending.waits_for(subtask):
            return
        foreign = self._shared.foreign(
            paths_of_message(message), pending.checkpoint, pending.base, pending.options.location
        )
        if foreign:
            whole = "it" if pending.base == 0 else f"it nor is part of checkpoint {pending.base}"
            self._failed(
                pending,
                Reason.FOREIGN_STATE,
                f"{subtask} on {message.worker}: {foreign[0]} was not written for {whole}",
            )

    def _outcome_of_decided(self, checkpoint: CheckpointId) -> AcknowledgeOutcome:
        if checkpoint in self._completed:
            return AcknowledgeOutcome.DUPLICATE  # A savepoint that is in the fate of nothing, too.
        return _OUTCOME_OF_DECIDED[self._fates.fate(checkpoint)]
