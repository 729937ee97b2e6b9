"""Our metadata as Flink's classes would describe it: the counterpart of Dump.java, field by field."""

from __future__ import annotations

from typing import Any
from unittest.mock import ANY
from uuid import UUID

from moorage.state.handles import (
    UNKNOWN_SIZE_BYTES,
    ByteStreamHandle,
    ChangelogBytesHandle,
    ChangelogFilesHandle,
    ChangelogHandle,
    DistributionMode,
    FileHandle,
    FileMergingOperatorHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    InputChannelHandle,
    InputHandle,
    KeyedHandle,
    KeyGroupsHandle,
    MergedInputChannelHandle,
    MergedResultSubpartitionHandle,
    OperatorHandle,
    OperatorStreamHandle,
    OutputHandle,
    ResultSubpartitionHandle,
    SegmentHandle,
    StreamHandle,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import (
    CANONICAL_SAVEPOINT,
    RETAINED_CHECKPOINT,
    CheckpointMetadata,
    OperatorState,
    OperatorSubtaskState,
    SnapshotType,
)

View = dict[str, Any]

RANDOM_ID = ANY
"""Flink gives a handle without an id a new one whenever it reads it."""

_MODES = {
    DistributionMode.SPLIT: "SPLIT_DISTRIBUTE",
    DistributionMode.UNION: "UNION",
    DistributionMode.BROADCAST: "BROADCAST",
}


def _checkpoint(name: str, sharing: str) -> str:
    return f"CheckpointType{{name='{name}', sharingFilesStrategy={sharing}}}"


def _savepoint(name: str, action: str, form: str) -> str:
    return f"SavepointType{{name='{name}', postCheckpointAction={action}, formatType={form}}}"


_SNAPSHOT_TYPES = {
    SnapshotType.CHECKPOINT: _checkpoint("Checkpoint", "FORWARD_BACKWARD"),
    SnapshotType.FULL_CHECKPOINT: _checkpoint("Full Checkpoint", "FORWARD"),
    SnapshotType.CANONICAL_SAVEPOINT: _savepoint("Savepoint", "NONE", "CANONICAL"),
    SnapshotType.CANONICAL_SUSPEND_SAVEPOINT: _savepoint("Suspend Savepoint", "SUSPEND", "CANONICAL"),
    SnapshotType.CANONICAL_TERMINATE_SAVEPOINT: _savepoint("Terminate Savepoint", "TERMINATE", "CANONICAL"),
    SnapshotType.NATIVE_SAVEPOINT: _savepoint("Savepoint", "NONE", "NATIVE"),
    SnapshotType.NATIVE_SUSPEND_SAVEPOINT: _savepoint("Suspend Savepoint", "SUSPEND", "NATIVE"),
    SnapshotType.NATIVE_TERMINATE_SAVEPOINT: _savepoint("Terminate Savepoint", "TERMINATE", "NATIVE"),
}


def flink_view(version: int, metadata: CheckpointMetadata) -> View:
    return {
        "version": version,
        "checkpointId": metadata.checkpoint,
        "masterStates": [
            {"name": state.name, "version": state.version, "bytes": state.data.hex()}
            for state in metadata.master_states
        ],
        "operatorStates": [_operator(version, state) for state in metadata.operators],
        "properties": _properties(metadata) if version > 3 else None,
    }


def _properties(metadata: CheckpointMetadata) -> View:
    properties = metadata.properties or (CANONICAL_SAVEPOINT if metadata.savepoint else RETAINED_CHECKPOINT)

    def flag(value: bool) -> str:
        return str(value).lower()

    return {
        "text": f"CheckpointProperties{{forced={flag(properties.forced)}, "
        f"checkpointType={_SNAPSHOT_TYPES[properties.snapshot_type]}, "
        f"discardSubsumed={flag(properties.discard_subsumed)}, "
        f"discardFinished={flag(properties.discard_finished)}, "
        f"discardCancelled={flag(properties.discard_cancelled)}, "
        f"discardFailed={flag(properties.discard_failed)}, "
        f"discardSuspended={flag(properties.discard_suspended)}}}",
        "unclaimed": properties.unclaimed,
    }


def _operator(version: int, state: OperatorState) -> View:
    return {
        "operatorId": state.operator,
        "name": state.name if version > 4 else None,
        "uid": state.uid if version > 4 else None,
        "parallelism": state.parallelism,
        "maxParallelism": state.max_parallelism,
        "fullyFinished": state.fully_finished,
        "coordinatorState": _stream(state.coordinator) if state.coordinator else None,
        "subtasks": {str(index): _subtask(subtask) for index, subtask in state.subtasks.items()},
    }


def _subtask(state: OperatorSubtaskState) -> View:
    return {
        "finished": state.finished,
        "managedOperatorState": [_operator_handle(handle) for handle in state.managed_operator],
        "rawOperatorState": [_operator_handle(handle) for handle in state.raw_operator],
        "managedKeyedState": _chain(state.managed_keyed),
        "rawKeyedState": _chain(state.raw_keyed),
        "inputChannelState": [_channel(handle) for handle in state.input_channel],
        "resultSubpartitionState": [_channel(handle) for handle in state.result_subpartition],
    }


def _operator_handle(handle: OperatorHandle) -> View:
    view: View = {
        "type": "OperatorStreamStateHandle",
        "states": {
            name: {"mode": _MODES[state.mode], "offsets": list(state.offsets)} for name, state in handle.states.items()
        },
    }
    match handle:
        case OperatorStreamHandle():
            view["stream"] = _stream(handle.stream)
        case FileMergingOperatorHandle():
            empty = handle.stream is None
            view["type"] = f"{'Empty' if empty else ''}FileMergingOperatorStreamStateHandle"
            view["stream"] = _stream(handle.stream) if handle.stream else {"type": "EmptySegmentFileStateHandle"}
            view["taskOwnedFolder"] = handle.task_owned_folder
            view["sharedFolder"] = handle.shared_folder
    return view


def _chain(handles: tuple[KeyedHandle, ...]) -> list[View]:
    if len(handles) < 2:
        return [_keyed(handle) for handle in handles]
    groups = [handle.key_groups for handle in handles]
    return [
        {
            "type": "ChangelogStateBackendHandleImpl",
            "keyGroups": [min(group.start for group in groups), max(group.end for group in groups)],
            "materialized": [_keyed(handle) for handle in handles],
            "changes": [],
            "materialization": 0,
            "checkpoint": 0,
            "checkpointedSize": 0,
            "id": "moorage.chain",
        }
    ]


def _keyed(handle: KeyedHandle | ChangelogBytesHandle | ChangelogFilesHandle) -> View:
    match handle:
        case KeyGroupsHandle():
            return {
                "type": "KeyGroupsSavepointStateHandle" if handle.canonical else "KeyGroupsStateHandle",
                "keyGroups": _range(handle.key_groups),
                "offsets": list(handle.offsets),
                "stream": _stream(handle.stream),
                "id": RANDOM_ID if handle.handle_id is None and not handle.canonical else handle.handle_id,
            }
        case IncrementalKeyedHandle():
            unknown = handle.written_bytes == UNKNOWN_SIZE_BYTES
            return {
                "type": "IncrementalRemoteKeyedStateHandle",
                "backend": str(UUID(handle.backend_id)),
                "checkpoint": handle.checkpoint,
                "keyGroups": _range(handle.key_groups),
                "shared": [_file(file) for file in handle.shared],
                "private": [_file(file) for file in handle.private],
                "metadata": _stream(handle.metadata),
                "checkpointedSize": handle.size_bytes if unknown else handle.written_bytes,
                "id": RANDOM_ID if unknown else handle.handle_id,
            }
        case ChangelogHandle():
            return {
                "type": "ChangelogStateBackendHandleImpl",
                "keyGroups": _range(handle.key_groups),
                "materialized": [_keyed(part) for part in handle.materialized],
                "changes": [_keyed(part) for part in handle.changes],
                "materialization": handle.materialization,
                "checkpoint": handle.materialization if handle.checkpoint is None else handle.checkpoint,
                "checkpointedSize": handle.written_bytes,
                "id": handle.handle_id,
            }
        case ChangelogBytesHandle():
            return {
                "type": "InMemoryChangelogStateHandle",
                "keyGroups": _range(handle.key_groups),
                "from": handle.first,
                "to": handle.end,
                "changes": [{"keyGroup": change.key_group, "bytes": change.data.hex()} for change in handle.changes],
                "id": handle.handle_id,
            }
        case ChangelogFilesHandle():
            return {
                "type": "ChangelogStateHandleStreamImpl",
                "keyGroups": _range(handle.key_groups),
                "streams": [{"stream": _stream(place.stream), "offset": place.offset} for place in handle.streams],
                "size": handle.size_bytes,
                "checkpointedSize": handle.written_bytes,
                "storage": "filesystem" if handle.storage is None else handle.storage,
                "id": handle.handle_id,
            }


def _channel(handle: InputHandle | OutputHandle) -> View:
    match handle:
        case InputChannelHandle():
            return _single("InputChannelStateHandle", handle, handle.gate, handle.channel)
        case ResultSubpartitionHandle():
            return _single("ResultSubpartitionStateHandle", handle, handle.partition, handle.subpartition)
        case MergedInputChannelHandle():
            return _merged("MergedInputChannelStateHandle", "InputChannelStateHandle", handle)
        case MergedResultSubpartitionHandle():
            return _merged("MergedResultSubpartitionStateHandle", "ResultSubpartitionStateHandle", handle)


def _single(kind: str, handle: InputChannelHandle | ResultSubpartitionHandle, group: int, channel: int) -> View:
    return {
        "type": kind,
        "subtask": handle.subtask,
        "offsets": list(handle.offsets),
        "size": handle.size_bytes,
        "stream": _stream(handle.stream),
        "group": group,
        "channel": channel,
    }


def _merged(kind: str, single: str, handle: MergedInputChannelHandle | MergedResultSubpartitionHandle) -> View:
    return {
        "type": kind,
        "subtask": handle.subtask,
        "size": handle.size_bytes,
        "stream": _stream(handle.stream),
        "channels": [
            {
                "type": single,
                "subtask": handle.subtask,
                "offsets": list(content.offsets),
                "size": content.size_bytes,
                "stream": _stream(handle.stream),
                "group": content.group,
                "channel": content.channel,
            }
            for content in handle.channels
        ],
    }


def _stream(handle: StreamHandle) -> View:
    match handle:
        case ByteStreamHandle():
            return {"type": "ByteStreamStateHandle", "name": handle.name, "bytes": handle.data.hex()}
        case FileHandle(relative_path=None):
            return {"type": "FileStateHandle", "path": handle.path, "size": handle.size_bytes}
        case FileHandle():
            return {
                "type": "RelativeFileStateHandle",
                "relativePath": handle.relative_path,
                "size": handle.size_bytes,
            }
        case SegmentHandle():
            return {
                "type": "SegmentFileStateHandle",
                "path": handle.path,
                "offset": handle.offset,
                "size": handle.size_bytes,
                "scope": "SHARED" if handle.shared else "EXCLUSIVE",
                "logicalFile": handle.logical_file,
            }


def _file(file: HandleAndLocalPath) -> View:
    return {"localPath": file.local_path, "stream": _stream(file.stream)}


def _range(groups: KeyGroupRange) -> list[int]:
    return [groups.start, groups.end]
