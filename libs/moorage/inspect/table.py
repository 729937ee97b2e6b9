"""The state of an operator as a table: one record per key, or per element where there are no keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.lists import ELEMENT_COLUMNS, elements_of
from moorage.inspect.rows import column, find_operator, rows_of, schemas_of
from moorage.serde.row_schema import RowSchema, StateSchema
from moorage.serde.type_schema import TypeSchema


class OperatorTable:
    """Names the operator by its uid, name or id. StateError: there is no such one, or it is none of ours."""

    def __init__(self, checkpoint: OpenCheckpoint, operator: str) -> None:
        self._checkpoint = checkpoint
        self._operator = operator
        self._state = find_operator(checkpoint, operator)
        self._has_keys = any(subtask.managed_keyed for subtask in self._state.subtasks.values())

    def records(self) -> Iterator[dict[str, Any]]:
        """CorruptDataError and others name the file."""
        if not self._has_keys:
            return elements_of(self._state, self._checkpoint.files)
        return (row.record() for row in rows_of(self._checkpoint, self._operator))

    def columns(self) -> Mapping[str, TypeSchema]:
        """What records have, and of which types; what several versions of a class do not agree on is ``any``."""
        return _columns(schemas_of(self._checkpoint, self._operator)) if self._has_keys else ELEMENT_COLUMNS


def _columns(schemas: Iterable[RowSchema]) -> dict[str, TypeSchema]:
    columns: dict[str, TypeSchema] = {}
    for schema in schemas:
        found: dict[str, TypeSchema] = {"key": schema.key, "key_group": ["int"]}
        found |= {column(name): kind for name, kind in schema.fields if kind[0] != "state"}
        found |= {column(state.name): _state_type(state) for state in schema.states}
        for name, kind in found.items():
            columns[name] = kind if columns.get(name, kind) == kind else ["any"]
    return columns


def _state_type(state: StateSchema) -> TypeSchema:
    match state.kind:
        case "list":
            return ["list", state.value]
        case "map":
            return ["dict", state.entry, state.value]
        case _:
            return state.value
