"""A checkpoint that was triggered and is not decided (Flink: PendingCheckpoint).

==============  ================================================  ==========================================
state           means                                             left to
==============  ================================================  ==========================================
HOOKS           master hooks are asked                            ACKNOWLEDGING: they have answered; ABORTED
ACKNOWLEDGING   subtasks snapshot                                 WRITING: all acknowledged; ABORTED
WRITING         ``_metadata`` is being written                    REGISTERING: it is durable; ABORTED
REGISTERING     the registry was asked to add it: its outcome     COMPLETED: added; ABORTED: refused for sure
                is unknown until the registry answers
COMPLETED       final
ABORTED         final
==============  ================================================  ==========================================

The cost of an acknowledgement depends on what it carries, not on the number of subtasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import assert_never

import msgspec

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.decider import CheckpointRequest
from moorage.graph.checkpoint_plan import CheckpointPlan
from moorage.graph.job_graph import JobVertex, OperatorKind
from moorage.ids import Attempt, CheckpointId, OperatorId, OperatorUid, SubtaskId, VertexId
from moorage.messages.barriers import SnapshotKind, SnapshotOptions
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.messages.registry import CheckpointRecord
from moorage.naming import parse_storage_path
from moorage.state.handles import ByteStreamHandle, DistributionMode
from moorage.state.operator_state import (
    CANONICAL_SAVEPOINT,
    RETAINED_CHECKPOINT,
    CheckpointMetadata,
    CheckpointProperties,
    MasterState,
    OperatorState,
    OperatorSubtaskState,
    SnapshotType,
)

FINISHED = OperatorSubtaskState(finished=True)


class PendingState(Enum):
    HOOKS = "hooks"
    ACKNOWLEDGING = "acknowledging"
    WRITING = "writing"
    REGISTERING = "registering"
    COMPLETED = "completed"
    ABORTED = "aborted"


TRANSITIONS: Mapping[PendingState, frozenset[PendingState]] = {
    PendingState.HOOKS: frozenset({PendingState.ACKNOWLEDGING, PendingState.ABORTED}),
    PendingState.ACKNOWLEDGING: frozenset({PendingState.WRITING, PendingState.ABORTED}),
    PendingState.WRITING: frozenset({PendingState.REGISTERING, PendingState.ABORTED}),
    PendingState.REGISTERING: frozenset({PendingState.COMPLETED, PendingState.ABORTED}),
    PendingState.COMPLETED: frozenset(),
    PendingState.ABORTED: frozenset(),
}


class PendingCheckpoint:
    """See the module. Times: ``triggered_ms`` on the wall, ``deadline_ms`` monotonic."""

    def __init__(
        self,
        checkpoint: CheckpointId,
        attempt: Attempt,
        plan: CheckpointPlan,
        max_parallelism: int,
        *,
        base: CheckpointId,
        triggered_ms: int,
        deadline_ms: int,
        request: CheckpointRequest,
        options: SnapshotOptions,
        operators: frozenset[OperatorUid] = frozenset(),
    ) -> None:
        self.checkpoint = checkpoint
        self.attempt = attempt
        self.base = base
        self.triggered_ms = triggered_ms
        self.deadline_ms = deadline_ms
        self.hooks_deadline_ms = deadline_ms
        """When the hooks must have answered."""
        self.request = request
        self.options = options
        self.state = PendingState.HOOKS
        self.master_states: tuple[MasterState, ...] = ()
        self.state_bytes = 0
        self.record: CheckpointRecord | None = None
        """What the registry will be asked to add, once the metadata is written."""
        self.plan = plan
        self._max_parallelism = max_parallelism
        self._missing = set(plan.wait_for)
        self._missing_operators = set(operators)
        """Whose coordinators have not handed in their state."""
        self._coordinator_states: dict[OperatorUid, bytes] = {}
        self._finished: dict[VertexId, set[int]] = {vertex.vertex: set() for vertex in plan.vertices}
        """Subtasks whose operators are all recorded as finished."""
        for vertex_id, index in plan.finished:
            self._finished[vertex_id].add(index)
        self._operators: dict[VertexId, dict[OperatorId, dict[int, OperatorSubtaskState]]] = {
            vertex.vertex: {operator.operator_id: {} for operator in vertex.operators} for vertex in plan.vertices
        }

    def acknowledge(self, message: AcknowledgeCheckpoint) -> AcknowledgeOutcome:
        if self.state is PendingState.ABORTED:
            return AcknowledgeOutcome.DISCARDED
        subtask = SubtaskId(message.vertex, message.subtask)
        if subtask not in self.plan.wait_for:
            return AcknowledgeOutcome.UNKNOWN
        if subtask not in self._missing:
            return AcknowledgeOutcome.DUPLICATE
        operators = self._operators[subtask.vertex]
        if any(snapshot.operator not in operators for snapshot in message.operators):
            return AcknowledgeOutcome.UNKNOWN
        for snapshot in message.operators:
            operators[snapshot.operator][subtask.subtask] = snapshot.state
            if snapshot.state.finished:
                self._finished[subtask.vertex].add(subtask.subtask)  # At the end of its data: it finishes next.
        self._missing.remove(subtask)
        self.state_bytes += message.metrics.state_bytes
        return AcknowledgeOutcome.SUCCESS

    def hooks_acknowledged(self, states: tuple[MasterState, ...]) -> AcknowledgeOutcome:
        if self.state is PendingState.ABORTED:
            return AcknowledgeOutcome.DISCARDED
        if self.state is not PendingState.HOOKS:
            return AcknowledgeOutcome.DUPLICATE
        self.master_states = states
        return AcknowledgeOutcome.SUCCESS

    def coordinator_acknowledged(self, operator: OperatorUid, state: bytes) -> AcknowledgeOutcome:
        if self.state is PendingState.ABORTED:
            return AcknowledgeOutcome.DISCARDED
        if operator in self._coordinator_states:
            return AcknowledgeOutcome.DUPLICATE
        if operator not in self._missing_operators:
            return AcknowledgeOutcome.UNKNOWN
        self._missing_operators.remove(operator)
        self._coordinator_states[operator] = state
        self.state_bytes += len(state)
        return AcknowledgeOutcome.SUCCESS

    def finished(self, subtask: SubtaskId) -> bool:
        """The subtask has finished: nothing more comes from it. True: it was still waited for.

        It finishes only behind a completed checkpoint that covers its end, so it has no state that could be missing.
        """
        if self.state is PendingState.ABORTED or subtask not in self._missing:
            return False
        self._missing.remove(subtask)
        self._finished[subtask.vertex].add(subtask.subtask)
        return True

    def partly_finished_union(self) -> OperatorUid | None:
        """An operator with union state some of whose subtasks have finished: their part of the state is gone, so what
        a restart would hand to all is not whole (Flink: PartialFinishingNotSupportedByStateException). None: no such.

        A source's positions are no such state: it reads nothing of a partition that no checkpoint knows and that it has
        read to the end.
        """
        for vertex in self.plan.vertices:
            if 0 < len(self._finished[vertex.vertex]) < vertex.parallelism:
                for operator in vertex.operators:
                    states = self._operators[vertex.vertex][operator.operator_id].values()
                    if operator.kind is not OperatorKind.SOURCE and any(map(_has_union, states)):
                        return operator.uid
        return None

    @property
    def is_savepoint(self) -> bool:
        return self.options.kind.is_savepoint

    @property
    def is_part_of_history(self) -> bool:
        """Once complete, the job restarts from it and sinks commit with it; a savepoint counts only if it ends the
        job, as its owner may delete it at any time."""
        return not self.is_savepoint or self.options.kind.stops

    @property
    def is_fully_acknowledged(self) -> bool:
        return not self._missing and not self._missing_operators

    def describe_missing(self) -> str:
        """What it waits for, for people."""
        if self._missing:
            some = ", ".join(str(subtask) for subtask in sorted(self._missing)[:5])
            return f"{len(self._missing)} subtasks did not acknowledge: {some}"
        if self._missing_operators:
            return f"coordinators of operators did not acknowledge: {', '.join(sorted(self._missing_operators))}"
        return "metadata not written"

    def waits_for(self, subtask: SubtaskId) -> bool:
        return subtask in self._missing

    def go(self, state: PendingState) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"checkpoint {self.checkpoint} can't go from {self.state.value} to {state.value}")
        self.state = state

    def paths(self) -> Iterator[str]:
        """Every file that acknowledgements so far refer to."""
        for operators in self._operators.values():
            for subtasks in operators.values():
                for state in subtasks.values():
                    yield from state.paths()

    def metadata(self) -> CheckpointMetadata:
        """What ``_metadata`` will hold: every operator of the plan, also those without state."""
        return CheckpointMetadata(
            checkpoint=self.checkpoint,
            master_states=self.master_states,
            savepoint=self.is_savepoint,
            properties=_properties(self.options),
            operators=tuple(
                OperatorState(
                    operator=operator.operator_id,
                    uid=operator.uid,
                    name=operator.name,
                    parallelism=vertex.parallelism,
                    max_parallelism=self._max_parallelism,
                    subtasks=self._subtasks(vertex, operator.operator_id),
                    coordinator=self._coordinator(vertex, operator.uid),
                    fully_finished=self._is_fully_finished(vertex),
                )
                for vertex in self.plan.vertices
                for operator in vertex.operators
            ),
        )

    def _subtasks(self, vertex: JobVertex, operator: OperatorId) -> dict[int, OperatorSubtaskState]:
        if self._is_fully_finished(vertex):
            return {}
        states = self._operators[vertex.vertex][operator]
        return dict(sorted({**states, **dict.fromkeys(self._finished[vertex.vertex], FINISHED)}.items()))

    def _coordinator(self, vertex: JobVertex, operator: OperatorUid) -> ByteStreamHandle | None:
        state = self._coordinator_states.get(operator)
        if state is None or self._is_fully_finished(vertex):
            return None
        return ByteStreamHandle(name=f"coordinator-{operator}", data=state)

    def _is_fully_finished(self, vertex: JobVertex) -> bool:
        return len(self._finished[vertex.vertex]) == vertex.parallelism

    def validate(self) -> None:
        assert self._missing <= self.plan.wait_for
        assert not any(subtask.subtask in self._finished[subtask.vertex] for subtask in self._missing)
        if self.state not in (PendingState.HOOKS, PendingState.ACKNOWLEDGING, PendingState.ABORTED):
            assert not self._missing
            assert not self._missing_operators
        assert self._missing_operators.isdisjoint(self._coordinator_states)
        if self.state is PendingState.REGISTERING:
            assert self.record is not None
        assert self.base < self.checkpoint


def _has_union(state: OperatorSubtaskState) -> bool:
    return any(
        info.mode is DistributionMode.UNION for handle in state.managed_operator for info in handle.states.values()
    )


def _properties(options: SnapshotOptions) -> CheckpointProperties:
    match options.kind:
        case SnapshotKind.CHECKPOINT:
            return RETAINED_CHECKPOINT
        case SnapshotKind.FULL_CHECKPOINT:
            return msgspec.structs.replace(RETAINED_CHECKPOINT, snapshot_type=SnapshotType.FULL_CHECKPOINT)
        case SnapshotKind.SAVEPOINT:
            kind = SnapshotType.NATIVE_SAVEPOINT if options.native else SnapshotType.CANONICAL_SAVEPOINT
        case SnapshotKind.SUSPEND:
            kind = SnapshotType.NATIVE_SUSPEND_SAVEPOINT if options.native else SnapshotType.CANONICAL_SUSPEND_SAVEPOINT
        case SnapshotKind.TERMINATE:
            kind = (
                SnapshotType.NATIVE_TERMINATE_SAVEPOINT
                if options.native
                else SnapshotType.CANONICAL_TERMINATE_SAVEPOINT
            )
        case _ as never:
            assert_never(never)
    return msgspec.structs.replace(CANONICAL_SAVEPOINT, snapshot_type=kind)


def paths_of_message(message: AcknowledgeCheckpoint) -> set[str]:
    """Every file that an acknowledgement refers to."""
    return {path for snapshot in message.operators for path in snapshot.state.paths()}


def paths_written_for(message: AcknowledgeCheckpoint) -> tuple[str, ...]:
    """The files that an acknowledgement brings and that were written for this very checkpoint: its handles also name
    files of earlier ones."""
    parsed = {path: parse_storage_path(path) for path in paths_of_message(message)}
    mine = (message.job, message.checkpoint)
    return tuple(sorted(path for path, at in parsed.items() if at is not None and (at.job, at.checkpoint) == mine))
