"""Is every file of a checkpoint there, and whole?

Every byte that the checkpoint refers to is read: sizes are compared with what the metadata says, and whatever carries a
checksum (metadata, files and segments of merged files, key groups, offsets of sources) is checked against it. Flink's
files carry none that can be checked without Flink.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial
from typing import NamedTuple

import msgspec
import xxhash

from moorage.errors import CorruptDataError, MoorageError, ObjectMissingError
from moorage.inspect.checkpoint import OpenCheckpoint
from moorage.inspect.describe import channel_positions, source_offsets
from moorage.inspect.files import CHUNK_BYTES, OutsideError, StateFiles, file_name, stream_name
from moorage.serde.keyed_segments import HEAD_BYTES, read_head
from moorage.serde.state_files import expected_checksum
from moorage.state.handles import (
    NO_OFFSET,
    ByteStreamHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    OperatorStreamHandle,
    StreamHandle,
    streams_of,
)
from moorage.state.operator_state import OperatorSubtaskState


class FileState(Enum):
    WHOLE = "whole"
    MISSING = "missing"
    CORRUPT = "corrupt"
    """Another size, or a wrong checksum."""
    OUTSIDE = "outside"
    """Not in the storage that is inspected, so it was not read."""
    UNREADABLE = "unreadable"
    """The storage failed."""


class FileCheck(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    state: FileState
    detail: str = ""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[FileCheck, ...]
    checked_bytes: int

    @property
    def damaged(self) -> list[FileCheck]:
        return [check for check in self.files if check.state is not FileState.WHOLE]

    @property
    def whole(self) -> bool:
        return not self.damaged


def verify(checkpoint: OpenCheckpoint, progress: Callable[[str], None] = lambda _: None) -> Verification:
    """Read everything; nothing is raised for what is wrong with a file. ``progress`` hears of each file."""
    files = checkpoint.files
    ours = checkpoint.is_ours
    found = {checkpoint.location: _metadata_check(checkpoint)}
    checked: set[object] = set()
    checked_bytes = 0
    for state in (state for operator in checkpoint.metadata.operators for state in operator.subtasks.values()):
        for check in _checks(state, files, ours=ours):
            name = file_name(check.stream)
            if check.what in checked or (name in found and found[name].state is not FileState.WHOLE):
                continue
            if name not in found:
                progress(name)
            checked.add(check.what)
            found[name], size = _outcome(name, check.run)
            checked_bytes += size
    return Verification(files=tuple(found.values()), checked_bytes=checked_bytes)


def _metadata_check(checkpoint: OpenCheckpoint) -> FileCheck:
    if checkpoint.intact is False:
        detail = f"{checkpoint.location}: wrong checksum"
        return FileCheck(path=checkpoint.location, state=FileState.CORRUPT, detail=detail)
    return FileCheck(path=checkpoint.location, state=FileState.WHOLE)


def _outcome(name: str, check: Callable[[], int]) -> tuple[FileCheck, int]:
    try:
        return FileCheck(path=name, state=FileState.WHOLE), check()
    except OutsideError as error:
        state, detail = FileState.OUTSIDE, str(error)
    except ObjectMissingError as error:
        state, detail = FileState.MISSING, str(error)
    except CorruptDataError as error:
        state, detail = FileState.CORRUPT, str(error)
    except MoorageError as error:
        state, detail = FileState.UNREADABLE, str(error)
    return FileCheck(path=name, state=state, detail=detail), 0


class _Check(NamedTuple):
    stream: StreamHandle
    what: object
    """What is checked, only once however many handles refer to it."""
    run: Callable[[], int]
    """Reads it and returns how many bytes; raises what is wrong."""


def _checks(state: OperatorSubtaskState, files: StateFiles, *, ours: bool) -> Iterator[_Check]:
    for handle in state.handles():
        if ours and isinstance(handle, KeyGroupsHandle) and not _has_checksum(handle.stream):
            yield from _segment_checks(handle, files)
        elif ours and isinstance(handle, OperatorStreamHandle):
            yield _Check(handle.stream, handle.stream, partial(_read_elements, handle, files))
        elif ours and isinstance(handle, InputChannelHandle):
            yield _Check(handle.stream, handle.stream, partial(_read_positions, handle, files))
        else:
            for stream in streams_of(handle):
                yield _Check(stream, stream, partial(_read, stream, files))


def _has_checksum(stream: StreamHandle) -> bool:
    return not isinstance(stream, ByteStreamHandle) and expected_checksum(stream) is not None


def _segment_checks(handle: KeyGroupsHandle, files: StateFiles) -> Iterator[_Check]:
    stream = handle.stream
    yield _Check(stream, (stream, NO_OFFSET), lambda: min(0, files.stream_bytes(stream)))
    for offset in handle.offsets:
        if offset != NO_OFFSET:
            yield _Check(stream, (stream, offset), partial(_read_segment, stream, offset, files))


def _read_segment(stream: StreamHandle, offset: int, files: StateFiles) -> int:
    head = read_head(files.read_at(stream, offset, HEAD_BYTES))
    start, size = offset + HEAD_BYTES, head.payload_bytes
    if start + size > files.stream_bytes(stream):
        raise CorruptDataError(f"{stream_name(stream)}: the segment at {offset} is longer than its file")
    digest = xxhash.xxh3_64()
    for position in range(0, size, CHUNK_BYTES):
        digest.update(files.read_at(stream, start + position, min(CHUNK_BYTES, size - position)))
    if digest.intdigest() != head.checksum:
        raise CorruptDataError(f"{stream_name(stream)}: the segment at {offset} has a wrong checksum")
    return HEAD_BYTES + size


def _read_elements(handle: OperatorStreamHandle, files: StateFiles) -> int:
    deque(source_offsets(handle, files), maxlen=0)
    return _read(handle.stream, files)


def _read_positions(handle: InputChannelHandle, files: StateFiles) -> int:
    deque(channel_positions(handle, files), maxlen=0)
    return files.stream_bytes(handle.stream)


def _read(stream: StreamHandle, files: StateFiles) -> int:
    return sum(map(len, files.chunks(stream)))
