"""What a checkpoint holds: operators, their subtasks, and the handles of each (Flink: OperatorState, OperatorSubtaskState)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from moorage.ids import Attempt, CheckpointId, JobId, OperatorId, OperatorUid
from moorage.state.handles import (
    ByteStreamHandle,
    InputChannelHandle,
    KeyedHandle,
    OperatorStreamHandle,
    ResultSubpartitionHandle,
    StateHandle,
    paths_of,
)


class OperatorSubtaskState(msgspec.Struct, frozen=True, kw_only=True):
    """State of one subtask of one operator.

    ``managed_keyed`` of the memory backend is a chain, oldest first: for each key group the newest full segment and the
    deltas after it.
    """

    managed_operator: tuple[OperatorStreamHandle, ...] = ()
    raw_operator: tuple[OperatorStreamHandle, ...] = ()
    managed_keyed: tuple[KeyedHandle, ...] = ()
    raw_keyed: tuple[KeyedHandle, ...] = ()
    input_channel: tuple[InputChannelHandle, ...] = ()
    result_subpartition: tuple[ResultSubpartitionHandle, ...] = ()
    finished: bool = False
    """The subtask had finished before the checkpoint (Flink: FinishedOperatorSubtaskState)."""

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

    def paths(self) -> Iterator[str]:
        for state in self.subtasks.values():
            yield from state.paths()


class MasterState(msgspec.Struct, frozen=True, kw_only=True):
    """State of a master hook (Flink: MasterState)."""

    name: str
    version: int
    data: bytes


class CheckpointMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Content of a ``_metadata`` file (Flink: CheckpointMetadata)."""

    checkpoint: CheckpointId
    operators: tuple[OperatorState, ...]
    master_states: tuple[MasterState, ...] = ()
    savepoint: bool = False

    def paths(self) -> Iterator[str]:
        """Every object of the storage that the checkpoint needs besides its ``_metadata``."""
        for operator in self.operators:
            yield from operator.paths()

    def operator(self, operator: OperatorId) -> OperatorState | None:
        return next((o for o in self.operators if o.operator == operator), None)


class CheckpointOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a checkpoint comes from: enough to rebuild the registry from the storage alone. Travels as the master state
    ``moorage.origin``."""

    job: JobId
    attempt: Attempt
    triggered_ms: int
