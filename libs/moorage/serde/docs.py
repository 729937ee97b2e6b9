"""Writes docs/messages.md: ``python -m moorage.serde.docs > docs/messages.md``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from moorage.naming import CLEANUP_TOPIC, COMMANDS_TOPIC, EVENTS_TOPIC, PROGRESS_TOPIC
from moorage.serde.control import BARRIERS, CLEANUP, COMMANDS, EVENTS, PROGRESS
from moorage.serde.schemas import Schema, complete_schema, fingerprint, full_name, load_schemas, schemas_folder

_INTRODUCTION = """\
# Control messages

Services talk through Kafka topics, in Avro's single-object encoding: the marker `C3 01`, the fingerprint of the
writer's schema (CRC-64-AVRO, little endian), the body. The schemas are in `schemas/`, those of released versions in
`schemas/released/`. A reader that does not know a fingerprint names it; look for it here, and in the newest release.

<!-- Written by python -m moorage.serde.docs; change the schemas, not this file. -->
"""

_CHAPTERS = (
    ("Coordinator to workers", f"Topic `{COMMANDS_TOPIC}`.", COMMANDS),
    ("Workers to coordinator", f"Topic `{EVENTS_TOPIC}`.", EVENTS),
    ("Consumers to producers of an exchange", f"Topic `{PROGRESS_TOPIC}`.", PROGRESS),
    ("Coordinator to cleaner", f"Topic `{CLEANUP_TOPIC}`.", CLEANUP),
    ("Inline with records", "Payload of a barrier frame of an exchange topic.", BARRIERS),
)


def page() -> str:
    schemas = load_schemas(schemas_folder())
    lines = [_INTRODUCTION]
    nested = dict(schemas)
    for title, where, family in _CHAPTERS:
        lines += [f"## {title}\n", f"{where}\n"]
        for name in map(family.schema_name, family.messages):
            lines += _section(nested.pop(name), schemas)
            lines.append(f"Fingerprint: `{fingerprint(complete_schema(name, schemas)).hex()}`\n")
    lines.append("## What they are made of\n")
    for schema in nested.values():
        lines += _section(schema, schemas)
    return "\n".join(lines)


def _section(schema: Schema, schemas: Mapping[str, Schema]) -> Iterator[str]:
    yield f"### {schema['name']}\n"
    yield f"{schema['doc']}\n"
    if "symbols" in schema:
        yield f"Symbols: {', '.join(f'`{symbol}`' for symbol in schema['symbols'])}.\n"
    if "fields" in schema:
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        for field in schema["fields"]:
            default = f"`{json.dumps(field['default'])}`" if "default" in field else ""
            kind = _type(field["type"], schema["namespace"], schemas)
            yield f"| `{field['name']}` | {kind} | {default} | {field['doc']} |"
        yield ""


def _type(node: Any, namespace: str, schemas: Mapping[str, Schema]) -> str:
    match node:
        case list():
            return " or ".join(_type(branch, namespace, schemas) for branch in node)
        case {"type": "array", "items": items}:
            return f"array of {_type(items, namespace, schemas)}"
        case {"type": "map", "values": values}:
            return f"map of {_type(values, namespace, schemas)}"
        case _ if full_name(node, namespace) in schemas:
            return f"[{node}](#{node.lower()})"
        case _:
            return str(node)


if __name__ == "__main__":
    sys.stdout.write(page())
