"""Whoever takes part in a checkpoint is asked, in this order: master hooks, operator coordinators, subtasks.

Hooks run in a thread and take their time, so they come first. While one hangs beyond its timeout the job takes no
checkpoint, and whoever wants one is told so. Coordinators take their snapshots and TriggerCheckpoint is broadcast in
one step: what a coordinator sends from then on comes behind the trigger, as it comes behind its snapshot.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from moorage.checkpoint.operator_holders import OperatorCoordinators
from moorage.checkpoint.pending import PendingCheckpoint, PendingState
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import CallError, Effects, TriggerHooks
from moorage.ids import CheckpointId, JobId, OperatorUid
from moorage.messages.commands import TriggerCheckpoint
from moorage.state.operator_state import MasterState


class Asking:
    """``hook_timeout_ms`` None: there are no hooks. ``hooks_asked`` and ``hooks_acknowledged`` are called for all hooks
    together, the latter says whether the checkpoint goes on; ``acknowledged`` for each coordinator, ``asked`` when all
    were asked (subtasks may have finished meanwhile, be it every one), ``failed`` with the reason to abort the
    checkpoint."""

    def __init__(
        self,
        effects: Effects,
        job: JobId,
        operators: OperatorCoordinators,
        hook_timeout_ms: int | None,
        *,
        hooks_asked: Callable[[CheckpointId], None],
        hooks_acknowledged: Callable[[PendingCheckpoint, tuple[MasterState, ...]], bool],
        acknowledged: Callable[[PendingCheckpoint, OperatorUid, bytes], None],
        asked: Callable[[PendingCheckpoint], None],
        failed: Callable[[PendingCheckpoint, Reason, str], None],
    ) -> None:
        self._effects = effects
        self._job = job
        self._operators = operators
        self._hook_timeout_ms = hook_timeout_ms
        self._hooks_asked = hooks_asked
        self._hooks_acknowledged = hooks_acknowledged
        self._acknowledged = acknowledged
        self._asked = asked
        self._failed = failed
        self._busy_until_ms: int | None = None
        """When the hooks must have answered; None: they have."""

    @property
    def is_possible(self) -> bool:
        """Hooks that were asked before have answered, and the coordinators have begun."""
        return self._operators.is_ready and self._busy_until_ms is None

    @property
    def hooks_hang(self) -> bool:
        """They were asked and have not answered in time; nobody knows whether they will."""
        return self._busy_until_ms is not None and self._effects.now_ms >= self._busy_until_ms

    def begin(self, pending: PendingCheckpoint) -> None:
        if self._hook_timeout_ms is None:
            self._ask_subtasks(pending)
            return
        self._hooks_asked(pending.checkpoint)
        # Not after the checkpoint's own deadline: the subtasks were not asked, so they must not be blamed.
        deadline_ms = min(self._effects.now_ms + self._hook_timeout_ms, pending.deadline_ms)
        self._busy_until_ms = pending.hooks_deadline_ms = deadline_ms
        self._effects.call(
            TriggerHooks(
                epoch=self._effects.epoch,
                job=self._job,
                attempt=pending.attempt,
                checkpoint=pending.checkpoint,
                triggered_ms=pending.triggered_ms,
            ),
            partial(self._hooks_answered, pending),
            partial(self._hooks_failed, pending),
        )

    def _hooks_answered(self, pending: PendingCheckpoint, states: tuple[MasterState, ...]) -> None:
        self._busy_until_ms = None
        if self._hooks_acknowledged(pending, states):
            self._ask_subtasks(pending)

    def _hooks_failed(self, pending: PendingCheckpoint, error: CallError) -> None:
        self._busy_until_ms = None
        if pending.state is PendingState.HOOKS:
            self._failed(pending, Reason.HOOK_FAILED, error.detail)

    def _ask_subtasks(self, pending: PendingCheckpoint) -> None:
        pending.go(PendingState.ACKNOWLEDGING)
        self._operators.checkpoint(
            pending.checkpoint,
            partial(self._acknowledged, pending),
            partial(self._failed, pending, Reason.OPERATOR_COORDINATOR_FAILED),
        )
        if pending.state is PendingState.ACKNOWLEDGING:
            self._effects.broadcast(
                TriggerCheckpoint(
                    epoch=self._effects.epoch,
                    job=self._job,
                    attempt=pending.attempt,
                    checkpoint=pending.checkpoint,
                    triggered_ms=pending.triggered_ms,
                    base=pending.base,
                    options=pending.options,
                    storage_id=self._effects.storage_id,
                )
            )
            self._asked(pending)
