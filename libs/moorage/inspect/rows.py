"""Rows of keyed state, without the class that wrote them: segments of state say what is in them.

A key group's rows are put together out of its chain, oldest segment first, and come with everything that belongs to the
key: the fields of the row and its states. One key group is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import xxhash

from moorage.errors import CorruptDataError, StateError
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.files import StateFiles, stream_name
from moorage.inspect.values import Reader, hashable, mapping, reader_of
from moorage.serde.row_schema import RowSchema, StateSchema
from moorage.serde.segment_blocks import (
    BASE,
    HEAD_BYTES,
    SCHEMA_HEAD_BYTES,
    Block,
    Op,
    decode_payload,
    read_head,
    schema_bytes,
)
from moorage.state.handles import NO_OFFSET, KeyGroupsHandle, StreamHandle
from moorage.state.operator_state import OperatorState

_MALFORMED = (ValueError, TypeError, IndexError, KeyError, AttributeError, RecursionError)


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
    for group in range(state.max_parallelism):
        yield from _group_rows(state, group, checkpoint.files)


def schemas_of(checkpoint: OpenCheckpoint, operator: str) -> list[RowSchema]:
    """The different schemas by which an operator's rows were written. Errors as of ``rows_of``."""
    state = find_operator(checkpoint, operator)
    schemas: dict[bytes, RowSchema] = {}
    for group in range(state.max_parallelism):
        for segment in _segments(state, group):
            with segment.errors():
                head = checkpoint.files.read_at(segment.stream, segment.offset + HEAD_BYTES, SCHEMA_HEAD_BYTES)
                at = segment.offset + HEAD_BYTES + SCHEMA_HEAD_BYTES
                schema = checkpoint.files.read_at(segment.stream, at, schema_bytes(head))
                if schema not in schemas:
                    schemas[schema] = _Decoder(_decode_schema(schema)).schema
    return list(schemas.values())


def find_operator(checkpoint: OpenCheckpoint, operator: str) -> OperatorState:
    operators = checkpoint.metadata.operators
    found = next((o for o in operators if operator in (o.uid, o.operator, o.name)), None)
    if found is None:
        names = ", ".join(str(o.uid or o.operator) for o in operators) or "none"
        raise StateError(f"{checkpoint.location} has no operator {operator!r}; it has {names}")
    if not checkpoint.is_ours:
        raise StateError(f"{checkpoint.location} was not written by Moorage: its rows can't be read without Flink")
    return found


# --- segments --------------------------------------------------------------------------------------------------------


class _Segment(NamedTuple):
    stream: StreamHandle
    offset: int

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What makes no sense is corrupt, and named."""
        try:
            yield
        except (CorruptDataError, *_MALFORMED) as error:
            raise CorruptDataError(f"{stream_name(self.stream)}, segment at {self.offset}: {error}") from error


def _segments(state: OperatorState, group: int) -> Iterator[_Segment]:
    """The chain of a key group, oldest first."""
    for _, subtask in sorted(state.subtasks.items()):
        for handle in subtask.managed_keyed:
            if group not in handle.key_groups:
                continue
            if not isinstance(handle, KeyGroupsHandle):
                raise StateError(f"operator {state.uid!r}: rows of a {type(handle).__name__} can't be read")
            offset = handle.offsets[group - handle.key_groups.start]
            if offset != NO_OFFSET:
                yield _Segment(handle.stream, offset)


def _group_rows(state: OperatorState, group: int, files: StateFiles) -> Iterator[StateRow]:
    keys: dict[bytes, _Key] = {}
    for segment in _segments(state, group):
        with segment.errors():
            payload = decode_payload(read_payload(files, segment.stream, segment.offset))
            if payload.kind == BASE:
                keys.clear()
            table = _Decoder(_decode_schema(payload.schema))
            for block in payload.blocks:
                table.apply(block, keys)
    for key in keys.values():
        yield StateRow(group, key.key, key.values())


def read_payload(files: StateFiles, stream: StreamHandle, offset: int) -> bytes:
    """The payload of a segment, of the checksum that its head says. CorruptDataError."""
    head = read_head(files.read_at(stream, offset, HEAD_BYTES))
    payload = files.read_at(stream, offset + HEAD_BYTES, head.payload_bytes)
    if xxhash.xxh3_64_intdigest(payload) != head.checksum:
        raise CorruptDataError("wrong checksum")
    return payload


def _decode_schema(data: bytes) -> RowSchema:
    return msgspec.msgpack.decode(data, type=RowSchema)


# --- rows ------------------------------------------------------------------------------------------------------------


class _Key:
    """What is known of a key so far."""

    __slots__ = ("fields", "key", "states")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.fields: dict[str, Any] = {}
        self.states: dict[str, tuple[str, dict[bytes, tuple[Any, Any]]]] = {}
        """By name: the kind, and entry and value by the entry's bytes."""

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


class _Decoder:
    """Applies blocks that were written by one schema. Keys and entries are told apart by their bytes, so that it does
    not matter what they are."""

    def __init__(self, schema: RowSchema) -> None:
        self.schema = schema
        self._key = reader_of(schema.key)
        self._fields = [(name, reader_of(kind)) for name, kind in schema.fields if kind[0] != "state"]
        self._places = [place for place, (_, kind) in enumerate(schema.fields) if kind[0] != "state"]
        self._states = [_StateDecoder(state) for state in schema.states]

    def apply(self, block: Block, keys: dict[bytes, _Key]) -> None:
        if block.table:
            self._states[block.table - 1].apply(block, keys)
        elif block.op is Op.REMOVE:
            for key in _decode_raws(block.content):
                keys.pop(bytes(key), None)
        else:
            raws, rows = _decode_rows(block.content)
            for raw, row in zip(raws, rows, strict=True):
                known = keys.get(bytes(raw))
                if known is None:
                    known = keys[bytes(raw)] = _Key(hashable(_read(self._key, _decode(raw))))
                    known.states = {state.name: (state.kind, {}) for state in self.schema.states}
                known.fields = {
                    name: _read(reader, row[place])
                    for place, (name, reader) in zip(self._places, self._fields, strict=True)
                }


class _StateDecoder:
    def __init__(self, schema: StateSchema) -> None:
        self._name = schema.name
        self._kind = schema.kind
        self._has_ttl = schema.has_ttl
        self._entry = reader_of(schema.entry)
        self._value = reader_of(schema.value)

    def apply(self, block: Block, keys: dict[bytes, _Key]) -> None:
        match block.op:
            case Op.RESET:
                for key in _decode_raws(block.content):
                    self._entries(keys, key).clear()
            case Op.REMOVE:
                removed, names = _decode_removed(block.content)
                for key, name in zip(removed, names, strict=True):
                    self._entries(keys, key).pop(bytes(name), None)
            case Op.PUT:
                put, names, values = _decode_entries(block.content)
                for key, name, value in zip(put, names, values, strict=True):
                    stored = value[0] if self._has_ttl else value
                    entry = hashable(_read(self._entry, _decode(name)))
                    if self._kind == "list" and type(entry) is not int:
                        raise ValueError(f"state {self._name!r}: {entry!r} is no index")
                    self._entries(keys, key)[bytes(name)] = entry, _read(self._value, stored)

    def _entries(self, keys: dict[bytes, _Key], key: msgspec.Raw) -> dict[bytes, tuple[Any, Any]]:
        return keys[bytes(key)].states.setdefault(self._name, (self._kind, {}))[1]


_Raws = list[msgspec.Raw]
_decode = msgspec.msgpack.Decoder().decode
_decode_raws = msgspec.msgpack.Decoder(_Raws).decode
_decode_rows = msgspec.msgpack.Decoder(tuple[_Raws, list[list[Any]]]).decode
_decode_removed = msgspec.msgpack.Decoder(tuple[_Raws, _Raws]).decode
_decode_entries = msgspec.msgpack.Decoder(tuple[_Raws, _Raws, list[Any]]).decode


def _read(reader: Reader | None, value: Any) -> Any:
    return value if reader is None else reader(value)
