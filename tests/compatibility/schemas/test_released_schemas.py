"""A released schema is for ever: what was written with it can be read now, what is written now could be read by it.

The rules are those of Avro's schema resolution, and the judge is Avro's own checker.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import avro.schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro import schemaless_reader, schemaless_writer
from tests.unit.serde.control_messages import EXAMPLES

from moorage.errors import MoorageError
from moorage.serde.avro import compile_plain, named_types
from moorage.serde.control import FAMILIES, MARKER, decode
from moorage.serde.release_schemas import checksums, release
from moorage.serde.schemas import (
    CHECKSUMS_FILE,
    Schema,
    complete_schema,
    fingerprint,
    load_schemas,
    released_versions,
    schemas_folder,
)

SCHEMAS = schemas_folder()
VERSIONS = released_versions(SCHEMAS)
MESSAGES = {family.schema_name(message): family for family in FAMILIES for message in family.messages}

every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)


def _incompatibilities(released: dict[str, Schema], present: dict[str, Schema]) -> Iterator[str]:
    """What forbids to change ``released`` into ``present``, message by message."""
    for name in MESSAGES:
        if name in released and name not in present:
            yield f"{name} is gone"
        elif name in released:
            now, then = _theirs(name, present), _theirs(name, released)
            yield from _unreadable(f"{name}: now can't be read what was written", reader=now, writer=then)
            yield from _unreadable(f"{name}: can't be read any more by the older version", reader=then, writer=now)


def _theirs(name: str, schemas: dict[str, Schema]) -> avro.schema.Schema:
    complete = complete_schema(name, schemas)
    return avro.schema.parse(json.dumps({key: value for key, value in complete.items() if key[:2] != "__"}))


def _unreadable(what: str, reader: avro.schema.Schema, writer: avro.schema.Schema) -> Iterator[str]:
    result = ReaderWriterCompatibilityChecker().get_compatibility(reader, writer)
    if result.compatibility is not SchemaCompatibilityType.compatible:
        yield f"{what}: {', '.join(sorted(result.messages))} at {', '.join(sorted(result.locations))}"


# --- the released versions -------------------------------------------------------------------------------------------


def test_there_is_a_released_version() -> None:
    assert VERSIONS


@every_version
def test_a_released_version_is_as_it_was_released(version: Path) -> None:
    assert (version / CHECKSUMS_FILE).read_text() == checksums(version), (
        f"schemas/released/{version.name} was edited; put it back and change the present schemas instead"
    )


@every_version
def test_the_present_schemas_are_compatible_with_a_released_version(version: Path) -> None:
    assert list(_incompatibilities(load_schemas(version), load_schemas(SCHEMAS))) == []


@pytest.mark.parametrize(
    ("version", "name"),
    [(version, name) for version in VERSIONS for name in load_schemas(version) if name in MESSAGES],
    ids=lambda value: value.name if isinstance(value, Path) else value.rpartition(".")[2],
)
def test_messages_are_read_over_versions_in_both_directions(version: Path, name: str) -> None:
    present = load_schemas(SCHEMAS)
    then, now = complete_schema(name, load_schemas(version)), complete_schema(name, present)
    example = next(e for message, e in EXAMPLES.items() if MESSAGES[name].schema_name(message) == name)
    plain = compile_plain(present, named_types(*EXAMPLES))[name](example)

    written = MARKER + fingerprint(then) + _body(then, plain)
    assert type(decode(written, MESSAGES[name])) is type(example)
    read = schemaless_reader(BytesIO(_body(now, plain)), now, then)
    assert read.keys() == {field["name"] for field in then["fields"]}


def _body(schema: Schema, value: Any) -> bytes:
    out = BytesIO()
    schemaless_writer(out, schema, value)
    return out.getvalue()


# --- the check itself ------------------------------------------------------------------------------------------------


def _edit(name: str, change: Callable[[Schema], None]) -> list[str]:
    """The complaints when ``change`` is made to the present schema of that name after a release of all."""
    released = load_schemas(SCHEMAS)
    present = copy.deepcopy(released)
    change(present[f"io.moorage.control.{name}"])
    return list(_incompatibilities(released, present))


def _remove(field: str) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        schema["fields"] = [f for f in schema["fields"] if f["name"] != field]

    return change


def _add(**field: Any) -> Callable[[Schema], None]:
    return lambda schema: schema["fields"].append(field)


def _retype(field: str, to: Any) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        for present in schema["fields"]:
            if present["name"] == field:
                present["type"] = to

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("WorkerHeartbeat", _add(name="cpu", type="string", default="")),
        ("WorkerHeartbeat", _remove("host")),
        ("FileHandle", _add(name="etag", type=["null", "string"], default=None)),
        ("CancelJob", lambda schema: schema.update(doc="Said better.")),
        ("CancelJob", lambda schema: schema["fields"].reverse()),
        ("DeclineReason", lambda schema: schema["symbols"].append("quota")),
    ],
    ids=["field with default", "field with default gone", "nested field with default", "doc", "order", "symbol"],
)
def test_a_compatible_change_passes(name: str, change: Callable[[Schema], None]) -> None:
    assert _edit(name, change) == []


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("WorkerHeartbeat", _add(name="cpu", type="string"), "WorkerHeartbeat: now can't be read .*cpu"),
        ("WorkerHeartbeat", _remove("slots"), "WorkerHeartbeat: can't be read any more .*slots"),
        ("FileHandle", _add(name="etag", type="string"), "AcknowledgeCheckpoint: now can't be read"),
        ("CancelJob", _retype("attempt", "string"), "CancelJob: now can't be read .*string.*long"),
        ("CancelJob", _retype("attempt", ["null", "long"]), "CancelJob: can't be read any more"),
        ("DistributionMode", lambda schema: schema["symbols"].append("hash"), "Acknowledge.*: can't be read any more"),
        ("DistributionMode", lambda schema: schema["symbols"].remove("union"), "Acknowledge.*: now can't be read"),
        ("UInt64", lambda schema: schema.update(size=16), "DeployJob: now can't be read"),
    ],
    ids=[
        "field without default",
        "field without default gone",
        "nested field without default",
        "type",
        "union",
        "symbol more",
        "symbol less",
        "size",
    ],
)
def test_an_incompatible_change_is_found(name: str, change: Callable[[Schema], None], complaint: str) -> None:
    assert any(re.match(f"io.moorage.control.{complaint}", line) for line in _edit(name, change))


def test_a_message_that_is_gone_is_found() -> None:
    released = load_schemas(SCHEMAS)
    present = {name: schema for name, schema in released.items() if not name.endswith(".PurgeJob")}
    assert list(_incompatibilities(released, present)) == ["io.moorage.control.PurgeJob is gone"]


def test_a_release_is_a_copy_that_is_made_once_and_shows_every_edit(tmp_path: Path) -> None:
    shutil.copytree(SCHEMAS, tmp_path / "schemas", ignore=shutil.ignore_patterns("released"))
    released = release(tmp_path / "schemas", "0.2")
    assert load_schemas(released) == load_schemas(SCHEMAS)
    assert (released / CHECKSUMS_FILE).read_text() == checksums(released)

    with pytest.raises(MoorageError, match=r"0\.2 are frozen already"):
        release(tmp_path / "schemas", "0.2")
    with pytest.raises(MoorageError, match="major"):
        release(tmp_path / "schemas", "../control")
    edited = released / "control" / "CancelJob.avsc"
    edited.write_text(edited.read_text().replace("job", "Job"))
    assert (released / CHECKSUMS_FILE).read_text() != checksums(released)


def test_versions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for version in ("0.10", "0.9", "1.0"):
        (tmp_path / "released" / version).mkdir(parents=True)
    assert [path.name for path in released_versions(tmp_path)] == ["0.9", "0.10", "1.0"]
