"""When have too many checkpoints failed? (Flink: CheckpointFailureManager)

Failures in a row are counted, each checkpoint once, and only for reasons that a restart of the job may cure. More than
``tolerable_failures`` of them fail the job. A completed checkpoint starts the count anew.
"""

from __future__ import annotations

from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.ids import CheckpointId


class CheckpointFailureManager:
    def __init__(self, tolerable_failures: int) -> None:
        self._tolerable = tolerable_failures
        self._in_a_row = 0
        self._last_completed = CheckpointId(0)

    def failed(self, checkpoint: CheckpointId | None, reason: CheckpointFailureReason) -> bool:
        """Count a failure (``checkpoint`` None: before it had an id); True: the job must fail."""
        if not reason.counts_as_failure or (checkpoint is not None and checkpoint <= self._last_completed):
            return False
        self._in_a_row += 1
        if self._in_a_row <= self._tolerable:
            return False
        self.reset()
        return True

    def completed(self, checkpoint: CheckpointId) -> None:
        if checkpoint > self._last_completed:
            self._last_completed = checkpoint
            self.reset()

    def reset(self) -> None:
        self._in_a_row = 0

    def validate(self) -> None:
        assert 0 <= self._in_a_row <= self._tolerable
