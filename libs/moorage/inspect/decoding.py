"""One key group's rows while they are put together, by the schemas that were stored beside them.

Keys and entries are told apart as a dict does it, so that an ``int`` is found again where its type was widened to
``float``; those that a dict can't have (a Struct that is an object) by their bytes.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import msgspec

from moorage.inspect.values import Reader, hashable, mapping, reader_of
from moorage.serde.row_schema import RowSchema, StateSchema

MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError)
"""What the functions here raise for content that makes no sense."""

decode = msgspec.msgpack.Decoder().decode


Entries = dict[Any, tuple[Any, Any]]
"""Entry and value, by the identity of the entry."""


class KeyRow:
    """What is known of a key so far."""

    __slots__ = ("fields", "key", "states")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.fields: dict[str, Any] = {}
        self.states: dict[str, tuple[str, Entries]] = {}
        """By name: the kind, and what there is."""

    def values(self) -> dict[str, Any]:
        return self.fields | {name: _shown(kind, list(e.values())) for name, (kind, e) in self.states.items()}


def _shown(kind: str, entries: list[tuple[Any, Any]]) -> Any:
    match kind:
        case "list":
            return [value for _, value in sorted(entries, key=itemgetter(0))]
        case "map":
            return mapping(entries)
        case _:
            return entries[0][1] if entries else None


KeyRows = dict[Any, KeyRow]
"""By the identity of the key."""


def identity(raw: bytes) -> Any:
    """What tells a stored key or entry from others."""
    return _identity(raw, decode(raw))


def _identity(raw: bytes, value: Any) -> Any:
    value = hashable(value)
    try:
        hash(value)
    except TypeError:
        return raw
    return value


class RowDecoder:
    """Rows that were written by one schema. MALFORMED, also for a schema that makes no sense."""

    def __init__(self, schema: RowSchema) -> None:
        self.schema = schema
        self.states = [EntryDecoder(state) for state in schema.states]
        """In the schema's order."""
        self._key = reader_of(schema.key)
        fields = [(place, name, kind) for place, (name, kind) in enumerate(schema.fields) if kind[0] != "state"]
        self._places = [(name, place) for place, name, _ in fields]
        self._readers = [(name, reader) for _, name, kind in fields if (reader := reader_of(kind)) is not None]

    def put(self, keys: KeyRows, key: bytes, row: list[Any]) -> None:
        """A key's row; the entries that the key has stay."""
        value = decode(key)
        name = _identity(key, value)
        known = keys.get(name)
        if known is None:
            known = keys[name] = KeyRow(hashable(_read(self._key, value)))
            known.states = {state.name: (state.kind, {}) for state in self.schema.states}
        fields = known.fields = {name: row[place] for name, place in self._places}
        for name, read in self._readers:
            fields[name] = read(fields[name])


class EntryDecoder:
    """Entries of one state that were written by one schema; their key must have a row. MALFORMED."""

    def __init__(self, schema: StateSchema) -> None:
        self.name = schema.name
        self._kind = schema.kind
        self._has_ttl = schema.has_ttl
        self._entry = reader_of(schema.entry)
        self._value = reader_of(schema.value)

    def put(self, keys: KeyRows, key: bytes, entry: bytes, stored: Any) -> None:
        value = decode(entry)
        name = hashable(_read(self._entry, value))
        if self._kind == "list" and type(name) is not int:
            raise ValueError(f"state {self.name!r}: {name!r} is no index")
        shown = name, _read(self._value, stored[0] if self._has_ttl else stored)
        self._entries(keys, key)[_identity(entry, value)] = shown

    def remove(self, keys: KeyRows, key: bytes, entry: bytes) -> None:
        self._entries(keys, key).pop(identity(entry), None)

    def reset(self, keys: KeyRows, key: bytes) -> None:
        self._entries(keys, key).clear()

    def _entries(self, keys: KeyRows, key: bytes) -> Entries:
        return keys[identity(key)].states.setdefault(self.name, (self._kind, {}))[1]


def decode_schema(data: bytes) -> RowSchema:
    return msgspec.msgpack.decode(data, type=RowSchema)


def _read(reader: Reader | None, value: Any) -> Any:
    return value if reader is None else reader(value)
