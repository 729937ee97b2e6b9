"""Who gets which part of a checkpoint: a pure function of the checkpoint and the new parallelism.

Every worker computes the share of its own subtasks from the same ``_metadata``; nobody distributes state. Flink:
StateAssignmentOperation.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from moorage.errors import StateError
from moorage.ids import OperatorId
from moorage.state.handles import InputChannelHandle, KeyedHandle, OperatorStreamHandle
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import CheckpointMetadata

T = TypeVar("T")


class SubtaskShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one subtask of one operator restores."""

    keyed: tuple[KeyedHandle, ...] = ()
    """Handles that hold some of its key groups, chains in order."""
    union: tuple[OperatorStreamHandle, ...] = ()
    """Operator state of all former subtasks."""
    channels: tuple[InputChannelHandle, ...] = ()
    """Channel state of all former subtasks: partitions are picked from it by who owns them now."""


def assign(
    metadata: CheckpointMetadata, operator: OperatorId, uid: str, max_parallelism: int, parallelism: int, subtask: int
) -> SubtaskShare:
    """The share of a subtask; empty for an operator that the checkpoint does not know.

    StateError when the number of key groups differs: keys would be looked for in the wrong place.
    """
    state = metadata.operator(operator)
    if state is None:
        return SubtaskShare()
    if state.max_parallelism != max_parallelism:
        raise StateError(
            f"operator {uid!r}: checkpoint {metadata.checkpoint} was written with max_parallelism"
            f" {state.max_parallelism}, the pipeline has {max_parallelism}; it can't change while there is state"
        )
    mine = key_group_range(max_parallelism, parallelism, subtask)
    former = [state.subtasks[index] for index in sorted(state.subtasks)]
    return SubtaskShare(
        keyed=tuple(h for s in former for h in s.managed_keyed if len(h.key_groups.intersection(mine))),
        union=tuple(_ours(uid, h, OperatorStreamHandle) for s in former for h in s.managed_operator),
        channels=tuple(_ours(uid, h, InputChannelHandle) for s in former for h in s.input_channel),
    )


def is_finished(metadata: CheckpointMetadata, operator: OperatorId, parallelism: int, subtask: int) -> bool:
    """Whether a subtask had finished before the checkpoint. Where only some had, and the parallelism is another now,
    none has: who owns what is left of their input goes on with it."""
    state = metadata.operator(operator)
    if state is None:
        return False
    if state.fully_finished:
        return True
    former = state.subtasks.get(subtask)
    return state.parallelism == parallelism and former is not None and former.finished


def _ours(uid: str, handle: object, kind: type[T]) -> T:
    if not isinstance(handle, kind):
        raise StateError(f"operator {uid!r}: its state is a {type(handle).__name__}, which Moorage writes nowhere")
    return handle
