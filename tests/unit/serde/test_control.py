from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import avro.io
import avro.schema
import msgspec
import pytest
from fastavro import schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serde.control_messages import EXAMPLES, GOLDEN_FILE, MESSAGES, family_of, messages

from moorage.errors import CorruptDataError, UnknownSchemaError
from moorage.messages.barriers import Barrier
from moorage.messages.cleanup import DiscardState
from moorage.messages.commands import CancelJob
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
)
from moorage.serde.avro import compile_plain, named_types
from moorage.serde.control import BARRIERS, CLEANUP, COMMANDS, EVENTS, FAMILIES, HEADER_BYTES, Codec, decode, encode
from moorage.serde.schemas import complete_schema, fingerprint, load_schemas, schemas_folder

every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
PRESENT = Codec(schemas_folder())
GOLDEN = dict(line.split() for line in GOLDEN_FILE.read_text().splitlines())


# --- what is written can be read -------------------------------------------------------------------------------------


@every_message
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same(message: type[msgspec.Struct], data: st.DataObject) -> None:
    original = data.draw(messages(message))
    assert decode(encode(original), family_of(message)) == original


@every_message
def test_the_bytes_of_a_message_are_these(message: type[msgspec.Struct]) -> None:
    example = EXAMPLES[message]
    assert encode(example).hex() == GOLDEN[message.__name__], (
        "logs hold messages of these bytes; if the schema changed on purpose, write golden_messages.txt anew with"
        " python -m tests.unit.serde.control_messages"
    )
    assert decode(bytes.fromhex(GOLDEN[message.__name__]), family_of(message)) == example


@every_message
def test_apache_avro_reads_the_bytes_too(message: type[msgspec.Struct]) -> None:
    """The other side of the contract is Avro's own implementation, which shares no code with ours."""
    folder = schemas_folder()
    schemas = load_schemas(folder)
    name = family_of(message).schema_name(message)
    complete = complete_schema(name, schemas)
    theirs = avro.schema.parse(json.dumps({key: value for key, value in complete.items() if key[:2] != "__"}))
    written = bytes.fromhex(GOLDEN[message.__name__])
    source = io.BytesIO(written[HEADER_BYTES:])

    read = avro.io.DatumReader(theirs).read(avro.io.BinaryDecoder(source))

    plain = compile_plain(schemas, named_types(*MESSAGES))[name](EXAMPLES[message])
    assert read == _without_record_names(plain)
    assert source.read() == b""
    assert written[2:HEADER_BYTES] == theirs.fingerprint("CRC-64-AVRO")


def _without_record_names(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_record_names(item) for key, item in value.items()}
        case list():
            return [_without_record_names(item) for item in value]
        case (_, record):
            return _without_record_names(record)
        case _:
            return value


def test_text_without_utf8_form_is_escaped_so_that_a_failure_is_still_reported() -> None:
    failed = SubtaskStateChanged(
        worker="w/1",
        job="orders",
        attempt=1,
        vertex="totals",
        subtask=0,
        state=SubtaskState.FAILED,
        failure="no such file: caf\udce9.csv",
        trace="größe \ud800",
    )
    assert decode(encode(failed), EVENTS) == msgspec.structs.replace(
        failed, failure="no such file: caf\\udce9.csv", trace="größe \\ud800"
    )


def test_a_field_of_the_wrong_type_is_the_callers_bug() -> None:
    with pytest.raises(TypeError, match="job"):
        encode(CancelJob(epoch=1, job=None, attempt=1))  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        encode(CancelJob(epoch=2**63, job="orders", attempt=1))


# --- what can't be read is refused -----------------------------------------------------------------------------------


@every_message
def test_every_cut_and_every_excess_is_refused(message: type[msgspec.Struct]) -> None:
    whole = bytes.fromhex(GOLDEN[message.__name__])
    family = family_of(message)
    for length in range(HEADER_BYTES, len(whole)):
        with pytest.raises(CorruptDataError, match=message.__name__):
            decode(whole[:length], family)
    for length in range(HEADER_BYTES):
        with pytest.raises(CorruptDataError, match=family.name):
            decode(whole[:length], family)
    with pytest.raises(CorruptDataError, match=f"malformed {message.__name__}.*1 bytes too many"):
        decode(whole + b"\x00", family)


@settings(max_examples=300, deadline=None)
@given(message=st.sampled_from(list(MESSAGES)), body=st.binary(max_size=400))
def test_a_hostile_body_is_a_message_or_corrupt(message: type[msgspec.Struct], body: bytes) -> None:
    _decodes_or_is_corrupt(_header(message) + body, message)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_message_is_a_message_or_corrupt(data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(list(MESSAGES)))
    damaged = bytearray.fromhex(GOLDEN[message.__name__])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(HEADER_BYTES, len(damaged)))
        damaged[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=10))
    _decodes_or_is_corrupt(bytes(damaged), message)


def _decodes_or_is_corrupt(data: bytes, message: type[msgspec.Struct], codec: Codec = PRESENT) -> None:
    try:
        decoded = codec.decode(data, family_of(message))
    except CorruptDataError as error:
        refusal = str(error)
    else:
        msgspec.convert(msgspec.to_builtins(decoded), message)  # every field holds what its type says
        refusal = type(decoded).__name__
    assert message.__name__ in refusal


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\xc3\x01" + tail))
def test_arbitrary_bytes_are_refused_with_an_error_of_ours(data: bytes) -> None:
    for family in FAMILIES:
        with pytest.raises((CorruptDataError, UnknownSchemaError), match=family.name):
            decode(data, family)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("080104", "negative size"),
        ("080c6f72646572ff04", "utf-8"),
        ("ffffffffffffffffff7f0c6f726465727304", "64 bits"),
        ("80" * 1_000_000, "does not end"),
    ],
    ids=["negative length", "not UTF-8", "more than 64 bits", "a number that takes ages to read"],
)
def test_what_avro_does_not_allow_is_refused(body: str, complaint: str) -> None:
    with pytest.raises(CorruptDataError, match=f"CancelJob.*{complaint}"):
        decode(_header(CancelJob) + bytes.fromhex(body), COMMANDS)


def test_arrays_may_come_in_blocks_with_their_size() -> None:
    """Avro lets a writer do that; fastavro never does, Java's does."""
    body = bytes.fromhex("020261040104026202026300")
    expected = DiscardState(epoch=1, job="a", checkpoint=2, paths=("b", "c"))
    assert decode(_header(DiscardState) + body, CLEANUP) == expected


def _header(message: type[msgspec.Struct]) -> bytes:
    return bytes.fromhex(GOLDEN[message.__name__])[:HEADER_BYTES]


def test_a_message_of_another_family_is_refused() -> None:
    with pytest.raises(CorruptDataError, match="expected a command, got Barrier"):
        decode(encode(EXAMPLES[Barrier]), COMMANDS)


def test_an_unknown_schema_is_named_with_what_to_do() -> None:
    newer = b"\xc3\x01" + bytes.fromhex("0123456789abcdef") + b"\x02"
    with pytest.raises(
        UnknownSchemaError, match=r"^a barrier was .* schema 0123456789abcdef, .* newer Moorage: upgrade this service$"
    ):
        decode(newer, BARRIERS)


# --- what an older version wrote -------------------------------------------------------------------------------------


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The present schemas beside a release in which heartbeats and acknowledgements looked different."""
    folder = tmp_path / "schemas"
    shutil.copytree(schemas_folder(), folder, ignore=shutil.ignore_patterns("released"))
    release = folder / "released" / "0.0"
    for name in ("control", "exchange"):
        shutil.copytree(folder / name, release / name)
    _change(release, "WorkerHeartbeat", remove=("host", "leaving"), add={"name": "cpu", "type": "string"})
    _change(release, "AcknowledgeCheckpoint", remove=("metrics",))
    _change(release, "FileHandle", remove=("relative_path",))
    reasons = release / "control" / "DeclineReason.avsc"
    reasons.write_text(reasons.read_text().replace('"log"', '"kafka"'))
    return folder


def _change(release: Path, name: str, remove: tuple[str, ...], add: dict[str, Any] | None = None) -> None:
    path = release / "control" / f"{name}.avsc"
    schema = json.loads(path.read_text())
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in remove] + ([add] if add else [])
    path.write_text(json.dumps(schema))


def _write_older(folder: Path, message: msgspec.Struct, **changed: Any) -> bytes:
    released = load_schemas(folder / "released" / "0.0")
    name = f"io.moorage.control.{type(message).__name__}"
    schema = complete_schema(name, released)
    out = io.BytesIO()
    out.write(b"\xc3\x01" + fingerprint(schema))
    schemaless_writer(out, schema, compile_plain(load_schemas(folder), named_types(*MESSAGES))[name](message) | changed)
    return out.getvalue()


def test_what_an_older_version_wrote_is_resolved_to_the_present_schema(older: Path) -> None:
    heartbeat = EXAMPLES[WorkerHeartbeat]
    written = _write_older(older, heartbeat, cpu="x86")

    assert Codec(older).decode(written, EVENTS) == msgspec.structs.replace(heartbeat, host="", leaving=False)
    with pytest.raises(UnknownSchemaError):
        decode(written, EVENTS)


def test_defaults_of_nested_records_and_unions_are_filled_in(older: Path) -> None:
    acknowledged = EXAMPLES[AcknowledgeCheckpoint]
    codec = Codec(older)
    for _ in range(2):  # a default that one message got must not be changed for the next
        assert codec.decode(_write_older(older, acknowledged), EVENTS) == msgspec.structs.replace(
            acknowledged, metrics=CheckpointMetrics()
        )


def test_a_symbol_that_is_gone_becomes_the_default_of_its_enum(older: Path) -> None:
    declined = EXAMPLES[DeclineCheckpoint]
    decoded = Codec(older).decode(_write_older(older, declined, reason="kafka"), EVENTS)
    assert decoded == msgspec.structs.replace(declined, reason=DeclineReason.INTERNAL)


def test_what_an_older_version_wrote_is_refused_when_it_is_cut_or_too_long(older: Path) -> None:
    codec = Codec(older)
    whole = _write_older(older, EXAMPLES[WorkerHeartbeat], cpu="x86")
    for length in range(HEADER_BYTES, len(whole)):
        with pytest.raises(CorruptDataError, match="WorkerHeartbeat"):
            codec.decode(whole[:length], EVENTS)
    with pytest.raises(CorruptDataError, match="WorkerHeartbeat"):
        codec.decode(whole + b"\x00", EVENTS)


def test_a_hostile_body_of_an_older_version_is_a_message_or_corrupt(older: Path) -> None:
    codec = Codec(older)
    header = _write_older(older, EXAMPLES[AcknowledgeCheckpoint])[:HEADER_BYTES]

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=300))
    def holds(body: bytes) -> None:
        _decodes_or_is_corrupt(header + body, AcknowledgeCheckpoint, codec)

    holds()


def test_a_released_schema_that_has_not_changed_is_read_directly(older: Path) -> None:
    cancel = EXAMPLES[CancelJob]
    assert encode(cancel) == Codec(older).encode(cancel)
    assert Codec(older).decode(encode(cancel), COMMANDS) == cancel
