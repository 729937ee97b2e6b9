"""Stop with savepoint (Flink: StopWithSavepointTerminationManager).

The savepoint's record says how the job ends (``ends_as``), so its completion and the decision to end are one step in
the registry. From then on the job only has to commit and to end: its subtasks finish by themselves once they hear that
the savepoint is complete; should the attempt fail before, the next one restores the savepoint, starts every subtask as
finished, and its sinks commit what is missing. A savepoint that fails leaves the job running.
"""

from __future__ import annotations

from moorage.checkpoint.coordinator import CheckpointCoordinator
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.cluster.protocol import Refusal, Refused, StopWithSavepointRequested
from moorage.effects import Effects
from moorage.ids import JobId
from moorage.messages.barriers import SnapshotKind
from moorage.messages.registry import JobStatus


class Stopping:
    """Requests to stop one job, and how it will end."""

    def __init__(self, effects: Effects, job: JobId, checkpoints: CheckpointCoordinator) -> None:
        self._effects = effects
        self._job = job
        self._checkpoints = checkpoints
        self._request: int | None = None
        self._done: CheckpointDone | None = None

    @property
    def ends_as(self) -> JobStatus:
        """The status of the job when all its subtasks have finished."""
        stop = self._checkpoints.completed.stop
        return JobStatus.FINISHED if stop is None or stop.ends_as is None else stop.ends_as

    def request(self, request: StopWithSavepointRequested, status: JobStatus) -> None:
        if self._checkpoints.is_stopping:
            self._refuse(request.request, f"job {self._job} is being stopped with a savepoint already")
        elif status is not JobStatus.RUNNING:
            self._refuse(request.request, f"job {self._job} is {status.value}: a savepoint needs it to be RUNNING")
        else:
            self._request = request.request
            self._checkpoints.request(
                CheckpointRequest(
                    kind=SnapshotKind.TERMINATE if request.drain else SnapshotKind.SUSPEND,
                    location=request.location,
                    native=request.native,
                    ends_as=JobStatus.CANCELED if request.cancel else JobStatus.FINISHED,
                    on_done=self._decided,
                )
            )

    def _decided(self, outcome: CheckpointDone | CheckpointFailed) -> None:
        if isinstance(outcome, CheckpointDone):
            self._done = outcome
        else:
            self._answer(outcome)

    def ended(self, status: JobStatus) -> None:
        if self._done is not None and status is self.ends_as:
            self._answer(self._done)
        elif self._request is not None:
            self._refuse(self._request, f"job {self._job} has ended {status.value} before it was stopped")
            self._request = None

    def _answer(self, outcome: CheckpointDone | CheckpointFailed) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._effects.reply(request, outcome)

    def _refuse(self, request: int, message: str) -> None:
        self._effects.reply(request, Refused(Refusal.CONFLICT, message))
