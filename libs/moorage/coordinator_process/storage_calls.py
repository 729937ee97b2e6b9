"""The operations on checkpoints and savepoints in a storage, each as one call of the executor."""

from __future__ import annotations

from typing import Any

import xxhash

from moorage.coordinator_process.origin import is_intact, is_ours, seal, with_origin
from moorage.effects import (
    DeleteSavepoint,
    DiscardSavepoint,
    FoundSavepoint,
    Operation,
    ReadOperatorStates,
    ReadSavepoint,
    VerifiedMetadata,
    VerifyMetadata,
    WriteMetadata,
    WrittenMetadata,
)
from moorage.errors import CorruptDataError, MoorageError, ObjectExistsError
from moorage.ids import OperatorId
from moorage.messages.registry import CheckpointRecord
from moorage.naming import folder_of, is_savepoint_file, metadata_of
from moorage.ports import CheckpointStorage
from moorage.serde.metadata import MAX_METADATA_BYTES, decode_metadata, encode_metadata

STORAGE_OPERATIONS = (
    WriteMetadata,
    VerifyMetadata,
    ReadOperatorStates,
    ReadSavepoint,
    DeleteSavepoint,
    DiscardSavepoint,
)


def run_storage_call(operation: Operation[Any], storage: CheckpointStorage) -> Any:
    """*Blocking.* Carry out one of STORAGE_OPERATIONS."""
    match operation:
        case WriteMetadata():
            return _write_metadata(storage, operation)
        case VerifyMetadata(record=checkpoint):
            return _verify_metadata(storage, checkpoint)
        case ReadOperatorStates(path=path, checksum=checksum):
            return _read_operator_states(storage, path, checksum)
        case ReadSavepoint(path=path):
            return _read_savepoint(storage, metadata_of(path))
        case DeleteSavepoint(path=path):
            _delete_savepoint(storage, metadata_of(path))
        case DiscardSavepoint(folder=folder):
            _delete_files(storage, folder)
        case _:
            raise TypeError(f"{operation} has nothing to do with the storage")
    return None


def _write_metadata(storage: CheckpointStorage, operation: WriteMetadata) -> WrittenMetadata:
    data = seal(encode_metadata(with_origin(operation.metadata, operation.origin)))
    try:
        storage.write(operation.path, data)
    except ObjectExistsError:
        if storage.read(operation.path) != data:
            raise
        # We wrote it: the answer to a first try was lost.
    return WrittenMetadata(size_bytes=len(data), checksum=xxhash.xxh3_64_intdigest(data))


def _verify_metadata(storage: CheckpointStorage, record: CheckpointRecord) -> VerifiedMetadata:
    data = storage.read(record.metadata_path)
    if len(data) != record.metadata_bytes or xxhash.xxh3_64_intdigest(data) != record.metadata_checksum:
        raise CorruptDataError(
            f"{record.metadata_path} is not the file that was registered: it has {len(data)} bytes,"
            f" {record.metadata_bytes} were written, or its checksum differs"
        )
    metadata = decode_metadata(data)
    return VerifiedMetadata(master_states=metadata.hook_states, partly_finished=metadata.partly_finished)


def _read_operator_states(storage: CheckpointStorage, path: str, checksum: int) -> dict[OperatorId, bytes]:
    data = storage.read(path)
    if xxhash.xxh3_64_intdigest(data) != checksum:
        raise CorruptDataError(f"{path} is not the file that was registered: its checksum differs")
    operators = decode_metadata(data).operators
    return {o.operator: o.coordinator.data for o in operators if o.coordinator is not None}


def _read_savepoint(storage: CheckpointStorage, path: str) -> FoundSavepoint:
    size_bytes = next((found.size_bytes for found in storage.list(f"{folder_of(path)}/") if found.path == path), 0)
    if size_bytes > MAX_METADATA_BYTES:
        raise CorruptDataError(f"{path} has {size_bytes} bytes: more than {MAX_METADATA_BYTES} can't be metadata")
    data = storage.read(path)
    metadata = decode_metadata(data, folder_of(path))
    if is_ours(data, metadata) and not is_intact(data):
        # Nobody else knows: the registry has checksums of what it holds only.
        raise CorruptDataError(f"{path} is damaged: it has not the checksum that it was written with")
    return FoundSavepoint(path=path, checksum=xxhash.xxh3_64_intdigest(data), metadata=metadata)


def _delete_savepoint(storage: CheckpointStorage, path: str) -> None:
    """``_metadata`` goes first: what is left after a crash is no savepoint that somebody could try to restore."""
    folder = folder_of(path)
    metadata = decode_metadata(storage.read(path), folder)
    if not metadata.savepoint:
        raise MoorageError(f"{path} is a checkpoint, not a savepoint: the cleaner deletes it when nothing needs it")
    storage.delete([path])
    _delete_files(storage, folder, frozenset(metadata.paths()))


def _delete_files(storage: CheckpointStorage, folder: str, named: frozenset[str] = frozenset()) -> None:
    """Of a savepoint: whatever else people keep in its folder stays, and so does what ``named`` has outside of it."""
    files = [found.path for found in storage.list(f"{folder}/")]
    storage.delete([path for path in files if path in named or is_savepoint_file(path, folder)])
