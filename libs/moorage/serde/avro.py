"""Structs to and from Avro, compiled from the schemas.

Reading is on the path of every acknowledgement that the coordinator gets, and a general reader spends its time on
looking up what to do next: fastavro needs 16 us for an acknowledgement, and its dicts and lists must become structs
after that. ``compile_readers`` writes that down once, as one Python function per record type which goes straight from
bytes to structs (5 us for the same message). It reads what was written with the very same schemas, and strictly: what
Avro's specification does not allow is refused. Everything else is fastavro's work: writing, resolution of other
schemas, fingerprints.

Records become the struct of that name, enums the Enum of that name (without one, the symbol as str), arrays tuples,
maps dicts, ``fixed`` an unsigned int.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

import msgspec
from msgspec import inspect

from moorage.serde.schemas import Schema, full_name

Reader = Callable[[bytes, int], tuple[Any, int]]
"""``(data, position of the record) -> (struct, position behind it)``. A position beyond the end of ``data`` means that
data is missing. Malformed data raises one of MALFORMED."""

MALFORMED = (IndexError, KeyError, ValueError, struct.error)


def named_types(*structs: type[msgspec.Struct]) -> dict[str, type]:
    """The given structs and every struct and Enum that their fields hold, at any depth, by name."""
    found: dict[str, type] = {}

    def visit(kind: inspect.Type) -> None:
        match kind:
            case inspect.StructType(cls=cls, fields=fields) if cls.__name__ not in found:
                found[cls.__name__] = cls
                for field in fields:
                    visit(field.type)
            case inspect.EnumType(cls=cls):
                found[cls.__name__] = cls
            case inspect.UnionType(types=types):
                for branch in types:
                    visit(branch)
            case inspect.VarTupleType(item_type=nested) | inspect.DictType(value_type=nested):
                visit(nested)

    for cls in structs:
        visit(inspect.type_info(cls))
    return found


# --- reading ---------------------------------------------------------------------------------------------------------

# A number below 128 is one byte. Tables by the byte; None: read on, in the function.
_SHORT_LONGS = [(byte >> 1) ^ -(byte & 1) if byte < 128 else None for byte in range(256)]
_SHORT_SIZES = [byte >> 1 if byte < 128 and not byte & 1 else None for byte in range(256)]


_LONG_BYTES = 10
"""The most that a number takes."""


def _read_long(data: bytes, pos: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 7 * _LONG_BYTES, 7):
        byte = data[pos]
        pos += 1
        number |= (byte & 0x7F) << shift
        if byte < 128:
            break
    else:
        raise ValueError("a number that does not end")
    if number >= 1 << 64:
        raise ValueError("a number of more than 64 bits")
    return (number >> 1) ^ -(number & 1), pos


def _read_size(data: bytes, pos: int) -> tuple[int, int]:
    size, pos = _read_long(data, pos)
    if size < 0:
        raise ValueError("a negative size")
    return size, pos


def _read_count(data: bytes, pos: int) -> tuple[int, int]:
    """Number of items in a block; a negative one is followed by the block's size, which only skipping needs."""
    count, pos = _read_long(data, pos)
    if count < 0:
        _, pos = _read_size(data, pos)
        count = -count
    return count, pos


def _raise_unknown_branch() -> None:
    raise ValueError("an unknown branch of a union")


class _ReaderSource:
    """Writes the functions that read; ``names`` is what they refer to."""

    def __init__(self, schemas: Mapping[str, Schema], types: Mapping[str, type]) -> None:
        self.schemas = schemas
        self.types = types
        self.names: dict[str, Any] = {
            "SHORT_LONGS": _SHORT_LONGS,
            "SHORT_SIZES": _SHORT_SIZES,
            "BOOLEANS": (False, True),
            "read_long": _read_long,
            "read_size": _read_size,
            "read_count": _read_count,
            "read_double": struct.Struct("<d").unpack_from,
            "raise_unknown_branch": _raise_unknown_branch,
        }
        self.lines: list[str] = []
        self.depth = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self.depth += 1
        yield
        self.depth -= 1

    def record(self, name: str, schema: Schema) -> None:
        fields = [field["name"] for field in schema["fields"]]
        self.names[schema["name"]] = self.types[schema["name"]]
        with self.block(f"def {_reader_name(name)}(data, pos):"):
            for field in schema["fields"]:
                self.value(field["type"], schema["namespace"], f"v_{field['name']}")
            self.line(f"return {schema['name']}({', '.join(f'{field}=v_{field}' for field in fields)}), pos")

    def value(self, node: Any, namespace: str, target: str) -> None:
        """Read a value of the type ``node`` into the variable ``target``."""
        match node:
            case "null":
                self.line(f"{target} = None")
            case "boolean":
                self.line(f"{target} = BOOLEANS[data[pos]]")
                self.line("pos += 1")
            case "long":
                self.number(target, "SHORT_LONGS", "read_long")
            case "double":
                self.line(f"({target},) = read_double(data, pos)")
                self.line("pos += 8")
            case "bytes" | "string":
                self.number("size", "SHORT_SIZES", "read_size")
                self.line(f"{target} = data[pos:pos + size]{'.decode()' if node == 'string' else ''}")
                self.line("pos += size")
            case str():
                self.named(full_name(node, namespace), target)
            case list():
                self.line("branch = data[pos]")
                self.line("pos += 1")
                for index, branch in enumerate(node):
                    with self.block(f"{'elif' if index else 'if'} branch == {2 * index}:"):
                        self.value(branch, namespace, target)
                with self.block("else:"):
                    self.line("raise_unknown_branch()")
            case {"type": "array", "items": items}:
                with self.items(target, "[]"):
                    self.value(items, namespace, f"{target}_item")
                    self.line(f"{target}.append({target}_item)")
                self.line(f"{target} = tuple({target})")
            case {"type": "map", "values": values}:
                with self.items(target, "{}"):
                    self.value("string", namespace, f"{target}_key")
                    self.value(values, namespace, f"{target}_item")
                    self.line(f"{target}[{target}_key] = {target}_item")
            case _:
                raise TypeError(f"not built: {node}")

    def named(self, name: str, target: str) -> None:
        match self.schemas[name]:
            case {"type": "record"}:
                self.line(f"{target}, pos = {_reader_name(name)}(data, pos)")
            case {"type": "fixed", "size": size}:
                self.line(f"{target} = int.from_bytes(data[pos:pos + {size}])")
                self.line(f"pos += {size}")
            case {"type": "enum", "name": enum, "symbols": symbols}:
                member = self.types.get(enum, str)
                self.names[enum] = {2 * index: member(symbol) for index, symbol in enumerate(symbols)}
                self.line(f"{target} = {enum}[data[pos]]")
                self.line("pos += 1")
            case other:
                raise TypeError(f"not built: {other}")

    def number(self, target: str, table: str, function: str) -> None:
        self.line(f"{target} = {table}[data[pos]]")
        with self.block(f"if {target} is None:"):
            self.line(f"{target}, pos = {function}(data, pos)")
        with self.block("else:"):
            self.line("pos += 1")

    @contextmanager
    def items(self, target: str, empty: str) -> Iterator[None]:
        """The loop over the items of an array or map, which come in blocks; a block of 0 items is the end."""
        self.line(f"{target} = {empty}")
        self.number(f"{target}_count", "SHORT_SIZES", "read_count")
        with self.block(f"while {target}_count:"):
            with self.block(f"for _ in range({target}_count):"):
                yield
            self.number(f"{target}_count", "SHORT_SIZES", "read_count")


def _reader_name(name: str) -> str:
    return "read_" + name.replace(".", "_")


def compile_readers(schemas: Mapping[str, Schema], types: Mapping[str, type]) -> dict[str, Reader]:
    """A reader for every record of ``schemas``, by full name."""
    source = _ReaderSource(schemas, types)
    records = {name: schema for name, schema in schemas.items() if schema["type"] == "record"}
    for name, schema in records.items():
        source.record(name, schema)
    exec("\n".join(source.lines), source.names)  # noqa: S102 (our own text, from our own schemas)
    return {name: source.names[_reader_name(name)] for name in records}


# --- writing ---------------------------------------------------------------------------------------------------------

Plain = Callable[[Any], Any]
"""``value of a field -> the same as fastavro wants it``."""


def compile_plain(schemas: Mapping[str, Schema], types: Mapping[str, type]) -> dict[str, Plain]:
    """For every record of ``schemas``, by full name, what turns its struct into dicts, lists, numbers and texts that
    fastavro writes. A record in a union becomes the pair (full name, dict), so that fastavro need not guess."""
    compiled: dict[str, Plain] = {}

    def named(name: str) -> Plain:
        if name not in compiled:
            match schemas[name]:
                case {"type": "record", "fields": fields, "namespace": namespace}:
                    compiled[name] = _record({field["name"]: value(field["type"], namespace) for field in fields})
                case {"type": "fixed", "size": size}:
                    compiled[name] = lambda number: number.to_bytes(size)
                case {"type": "enum"}:
                    compiled[name] = _symbol
        return compiled[name]

    def value(node: Any, namespace: str) -> Plain:
        match node:
            case str() if full_name(node, namespace) in schemas:
                return named(full_name(node, namespace))
            case list():
                records: dict[type, tuple[str, Plain]] = {}
                other: Plain = _as_it_is
                for branch in node:
                    name = full_name(branch, namespace)
                    if name in schemas and schemas[name]["type"] == "record":
                        records[types[schemas[name]["name"]]] = name, named(name)
                    elif branch != "null":
                        other = value(branch, namespace)
                return _union(records, other)
            case {"type": "array", "items": items}:
                return _array(value(items, namespace))
            case {"type": "map", "values": values}:
                return _map(value(values, namespace))
            case _:
                return _as_it_is

    return {name: named(name) for name, schema in schemas.items() if schema["type"] == "record"}


def _as_it_is(value: Any) -> Any:
    return value


def _symbol(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _array(item: Plain) -> Plain:
    return list if item is _as_it_is else lambda values: [item(value) for value in values]


def _map(item: Plain) -> Plain:
    return _as_it_is if item is _as_it_is else lambda values: {key: item(value) for key, value in values.items()}


def _union(records: Mapping[type, tuple[str, Plain]], other: Plain) -> Plain:
    def plain(value: Any) -> Any:
        if value is None:
            return None
        if type(value) in records:
            name, record = records[type(value)]
            return name, record(value)
        return other(value)

    return plain


def _record(fields: Mapping[str, Plain]) -> Plain:
    converted = [(name, plain) for name, plain in fields.items() if plain is not _as_it_is]

    def plain(value: Any) -> dict[str, Any]:
        values = msgspec.structs.asdict(value)
        for name, convert in converted:
            values[name] = convert(values[name])
        return values

    return plain
