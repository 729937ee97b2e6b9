"""From metadata to a report. Nothing is read but the few files that hold positions of sources and channels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from moorage.connectors.kafka_source import decode_splits
from moorage.coordinator_process.origin import origin_of
from moorage.errors import MoorageError
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.files import StateFiles
from moorage.inspect.report import (
    CheckpointReport,
    HandlePart,
    ListPart,
    MasterStatePart,
    OperatorPart,
    Origin,
    PositionPart,
    SourceOffset,
    StreamPart,
    SubtaskPart,
)
from moorage.serde.positions import decode_positions
from moorage.state.handles import (
    NO_OFFSET,
    UNKNOWN_SIZE_BYTES,
    ByteStreamHandle,
    ChangelogHandle,
    FileHandle,
    FileMergingOperatorHandle,
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
    StateHandle,
    StreamHandle,
    streams_of,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import (
    CANONICAL_SAVEPOINT,
    RETAINED_CHECKPOINT,
    ROLES,
    OperatorState,
    OperatorSubtaskState,
)
from moorage.task.source import SOURCE_OFFSETS, read_elements

SubtaskHandle = KeyedHandle | OperatorHandle | InputHandle | OutputHandle


def describe(checkpoint: OpenCheckpoint) -> CheckpointReport:
    """CorruptDataError when the part that says where the checkpoint comes from can't be read."""
    metadata, files = checkpoint.metadata, checkpoint.files
    origin = origin_of(metadata)
    streams = {
        stream
        for operator in metadata.operators
        for state in operator.subtasks.values()
        for handle in state.handles()
        for stream in streams_of(handle)
    }
    usual = CANONICAL_SAVEPOINT if metadata.savepoint else RETAINED_CHECKPOINT
    return CheckpointReport(
        location=checkpoint.location,
        metadata_version=checkpoint.version,
        metadata_bytes=checkpoint.size_bytes,
        checkpoint=metadata.checkpoint,
        written_by="Flink" if origin is None else "Moorage",
        origin=None
        if origin is None
        else Origin(job=origin.job, attempt=origin.attempt, triggered_ms=origin.triggered_ms),
        savepoint=metadata.savepoint,
        properties=msgspec.to_builtins(metadata.properties or usual),
        state_bytes=sum(max(0, stream.size_bytes) for stream in streams),
        inline_bytes=sum(stream.size_bytes for stream in streams if isinstance(stream, ByteStreamHandle)),
        files=len(set(metadata.paths())),
        master_states=tuple(
            MasterStatePart(name=state.name, version=state.version, size_bytes=len(state.data))
            for state in metadata.master_states
        ),
        operators=tuple(_operator(operator, files, ours=origin is not None) for operator in metadata.operators),
    )


def _operator(operator: OperatorState, files: StateFiles, *, ours: bool) -> OperatorPart:
    return OperatorPart(
        operator=operator.operator,
        uid=operator.uid,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=operator.max_parallelism,
        state_bytes=sum(state.size_bytes for state in operator.subtasks.values()),
        fully_finished=operator.fully_finished,
        coordinator_bytes=None if operator.coordinator is None else operator.coordinator.size_bytes,
        subtasks=tuple(_subtask(index, state, files, ours=ours) for index, state in sorted(operator.subtasks.items())),
    )


def _subtask(index: int, state: OperatorSubtaskState, files: StateFiles, *, ours: bool) -> SubtaskPart:
    offsets: list[SourceOffset] = []
    positions: list[PositionPart] = []
    unreadable: list[str] = []
    if ours:
        for handle in state.managed_operator:
            try:
                offsets += source_offsets(handle, files)
            except MoorageError as error:
                unreadable.append(str(error))
        for channel in state.input_channel:
            try:
                positions += channel_positions(channel, files)
            except MoorageError as error:
                unreadable.append(str(error))
    return SubtaskPart(
        subtask=index,
        finished=state.finished,
        state_bytes=state.size_bytes,
        handles=tuple(_handle(role, handle) for role in ROLES for handle in getattr(state, role)),
        source_offsets=tuple(offsets),
        positions=tuple(positions),
        unreadable=tuple(unreadable),
    )


# --- what our own sources and channels hold --------------------------------------------------------------------------


def source_offsets(handle: OperatorHandle, files: StateFiles) -> Iterator[SourceOffset]:
    """Of a source of ours; nothing for other list states."""
    if isinstance(handle, OperatorStreamHandle) and SOURCE_OFFSETS in handle.states:
        for split in decode_splits(read_elements(handle, files.read(handle.stream))).values():
            yield SourceOffset(**msgspec.structs.asdict(split))


def channel_positions(handle: InputHandle, files: StateFiles) -> Iterator[PositionPart]:
    """Of a channel of ours: where it lies in the exchange's log."""
    for part in decode_positions(files.read(handle.stream)).exchanges:
        columns = (part.partitions, part.attempts, part.producers, part.offsets, part.until)
        for partition, attempt, producer, offset, until in zip(*columns, strict=True):
            yield PositionPart(
                exchange=part.exchange,
                partition=partition,
                attempt=attempt,
                producer=producer,
                offset=offset,
                open=until > 0,
            )


# --- handles ---------------------------------------------------------------------------------------------------------


def _handle(role: str, handle: SubtaskHandle) -> HandlePart:
    return HandlePart(role=role, kind=_kind(handle), size_bytes=handle.size_bytes, **_details(handle))


def _kind(handle: StateHandle) -> str:
    return str(type(handle).__struct_config__.tag)


def _details(handle: SubtaskHandle) -> dict[str, Any]:
    match handle:
        case KeyGroupsHandle():
            return {
                "key_groups": _range(handle.key_groups),
                "key_groups_present": sum(1 for offset in handle.offsets if offset != NO_OFFSET),
                "canonical": handle.canonical,
                "streams": (_stream(handle.stream),),
            }
        case IncrementalKeyedHandle():
            return {
                "key_groups": _range(handle.key_groups),
                "backend": handle.backend_id,
                "checkpoint": handle.checkpoint,
                "written_bytes": None if handle.written_bytes == UNKNOWN_SIZE_BYTES else handle.written_bytes,
                "streams": (
                    *(_stream(file.stream, file.local_path, shared=True) for file in handle.shared),
                    *(_stream(file.stream, file.local_path) for file in handle.private),
                    _stream(handle.metadata, "metadata"),
                ),
            }
        case ChangelogHandle():
            return {
                "key_groups": _range(handle.key_groups),
                "checkpoint": handle.checkpoint,
                "written_bytes": handle.written_bytes,
                "materialized": tuple(_handle("materialized", part) for part in handle.materialized),
                "changes": tuple(_stream(stream) for part in handle.changes for stream in streams_of(part)),
            }
        case OperatorStreamHandle() | FileMergingOperatorHandle():
            return {
                "states": {
                    name: ListPart(mode=state.mode.value, elements=len(state.offsets))
                    for name, state in handle.states.items()
                },
                "streams": tuple(map(_stream, streams_of(handle))),
            }
        case InputChannelHandle():
            return {"channel": f"{handle.gate}/{handle.channel}", "streams": (_stream(handle.stream),)}
        case ResultSubpartitionHandle():
            return {"channel": f"{handle.partition}/{handle.subpartition}", "streams": (_stream(handle.stream),)}
        case MergedInputChannelHandle() | MergedResultSubpartitionHandle():
            channels = ", ".join(f"{content.group}/{content.channel}" for content in handle.channels)
            return {"channel": channels, "streams": (_stream(handle.stream),)}


def _range(groups: KeyGroupRange) -> tuple[int, int] | None:
    return (groups.start, groups.end) if groups else None


def _stream(stream: StreamHandle, name: str | None = None, *, shared: bool = False) -> StreamPart:
    match stream:
        case ByteStreamHandle():
            return StreamPart(kind="inline", size_bytes=stream.size_bytes, name=name, shared=shared)
        case FileHandle():
            return StreamPart(kind="file", size_bytes=stream.size_bytes, path=stream.path, name=name, shared=shared)
        case SegmentHandle():
            return StreamPart(
                kind="segment",
                size_bytes=stream.size_bytes,
                path=stream.path,
                offset=stream.offset,
                name=name,
                shared=shared or stream.shared,
            )
