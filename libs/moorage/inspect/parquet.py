"""Records as Parquet; the only module that needs pyarrow (``pip install moorage[parquet]``).

Columns have the types that were declared. What has no one type (undeclared keys, unions, types that changed) is a text
column: text as it is, everything else as JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from moorage.inspect.json_text import json_text
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


def write(file: BinaryIO, columns: Mapping[str, TypeSchema], records: Iterable[dict[str, Any]]) -> int:
    """Returns the number of records; raises UNFIT."""
    types = {name: _arrow_type(schema) for name, schema in columns.items()}
    as_text = [name for name, kind in types.items() if kind is None]
    schema = pa.schema([(name, pa.string() if kind is None else kind) for name, kind in types.items()])
    remaining = iter(records)
    count = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(remaining, BATCH_ROWS)):
            for record in batch:
                for name in as_text:
                    record[name] = _text(record.get(name))
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


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
