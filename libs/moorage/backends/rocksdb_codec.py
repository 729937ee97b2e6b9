"""Keys and values of a RocksDB instance.

::

    key    = key group u16 (big endian) | state u8 | key, msgpack          state 0: the row
    value  = schema u8 | row, msgpack: its fields in the order of the schema

A key group's keys lie together, in the order of the groups, so that a range of key groups is a range of keys.

A *schema* is a list of field names. A class whose fields were changed since a row was written has another one, so the
value says by which it was written: rows are converted when they are read, and restoring costs nothing. The list of
schemas travels with the checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from moorage.errors import CorruptDataError, StateError
from moorage.state.key_groups import hashable_keys

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

Schema = tuple[str, ...]

_ROW = 0
_PREFIX = struct.Struct(">HB")
_MAX_SCHEMAS = 256


def group_start(group: int) -> bytes:
    """The first key that a key group can have."""
    return group.to_bytes(2, "big")


class RocksDbCodec(Generic[K, R]):
    """``schemas``: those by which the values of the store are written; that of ``row_type`` is added if need be."""

    def __init__(self, operator: str, key_type: Any, row_type: type[R], schemas: Iterable[Schema] = ()) -> None:
        self._operator = operator
        self._row_type = row_type
        self._plain_keys = key_type is Any
        self._schema: Schema = tuple(field.name for field in msgspec.structs.fields(row_type))
        self.schemas = list(schemas)
        self._encoder = msgspec.msgpack.Encoder()
        self._key_encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._key_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(key_type)
        self._decode_row = msgspec.msgpack.Decoder(row_type).decode
        self._decode_fields = msgspec.msgpack.Decoder(list[Any]).decode
        self._number = self.number_of(self._schema)
        self._tag = bytes([self._number])

    # --- schemas -----------------------------------------------------------------------------------------------------

    def number_of(self, schema: Schema) -> int:
        """The number of a schema in this store; it is added if it is not there. StateError when there are too many."""
        if schema not in self.schemas:
            if len(self.schemas) == _MAX_SCHEMAS:
                raise StateError(
                    f"operator {self._operator!r}: its state was written by {_MAX_SCHEMAS} versions of"
                    f" {self._row_type.__name__}; take a canonical savepoint and start from it"
                )
            self.schemas.append(schema)
        return self.schemas.index(schema)

    # --- keys --------------------------------------------------------------------------------------------------------

    def encode_keys(self, group: int, keys: Iterable[K]) -> list[bytes]:
        prefix, encode = _PREFIX.pack(group, _ROW), self._key_encoder.encode
        return [prefix + encode(key) for key in keys]

    def decode_keys(self, stored: Sequence[bytes]) -> Sequence[K]:
        decode, start = self._key_decoder.decode, _PREFIX.size
        try:
            keys: Sequence[Any] = [decode(key[start:]) for key in stored]
            return hashable_keys(keys) if self._plain_keys else keys
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"operator {self._operator!r}: a stored key: {error}") from error

    # --- rows --------------------------------------------------------------------------------------------------------

    def encode_row(self, row: R) -> bytes:
        try:
            return self._tag + self._encoder.encode(row)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StateError(
                f"operator {self._operator!r}: a row of {self._row_type.__name__} can't be stored: {error}"
            ) from error

    def decode_row(self, value: bytes) -> R:
        try:
            if value[0] == self._number:
                return self._decode_row(value[1:])
            return self._evolve(self.schemas[value[0]], self._decode_fields(value[1:]))
        except msgspec.ValidationError as error:
            raise StateError(
                f"operator {self._operator!r}: stored rows don't fit {self._row_type.__name__}: {error}."
                " Give the field back its old type, or start without this state"
            ) from error
        except (ValueError, IndexError, RecursionError) as error:
            raise CorruptDataError(f"operator {self._operator!r}: a stored row: {error}") from error

    def _evolve(self, schema: Schema, fields: list[Any]) -> R:
        stored = dict(zip(schema, fields, strict=True))
        default = self._row_type()
        known = [stored[name] if name in stored else getattr(default, name) for name in self._schema]
        return self._decode_row(self._encoder.encode(known))
