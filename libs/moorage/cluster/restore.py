"""Which checkpoint does the next attempt start from? (design, section 8)

The newest retained one whose ``_metadata`` can be read. One that is missing or damaged makes way for the next older; a
storage that does not answer is waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.cluster.protocol import CheckpointUnreadable
from moorage.effects import CallError, Effects, VerifiedMetadata, VerifyMetadata
from moorage.ids import CheckpointId, JobId, OperatorId
from moorage.messages.registry import CheckpointRecord
from moorage.state.operator_state import MasterState


class RestoreState(Enum):
    CHECKING = "checking"
    """The storage was asked; ``changed`` will be called."""
    READY = "ready"
    """Start from ``checkpoint``; None: there is none, start empty."""
    UNREADABLE = "unreadable"
    """There are checkpoints, and none of them can be read."""


class RestoreChoice:
    """One per job; ``reset`` before each restart. ``changed`` is called when the storage has answered."""

    def __init__(
        self, effects: Effects, job: JobId, completed: CompletedCheckpoints, changed: Callable[[], None]
    ) -> None:
        self.checkpoint: CheckpointRecord | None = None
        self.hook_states: tuple[MasterState, ...] = ()
        """What master hooks stored in it."""
        self.partly_finished: frozenset[OperatorId] = frozenset()
        """Operators some of whose subtasks had finished in it."""
        self.unreadable: list[CheckpointId] = []
        self._effects = effects
        self._job = job
        self._completed = completed
        self._changed = changed
        self._verified: CheckpointId | None = None
        self._is_checking = False

    def reset(self) -> None:
        self.unreadable.clear()
        self._verified = None

    def decide(self) -> RestoreState:
        """Where the choice stands; asks for what is missing."""
        if self._is_checking:
            return RestoreState.CHECKING
        self.checkpoint = self._completed.restorable(self.unreadable)
        if self.checkpoint is None:
            self.hook_states, self.partly_finished = (), frozenset()
            return RestoreState.UNREADABLE if self.unreadable else RestoreState.READY
        if self.checkpoint.checkpoint == self._verified:
            return RestoreState.READY
        self._is_checking = True
        self._effects.call(
            VerifyMetadata(record=self.checkpoint),
            partial(self._readable, self.checkpoint.checkpoint),
            partial(self._not_readable, self.checkpoint.checkpoint),
            repeats=True,
        )
        return RestoreState.CHECKING

    @property
    def is_checking(self) -> bool:
        return self._is_checking

    def _readable(self, checkpoint: CheckpointId, verified: VerifiedMetadata) -> None:
        self._is_checking = False
        self.hook_states = verified.master_states
        self.partly_finished = verified.partly_finished
        self._verified = checkpoint
        self._changed()

    def _not_readable(self, checkpoint: CheckpointId, error: CallError) -> None:
        self._is_checking = False
        self.unreadable.append(checkpoint)
        self._effects.report(CheckpointUnreadable(job=self._job, checkpoint=checkpoint, detail=error.detail))
        self._changed()
