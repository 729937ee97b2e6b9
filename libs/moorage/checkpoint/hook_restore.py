"""Master hooks learn where a job starts, before it does (Flink: MasterHooks.restoreMasterHooks).

A hook that fails is tried again as long as that start is wanted, so the job waits; a state whose hook is not there is
an error, unless state may be left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

from moorage.checkpoint.notices import HooksNotClosed
from moorage.effects import (
    CallError,
    CallFailure,
    CallRepeated,
    CloseHooks,
    Effects,
    FoundSavepoint,
    ReadSavepoint,
    RestoreHooks,
)
from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.registry import RestoreSettings
from moorage.state.operator_state import MasterState

RETRY_MS = 1_000


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
        self._retry: RestoreHooks | None = None
        """What failed and is due again at ``_retry_ms``."""
        self._retry_ms = 0
        self._was_retried = False

    def reset(self) -> None:
        """Another attempt: answers to what was asked before don't count."""
        self._start += 1
        self._state = self._retry = None
        self._was_retried = False

    def close(self, attempt: Attempt) -> None:
        """The job has ended with ``attempt``."""
        if self._has_hooks:
            self._effects.call(
                CloseHooks(epoch=self._effects.epoch, job=self._job, attempt=attempt),
                lambda _: None,
                lambda error: self._effects.report(HooksNotClosed(job=self._job, detail=error.detail)),
            )

    @property
    def is_waiting(self) -> bool:
        return self._state is HooksState.WAITING

    def decide(
        self,
        attempt: Attempt,
        checkpoint: CheckpointId | None,
        states: tuple[MasterState, ...],
        restore: RestoreSettings | None,
    ) -> HooksState:
        """``attempt`` starts from ``checkpoint``, in which the hooks stored ``states``; None: as ``restore`` says."""
        if self._retry is not None and self._effects.now_ms >= self._retry_ms:
            self._ask(self._retry)
        if self._state is not None:
            return self._state
        if checkpoint is not None or restore is None:
            allows = restore is not None and restore.allow_non_restored
            return self._tell(attempt, checkpoint, states, allow_non_restored=allows)
        start = self._start
        self._state = HooksState.WAITING
        self._effects.call(
            ReadSavepoint(path=restore.path),
            lambda found: self._found(start, attempt, found, allow_non_restored=restore.allow_non_restored),
            lambda error: self._answered(start, HooksState.REFUSED, error.detail),
            repeats=True,
        )
        return self._state

    def _found(self, start: int, attempt: Attempt, found: FoundSavepoint, *, allow_non_restored: bool) -> None:
        if start == self._start:
            metadata = found.metadata
            self._tell(attempt, metadata.checkpoint, metadata.hook_states, allow_non_restored=allow_non_restored)
            self._changed()

    def _tell(
        self,
        attempt: Attempt,
        checkpoint: CheckpointId | None,
        states: tuple[MasterState, ...],
        *,
        allow_non_restored: bool,
    ) -> HooksState:
        if not self._has_hooks:
            left = ", ".join(sorted(state.name for state in states))
            self.problem = f"no master hook is configured for the state of {left}; allow non-restored state to drop it"
            self._state = HooksState.REFUSED if states and not allow_non_restored else HooksState.READY
            return self._state
        self._state = HooksState.WAITING
        self._ask(
            RestoreHooks(
                epoch=self._effects.epoch,
                job=self._job,
                attempt=attempt,
                checkpoint=checkpoint,
                states=states,
                allow_non_restored=allow_non_restored,
            )
        )
        return self._state

    def _ask(self, operation: RestoreHooks) -> None:
        self._retry = None
        start = self._start
        self._effects.call(
            operation,
            lambda _: self._answered(start, HooksState.READY, ""),
            partial(self._failed, start, operation),
        )

    def _failed(self, start: int, operation: RestoreHooks, error: CallError) -> None:
        if error.failure is not CallFailure.UNAVAILABLE:
            self._answered(start, HooksState.REFUSED, error.detail)
        elif start == self._start:
            # Not left to the effects: they would repeat it also after another start is wanted.
            self._retry, self._retry_ms = operation, self._effects.now_ms + RETRY_MS
            if not self._was_retried:
                self._was_retried = True
                self._effects.report(CallRepeated(operation=type(operation).__name__, detail=error.detail))

    def _answered(self, start: int, state: HooksState, problem: str) -> None:
        if start == self._start:
            self._state, self.problem = state, problem
            self._changed()
