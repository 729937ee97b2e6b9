"""Stored values as people read them, by the types that were stored beside them.

State is msgpack: a Struct that is ``array_like`` lies there as a list, a date as text. ``reader_of`` makes dicts with
names and dates of them, without the classes that wrote them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from moorage.serde.type_schema import TypeSchema

Reader = Callable[[Any], Any]


def reader_of(schema: TypeSchema) -> Reader | None:
    """What to do with a value of this type; None: nothing. Raises what a schema that makes no sense raises: TypeError,
    ValueError, IndexError, RecursionError."""
    kind, *rest = schema
    match kind:
        case "datetime":
            return _datetime
        case "date":
            return date.fromisoformat
        case "list":
            return _list(reader_of(rest[0]))
        case "tuple":
            return _tuple([reader_of(item) for item in rest])
        case "dict":
            return _dict(reader_of(rest[0]), reader_of(rest[1]))
        case "struct":
            return _struct(rest)
        case "union":
            return _union(rest)
        case _:
            return None


def _datetime(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _list(item: Reader | None) -> Reader | None:
    return None if item is None else lambda values: list(map(item, values))


def _tuple(items: Sequence[Reader | None]) -> Reader | None:
    if not any(items):
        return None
    return lambda values: [value if item is None else item(value) for item, value in zip(items, values, strict=True)]


def _dict(key: Reader | None, value: Reader | None) -> Reader | None:
    if key is None and value is None:
        return None
    read_key, read_value = key or _same, value or _same
    return lambda mapping: {read_key(k): read_value(v) for k, v in mapping.items()}


def _struct(rest: Sequence[Any]) -> Reader | None:
    _, array_like, tag, fields = rest[:4]
    named = [(str(name), reader_of(schema) or _same) for name, schema, _ in fields]
    if array_like:
        skipped = 0 if tag is None else 1
        # A class that is older or newer than the row may have fewer or more fields than it.
        return lambda row: {name: read(value) for (name, read), value in zip(named, row[skipped:], strict=False)}
    readers = {name: read for name, read in named if read is not _same}
    if not readers:
        return None
    return lambda record: {name: readers.get(name, _same)(value) for name, value in record.items()}


def _union(choices: Sequence[TypeSchema]) -> Reader | None:
    """Only what leaves no doubt is read: None, or the one type that is left."""
    left = [choice for choice in choices if choice[0] != "none"]
    read = reader_of(left[0]) if len(left) == 1 else None
    return None if read is None else lambda value: None if value is None else read(value)


def _same(value: Any) -> Any:
    return value


def hashable(value: Any) -> Any:
    """A key: what is a list in msgpack was a tuple."""
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def mapping(entries: list[tuple[Any, Any]]) -> dict[Any, Any] | list[tuple[Any, Any]]:
    """Entries as a dict, or as they are where a key can't be a dict's."""
    try:
        return dict(entries)
    except TypeError:
        return entries
