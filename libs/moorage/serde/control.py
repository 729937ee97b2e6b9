"""Control messages and barriers as bytes: Avro in single-object encoding.

========  =====  ======================================================
offset    bytes  content
========  =====  ======================================================
0         2      marker ``C3 01``
2         8      fingerprint of the writer's schema (CRC-64-AVRO of its parsing canonical form, little endian)
10               body
========  =====  ======================================================

A reader finds the writer's schema by the fingerprint, among the present ones and those of released versions. What was
written with a present schema is read directly; what was written with an older one is resolved to the present one first,
by the rules of Avro.
"""

from __future__ import annotations

from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_args

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from moorage.errors import CorruptDataError, UnknownSchemaError
from moorage.messages.barriers import Barrier
from moorage.messages.cleanup import CleanupRequest
from moorage.messages.commands import Command
from moorage.messages.events import Event, ExchangeProgress
from moorage.serde.avro import MALFORMED, Plain, Reader, compile_plain, compile_readers, named_types
from moorage.serde.schemas import (
    NAMESPACE,
    Schema,
    complete_schema,
    fingerprint,
    load_schemas,
    released_versions,
    schemas_folder,
)

M = TypeVar("M")

MARKER = b"\xc3\x01"
HEADER_BYTES = 10


class Family(Generic[M]):
    """Message types that travel together: what a reader of one topic, or of barrier frames, expects."""

    def __init__(self, name: str, folder: str, *messages: type[msgspec.Struct]) -> None:
        self.name = name
        """What to call one of them in an error, with the article."""
        self.folder = folder
        """Where their schemas are."""
        self.messages = messages

    def schema_name(self, message: type[msgspec.Struct]) -> str:
        return f"{NAMESPACE}.{self.folder}.{message.__name__}"


COMMANDS: Final = Family[Command]("a command", "control", *get_args(Command))
EVENTS: Final = Family[Event]("an event", "control", *get_args(Event))
PROGRESS: Final = Family[ExchangeProgress]("a progress report", "control", ExchangeProgress)
CLEANUP: Final = Family[CleanupRequest]("a cleanup request", "control", *get_args(CleanupRequest))
BARRIERS: Final = Family[Barrier]("a barrier", "exchange", Barrier)
FAMILIES: Final = (COMMANDS, EVENTS, PROGRESS, CLEANUP, BARRIERS)


def encode(message: msgspec.Struct) -> bytes:
    """The bytes of a message of one of the families, in the present schema.

    Text that has no UTF-8 form (lone surrogates, from a file name in a traceback) is written with backslash escapes: a
    report of a failure must not fail. A field that does not hold what its type says is a bug of the caller and raises
    TypeError, ValueError or OverflowError.
    """
    return _codec().encode(message)


def decode(data: bytes, expected: Family[M]) -> M:
    """The message of the family ``expected`` that ``data`` holds.

    Raises UnknownSchemaError for the fingerprint of a schema that this version does not know, and CorruptDataError for
    everything else that is not exactly one message of that family.
    """
    return _codec().decode(data, expected)


@cache
def _codec() -> Codec:
    return Codec(schemas_folder())


class _Writing(NamedTuple):
    header: bytes
    schema: Schema
    plain: Plain


class _Reading(NamedTuple):
    message: type[msgspec.Struct]
    read: Reader


class Codec:
    """Encodes and decodes by the schemas of a folder that is laid out as ``schemas/``."""

    def __init__(self, folder: Path) -> None:
        names = {message: family.schema_name(message) for family in FAMILIES for message in family.messages}
        present = load_schemas(folder)
        types = named_types(*names)
        readers = compile_readers(present, types)
        plain = compile_plain(present, types)
        self._writing: dict[type, _Writing] = {}
        self._reading: dict[bytes, _Reading] = {}
        for message, name in names.items():
            schema = complete_schema(name, present)
            header = MARKER + fingerprint(schema)
            self._writing[message] = _Writing(header, schema, plain[name])
            self._reading[header] = _Reading(message, readers[name])
        for version in released_versions(folder):
            released = load_schemas(version)
            for message, name in names.items():
                if name in released:
                    writers = complete_schema(name, released)
                    read = _resolving(writers, self._writing[message].schema, readers[name])
                    self._reading.setdefault(MARKER + fingerprint(writers), _Reading(message, read))

    def encode(self, message: msgspec.Struct) -> bytes:
        header, schema, plain = self._writing[type(message)]
        value = plain(message)
        try:
            return _write(header, schema, value)
        except UnicodeEncodeError:
            return _write(header, schema, _encodable(value))

    def decode(self, data: bytes, expected: Family[M]) -> M:
        reading = self._reading.get(data[:HEADER_BYTES])
        if reading is None:
            raise self._unreadable(data, expected)
        message, read = reading
        if message not in expected.messages:
            raise CorruptDataError(f"expected {expected.name}, got {message.__name__}")
        try:
            decoded, end = read(data, HEADER_BYTES)
        except MALFORMED as error:
            raise CorruptDataError(f"malformed {message.__name__} of {len(data)} bytes: {error}") from error
        if end != len(data):
            excess = f"{len(data) - end} bytes too many" if end < len(data) else "its end is missing"
            raise CorruptDataError(f"malformed {message.__name__} of {len(data)} bytes: {excess}")
        result: M = decoded
        return result

    def _unreadable(self, data: bytes, expected: Family[Any]) -> CorruptDataError | UnknownSchemaError:
        if len(data) < HEADER_BYTES or not data.startswith(MARKER):
            return CorruptDataError(
                f"expected {expected.name} (Avro, single-object encoding), got {len(data)} bytes"
                f" that start with {data[:HEADER_BYTES].hex() or 'nothing'}"
            )
        return UnknownSchemaError(
            f"{expected.name} was written with the unknown schema {data[2:HEADER_BYTES].hex()},"
            " probably by a newer Moorage: upgrade this service"
        )


def _write(header: bytes, schema: Schema, value: Any) -> bytes:
    out = BytesIO()
    out.write(header)
    schemaless_writer(out, schema, value)
    return out.getvalue()


def _resolving(writers: Schema, present: Schema, read: Reader) -> Reader:
    """Reads what was written with another schema: has fastavro write it anew with the present one, then reads that."""

    def resolve(data: bytes, pos: int) -> tuple[Any, int]:
        try:
            source = BytesIO(data)
            source.seek(pos)
            schemaless_reader(source, writers, None)  # fastavro does not notice when a field that it skips is cut off
            end = source.tell()
            source.seek(pos)
            value = schemaless_reader(source, writers, present, return_record_name=True)
        except Exception as error:  # fastavro does not say what it raises for malformed data
            raise ValueError(f"{type(error).__name__} {error}") from error
        message, _ = read(_write(b"", present, value), 0)
        return message, end

    return resolve


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list():
            return [_encodable(item) for item in value]
        case (name, record):
            return name, _encodable(record)
        case _:
            return value
