"""Keyed state handles (Flink: KeyedStateHandle).

Flink's format has room for one handle per subtask. A chain of several (the memory backend's base and deltas) travels
as the materialized part of a ChangelogStateBackendHandle whose id says so, since that is a list in Flink too.
"""

from __future__ import annotations

from enum import IntEnum

from moorage.errors import MetadataError
from moorage.ids import CheckpointId
from moorage.serde.metadata.binary import INT_BYTES, LONG_BYTES, TEXT_BYTES, Reader, Writer
from moorage.serde.metadata.streams import NO_STATE, STREAM_BYTES, read_stream, write_stream
from moorage.state.handles import (
    NO_KEY_GROUP,
    UNKNOWN_SIZE_BYTES,
    ChangelogBytesHandle,
    ChangelogFilesHandle,
    ChangelogHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    KeyedHandle,
    KeyGroupsHandle,
    StateChange,
    StreamAndOffset,
)
from moorage.state.key_groups import KeyGroupRange

_CHAIN_ID = "moorage.chain"


class _Type(IntEnum):
    KEY_GROUPS = 3
    INCREMENTAL = 5
    SAVEPOINT_KEY_GROUPS = 7
    CHANGELOG = 8
    CHANGELOG_BYTES = 9
    CHANGELOG_FILES = 10
    INCREMENTAL_V2 = 11
    KEY_GROUPS_V2 = 12
    CHANGELOG_FILES_V2 = 13
    CHANGELOG_V2 = 14


def read_keyed(reader: Reader) -> tuple[KeyedHandle, ...]:
    if reader.took(NO_STATE):
        return ()
    handle = _read_keyed(reader)
    if isinstance(handle, ChangelogHandle) and handle.handle_id == _CHAIN_ID:
        chain = handle.materialized
        if len(chain) > 1 and _chain_handle(chain) == handle:
            return chain
    return (handle,)


def write_keyed(writer: Writer, handles: tuple[KeyedHandle, ...]) -> None:
    match handles:
        case ():
            writer.byte(NO_STATE)
        case (handle,):
            _write_keyed(writer, handle)
        case _:
            _write_keyed(writer, _chain_handle(handles))


def _chain_handle(chain: tuple[KeyedHandle, ...]) -> ChangelogHandle:
    parts = tuple(part for part in chain if not isinstance(part, ChangelogHandle))
    if len(parts) < len(chain):
        raise MetadataError("a ChangelogHandle can't be part of a chain of keyed state handles")
    return ChangelogHandle(
        key_groups=KeyGroupRange(min(p.key_groups.start for p in parts), max(p.key_groups.end for p in parts)),
        materialized=parts,
        changes=(),
        written_bytes=0,
        materialization=0,
        checkpoint=CheckpointId(0),
        handle_id=_CHAIN_ID,
    )


def _read_keyed(reader: Reader) -> KeyedHandle:
    match reader.byte("type of a keyed state handle"):
        case _Type.CHANGELOG | _Type.CHANGELOG_V2 as code:
            return _read_changelog(reader, with_checkpoint=code == _Type.CHANGELOG_V2)
        case _Type.CHANGELOG_BYTES | _Type.CHANGELOG_FILES | _Type.CHANGELOG_FILES_V2:
            raise reader.corrupt("a ChangelogStateHandle stands outside of a ChangelogStateBackendHandle")
        case code:
            return _read_snapshot(reader, code)


def _write_keyed(writer: Writer, handle: KeyedHandle) -> None:
    if isinstance(handle, ChangelogHandle):
        _write_changelog(writer, handle)
    else:
        _write_snapshot(writer, handle)


# --- snapshots -------------------------------------------------------------------------------------------------------


def _read_snapshot(reader: Reader, code: int) -> KeyGroupsHandle | IncrementalKeyedHandle:
    match code:
        case _Type.KEY_GROUPS | _Type.KEY_GROUPS_V2 | _Type.SAVEPOINT_KEY_GROUPS:
            key_groups = reader.key_groups()
            return KeyGroupsHandle(
                key_groups=key_groups,
                offsets=reader.int64s_of(len(key_groups), "offsets of key groups"),
                stream=read_stream(reader),
                handle_id=reader.text("id of a handle") if code == _Type.KEY_GROUPS_V2 else None,
                canonical=code == _Type.SAVEPOINT_KEY_GROUPS,
            )
        case _Type.INCREMENTAL | _Type.INCREMENTAL_V2:
            return _read_incremental(reader, recent=code == _Type.INCREMENTAL_V2)
        case _:
            raise reader.corrupt(f"keyed state handle of type {code}")


def _write_snapshot(writer: Writer, handle: KeyGroupsHandle | IncrementalKeyedHandle) -> None:
    if isinstance(handle, IncrementalKeyedHandle):
        _write_incremental(writer, handle)
        return
    if len(handle.offsets) != len(handle.key_groups):
        raise MetadataError(f"a KeyGroupsHandle has {len(handle.offsets)} offsets for {handle.key_groups}")
    if handle.canonical and handle.handle_id is not None:
        raise MetadataError("a canonical KeyGroupsHandle has no room for a handle_id")
    if handle.canonical:
        writer.byte(_Type.SAVEPOINT_KEY_GROUPS)
    else:
        writer.byte(_Type.KEY_GROUPS if handle.handle_id is None else _Type.KEY_GROUPS_V2)
    writer.key_groups(handle.key_groups)
    writer.int64s_of(handle.offsets)
    write_stream(writer, handle.stream)
    if handle.handle_id is not None:
        writer.text(handle.handle_id)


def _read_incremental(reader: Reader, *, recent: bool) -> IncrementalKeyedHandle:
    checkpoint = CheckpointId(reader.int64("checkpoint of an incremental handle"))
    backend_id = reader.text("backend of an incremental handle")
    key_groups = reader.key_groups()
    written_bytes = reader.size("written bytes of an incremental handle") if recent else UNKNOWN_SIZE_BYTES
    metadata = read_stream(reader)
    return IncrementalKeyedHandle(
        backend_id=backend_id,
        checkpoint=checkpoint,
        key_groups=key_groups,
        shared=_read_files(reader, "shared files"),
        private=_read_files(reader, "private files"),
        metadata=metadata,
        written_bytes=written_bytes,
        handle_id=reader.text("id of a handle") if recent else "",
    )


def _write_incremental(writer: Writer, handle: IncrementalKeyedHandle) -> None:
    recent = handle.written_bytes != UNKNOWN_SIZE_BYTES
    if handle.handle_id and not recent:
        raise MetadataError("an IncrementalKeyedHandle of unknown written_bytes has no room for a handle_id")
    writer.byte(_Type.INCREMENTAL_V2 if recent else _Type.INCREMENTAL)
    writer.int64(handle.checkpoint)
    writer.text(handle.backend_id)
    writer.key_groups(handle.key_groups)
    if recent:
        writer.size(handle.written_bytes)
    write_stream(writer, handle.metadata)
    _write_files(writer, handle.shared)
    _write_files(writer, handle.private)
    if recent:
        writer.text(handle.handle_id)


def _read_files(reader: Reader, what: str) -> tuple[HandleAndLocalPath, ...]:
    count = reader.count(what, TEXT_BYTES + STREAM_BYTES)
    return tuple(HandleAndLocalPath(reader.path(f"name among {what}"), read_stream(reader)) for _ in range(count))


def _write_files(writer: Writer, files: tuple[HandleAndLocalPath, ...]) -> None:
    writer.int32(len(files))
    for file in files:
        writer.path(file.local_path)
        write_stream(writer, file.stream)


# --- changelogs ------------------------------------------------------------------------------------------------------


def _read_changelog(reader: Reader, *, with_checkpoint: bool) -> ChangelogHandle:
    key_groups = reader.key_groups()
    if not key_groups:
        raise reader.corrupt("a changelog has no key groups")
    written_bytes = reader.int64("written bytes of a changelog")
    materialized = tuple(
        _read_snapshot(reader, reader.byte("type of a materialized handle"))
        for _ in range(reader.count("materialized handles", 1))
    )
    changes = tuple(_read_changes(reader) for _ in range(reader.count("changelog handles", 1)))
    materialization = reader.int64("id of a materialization")
    checkpoint = CheckpointId(reader.int64("checkpoint of a changelog")) if with_checkpoint else None
    return ChangelogHandle(
        key_groups=key_groups,
        materialized=materialized,
        changes=changes,
        written_bytes=written_bytes,
        materialization=materialization,
        checkpoint=checkpoint,
        handle_id=reader.text("id of a handle"),
    )


def _write_changelog(writer: Writer, handle: ChangelogHandle) -> None:
    if not handle.key_groups:
        raise MetadataError("a changelog, or a chain of keyed state handles, has no key groups")
    writer.byte(_Type.CHANGELOG if handle.checkpoint is None else _Type.CHANGELOG_V2)
    writer.key_groups(handle.key_groups)
    writer.int64(handle.written_bytes)
    writer.int32(len(handle.materialized))
    for part in handle.materialized:
        _write_snapshot(writer, part)
    writer.int32(len(handle.changes))
    for changes in handle.changes:
        _write_changes(writer, changes)
    writer.int64(handle.materialization)
    if handle.checkpoint is not None:
        writer.int64(handle.checkpoint)
    writer.text(handle.handle_id)


def _read_changes(reader: Reader) -> ChangelogBytesHandle | ChangelogFilesHandle:
    match reader.byte("type of a changelog handle"):
        case _Type.CHANGELOG_BYTES:
            return ChangelogBytesHandle(
                key_groups=reader.key_groups(),
                first=reader.size("first sequence number"),
                end=reader.size("last sequence number"),
                changes=tuple(
                    StateChange(reader.index("key group of a change", least=NO_KEY_GROUP), reader.data("a change"))
                    for _ in range(reader.count("changes", 2 * INT_BYTES))
                ),
                handle_id=reader.text("id of a handle"),
            )
        case _Type.CHANGELOG_FILES | _Type.CHANGELOG_FILES_V2 as code:
            key_groups = reader.key_groups()
            streams = []
            for _ in range(reader.count("changelog files", LONG_BYTES + STREAM_BYTES)):
                offset = reader.int64("offset in a changelog file")
                streams.append(StreamAndOffset(read_stream(reader), offset))
            return ChangelogFilesHandle(
                key_groups=key_groups,
                streams=tuple(streams),
                size_bytes=reader.int64("size of a changelog"),
                written_bytes=reader.int64("written bytes of a changelog"),
                handle_id=reader.text("id of a handle"),
                storage=reader.text("storage of a changelog") if code == _Type.CHANGELOG_FILES_V2 else None,
            )
        case code:
            raise reader.corrupt(f"changelog handle of type {code}")


def _write_changes(writer: Writer, handle: ChangelogBytesHandle | ChangelogFilesHandle) -> None:
    match handle:
        case ChangelogBytesHandle():
            writer.byte(_Type.CHANGELOG_BYTES)
            writer.key_groups(handle.key_groups)
            writer.size(handle.first)
            writer.size(handle.end)
            writer.int32(len(handle.changes))
            for change in handle.changes:
                writer.index(change.key_group, least=NO_KEY_GROUP)
                writer.data(change.data)
            writer.text(handle.handle_id)
        case ChangelogFilesHandle():
            writer.byte(_Type.CHANGELOG_FILES if handle.storage is None else _Type.CHANGELOG_FILES_V2)
            writer.key_groups(handle.key_groups)
            writer.int32(len(handle.streams))
            for place in handle.streams:
                writer.int64(place.offset)
                write_stream(writer, place.stream)
            writer.int64(handle.size_bytes)
            writer.int64(handle.written_bytes)
            writer.text(handle.handle_id)
            if handle.storage is not None:
                writer.text(handle.storage)
