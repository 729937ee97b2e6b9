"""Lists that operators without keys have stored: element by element, as records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moorage.errors import CorruptDataError, StateError
from moorage.inspect.decoding import MALFORMED, decode
from moorage.inspect.describe import source_offsets
from moorage.inspect.files import StateFiles, stream_name
from moorage.serde.type_schema import TypeSchema
from moorage.state.handles import OperatorHandle, OperatorStreamHandle
from moorage.state.operator_state import OperatorState
from moorage.task.source import SOURCE_OFFSETS

ELEMENT_COLUMNS: dict[str, TypeSchema] = {
    "state": ["str"],
    "subtask": ["int"],
    "index": ["int"],
    "value": ["any"],
}


def elements_of(operator: OperatorState, files: StateFiles) -> Iterator[dict[str, Any]]:
    """Name of the state, subtask, index and value of every element; of a source, where it goes on in each partition.

    CorruptDataError names the file; StateError: the state is none of ours.
    """
    for subtask, state in sorted(operator.subtasks.items()):
        for handle in state.managed_operator:
            for name, index, value in _elements(handle, files):
                yield {"state": name, "subtask": subtask, "index": index, "value": value}


def _elements(handle: OperatorHandle, files: StateFiles) -> Iterator[tuple[str, int, Any]]:
    if not isinstance(handle, OperatorStreamHandle):
        raise StateError(f"list states in a {type(handle).__name__} are not Moorage's")
    if SOURCE_OFFSETS in handle.states:
        for index, split in enumerate(source_offsets(handle, files)):
            place = {"topic": split.topic, "partition": split.partition, "offset": split.offset, "end": split.end}
            yield SOURCE_OFFSETS, index, place
        return
    data = files.read(handle.stream)
    starts = sorted({offset for info in handle.states.values() for offset in info.offsets})
    ends = dict(zip(starts, [*starts[1:], len(data)], strict=True))
    for name, info in handle.states.items():
        for index, start in enumerate(info.offsets):
            try:
                yield name, index, decode(data[max(0, start) : ends[start]])
            except MALFORMED as error:
                raise CorruptDataError(f"{stream_name(handle.stream)}, element at {start}: {error}") from error
