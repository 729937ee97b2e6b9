"""Keys and values of a RocksDB instance.

::

    row     key group u16 (big endian) | 0       | key          ->  schema u8 | row
    entry   key group u16 (big endian) | state u8 | key | entry  ->  schema u8 | value, or [value, ms] with a ttl

Key, entry, row and value are msgpack. What belongs to a key group lies together, in the order of the groups, so a range
of key groups is a range of keys; and no msgpack is the beginning of another, so the entries of a key are those that
begin with its prefix. Indexes of lists sort as they count.

*schema* is the number of the ``RowSchema`` by which the value was written: where the class has changed since, rows and
values are converted when they are read, and restoring costs nothing. *state* is the number of a state's name. Both
lists belong to the instance and travel with its checkpoints.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.keyed_state import renamed_fields
from moorage.api.state import StateField, encode_state, state_fields
from moorage.errors import CorruptDataError, StateError
from moorage.serde.row_schema import RowReader, RowSchema, StateReader, misfit, mistyped, row_schema
from moorage.serde.type_schema import schema_of
from moorage.state.key_groups import hashable_keys

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_ROW = 0
_PREFIX = struct.Struct(">HB")
PREFIX_BYTES = _PREFIX.size
_GROUP = struct.Struct(">H")
_NUMBERS = 256
_ARRAY = struct.Struct(">BI")
_ARRAY_32 = 0xDD
_KEY_AND_ENTRY = b"\x92"
"""Before the two, it makes an array of them."""

GONE = ""
"""In ``state_names``: the class does not have the state any more, and there are no entries of it."""


def group_start(group: int) -> bytes:
    """The first key that a key group can have."""
    return group.to_bytes(2, "big")


def successor(prefix: bytes) -> bytes:
    """The first key behind all that begin with ``prefix``, which is no key group's last."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1])


def table_bounds(group: int, number: int) -> tuple[bytes, bytes]:
    """First key, and the end, of the entries of the state with this number."""
    start = _PREFIX.pack(group, number)
    return start, successor(start)


def _array_of(parts: Sequence[bytes]) -> bytes:
    return _ARRAY.pack(_ARRAY_32, len(parts)) + b"".join(parts)


_Read = Callable[[int, bytes], list[Any]]
"""Reads an array that was written by the schema with a number."""


class _Values(NamedTuple):
    """Reads the values of one state that were written by one schema."""

    reader: StateReader
    decoder: msgspec.msgpack.Decoder[list[Any]]


class _Reader(Generic[R]):
    """Reads what was written by one schema."""

    def __init__(self, operator: str, schema: bytes, key_type: Any, row_type: type[R]) -> None:
        try:
            written = msgspec.msgpack.decode(schema, type=RowSchema)
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"operator {operator!r}: schema of stored rows: {error}") from error
        self.rows = RowReader(operator, written, key_type, row_type)
        self.values: dict[str, _Values] = {}
        self.other_entry_types: set[str] = set()
        """States whose entries were told apart by another type: their keys in RocksDB may have other bytes."""
        for stored, reader in zip(written.states, self.rows.states, strict=True):
            if reader.field is not None:
                if stored.entry != schema_of(reader.field.entry_type):
                    self.other_entry_types.add(reader.field.name)
                stored_type: Any = reader.stored_type
                values: Any = list[stored_type]
                self.values[reader.field.name] = _Values(reader, msgspec.msgpack.Decoder(values))


class RocksDbCodec(Generic[K, R]):
    """``schemas`` and ``state_names``: those of the instance; what ``row_type`` needs is added.

    StateError when something was written by a class that is too different, with the field named.
    """

    def __init__(
        self,
        operator: str,
        key_type: Any,
        row_type: type[R],
        schemas: Iterable[bytes] = (),
        state_names: Iterable[str] = (),
    ) -> None:
        self.operator = operator
        self.states = state_fields(row_type)
        self.schemas: list[bytes] = []
        self.state_names = list(state_names)
        self._row_type = row_type
        self._key_type = key_type
        self._readers: list[_Reader[R]] = []
        self._encoder = msgspec.msgpack.Encoder(enc_hook=encode_state)
        self._key_encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._key_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(key_type)
        self._entry_decoders: dict[str, msgspec.msgpack.Decoder[Any]] = {}
        for state in self.states:
            key_and_entry: Any = (key_type, state.entry_type)
            self._entry_decoders[state.name] = msgspec.msgpack.Decoder(tuple[key_and_entry])
        for schema in schemas:
            self.number_of_schema(schema)
        self._tag = bytes([self.number_of_schema(msgspec.msgpack.encode(row_schema(key_type, row_type)))])
        for old, new in renamed_fields(row_type).items():
            if old in self.state_names and new not in self.state_names:
                self.state_names[self.state_names.index(old)] = new
        self._state_numbers = {state.name: self.number_of_state(state.name) for state in self.states}

    # --- the instance's lists ----------------------------------------------------------------------------------------

    def number_of_schema(self, schema: bytes) -> int:
        """It is added if it is not there."""
        if schema not in self.schemas:
            self._check_room(len(self.schemas), "schemas")
            self._readers.append(_Reader(self.operator, schema, self._key_type, self._row_type))
            self.schemas.append(schema)
        return self.schemas.index(schema)

    def number_of_state(self, name: str) -> int:
        """It is added if it is not there."""
        if name not in self.state_names:
            self._check_room(len(self.state_names) + 1, "states")
            self.state_names.append(name)
        return self.state_names.index(name) + 1

    def states_with_other_entries(self) -> list[StateField]:
        """States that may hold entries under bytes that the present type does not have: an int that is a float now."""
        names = {name for reader in self._readers for name in reader.other_entry_types}
        return [state for state in self.states if state.name in names]

    def forget_dropped_states(self) -> list[int]:
        """Numbers of states that the class does not have any more: their entries must be deleted."""
        present = {state.name for state in self.states}
        dropped = [at for at, name in enumerate(self.state_names) if name not in present and name != GONE]
        for at in dropped:
            self.state_names[at] = GONE
        return [at + 1 for at in dropped]

    def _check_room(self, count: int, what: str) -> None:
        if count >= _NUMBERS:
            raise StateError(
                f"operator {self.operator!r}: {self._row_type.__name__} has been changed so often that there is no room"
                f" for more {what}; take a canonical savepoint and start from it"
            )

    # --- keys --------------------------------------------------------------------------------------------------------

    def encode_keys(self, group: int, keys: Iterable[K]) -> list[bytes]:
        """Of rows."""
        return self._prefixed(_PREFIX.pack(group, _ROW), keys)

    def encode_prefixes(self, group: int, state: StateField, keys: Iterable[K]) -> list[bytes]:
        """What the entries of these keys begin with."""
        return self._prefixed(_PREFIX.pack(group, self._state_numbers[state.name]), keys)

    def prefix_of_row(self, row: bytes, state: StateField) -> bytes:
        """What the entries begin with that belong to a stored row."""
        (group,) = _GROUP.unpack_from(row)
        return _PREFIX.pack(group, self._state_numbers[state.name]) + row[PREFIX_BYTES:]

    def _prefixed(self, prefix: bytes, keys: Iterable[K]) -> list[bytes]:
        encode = self._key_encoder.encode
        try:
            return [prefix + encode(key) for key in keys]
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._unstorable("a key", error) from error

    def encode_entry(self, entry: Any) -> bytes:
        """What tells an entry from the others of its key; stands behind the prefix."""
        try:
            return self._key_encoder.encode(entry)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._unstorable("the key of an entry", error) from error

    def table_bounds(self, group: int, state: StateField | None) -> tuple[bytes, bytes]:
        """First key, and the end, of a key group's rows (None) or of its entries of a state."""
        return table_bounds(group, _ROW if state is None else self._state_numbers[state.name])

    def decode_keys(self, stored: Sequence[bytes]) -> Sequence[K]:
        """Of rows."""
        decode = self._key_decoder.decode
        try:
            return self._hashable(self._key_type, [decode(key[PREFIX_BYTES:]) for key in stored])
        except (ValueError, TypeError, RecursionError) as error:
            raise self._corrupt("key", error) from error

    def decode_entries(self, state: StateField, stored: Sequence[bytes]) -> tuple[Sequence[K], Sequence[Any]]:
        """Keys and entries."""
        decode = self._entry_decoders[state.name].decode
        try:
            pairs = [decode(_KEY_AND_ENTRY + key[PREFIX_BYTES:]) for key in stored]
            return (
                self._hashable(self._key_type, [key for key, _ in pairs]),
                self._hashable(state.entry_type, [entry for _, entry in pairs]),
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise self._corrupt("entry", error) from error

    def _hashable(self, kind: Any, keys: list[Any]) -> Sequence[Any]:
        return hashable_keys(keys) if kind is Any else keys

    # --- values ------------------------------------------------------------------------------------------------------

    def encode_value(self, value: Any) -> bytes:
        """A row, or what ``State`` keeps under an entry."""
        try:
            return self._tag + self._encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise self._unstorable("a row", error) from error

    def check_rows(self, stored: Sequence[bytes]) -> None:
        """That rows of ``encode_value`` can be read back. StateError: a field is not of its type."""
        self._check(stored, self._read_rows, None)

    def check_entries(self, state: StateField, entries: Mapping[bytes, bytes]) -> None:
        """The same of a state's entries: keys and values."""
        decode = self._entry_decoders[state.name].decode
        try:
            for key in entries:
                decode(_KEY_AND_ENTRY + key[PREFIX_BYTES:])
        except (ValueError, TypeError, RecursionError) as error:
            raise mistyped(self.operator, self._row_type, error, state) from error
        self._check(list(entries.values()), self._values_reader(state), state)

    def _check(self, stored: Sequence[bytes], read: _Read, state: StateField | None) -> None:
        try:
            read(self._tag[0], _array_of([value[1:] for value in stored]))
        except (ValueError, TypeError, RecursionError) as error:
            raise mistyped(self.operator, self._row_type, error, state) from error

    def decode_rows(self, stored: Sequence[bytes]) -> list[R]:
        return self._decode(stored, self._read_rows)

    def decode_values(self, state: StateField, stored: Sequence[bytes]) -> list[Any]:
        """As ``State`` keeps them."""
        return self._decode(stored, self._values_reader(state))

    def _read_rows(self, schema: int, array: bytes) -> list[R]:
        return self._readers[schema].rows.read(array)

    def _values_reader(self, state: StateField) -> _Read:
        def read(schema: int, array: bytes) -> list[Any]:
            values = self._readers[schema].values[state.name]
            return values.reader.converted(values.decoder.decode(array))

        return read

    def _decode(self, stored: Sequence[bytes], read: _Read) -> list[Any]:
        """All values of one schema are decoded in one call, as an array."""
        try:
            numbers = [value[0] for value in stored]
            decoded: dict[int, list[Any]] = {}
            for number in set(numbers):
                parts = [value[1:] for value in stored if value[0] == number]
                decoded[number] = read(number, _array_of(parts))
            if len(decoded) == 1:
                return decoded[numbers[0]]
            rest = {number: iter(values) for number, values in decoded.items()}
            return [next(rest[number]) for number in numbers]
        except msgspec.ValidationError as error:
            raise misfit(self.operator, self._row_type, error) from error
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise self._corrupt("row", error) from error

    # --- errors ------------------------------------------------------------------------------------------------------

    def _unstorable(self, what: str, error: Exception) -> StateError:
        return StateError(f"operator {self.operator!r}: {what} of {self._row_type.__name__} can't be stored: {error}")

    def _corrupt(self, what: str, error: Exception) -> CorruptDataError:
        return CorruptDataError(f"operator {self.operator!r}: a stored {what}: {error}")
