"""Files of keyed state: one segment per key group, each with its own length and checksum.

A file is a row of segments; ``KeyGroupsHandle.offsets`` says where each begins. ``segment_blocks`` has their bytes,
``row_schema`` what stands in them about the class that wrote them. Content of blocks, msgpack, column by column::

    rows     put [keys, rows] | remove keys
    a state  put [keys, entries, values] | remove [keys, entries] | reset keys

Where a key stands in several blocks of rows, the last one counts. In a state its reset, if any, comes before its
entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.state import StateField, encode_state, state_fields
from moorage.errors import CorruptDataError, StateError
from moorage.serde.row_schema import RowReader, RowSchema, misfit, mistyped, row_schema
from moorage.serde.segment_blocks import (
    BASE,
    DELTA,
    HEAD_BYTES,
    Block,
    Op,
    OpenSegment,
    SegmentHead,
    decode_payload,
    read_head,
    read_segment,
    seal,
)
from moorage.state.key_groups import hashable_keys

__all__ = [
    "BASE",
    "BLOCK_ROWS",
    "DELTA",
    "HEAD_BYTES",
    "Change",
    "KeyedSegmentCodec",
    "Op",
    "SegmentHead",
    "SegmentWriter",
    "read_head",
    "read_segment",
]

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

BLOCK_ROWS = 2_000
"""Rows (or entries) that are encoded at a time: about 1 ms, for which no other thread can run."""


class Change(NamedTuple):
    """What a block says. ``state`` None: of rows. Sequences lie side by side; those that an op has no use for are
    empty."""

    state: StateField | None
    op: Op
    keys: Sequence[Any]
    entries: Sequence[Any] = ()
    values: Sequence[Any] = ()
    """Rows, or what ``State`` keeps under its entries."""


class KeyedSegmentCodec(Generic[K, R]):
    """Segments of one operator: ``row_type`` is its KeyedState class (array_like), ``key_type`` that of its keys."""

    def __init__(self, operator: str, key_type: Any, row_type: type[R]) -> None:
        self.operator = operator
        self.row_type = row_type
        self.states = state_fields(row_type)
        self._key_type = key_type
        self.schema = msgspec.msgpack.encode(row_schema(key_type, row_type))
        """Of what is written."""
        self._readers: dict[bytes, _Reader[K, R]] = {}

    # --- writing -----------------------------------------------------------------------------------------------------

    def writer(self, kind: int) -> SegmentWriter[K, R]:
        return SegmentWriter(self, kind, self.schema)

    def encode_base(self, rows: Mapping[K, R]) -> bytes:
        """A segment of these rows, states included. StateError: a row can't be stored."""
        writer = self.writer(BASE)
        writer.rows(rows, rows)
        for number, state in enumerate(self.states, 1):
            writer.all_entries(number, [(key, getattr(row, state.name)._entries) for key, row in rows.items()])  # noqa: SLF001 - what backends keep
        return writer.finish()

    def encode_delta(self, rows: Mapping[K, R], changed: Iterable[K]) -> bytes:
        """A segment with these keys' rows as they are now, or gone. For classes without states."""
        writer = self.writer(DELTA)
        writer.rows(rows, changed)
        return writer.finish()

    # --- reading -----------------------------------------------------------------------------------------------------

    def apply(self, file: bytes, offset: int, rows: MutableMapping[K, R]) -> int:
        """Bring ``rows`` up to the segment at ``offset``; returns its kind. CorruptDataError, StateError.

        Entries lie in the states of the rows, which are still to be bound.
        """
        kind, changes = self.changes(file, offset)
        if kind == BASE:
            rows.clear()
        for change in changes:
            if change.state is None:
                self._apply_rows(change, rows)
            else:
                self._apply_entries(change.state.name, change, rows)
        return kind

    def check(self, blocks: Iterable[Block]) -> None:
        """That blocks of the class as it is can be read back. StateError: something in them is not of its type.

        msgspec encodes whatever it is given, so this is the only time to notice: a checkpoint that can't be restored is
        worse than none.
        """
        reader = self._reader(self.schema)
        for block in blocks:
            try:
                reader.decode(block)
            except (ValueError, TypeError, RecursionError) as error:
                state = self.states[block.table - 1] if block.table else None
                raise mistyped(self.operator, self.row_type, error, state) from error

    def changes(self, file: bytes, offset: int) -> tuple[int, Iterator[Change]]:
        """The kind of the segment at ``offset``, and what is in it, block by block. CorruptDataError, StateError."""
        payload = decode_payload(read_segment(file, offset))
        return payload.kind, self._decoded(payload.blocks, self._reader(payload.schema))

    def _reader(self, encoded: bytes) -> _Reader[K, R]:
        reader = self._readers.get(encoded)
        if reader is None:
            try:
                schema = msgspec.msgpack.decode(encoded, type=RowSchema)
            except (ValueError, RecursionError) as error:
                raise self._corrupt(error) from error
            reader = self._readers[encoded] = _Reader(
                RowReader(self.operator, schema, self._key_type, self.row_type), self._key_type
            )
        return reader

    def _decoded(self, blocks: Iterator[Block], reader: _Reader[K, R]) -> Iterator[Change]:
        for block in blocks:
            try:
                change = reader.decode(block)
            except msgspec.ValidationError as error:
                raise misfit(self.operator, self.row_type, error) from error
            except (ValueError, TypeError, IndexError, RecursionError) as error:
                raise self._corrupt(error) from error
            if change is not None:
                yield change

    def _apply_rows(self, change: Change, rows: MutableMapping[K, R]) -> None:
        if change.op is Op.REMOVE:
            for key in change.keys:
                rows.pop(key, None)
            return
        if self.states:
            # A row that was there goes on with the entries that it has.
            for key, row in zip(change.keys, change.values, strict=True):
                former = rows.get(key)
                for state in self.states:
                    kept = state.declaration.fresh() if former is None else getattr(former, state.name)
                    setattr(row, state.name, kept)
        rows.update(zip(change.keys, change.values, strict=True))

    def _apply_entries(self, name: str, change: Change, rows: MutableMapping[K, R]) -> None:
        try:
            if change.op is Op.RESET:
                for key in change.keys:
                    getattr(rows[key], name)._entries.clear()  # noqa: SLF001 - what backends keep
            elif change.op is Op.REMOVE:
                for key, entry in zip(change.keys, change.entries, strict=True):
                    getattr(rows[key], name)._entries.pop(entry, None)  # noqa: SLF001
            else:
                for key, entry, value in zip(change.keys, change.entries, change.values, strict=True):
                    getattr(rows[key], name)._entries[entry] = value  # noqa: SLF001
        except (KeyError, TypeError) as error:
            raise self._corrupt(f"entries of a key that has no row, or are not hashable: {error}") from error

    def _corrupt(self, what: object) -> CorruptDataError:
        return CorruptDataError(f"operator {self.operator!r}: state segment: {what}")


class SegmentWriter(Generic[K, R]):
    """A segment that is put together block by block. StateError: a row can't be stored."""

    def __init__(self, codec: KeyedSegmentCodec[K, R], kind: int, schema: bytes) -> None:
        self._codec = codec
        self._kind = kind
        self._schema = schema
        self._blocks: list[Block] = []
        self._encode = msgspec.msgpack.Encoder(enc_hook=encode_state).encode
        self.size = 0
        """Rows and entries so far."""
        self.raw_bytes = 0
        """Of what was not taken yet."""

    def rows(self, rows: Mapping[K, R], keys: Iterable[K]) -> None:
        """The rows of these keys; those that are not there are gone."""
        for some in _slices(list(keys)):
            found = list(map(rows.get, some))
            if not all(found):  # quicker than to look for None, which is compared with every row
                gone = [key for key, row in zip(some, found, strict=True) if row is None]
                self._add(0, Op.REMOVE, gone, len(gone))
                some = [key for key, row in zip(some, found, strict=True) if row is not None]
                found = [row for row in found if row is not None]
            if some:
                self._add(0, Op.PUT, (some, found), len(some))

    def entries(self, state: int, keys: list[K], entries: list[Any], values: list[Any]) -> None:
        """Entries of the n-th state, side by side."""
        for at in range(0, len(keys), BLOCK_ROWS):
            end = at + BLOCK_ROWS
            content = (keys[at:end], entries[at:end], values[at:end])
            self._add(state, Op.PUT, content, len(content[0]))

    def all_entries(self, state: int, entries: Iterable[tuple[K, Mapping[Any, Any]]]) -> None:
        """All entries of some keys in the n-th state."""
        keys: list[K] = []
        names: list[Any] = []
        values: list[Any] = []
        for key, mapping in entries:
            if len(keys) >= BLOCK_ROWS:
                self.entries(state, keys, names, values)
                keys, names, values = [], [], []
            keys += [key] * len(mapping)
            names += mapping
            values += mapping.values()
        self.entries(state, keys, names, values)

    def removed_entries(self, state: int, keys: list[K], entries: list[Any]) -> None:
        for at in range(0, len(keys), BLOCK_ROWS):
            content = (keys[at : at + BLOCK_ROWS], entries[at : at + BLOCK_ROWS])
            self._add(state, Op.REMOVE, content, len(content[0]))

    def reset(self, state: int, keys: list[K]) -> None:
        """These keys have no entries but those that are put after this."""
        if keys:
            self._add(state, Op.RESET, keys, len(keys))

    def extend(self, other: SegmentWriter[K, R]) -> None:
        """Add what is in another segment of the codec."""
        self._blocks += other._blocks
        self.size += other.size
        self.raw_bytes += other.raw_bytes

    def drain(self) -> list[Block]:
        """What there is of the segment so far; the writer lets go of it. ``KeyedSegmentCodec.check`` is still to be
        called."""
        blocks, self._blocks, self.raw_bytes = self._blocks, [], 0
        return blocks

    def take(self) -> OpenSegment:
        """*Blocking*: the segment, for ``segment_blocks.seal``; the writer lets go of it. StateError."""
        blocks = self.drain()
        self._codec.check(blocks)
        return OpenSegment(self._kind, self._schema, blocks)

    def finish(self) -> bytes:
        """*Blocking*: the segment by itself. StateError."""
        (sealed,) = seal([self.take()])
        return sealed

    def _add(self, table: int, op: Op, content: object, size: int) -> None:
        try:
            encoded = self._encode(content)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StateError(
                f"operator {self._codec.operator!r}: a row of {self._codec.row_type.__name__} can't be stored: {error}"
            ) from error
        self._blocks.append(Block(table, op, encoded))
        self.size += size
        self.raw_bytes += len(encoded)


class _Reader(Generic[K, R]):
    """Decodes blocks of one schema."""

    def __init__(self, rows: RowReader[R], key_type: Any) -> None:
        self._rows = rows
        self._plain_keys = key_type is Any
        keys: Any = list[key_type]
        self._keys: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(keys)
        self._put: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(tuple[keys, msgspec.Raw])
        self._states: list[tuple[msgspec.msgpack.Decoder[Any], msgspec.msgpack.Decoder[Any]]] = []
        for state in rows.states:
            entry_type: Any = Any if state.field is None else state.field.entry_type
            stored_type: Any = state.stored_type
            entries: Any = list[entry_type]
            values: Any = list[stored_type]
            self._states.append(
                (
                    msgspec.msgpack.Decoder(tuple[keys, entries, values]),
                    msgspec.msgpack.Decoder(tuple[keys, entries]),
                )
            )

    def decode(self, block: Block) -> Change | None:
        """None: it is about a state that the class does not have any more. msgspec's errors, ValueError, TypeError,
        IndexError."""
        table, op, content = block
        if table == 0:
            if op is Op.PUT:
                keys, raw = self._put.decode(content)
                rows = self._rows.read(raw)
                _same_length(keys, rows)
                return Change(None, op, self._hashable(keys), (), rows)
            return Change(None, Op.REMOVE, self._hashable(self._keys.decode(content)))
        state = self._rows.states[table - 1]
        if state.field is None:
            return None
        if op is Op.RESET:
            return Change(state.field, op, self._hashable(self._keys.decode(content)))
        put, remove = self._states[table - 1]
        keys, entries, *values = (put if op is Op.PUT else remove).decode(content)
        _same_length(keys, entries, *values)
        if state.field.entry_type is Any:
            entries = hashable_keys(entries)
        return Change(state.field, op, self._hashable(keys), entries, *map(state.converted, values))

    def _hashable(self, keys: Sequence[Any]) -> Sequence[Any]:
        if self._plain_keys:
            keys = hashable_keys(keys)
        hash(tuple(keys))
        return keys


def _same_length(*columns: Sequence[Any]) -> None:
    if len(set(map(len, columns))) > 1:
        raise ValueError("columns of different lengths")


def _slices(keys: list[K]) -> Iterator[list[K]]:
    return (keys[at : at + BLOCK_ROWS] for at in range(0, len(keys), BLOCK_ROWS))
