"""The Avro schemas of the control messages and barriers: present ones and frozen copies of released ones.

They lie in ``schemas/`` of a checkout and in ``moorage/_schemas`` of an installed package. One named type per file,
``control/AcknowledgeCheckpoint.avsc``; a file refers to another type by its name. The full name of a type follows from
where its file lies: ``io.moorage.control.AcknowledgeCheckpoint``.

``released/<version>/`` repeats that layout as it was when the version was released, with the files' checksums in
``SHA256SUMS``. What lies there never changes: messages that were written with it may still be in a log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from fastavro.schema import fingerprint as schema_fingerprint
from fastavro.schema import parse_schema, to_parsing_canonical_form

from moorage.errors import CorruptDataError

NAMESPACE = "io.moorage"
FOLDERS = ("control", "exchange")
RELEASED_FOLDER = "released"
CHECKSUMS_FILE = "SHA256SUMS"

Schema = dict[str, Any]
"""A schema as JSON has it. A *complete* one holds the definition of every type that it names, where first named."""


def schemas_folder() -> Path:
    """Where this installation or checkout has its schemas."""
    package = Path(__file__).parents[1]
    installed = package / "_schemas"
    return installed if installed.is_dir() else package.parents[1] / "schemas"


def load_schemas(folder: Path) -> dict[str, Schema]:
    """Every type that is defined in ``folder``, by full name, as written: with references to other types."""
    schemas = {}
    for path in schema_files(folder):
        schema: Schema = json.loads(path.read_text("utf-8"))
        name = f"{NAMESPACE}.{path.parent.name}.{path.stem}"
        if f"{schema['namespace']}.{schema['name']}" != name:
            raise CorruptDataError(f"schema file {path.parent.name}/{path.name} must define {name}")
        schemas[name] = schema
    return schemas


def schema_files(folder: Path) -> list[Path]:
    return [path for name in FOLDERS for path in sorted((folder / name).glob("*.avsc"))]


def released_versions(folder: Path) -> list[Path]:
    """The folders of the released versions, oldest first."""
    versions = [path for path in (folder / RELEASED_FOLDER).glob("*") if path.is_dir()]
    return sorted(versions, key=lambda path: [int(part) for part in path.name.split(".")])


def full_name(name: str, namespace: str) -> str:
    """What ``name`` means in a schema of ``namespace``, if it is the name of a type at all."""
    return name if "." in name else f"{namespace}.{name}"


def complete_schema(name: str, schemas: Mapping[str, Schema]) -> Schema:
    """The complete schema of the type ``name``, parsed, so that fastavro reads and writes with it as it is."""
    return cast("Schema", parse_schema(_define(name, "", schemas, set())))


def _define(node: Any, namespace: str, schemas: Mapping[str, Schema], defined: set[str]) -> Any:
    """``node`` with the first reference to each type replaced by its definition."""

    def define(nested: Any) -> Any:
        return _define(nested, namespace, schemas, defined)

    match node:
        case str():
            name = full_name(node, namespace)
            if name not in schemas or name in defined:
                return node
            defined.add(name)
            return _define(schemas[name], schemas[name]["namespace"], schemas, defined)
        case list():
            return [define(nested) for nested in node]
        case dict():
            return {
                key: define(value) if key in ("type", "items", "values", "fields") else value
                for key, value in node.items()
            }
        case _:
            return node


def fingerprint(schema: Schema) -> bytes:
    """CRC-64-AVRO of the parsing canonical form of a complete schema, 8 bytes, little endian as in messages."""
    return bytes.fromhex(schema_fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
