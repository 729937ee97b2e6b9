"""Holds structs against schemas. Everything that differs is said in one line which names struct, field and file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import msgspec
from msgspec import inspect

from moorage.serde.schemas import Schema, full_name

_NO_DEFAULT = object()


def disagreements(types: Mapping[str, type], schemas: Mapping[str, Schema]) -> Iterator[str]:
    """What is wrong between ``types`` (structs and enums, by name) and ``schemas`` (by full name)."""
    described = {schema["name"]: (name, schema) for name, schema in schemas.items()}
    for name, cls in types.items():
        if name not in described:
            yield f"{name} has no schema: write schemas/control/{name}.avsc"
        elif issubclass(cls, Enum):
            yield from _compare(name, _of_kind(inspect.type_info(cls)), _of_node(described[name][0], "", schemas))
        else:
            yield from _compare_struct(cls, *described[name], schemas)
    for name, (full, schema) in described.items():
        if schema["type"] == "record" and name not in types:
            yield f"{_file(full)} describes {name}, which is no message and in none: delete it"


def _compare_struct(cls: type, full: str, schema: Schema, schemas: Mapping[str, Schema]) -> Iterator[str]:
    kinds = {field.name: field for field in inspect.type_info(cls).fields}
    fields = {field["name"]: field for field in schema["fields"]}
    for name in kinds.keys() - fields.keys():
        yield f"{cls.__name__}.{name} is in the struct only: add it to {_file(full)}, with a default and a doc"
    for name in fields.keys() - kinds.keys():
        yield f"{cls.__name__}.{name} is in {_file(full)} only: add it to the struct, or remove it there"
    for name in kinds.keys() & fields.keys():
        where = f"{cls.__name__}.{name}"
        yield from _compare(
            where, _of_kind(kinds[name].type), _of_node(fields[name]["type"], schema["namespace"], schemas)
        )
        default = kinds[name].default
        if default is not msgspec.NODEFAULT:
            plain = list(default) if isinstance(default, tuple) else msgspec.to_builtins(default)
            if fields[name].get("default", _NO_DEFAULT) != plain:
                yield f"{where} has the default {plain!r} in the struct, but not in {_file(full)}"


def _compare(where: str, struct: str, schema: str) -> Iterator[str]:
    if struct != schema:
        yield f"{where} is <{struct}> in the struct and <{schema}> in its schema"


def _file(full: str) -> str:
    folder, _, name = full.rpartition(".")[0].rpartition(".")[2], ".", full.rpartition(".")[2]
    return f"schemas/{folder}/{name}.avsc"


def _of_kind(kind: inspect.Type) -> str:
    match kind:
        case inspect.NoneType():
            return "null"
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "int"
        case inspect.FloatType():
            return "float"
        case inspect.StrType():
            return "str"
        case inspect.BytesType():
            return "bytes"
        case inspect.EnumType(cls=cls):
            return _enum(member.value for member in cls)
        case inspect.LiteralType(values=values):
            return _enum(values)
        case inspect.VarTupleType(item_type=item):
            return f"array of {_of_kind(item)}"
        case inspect.DictType(value_type=value):
            return f"map of {_of_kind(value)}"
        case inspect.UnionType(types=types):
            return " or ".join(sorted(_of_kind(branch) for branch in types))
        case inspect.StructType(cls=cls):
            return cls.__name__
        case _:
            return f"{kind}, which has no form in Avro"


def _of_node(node: Any, namespace: str, schemas: Mapping[str, Schema]) -> str:
    primitives = {
        "null": "null",
        "boolean": "bool",
        "long": "int",
        "double": "float",
        "string": "str",
        "bytes": "bytes",
    }
    match node:
        case list():
            return " or ".join(sorted(_of_node(branch, namespace, schemas) for branch in node))
        case {"type": "array", "items": items}:
            return f"array of {_of_node(items, namespace, schemas)}"
        case {"type": "map", "values": values}:
            return f"map of {_of_node(values, namespace, schemas)}"
        case str() if node in primitives:
            return primitives[node]
        case str():
            match schemas[full_name(node, namespace)]:
                case {"type": "enum", "symbols": symbols}:
                    return _enum(symbols)
                case {"type": "fixed"}:
                    return "int"
                case {"type": "record", "name": name}:
                    return str(name)
    return f"{node}, which Moorage does not use"


def _enum(symbols: Any) -> str:
    return f"enum of {', '.join(sorted(symbols))}"
