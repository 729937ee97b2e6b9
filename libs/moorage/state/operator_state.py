"""What a checkpoint holds: operators, their subtasks and the handles of each. The types are Flink's."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec

from moorage.ids import Attempt, CheckpointId, JobId, OperatorId, OperatorUid
from moorage.state.handles import (
    ByteStreamHandle,
    InputHandle,
    KeyedHandle,
    OperatorHandle,
    OutputHandle,
    StateHandle,
    checkpointed_bytes,
    paths_of,
    shown_bytes,
)

ROLES = (
    "managed_operator",
    "raw_operator",
    "managed_keyed",
    "raw_keyed",
    "input_channel",
    "result_subpartition",
)
"""What a subtask's handles are for: fields of OperatorSubtaskState."""


class OperatorSubtaskState(msgspec.Struct, frozen=True, kw_only=True):
    """State of one subtask of one operator.

    ``managed_keyed`` of the memory backend is a chain, oldest first: for each key group the newest full segment and the
    deltas after it.
    """

    managed_operator: tuple[OperatorHandle, ...] = ()
    raw_operator: tuple[OperatorHandle, ...] = ()
    managed_keyed: tuple[KeyedHandle, ...] = ()
    raw_keyed: tuple[KeyedHandle, ...] = ()
    input_channel: tuple[InputHandle, ...] = ()
    result_subpartition: tuple[OutputHandle, ...] = ()
    finished: bool = False
    """The subtask had finished before the checkpoint (Flink: FinishedOperatorSubtaskState)."""

    def __repr__(self) -> str:
        counts = [(len(getattr(self, role)), role.replace("_", " ")) for role in ROLES]
        parts = ["finished"] * self.finished + [f"{count} {name}" for count, name in counts if count]
        return f"OperatorSubtaskState({', '.join([*parts, shown_bytes(self.size_bytes)])})"

    def handles(self) -> Iterator[StateHandle]:
        yield from self.managed_operator
        yield from self.raw_operator
        yield from self.managed_keyed
        yield from self.raw_keyed
        yield from self.input_channel
        yield from self.result_subpartition

    @property
    def size_bytes(self) -> int:
        return sum(handle.size_bytes for handle in self.handles())

    @property
    def checkpointed_bytes(self) -> int:
        """What of it this checkpoint has written."""
        return sum(map(checkpointed_bytes, self.handles()))

    def paths(self) -> Iterator[str]:
        for handle in self.handles():
            yield from paths_of(handle)


class OperatorState(msgspec.Struct, frozen=True, kw_only=True):
    """State of all subtasks of an operator."""

    operator: OperatorId
    uid: OperatorUid | None
    name: str | None
    parallelism: int
    max_parallelism: int
    subtasks: dict[int, OperatorSubtaskState]
    """By subtask index; a subtask without state may be missing."""
    coordinator: ByteStreamHandle | None = None
    fully_finished: bool = False

    def __repr__(self) -> str:
        state = "finished" if self.fully_finished else f"{len(self.subtasks)} subtasks with state"
        parallelism = f"parallelism {self.parallelism} of at most {self.max_parallelism}"
        return f"OperatorState({self.uid or self.operator}, {parallelism}, {state}, {shown_bytes(self.size_bytes)})"

    @property
    def partly_finished(self) -> bool:
        return not self.fully_finished and any(subtask.finished for subtask in self.subtasks.values())

    @property
    def size_bytes(self) -> int:
        coordinator = 0 if self.coordinator is None else self.coordinator.size_bytes
        return coordinator + sum(state.size_bytes for state in self.subtasks.values())

    @property
    def checkpointed_bytes(self) -> int:
        coordinator = 0 if self.coordinator is None else self.coordinator.size_bytes
        return coordinator + sum(state.checkpointed_bytes for state in self.subtasks.values())

    def paths(self) -> Iterator[str]:
        for state in self.subtasks.values():
            yield from state.paths()


class MasterState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a master hook (Flink: MasterState)."""

    name: str
    version: int
    data: bytes

    def __repr__(self) -> str:
        return f"MasterState({self.name}, version {self.version}, {shown_bytes(len(self.data))})"


class SnapshotType(Enum):
    """Kind of a checkpoint or savepoint (Flink: CheckpointType, SavepointType)."""

    CHECKPOINT = "checkpoint"
    FULL_CHECKPOINT = "full checkpoint"
    CANONICAL_SAVEPOINT = "canonical savepoint"
    CANONICAL_SUSPEND_SAVEPOINT = "canonical savepoint with suspend"
    CANONICAL_TERMINATE_SAVEPOINT = "canonical savepoint with terminate"
    NATIVE_SAVEPOINT = "native savepoint"
    NATIVE_SUSPEND_SAVEPOINT = "native savepoint with suspend"
    NATIVE_TERMINATE_SAVEPOINT = "native savepoint with terminate"

    @property
    def savepoint(self) -> bool:
        return self not in (SnapshotType.CHECKPOINT, SnapshotType.FULL_CHECKPOINT)


class CheckpointProperties(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a checkpoint (Flink: CheckpointProperties). The defaults are those of a retained checkpoint."""

    snapshot_type: SnapshotType = SnapshotType.CHECKPOINT
    forced: bool = False
    discard_subsumed: bool = True
    discard_finished: bool = True
    discard_cancelled: bool = False
    discard_failed: bool = False
    discard_suspended: bool = False
    unclaimed: bool = False


RETAINED_CHECKPOINT = CheckpointProperties()
CANONICAL_SAVEPOINT = CheckpointProperties(
    snapshot_type=SnapshotType.CANONICAL_SAVEPOINT, discard_subsumed=False, discard_finished=False
)


ORIGIN_STATE = "moorage.origin"
"""The master state that says where a checkpoint comes from; all others are those of hooks."""


class CheckpointMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a ``_metadata`` file (Flink: CheckpointMetadata)."""

    checkpoint: CheckpointId
    operators: tuple[OperatorState, ...]
    master_states: tuple[MasterState, ...] = ()
    savepoint: bool = False
    properties: CheckpointProperties | None = None
    """None: RETAINED_CHECKPOINT or CANONICAL_SAVEPOINT, by ``savepoint``."""

    def paths(self) -> Iterator[str]:
        """Every object of the storage that the checkpoint needs besides its ``_metadata``."""
        for operator in self.operators:
            yield from operator.paths()

    @property
    def hook_states(self) -> tuple[MasterState, ...]:
        """Those of master hooks."""
        return tuple(state for state in self.master_states if state.name != ORIGIN_STATE)

    @property
    def partly_finished(self) -> frozenset[OperatorId]:
        """Operators some of whose subtasks had finished."""
        return frozenset(operator.operator for operator in self.operators if operator.partly_finished)

    def operator(self, operator: OperatorId) -> OperatorState | None:
        return next((o for o in self.operators if o.operator == operator), None)


class CheckpointOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint comes from: enough to rebuild the registry from the storage alone. Travels as the master state
    ``moorage.origin``."""

    job: JobId
    attempt: Attempt
    triggered_ms: int
    record: bytes = b""
    """The job as the registry holds it: ``checkpoint.rebuild.encode_record``; empty before Moorage 0.1."""
    completed: tuple[CheckpointId, ...] = ()
    """Checkpoints of the job that were completed before."""
