"""A checkpoint coordinator by itself: its calls are answered by hand."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from tests.unit.cluster.graphs import orders_graph
from tests.unit.cluster.world import acknowledgement

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.coordinator import CheckpointCoordinator
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointAborted, CheckpointDone, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.effects import (
    Action,
    AddCheckpoint,
    Broadcast,
    Call,
    CallError,
    Effects,
    JobHistory,
    NextCheckpointId,
    Operation,
    Report,
    SendCleanup,
    WriteMetadata,
    WrittenMetadata,
)
from moorage.graph.execution import Execution
from moorage.graph.job_graph import CheckpointConfig, JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, SubtaskId, WorkerId
from moorage.messages.commands import TriggerCheckpoint
from moorage.messages.events import DeclineCheckpoint, DeclineReason, SubtaskState
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, LineageSegment

WORKER = WorkerId("w1/1")
C = TypeVar("C")
BY_HAND = CheckpointConfig(interval_ms=0, timeout_ms=10_000, tolerable_failures=1, retained=2)


class Lone:
    """``answers`` False: calls stay open until ``answer``. ``ends_when_failed``: what fails the job ends the attempt at
    once, as in earnest. The registry is the real one's rules in two dicts."""

    def __init__(self, graph: JobGraph | None = None, record: JobRecord | None = None, **options: Any) -> None:
        self.graph = graph or orders_graph(2, checkpoint=BY_HAND)
        self.effects = Effects()
        self.effects.epoch = Epoch(1)
        self.failures: list[str] = []
        self.actions: list[Action] = []
        self.calls: list[Call] = []
        self.outcomes: list[CheckpointDone | CheckpointFailed] = []
        self.retained: dict[CheckpointId, CheckpointRecord] = {}
        self.last_id = 0
        self.answers = True
        self.ends_when_failed = False
        self.record = record or self.new_record()
        history = JobHistory(record=self.record)
        self.coordinator = CheckpointCoordinator(
            self.effects, self.graph, CheckpointId(0), history, self._fail, **options
        )
        self.execution = Execution(self.graph, Attempt(1), (WORKER,) * self.graph.slots)

    def _fail(self, cause: str) -> None:
        self.failures.append(cause)
        if self.ends_when_failed:
            self.coordinator.suspend(CheckpointFailureReason.JOB_FAILOVER)

    def new_record(self) -> JobRecord:
        return JobRecord(
            job=self.graph.job,
            graph=self.graph,
            status=JobStatus.RUNNING,
            attempt=Attempt(1),
            submitted_ms=1,
            base_checkpoint_id=CheckpointId(0),
            slots=(WORKER,) * self.graph.slots,
            lineage=(LineageSegment(Attempt(1), None, self.graph.parallelism()),),
        )

    # --- what the world does -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The attempt runs."""
        self.coordinator.start(self.execution, self.record)
        for subtask, _ in list(self.execution.states()):
            self.becomes(subtask, SubtaskState.RUNNING)
        self.carry_out()

    def becomes(self, subtask: SubtaskId, state: SubtaskState, *, data_ended: bool = False) -> None:
        self.execution.update(subtask, state, data_ended=data_ended)
        self.coordinator.subtask_changed(subtask, state)
        self.carry_out()

    def request(self, request: CheckpointRequest | None = None) -> None:
        request = request or CheckpointRequest()
        self.coordinator.request(msgspec.structs.replace(request, on_done=self.outcomes.append))
        self.carry_out()

    def tick(self, ms: int = 0) -> None:
        self.effects.now_ms += ms
        self.effects.wall_ms += ms
        self.coordinator.tick()
        self.carry_out()

    def acknowledge(self, subtask: SubtaskId, checkpoint: int | None = None) -> AcknowledgeOutcome:
        number = CheckpointId(self.last_id if checkpoint is None else checkpoint)
        trigger = next((t for t in self.commands(TriggerCheckpoint) if t.checkpoint == number), None)
        location = None if trigger is None else trigger.options.location
        message = acknowledgement(self.graph, WORKER, Attempt(1), subtask, number, location)
        outcome = self.coordinator.acknowledge(message)
        self.carry_out()
        return outcome

    def acknowledge_all(self, checkpoint: int | None = None) -> None:
        for subtask, _ in list(self.execution.states()):
            if not self.graph.vertex(subtask.vertex).is_committer:
                self.acknowledge(subtask, checkpoint)

    def decline(self, subtask: SubtaskId, reason: DeclineReason = DeclineReason.STORAGE) -> bool:
        declined = self.coordinator.decline(
            DeclineCheckpoint(
                worker=WORKER,
                job=self.graph.job,
                attempt=Attempt(1),
                vertex=subtask.vertex,
                subtask=subtask.subtask,
                checkpoint=CheckpointId(self.last_id),
                reason=reason,
                detail="disk full",
            )
        )
        self.carry_out()
        return declined

    # --- calls -------------------------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        while actions := self.effects.drain():
            self.actions += actions
            for action in actions:
                if isinstance(action, Call):
                    self.calls.append(action)
            if self.answers:
                for call in [c for c in self.calls if isinstance(c.operation, _ANSWERED)]:
                    self.answer(call, self.result_of(call.operation))
        self.coordinator.validate()

    def result_of(self, operation: Operation[Any]) -> Any:
        match operation:
            case NextCheckpointId():
                self.last_id += 1
                return CheckpointId(self.last_id)
            case WriteMetadata():
                return WrittenMetadata(size_bytes=1, checksum=1)
            case AddCheckpoint(record=record, retain=retain, keep_from=keep_from):
                self.retained[record.checkpoint] = record
                counted = sorted(n for n, r in self.retained.items() if r.kind == "checkpoint")
                surplus = counted[: max(0, len(counted) - retain)]
                return [self.retained.pop(n) for n in surplus if keep_from is None or n < keep_from]
            case _:
                raise TypeError(f"nobody answers {operation}")

    def answer(self, call: Call, result: Any = None, error: CallError | None = None) -> None:
        self.calls.remove(call)
        self.effects.finish_call(call.call, result, error)
        self.carry_out()

    def open(self, kind: type[Any]) -> Call:
        """The only call of its kind that waits."""
        (call,) = [call for call in self.calls if isinstance(call.operation, kind)]
        return call

    # --- what came of it ---------------------------------------------------------------------------------------------

    def commands(self, kind: type[C]) -> list[C]:
        return [a.command for a in self.actions if isinstance(a, Broadcast) and isinstance(a.command, kind)]

    def cleanups(self, kind: type[C]) -> list[C]:
        return [a.message for a in self.actions if isinstance(a, SendCleanup) and isinstance(a.message, kind)]

    def operations(self, kind: type[C]) -> list[C]:
        """Everything of a kind that was ever asked for."""
        return [a.operation for a in self.actions if isinstance(a, Call) and isinstance(a.operation, kind)]

    def aborted(self) -> list[CheckpointAborted]:
        return [a.notice for a in self.actions if isinstance(a, Report) and isinstance(a.notice, CheckpointAborted)]

    def triggered(self) -> list[int]:
        return [trigger.checkpoint for trigger in self.commands(TriggerCheckpoint)]


_ANSWERED = (NextCheckpointId, WriteMetadata, AddCheckpoint)
