"""Who gets which elements of the state of an operator without keys: a pure function of the checkpoint and the new
parallelism (Flink: RoundRobinOperatorStateRepartitioner).

A list state is a row of elements in each former subtask. By its mode they are dealt out evenly (*split*: to whom does
not matter), all given to everybody (*union*), or the same in every subtask anyhow (*broadcast*).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from moorage.errors import StateError
from moorage.ids import OperatorId
from moorage.state.handles import DistributionMode, OperatorStreamHandle, StreamHandle
from moorage.state.operator_state import CheckpointMetadata


class Element(NamedTuple):
    """Where one element lies."""

    stream: StreamHandle
    start: int
    end: int | None
    """None: where the stream ends."""


def predecessor(unfinished: Collection[int], subtask: int) -> int:
    """With whose broadcast state, and from whose place in the broadcast stream, a subtask goes on: its own, else that
    of one of the former subtasks that had not finished, of which there is one."""
    return subtask if subtask in unfinished else sorted(unfinished)[subtask % len(unfinished)]


def assign_elements(
    metadata: CheckpointMetadata, operator: OperatorId, uid: str, parallelism: int, subtask: int
) -> dict[str, list[Element]] | None:
    """The elements of each list state that a subtask restores; None for an operator that the checkpoint does not know.
    StateError: the state is not ours."""
    state = metadata.operator(operator)
    if state is None:
        return None
    unfinished = set(range(state.parallelism)).difference(i for i, s in state.subtasks.items() if s.finished)
    found: dict[str, tuple[DistributionMode, dict[int, list[Element]]]] = {}
    for index, former in sorted(state.subtasks.items()):
        for handle in former.managed_operator:
            if not isinstance(handle, OperatorStreamHandle):
                raise StateError(
                    f"operator {uid!r}: its state is a {type(handle).__name__}, which Moorage writes nowhere"
                )
            starts = sorted(offset for info in handle.states.values() for offset in info.offsets)
            ends = dict(zip(starts, [*starts[1:], None], strict=True))
            for name, info in handle.states.items():
                _, by_subtask = found.setdefault(name, (info.mode, {}))
                by_subtask.setdefault(index, []).extend(Element(handle.stream, s, ends[s]) for s in info.offsets)
    return {
        name: by_subtask.get(predecessor(unfinished, subtask), [])
        if mode is DistributionMode.BROADCAST
        else _share(mode, by_subtask, state.parallelism, parallelism, subtask)
        for name, (mode, by_subtask) in found.items()
    }


def _share(
    mode: DistributionMode, former: dict[int, list[Element]], former_parallelism: int, parallelism: int, subtask: int
) -> list[Element]:
    if mode is DistributionMode.SPLIT and former_parallelism == parallelism:
        return former.get(subtask, [])
    everything = [element for elements in former.values() for element in elements]
    if mode is DistributionMode.UNION:
        return everything
    size, rest = divmod(len(everything), parallelism)
    begin = subtask * size + min(subtask, rest)
    return everything[begin : begin + size + (subtask < rest)]
