"""State handles: where a piece of a checkpoint lies. Values only; whoever reads or writes bytes is elsewhere.

The types are Flink's, so that ``_metadata`` can be exchanged with it. ``size_bytes`` is what the handle refers to.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec

from moorage.ids import CheckpointId
from moorage.state.key_groups import KeyGroupRange

NO_OFFSET = -1
"""In KeyGroupsHandle.offsets: the file holds nothing of this key group."""


class ByteStreamHandle(msgspec.Struct, frozen=True, tag="bytes"):
    """State carried inside the metadata (Flink: ByteStreamStateHandle)."""

    name: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)


class FileHandle(msgspec.Struct, frozen=True, tag="file"):
    """A whole object of the checkpoint storage (Flink: FileStateHandle / RelativeFileStateHandle)."""

    path: str
    """Relative to the root of the checkpoint storage."""
    size_bytes: int


class SegmentHandle(msgspec.Struct, frozen=True, tag="segment"):
    """A piece of a merged file (Flink: SegmentFileStateHandle)."""

    path: str
    offset: int
    size_bytes: int


StreamHandle = ByteStreamHandle | FileHandle | SegmentHandle


class KeyGroupsHandle(msgspec.Struct, frozen=True, tag="key_groups"):
    """Keyed state in one stream with an offset per key group (Flink: KeyGroupsStateHandle)."""

    key_groups: KeyGroupRange
    offsets: tuple[int, ...]
    """One per key group of the range; NO_OFFSET where the stream has nothing of it."""
    stream: StreamHandle

    @property
    def size_bytes(self) -> int:
        return self.stream.size_bytes


class HandleAndLocalPath(msgspec.Struct, frozen=True, array_like=True):
    """A file of an incremental snapshot under the name it has in the backend's folder."""

    local_path: str
    stream: StreamHandle


class IncrementalKeyedHandle(msgspec.Struct, frozen=True, tag="incremental"):
    """An incremental snapshot of a backend that works on files (Flink: IncrementalRemoteKeyedStateHandle)."""

    backend_id: str
    """UUID of the backend instance that wrote it."""
    checkpoint: CheckpointId
    key_groups: KeyGroupRange
    shared: tuple[HandleAndLocalPath, ...]
    private: tuple[HandleAndLocalPath, ...]
    metadata: StreamHandle
    written_bytes: int

    @property
    def size_bytes(self) -> int:
        return (
            sum(h.stream.size_bytes for h in self.shared)
            + sum(h.stream.size_bytes for h in self.private)
            + self.metadata.size_bytes
        )


KeyedHandle = KeyGroupsHandle | IncrementalKeyedHandle


class DistributionMode(Enum):
    """Who gets which elements of an operator's list state after a rescale (Flink: OperatorStateHandle.Mode)."""

    SPLIT = "split"
    UNION = "union"
    BROADCAST = "broadcast"


class StateMetaInfo(msgspec.Struct, frozen=True, array_like=True):
    offsets: tuple[int, ...]
    """Where each element starts in the stream."""
    mode: DistributionMode


class OperatorStreamHandle(msgspec.Struct, frozen=True, tag="operator"):
    """Named list states of an operator in one stream (Flink: OperatorStreamStateHandle)."""

    states: dict[str, StateMetaInfo]
    stream: StreamHandle

    @property
    def size_bytes(self) -> int:
        return self.stream.size_bytes


class InputChannelHandle(msgspec.Struct, frozen=True, tag="input_channel"):
    """State of an input channel (Flink: InputChannelStateHandle). Ours carries positions in the exchange log."""

    subtask: int
    gate: int
    channel: int
    offsets: tuple[int, ...]
    size_bytes: int
    stream: StreamHandle


class ResultSubpartitionHandle(msgspec.Struct, frozen=True, tag="result_subpartition"):
    """State of an output channel (Flink: ResultSubpartitionStateHandle)."""

    subtask: int
    partition: int
    subpartition: int
    offsets: tuple[int, ...]
    size_bytes: int
    stream: StreamHandle


StateHandle = (
    StreamHandle
    | KeyedHandle
    | OperatorStreamHandle
    | InputChannelHandle
    | ResultSubpartitionHandle
)


def streams_of(handle: StateHandle) -> Iterator[StreamHandle]:
    """Every stream that a handle refers to."""
    match handle:
        case ByteStreamHandle() | FileHandle() | SegmentHandle():
            yield handle
        case IncrementalKeyedHandle():
            yield from (h.stream for h in handle.shared)
            yield from (h.stream for h in handle.private)
            yield handle.metadata
        case KeyGroupsHandle() | OperatorStreamHandle() | InputChannelHandle() | ResultSubpartitionHandle():
            yield handle.stream


def paths_of(handle: StateHandle) -> Iterator[str]:
    """Every object of the checkpoint storage that a handle refers to; the same path may come more than once."""
    for stream in streams_of(handle):
        if not isinstance(stream, ByteStreamHandle):
            yield stream.path
