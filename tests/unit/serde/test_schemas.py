from __future__ import annotations

import copy
from enum import Enum
from pathlib import Path

import msgspec
import pytest
from tests.unit.serde.agreement import disagreements
from tests.unit.serde.control_messages import MESSAGES

from moorage.errors import CorruptDataError
from moorage.serde.avro import named_types
from moorage.serde.schemas import Schema, complete_schema, fingerprint, load_schemas, schema_files, schemas_folder

SCHEMAS = load_schemas(schemas_folder())
every_schema = pytest.mark.parametrize("name", SCHEMAS)


def test_structs_and_schemas_agree() -> None:
    assert list(disagreements(named_types(*MESSAGES), SCHEMAS)) == []


@every_schema
def test_every_record_and_field_says_what_it_is(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["doc"].endswith(".")
    for field in schema.get("fields", ()):
        assert field["doc"].endswith("."), field["name"]


@every_schema
def test_an_optional_field_is_null_by_default(name: str) -> None:
    """A union's default belongs to its first branch, so null comes first."""
    for field in SCHEMAS[name].get("fields", ()):
        if isinstance(field["type"], list) and "null" in field["type"]:
            assert field["type"][0] == "null", field["name"]
            assert field["default"] is None, field["name"]


def test_there_is_nothing_but_schemas_in_the_folders() -> None:
    folder = schemas_folder()
    present = [path for name in ("control", "exchange") for path in (folder / name).rglob("*")]
    assert sorted(present) == sorted(schema_files(folder))


def test_a_file_that_defines_another_type_than_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "Wrong.avsc").write_text(
        '{"type": "record", "namespace": "io.moorage.control", "name": "Right"}'
    )
    with pytest.raises(CorruptDataError, match=r"control/Wrong\.avsc must define io\.moorage\.control\.Wrong"):
        load_schemas(tmp_path)


def test_a_complete_schema_defines_each_type_once_where_it_is_first_named() -> None:
    complete = complete_schema("io.moorage.control.WorkerHeartbeat", SCHEMAS)
    text = str({key: value for key, value in complete.items() if not key.startswith("__")})
    assert text.count("'io.moorage.control.RunningSubtask'") == 1
    assert text.count("'symbols'") == 1


def test_a_fingerprint_is_that_of_the_specification() -> None:
    """The value that Java's SchemaNormalization gives for this schema, in the byte order of a message."""
    schema = complete_schema("x.Int", {"x.Int": {"type": "fixed", "namespace": "x", "name": "Int", "size": 4}})
    assert len(fingerprint(schema)) == 8
    assert fingerprint({"type": "int"}).hex() == "8f5c393f1ad57572"


class Colour(Enum):
    RED = "red"


class Part(msgspec.Struct):
    size_bytes: int
    colour: Colour


class Whole(msgspec.Struct):
    parts: tuple[Part, ...]
    name: str | None = None


NESTED: dict[str, Schema] = {
    "io.moorage.control.Colour": {
        "type": "enum",
        "namespace": "io.moorage.control",
        "name": "Colour",
        "symbols": ["red"],
    },
    "io.moorage.control.Part": {
        "type": "record",
        "namespace": "io.moorage.control",
        "name": "Part",
        "fields": [{"name": "size_bytes", "type": "long"}, {"name": "colour", "type": "Colour"}],
    },
    "io.moorage.control.Whole": {
        "type": "record",
        "namespace": "io.moorage.control",
        "name": "Whole",
        "fields": [
            {"name": "parts", "type": {"type": "array", "items": "Part"}},
            {"name": "name", "type": ["null", "string"], "default": None},
        ],
    },
}


def _complaints(**changed: Schema) -> list[str]:
    schemas = copy.deepcopy(NESTED)
    for name, changes in changed.items():
        schemas[f"io.moorage.control.{name}"].update(changes)
    return list(disagreements(named_types(Whole), schemas))


def test_a_forgotten_field_is_named_with_what_to_do() -> None:
    """The check itself, on types made up for it."""
    size, colour = NESTED["io.moorage.control.Part"]["fields"]
    extra = {"name": "weight", "type": "double"}
    assert _complaints() == []
    assert _complaints(Part={"fields": [size]}) == [
        "Part.colour is in the struct only: add it to schemas/control/Part.avsc, with a default and a doc"
    ]
    assert _complaints(Part={"fields": [size, colour, extra]}) == [
        "Part.weight is in schemas/control/Part.avsc only: add it to the struct, or remove it there"
    ]


def test_another_type_symbol_or_default_is_named() -> None:
    parts, _ = NESTED["io.moorage.control.Whole"]["fields"]
    assert _complaints(
        Part={"fields": [{"name": "size_bytes", "type": "string"}, {"name": "colour", "type": "Colour"}]}
    ) == ["Part.size_bytes is <int> in the struct and <str> in its schema"]
    assert _complaints(Whole={"fields": [parts, {"name": "name", "type": ["null", "string"]}]}) == [
        "Whole.name has the default None in the struct, but not in schemas/control/Whole.avsc"
    ]
    assert "Colour is <enum of red> in the struct and <enum of green, red> in its schema" in _complaints(
        Colour={"symbols": ["red", "green"]}
    )


def test_a_missing_and_a_superfluous_schema_are_named() -> None:
    schemas = {name: schema for name, schema in NESTED.items() if not name.endswith("Part")}
    assert "Part has no schema: write schemas/control/Part.avsc" in disagreements({"Part": Part}, schemas)
    assert list(disagreements({"Colour": Colour, "Part": Part}, NESTED)) == [
        "schemas/control/Whole.avsc describes Whole, which is no message and in none: delete it"
    ]
