"""Rows as Parquet; the only module that needs pyarrow (``pip install moorage[parquet]``).

A column per field and state, of the type that was declared. What has no one type (undeclared keys, unions, types that
changed) is a text column: text as it is, everything else as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from moorage.inspect.json_text import json_text
from moorage.inspect.rows import StateRow, column
from moorage.serde.row_schema import RowSchema, StateSchema
from moorage.serde.type_schema import TypeSchema

BATCH_ROWS = 10_000

UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""A value is not of the type of its column, or beyond what Parquet has room for."""

_PLAIN: Mapping[str, pa.DataType] = {
    "none": pa.null(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "bytes": pa.binary(),
    "datetime": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "time": pa.string(),
    "timedelta": pa.string(),
    "uuid": pa.string(),
    "decimal": pa.string(),
}


def write(file: BinaryIO, rows: Iterable[StateRow], schemas: Iterable[RowSchema]) -> int:
    """Returns the number of rows; raises UNFIT."""
    types = {name: _arrow_type(schema) for name, schema in _columns(schemas).items()}
    as_text = [name for name, kind in types.items() if kind is None]
    schema = pa.schema([(name, pa.string() if kind is None else kind) for name, kind in types.items()])
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for records in _batches(rows):
            for record in records:
                for name in as_text:
                    record[name] = _text(record.get(name))
            writer.write_table(pa.Table.from_pylist(records, schema=schema))
            count += len(records)
    return count


def _batches(rows: Iterable[StateRow]) -> Iterator[list[dict[str, Any]]]:
    records = (row.record() for row in rows)
    while batch := list(islice(records, BATCH_ROWS)):
        yield batch


def _columns(schemas: Iterable[RowSchema]) -> dict[str, TypeSchema]:
    """What was stored by all versions of the class together; where they do not agree, anything."""
    columns: dict[str, TypeSchema] = {}
    for schema in schemas:
        found: dict[str, TypeSchema] = {"key": schema.key, "key_group": ["int"]}
        found |= {column(name): kind for name, kind in schema.fields if kind[0] != "state"}
        found |= {column(state.name): _state_type(state) for state in schema.states}
        for name, kind in found.items():
            columns[name] = kind if columns.get(name, kind) == kind else ["any"]
    return columns or {"key": ["any"], "key_group": ["int"]}


def _state_type(state: StateSchema) -> TypeSchema:
    match state.kind:
        case "list":
            return ["list", state.value]
        case "map":
            return ["dict", state.entry, state.value]
        case _:
            return state.value


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json_text(value).decode()


def _arrow_type(schema: TypeSchema) -> pa.DataType | None:
    """None: there is none."""
    kind, *rest = schema
    match kind:
        case "list":
            item = _arrow_type(rest[0])
            return None if item is None else pa.list_(item)
        case "dict":
            key, value = map(_arrow_type, rest)
            return None if key is None or value is None else pa.map_(key, value)
        case "struct":
            fields = [(name, _arrow_type(field)) for name, field, _ in rest[3]]
            return None if not fields or any(field is None for _, field in fields) else pa.struct(fields)
        case "union":
            left = [choice for choice in rest if choice[0] != "none"]
            return _arrow_type(left[0]) if len(left) == 1 else None
        case "one of":
            kinds = {type(value) for value in rest}
            return pa.string() if kinds == {str} else pa.int64() if kinds == {int} else None
        case _:
            return _PLAIN.get(kind)
