"""``_metadata``: what a checkpoint consists of, in the binary format of Apache Flink.

What Flink wrote can be read here, and written back byte for byte; what is written here, Flink can load. A file is a
magic number, a version, and the layout of that version: checkpoint id, states of master hooks, states of operators
with the handles of each subtask, and properties of the checkpoint.

Where our model has more than Flink's format:

- Paths of files are written as they are: relative to the root of the checkpoint storage.
- A chain of keyed state handles travels inside a ChangelogStateBackendHandle (see ``keyed``).
- Versions below 5 have no room for names and uids of operators, versions below 4 none for properties: as in Flink
  they are left out. State that a version has no room for is refused.
"""

from __future__ import annotations

from moorage.errors import CorruptDataError, MetadataError
from moorage.ids import CheckpointId
from moorage.serde.metadata.binary import INT_BYTES, Reader, Writer
from moorage.serde.metadata.layouts import LATEST_VERSION, LAYOUTS
from moorage.serde.metadata.operators import OPERATOR_BYTES, read_operator, write_operator
from moorage.serde.metadata.properties import read_properties, write_properties
from moorage.state.operator_state import (
    CANONICAL_SAVEPOINT,
    RETAINED_CHECKPOINT,
    CheckpointMetadata,
    CheckpointProperties,
    MasterState,
)

_MAGIC = 0x4960672D
_MASTER_STATE_MAGIC = 0xC96B1696 - (1 << 32)
_MASTER_STATE_BYTES = 2 * INT_BYTES


def encode_metadata(metadata: CheckpointMetadata, version: int = LATEST_VERSION) -> bytes:
    """The bytes of a ``_metadata`` file in ``version``, 2 to 6.

    Raises MetadataError for state that the version has no room for.
    """
    layout = LAYOUTS.get(version)
    if layout is None or layout.chains:
        raise MetadataError(f"metadata version {version} can't be written, only 2 to {LATEST_VERSION}")
    writer = Writer()
    writer.int32(_MAGIC)
    writer.int32(version)
    writer.size(metadata.checkpoint)
    writer.int32(len(metadata.master_states))
    for master_state in metadata.master_states:
        _write_master_state(writer, master_state)
    writer.int32(len(metadata.operators))
    for operator in metadata.operators:
        write_operator(writer, operator, layout)
    if layout.properties:
        write_properties(writer, _properties(metadata))
    return writer.getvalue()


MAX_METADATA_BYTES = 256 << 20
"""What somebody else wrote is refused when it is larger; 10,000 subtasks with 100 files each need half of it."""


def decode_metadata(data: bytes, folder: str = "") -> CheckpointMetadata:
    """The content of a ``_metadata`` file that lies in ``folder``, against which its relative paths are resolved.

    Raises CorruptDataError that names what is wrong, and nothing else.
    """
    try:
        return _decode_metadata(Reader(data, folder))
    except CorruptDataError as error:
        raise CorruptDataError(f"checkpoint metadata: {error}") from error


def metadata_version(data: bytes) -> int:
    """The version that a ``_metadata`` file is written in; raises CorruptDataError when it is none."""
    return _read_version(Reader(data))


def _decode_metadata(reader: Reader) -> CheckpointMetadata:
    version = _read_version(reader)
    layout = LAYOUTS.get(version)
    if layout is None:
        raise reader.corrupt(f"version {version} is not supported")
    checkpoint = CheckpointId(reader.size("checkpoint id"))
    master_states = () if layout.chains else _read_master_states(reader)
    operators = tuple(read_operator(reader, layout) for _ in range(reader.count("operators", OPERATOR_BYTES)))
    properties = read_properties(reader) if layout.properties else RETAINED_CHECKPOINT
    reader.end()
    savepoint = properties.snapshot_type.savepoint
    return CheckpointMetadata(
        checkpoint=checkpoint,
        operators=operators,
        master_states=master_states,
        savepoint=savepoint,
        properties=None if properties == _usual_properties(savepoint) else properties,
    )


def _read_version(reader: Reader) -> int:
    if reader.int32("magic number") != _MAGIC:
        raise reader.corrupt("it does not start with the magic number of Flink's metadata")
    return reader.int32("version")


def _properties(metadata: CheckpointMetadata) -> CheckpointProperties:
    if metadata.properties is None:
        return _usual_properties(metadata.savepoint)
    if metadata.properties.snapshot_type.savepoint != metadata.savepoint:
        raise MetadataError(f"savepoint={metadata.savepoint} contradicts {metadata.properties.snapshot_type}")
    return metadata.properties


def _usual_properties(savepoint: bool) -> CheckpointProperties:
    return CANONICAL_SAVEPOINT if savepoint else RETAINED_CHECKPOINT


def _read_master_states(reader: Reader) -> tuple[MasterState, ...]:
    count = reader.count("master states", _MASTER_STATE_BYTES)
    return tuple(_read_master_state(reader) for _ in range(count))


def _read_master_state(reader: Reader) -> MasterState:
    if reader.int32("magic number of a master state") != _MASTER_STATE_MAGIC:
        raise reader.corrupt("a master state does not start with its magic number")
    content = Reader(reader.data("a master state"))
    version = content.int32("version of a master state")
    state = MasterState(name=content.text("name of a master state"), version=version, data=content.data("master state"))
    content.end()
    return state


def _write_master_state(writer: Writer, state: MasterState) -> None:
    content = Writer()
    content.int32(state.version)
    content.text(state.name)
    content.data(state.data)
    writer.int32(_MASTER_STATE_MAGIC)
    writer.data(content.getvalue())
