"""Properties of a checkpoint, in Java's serialization (Flink: CheckpointProperties, since metadata version 4).

Every Flink since 1.16 writes the same bytes for the same properties: a fixed head that describes the class, seven
booleans, and one of eight objects. So nothing has to be deserialized, and what is not one of them is refused.
"""

from __future__ import annotations

from moorage.serde.metadata.binary import Reader, Writer
from moorage.state.operator_state import CheckpointProperties, SnapshotType

_PACKAGE = "org.apache.flink.runtime.checkpoint"
_FORMAT = "org.apache.flink.core.execution.SavepointFormatType"


def _text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _string(text: str) -> bytes:
    return b"t" + _text(text)


def _class(name: str, uid: bytes, *fields: bytes) -> bytes:
    return b"r" + _text(name) + uid + b"\x02" + len(fields).to_bytes(2, "big") + b"".join(fields) + b"xp"


def _boolean_field(name: str) -> bytes:
    return b"Z" + _text(name)


def _object_field(name: str, of_class: str) -> bytes:
    return b"L" + _text(name) + _string(f"L{of_class.replace('.', '/')};")


def _enum_class(name: str, parent: bytes) -> bytes:
    return b"r" + _text(name) + bytes(8) + b"\x12\x00\x00x" + parent


_ENUM = _enum_class("java.lang.Enum", b"p")
_ENUM_AGAIN = b"q\x00\x7e\x00\x09"
"""The class has been described: a reference to it."""


def _constant(of_class: str, name: str, parent: bytes = _ENUM) -> bytes:
    return b"~" + _enum_class(of_class, parent) + _string(name)


def _checkpoint_type(name: str, sharing: str) -> bytes:
    strategy = f"{_PACKAGE}.SnapshotType$SharingFilesStrategy"
    described = _class(
        f"{_PACKAGE}.CheckpointType",
        bytes.fromhex("d6de4f0305ae1d3a"),
        _object_field("name", "java.lang.String"),
        _object_field("sharingFilesStrategy", strategy),
    )
    return b"s" + described + _string(name) + _constant(strategy, sharing)


def _savepoint_type(name: str, form: str, action: str) -> bytes:
    post_action = f"{_PACKAGE}.SavepointType$PostCheckpointAction"
    described = _class(
        f"{_PACKAGE}.SavepointType",
        bytes.fromhex("a087d308a45814b8"),
        _object_field("formatType", _FORMAT),
        _object_field("name", "java.lang.String"),
        _object_field("postCheckpointAction", post_action),
    )
    return b"s" + described + _constant(_FORMAT, form) + _string(name) + _constant(post_action, action, _ENUM_AGAIN)


_FLAGS = (
    "discard_cancelled",
    "discard_failed",
    "discard_finished",
    "discard_subsumed",
    "discard_suspended",
    "forced",
    "unclaimed",
)
"""In the order in which Java writes them: by name of the field in Flink's class."""

_HEAD = b"\xac\xed\x00\x05s" + _class(
    f"{_PACKAGE}.CheckpointProperties",
    bytes.fromhex("0000000000000002"),
    _boolean_field("discardCancelled"),
    _boolean_field("discardFailed"),
    _boolean_field("discardFinished"),
    _boolean_field("discardSubsumed"),
    _boolean_field("discardSuspended"),
    _boolean_field("forced"),
    _boolean_field("unclaimed"),
    _object_field("checkpointType", f"{_PACKAGE}.SnapshotType"),
)

_TYPES = {
    SnapshotType.CHECKPOINT: _checkpoint_type("Checkpoint", "FORWARD_BACKWARD"),
    SnapshotType.FULL_CHECKPOINT: _checkpoint_type("Full Checkpoint", "FORWARD"),
    SnapshotType.CANONICAL_SAVEPOINT: _savepoint_type("Savepoint", "CANONICAL", "NONE"),
    SnapshotType.CANONICAL_SUSPEND_SAVEPOINT: _savepoint_type("Suspend Savepoint", "CANONICAL", "SUSPEND"),
    SnapshotType.CANONICAL_TERMINATE_SAVEPOINT: _savepoint_type("Terminate Savepoint", "CANONICAL", "TERMINATE"),
    SnapshotType.NATIVE_SAVEPOINT: _savepoint_type("Savepoint", "NATIVE", "NONE"),
    SnapshotType.NATIVE_SUSPEND_SAVEPOINT: _savepoint_type("Suspend Savepoint", "NATIVE", "SUSPEND"),
    SnapshotType.NATIVE_TERMINATE_SAVEPOINT: _savepoint_type("Terminate Savepoint", "NATIVE", "TERMINATE"),
}
_TYPES_BY_BYTES = {data: snapshot_type for snapshot_type, data in _TYPES.items()}


def read_properties(reader: Reader) -> CheckpointProperties:
    """The rest of the reader, which must be nothing else."""
    if reader.take(len(_HEAD), "checkpoint properties") != _HEAD:
        raise reader.corrupt("the checkpoint properties are not the object that Flink writes")
    flags = {flag: reader.flag(reader.byte(flag), flag) for flag in _FLAGS}
    snapshot_type = _TYPES_BY_BYTES.get(reader.take(reader.remaining_bytes, "snapshot type"))
    if snapshot_type is None:
        raise reader.corrupt("the type of the checkpoint is none that Flink writes")
    return CheckpointProperties(snapshot_type=snapshot_type, **flags)


def write_properties(writer: Writer, properties: CheckpointProperties) -> None:
    writer.raw(_HEAD)
    for flag in _FLAGS:
        writer.byte(getattr(properties, flag))
    writer.raw(_TYPES[properties.snapshot_type])
