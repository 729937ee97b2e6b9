"""Who hears what became of a checkpoint: people, whoever asked for it, and the failure manager."""

from __future__ import annotations

from collections.abc import Callable

from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.failure_manager import CheckpointFailureManager
from moorage.checkpoint.notices import CheckpointAborted, CheckpointCompleted, CheckpointDone, CheckpointFailed
from moorage.checkpoint.pending import PendingCheckpoint
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.stats import CheckpointStats
from moorage.effects import Effects
from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.registry import CheckpointRecord


class Outcomes:
    """``decided`` is called before whoever asked hears of it, ``fail_job`` with the cause when too many checkpoints
    have failed in a row."""

    def __init__(
        self,
        effects: Effects,
        job: JobId,
        tolerable_failures: int,
        *,
        decided: Callable[[CheckpointRequest], None],
        fail_job: Callable[[str], None],
    ) -> None:
        self._effects = effects
        self._job = job
        self._tolerable_failures = tolerable_failures
        self._failures = CheckpointFailureManager(tolerable_failures)
        self._decided = decided
        self._fail_job = fail_job

    def restarted(self) -> None:
        """Another attempt: its checkpoints fail on their own account."""
        self._failures.reset()

    def joined_history(self, checkpoint: CheckpointId) -> None:
        """The job can restart from it."""
        self._failures.completed(checkpoint)

    def completed(self, pending: PendingCheckpoint, record: CheckpointRecord, stats: CheckpointStats) -> None:
        self._effects.report(
            CheckpointCompleted(
                job=self._job,
                attempt=record.attempt,
                checkpoint=record.checkpoint,
                completed_ms=record.completed_ms,
                stats=stats,
            )
        )
        path = pending.options.location or record.metadata_path
        self._answer(pending.request, CheckpointDone(record.checkpoint, path))

    def failed(
        self,
        request: CheckpointRequest,
        attempt: Attempt,
        checkpoint: CheckpointId | None,
        reason: Reason,
        detail: str,
        stats: CheckpointStats | None = None,
    ) -> None:
        """``checkpoint`` None: it was refused before it had an id. Last of all: it may end the attempt."""
        failed = CheckpointFailed(checkpoint, reason, detail)
        self._effects.report(
            CheckpointAborted(
                job=self._job, attempt=attempt, checkpoint=checkpoint, reason=reason, detail=detail, stats=stats
            )
        )
        self._answer(request, failed)
        if not request.kind.is_savepoint and self._failures.failed(checkpoint, reason):
            self._fail_job(
                f"more than {self._tolerable_failures} checkpoints failed in a row, the last one because "
                f"{failed.message}"
            )

    def _answer(self, request: CheckpointRequest, outcome: CheckpointDone | CheckpointFailed) -> None:
        """The listener may end the attempt."""
        self._decided(request)
        if request.client is not None:
            self._effects.reply(request.client, outcome)
        if request.on_done is not None:
            request.on_done(outcome)

    def validate(self) -> None:
        self._failures.validate()
