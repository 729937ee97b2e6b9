"""Rows of keyed state, without the class that wrote them: what stands beside the rows says what is in them.

The rows of a key group are put together out of all that its checkpoint has of it, and come with everything that belongs
to the key: the fields of the row and its states. One key group is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from moorage.errors import StateError
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.decoding import KeyRows
from moorage.inspect.files import StateFiles
from moorage.inspect.rocksdb import RocksDbInstance, instance_schemas, opened
from moorage.inspect.segments import segment_of
from moorage.serde.row_schema import RowSchema
from moorage.state.handles import ChangelogHandle, IncrementalKeyedHandle, KeyGroupsHandle
from moorage.state.operator_state import OperatorState


class StateRow(NamedTuple):
    """All that is stored of a key."""

    key_group: int
    key: Any
    values: Mapping[str, Any]
    """Fields of the row by name; the value of a ValueState or ReducingState or None, a ListState as list, a MapState as
    dict (as list of pairs, where its keys can't be a dict's)."""

    def record(self) -> dict[str, Any]:
        """Key, key group and values side by side; ``state.`` stands before the name of a value that is called alike."""
        record = {"key": self.key, "key_group": self.key_group}
        for name, value in self.values.items():
            record[column(name)] = value
        return record


def column(name: str) -> str:
    """What a value is called in a record."""
    return f"state.{name}" if name in ("key", "key_group") else name


def rows_of(checkpoint: OpenCheckpoint, operator: str) -> Iterator[StateRow]:
    """The rows of an operator, named by its uid, name or id, by ascending key group.

    StateError: there is no such operator, or its state is none of ours. CorruptDataError names the file.
    """
    state = find_operator(checkpoint, operator)
    for _, subtask in sorted(state.subtasks.items()):
        with ExitStack() as stack:
            instances = [
                stack.enter_context(opened(handle, checkpoint.files))
                for handle in subtask.managed_keyed
                if isinstance(handle, IncrementalKeyedHandle)
            ]
            chain = [handle for handle in subtask.managed_keyed if isinstance(handle, KeyGroupsHandle)]
            for group in sorted({group for handle in subtask.managed_keyed for group in handle.key_groups.groups()}):
                yield from _group_rows(group, instances, chain, checkpoint.files)


def _group_rows(
    group: int, instances: Sequence[RocksDbInstance], chain: Sequence[KeyGroupsHandle], files: StateFiles
) -> Iterator[StateRow]:
    keys: KeyRows = {}
    for instance in instances:
        instance.apply(group, keys)
    for handle in chain:
        segment = segment_of(handle, group)
        if segment is not None:
            segment.apply(files, keys)
    for key in keys.values():
        yield StateRow(group, key.key, key.values())


def schemas_of(checkpoint: OpenCheckpoint, operator: str) -> list[RowSchema]:
    """The different schemas by which an operator's rows were written. Errors as of ``rows_of``."""
    found: dict[bytes, RowSchema] = {}
    for subtask in find_operator(checkpoint, operator).subtasks.values():
        for handle in subtask.managed_keyed:
            match handle:
                case IncrementalKeyedHandle():
                    found |= instance_schemas(handle, checkpoint.files)
                case KeyGroupsHandle():
                    segments = (segment_of(handle, group) for group in handle.key_groups.groups())
                    found |= dict(segment.schema(checkpoint.files) for segment in filter(None, segments))
    return list(found.values())


def find_operator(checkpoint: OpenCheckpoint, operator: str) -> OperatorState:
    operators = checkpoint.metadata.operators
    found = next((o for o in operators if operator in (o.uid, o.operator, o.name)), None)
    if found is None:
        names = ", ".join(str(o.uid or o.operator) for o in operators) or "none"
        raise StateError(f"{checkpoint.location} has no operator {operator!r}; it has {names}")
    if not checkpoint.is_ours:
        raise StateError(f"{checkpoint.location} was not written by Moorage: its rows can't be read without Flink")
    if any(isinstance(handle, ChangelogHandle) for s in found.subtasks.values() for handle in s.managed_keyed):
        raise StateError(f"operator {operator!r} in {checkpoint.location} has a changelog, which Moorage never writes")
    return found
