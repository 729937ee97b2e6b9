"""What stands in for the store and for triggering in a job without checkpointing, ``checkpoint.enabled`` false (Flink:
DeactivatedCheckpointCompletedCheckpointStore, DeactivatedCheckpointIDCounter).

Such a job has no checkpoint ever and takes no id; each attempt starts from what the job was submitted to start from.
Everything else of the checkpoint coordinator is the same, and has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.triggering import Triggering
from moorage.ids import CheckpointId
from moorage.messages.registry import CheckpointRecord


class DeactivatedCheckpoints(CompletedCheckpoints):
    """None is ever added; what the registry holds of an earlier job of the same name was of no use before."""

    def add(
        self,
        record: CheckpointRecord,
        subsumed: Iterable[CheckpointRecord],
        *,
        retain: int | None = None,
        keep_from: CheckpointId | None = None,
    ) -> Sequence[CheckpointRecord]:
        raise AssertionError(f"checkpoint {record.checkpoint} of a job without checkpointing")


class DeactivatedTriggering(Triggering):
    """Refuses every request and makes none."""

    def request(self, request: CheckpointRequest) -> None:
        self._refused(request, Reason.DEACTIVATED, "")

    def tick(self) -> None:
        pass
