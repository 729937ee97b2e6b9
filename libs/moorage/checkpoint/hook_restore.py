"""Master hooks learn where a job starts, before it does (Flink: MasterHooks.restoreMasterHooks).

A hook that fails is tried again, so the job waits; a state whose hook is not there is an error, unless state may be
left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from moorage.effects import Effects, FoundSavepoint, ReadSavepoint, RestoreHooks
from moorage.ids import CheckpointId, JobId
from moorage.messages.registry import RestoreSettings
from moorage.state.operator_state import MasterState


class HooksState(Enum):
    WAITING = "waiting"
    """They were told; ``changed`` will be called."""
    READY = "ready"
    REFUSED = "refused"
    """``problem`` says why the job can't start."""


class HookRestore:
    """One per job; ``reset`` before each attempt. ``has_hooks``: the coordinator has any."""

    def __init__(self, effects: Effects, job: JobId, *, has_hooks: bool, changed: Callable[[], None]) -> None:
        self.problem = ""
        self._effects = effects
        self._job = job
        self._has_hooks = has_hooks
        self._changed = changed
        self._start = 0
        self._state: HooksState | None = None

    def reset(self) -> None:
        """Another attempt: answers to what was asked before don't count."""
        self._start += 1
        self._state = None

    @property
    def is_waiting(self) -> bool:
        return self._state is HooksState.WAITING

    def decide(
        self, checkpoint: CheckpointId | None, states: tuple[MasterState, ...], restore: RestoreSettings | None
    ) -> HooksState:
        """The job starts from ``checkpoint``, in which the hooks stored ``states``; None: as ``restore`` says."""
        if self._state is not None:
            return self._state
        if checkpoint is not None or restore is None:
            return self._tell(checkpoint, states, allow_non_restored=restore is not None and restore.allow_non_restored)
        start = self._start
        self._state = HooksState.WAITING
        self._effects.call(
            ReadSavepoint(path=restore.path),
            lambda found: self._found(start, found, allow_non_restored=restore.allow_non_restored),
            lambda error: self._answered(start, HooksState.REFUSED, error.detail),
            repeats=True,
        )
        return self._state

    def _found(self, start: int, found: FoundSavepoint, *, allow_non_restored: bool) -> None:
        if start == self._start:
            metadata = found.metadata
            self._tell(metadata.checkpoint, metadata.hook_states, allow_non_restored=allow_non_restored)
            self._changed()

    def _tell(
        self, checkpoint: CheckpointId | None, states: tuple[MasterState, ...], *, allow_non_restored: bool
    ) -> HooksState:
        if not self._has_hooks:
            left = ", ".join(sorted(state.name for state in states))
            self.problem = f"no master hook is configured for the state of {left}; allow non-restored state to drop it"
            self._state = HooksState.REFUSED if states and not allow_non_restored else HooksState.READY
            return self._state
        start = self._start
        self._state = HooksState.WAITING
        self._effects.call(
            RestoreHooks(job=self._job, checkpoint=checkpoint, states=states, allow_non_restored=allow_non_restored),
            lambda _: self._answered(start, HooksState.READY, ""),
            lambda error: self._answered(start, HooksState.REFUSED, error.detail),
            repeats=True,
        )
        return self._state

    def _answered(self, start: int, state: HooksState, problem: str) -> None:
        if start == self._start:
            self._state, self.problem = state, problem
            self._changed()
