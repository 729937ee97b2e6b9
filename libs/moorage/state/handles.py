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

NO_KEY_GROUP = -1
"""In StateChange.key_group: the change is not one of a key group."""

UNKNOWN_SIZE_BYTES = -1
"""In IncrementalKeyedHandle.written_bytes: not recorded."""


class ByteStreamHandle(msgspec.Struct, frozen=True, tag="bytes"):
    """State carried inside the metadata (Flink: ByteStreamStateHandle)."""

    name: str
    data: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return _shown(self, self.name, shown_bytes(self.size_bytes))


class FileHandle(msgspec.Struct, frozen=True, tag="file"):
    """A whole object of the checkpoint storage (Flink: FileStateHandle / RelativeFileStateHandle)."""

    path: str
    """Relative to the root of the checkpoint storage."""
    size_bytes: int
    relative_path: str | None = None
    """Set where the metadata names the file relative to its own folder, so that both can be moved together."""

    def __repr__(self) -> str:
        return _shown(self, self.path, shown_bytes(self.size_bytes))


class SegmentHandle(msgspec.Struct, frozen=True, tag="segment"):
    """A piece of a merged file (Flink: SegmentFileStateHandle)."""

    path: str
    offset: int
    size_bytes: int
    shared: bool = False
    """Later checkpoints may refer to the segment too (Flink: CheckpointedStateScope)."""
    logical_file: str = ""
    """Which logical file the segment is (Flink: LogicalFileId)."""

    def __repr__(self) -> str:
        return _shown(self, f"{self.path} from {self.offset}", shown_bytes(self.size_bytes))


StreamHandle = ByteStreamHandle | FileHandle | SegmentHandle


class KeyGroupsHandle(msgspec.Struct, frozen=True, tag="key_groups"):
    """Keyed state in one stream with an offset per key group (Flink: KeyGroupsStateHandle)."""

    key_groups: KeyGroupRange
    offsets: tuple[int, ...]
    """One per key group of the range; NO_OFFSET where the stream has nothing of it."""
    stream: StreamHandle
    handle_id: str | None = None
    """Flink's StateHandleID; None where the metadata has none, as before Flink 1.15."""
    canonical: bool = False
    """In the canonical format of savepoints (Flink: KeyGroupsSavepointStateHandle); such a handle has no id."""

    @property
    def size_bytes(self) -> int:
        return self.stream.size_bytes

    def __repr__(self) -> str:
        return _shown(self, _groups(self.key_groups), self.stream)


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
    """What the checkpoint itself wrote of it; UNKNOWN_SIZE_BYTES in metadata from before Flink 1.15."""
    handle_id: str = ""
    """Flink's StateHandleID."""

    @property
    def size_bytes(self) -> int:
        return (
            sum(h.stream.size_bytes for h in self.shared)
            + sum(h.stream.size_bytes for h in self.private)
            + self.metadata.size_bytes
        )

    def __repr__(self) -> str:
        files = f"{len(self.shared)} shared and {len(self.private)} private files"
        return _shown(
            self, _groups(self.key_groups), f"checkpoint {self.checkpoint}", files, shown_bytes(self.size_bytes)
        )


class StateChange(msgspec.Struct, frozen=True, array_like=True):
    """A change in a changelog; ``key_group`` is NO_KEY_GROUP for a change of the state's metadata."""

    key_group: int
    data: bytes


class ChangelogBytesHandle(msgspec.Struct, frozen=True, tag="changelog_bytes"):
    """A piece of a changelog carried inside the metadata (Flink: InMemoryChangelogStateHandle)."""

    key_groups: KeyGroupRange
    first: int
    """Sequence number of the first change."""
    end: int
    """Sequence number behind the last change."""
    changes: tuple[StateChange, ...]
    handle_id: str

    @property
    def size_bytes(self) -> int:
        return sum(len(change.data) for change in self.changes)

    def __repr__(self) -> str:
        changes = f"changes {self.first} to {self.end}"
        return _shown(self, _groups(self.key_groups), changes, shown_bytes(self.size_bytes))


class StreamAndOffset(msgspec.Struct, frozen=True, array_like=True):
    """A place in a stream."""

    stream: StreamHandle
    offset: int


class ChangelogFilesHandle(msgspec.Struct, frozen=True, tag="changelog_files"):
    """A piece of a changelog that lies in files (Flink: ChangelogStateHandleStreamImpl)."""

    key_groups: KeyGroupRange
    streams: tuple[StreamAndOffset, ...]
    size_bytes: int
    written_bytes: int
    handle_id: str
    storage: str | None
    """Identifier of the changelog storage; None where the metadata has none, as in Flink 1.15: "filesystem"."""

    def __repr__(self) -> str:
        return _shown(self, _groups(self.key_groups), f"{len(self.streams)} streams", shown_bytes(self.size_bytes))


class ChangelogHandle(msgspec.Struct, frozen=True, tag="changelog"):
    """Materialized state and the changes since (Flink: ChangelogStateBackendHandle)."""

    key_groups: KeyGroupRange
    materialized: tuple[KeyGroupsHandle | IncrementalKeyedHandle, ...]
    changes: tuple[ChangelogBytesHandle | ChangelogFilesHandle, ...]
    written_bytes: int
    materialization: int
    """Id of the materialization."""
    checkpoint: CheckpointId | None
    """None where the metadata has none, as in Flink 1.15."""
    handle_id: str

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.materialized) + sum(part.size_bytes for part in self.changes)

    def __repr__(self) -> str:
        parts = f"{len(self.materialized)} materialized, {len(self.changes)} changelogs"
        return _shown(self, _groups(self.key_groups), parts, shown_bytes(self.size_bytes))


KeyedHandle = KeyGroupsHandle | IncrementalKeyedHandle | ChangelogHandle


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

    def __repr__(self) -> str:
        return _shown(self, *_states(self.states), self.stream)


class FileMergingOperatorHandle(msgspec.Struct, frozen=True, tag="file_merging_operator"):
    """An OperatorStreamHandle of a job that merges files; it keeps the job's folders of merged files alive
    (Flink: FileMergingOperatorStreamStateHandle)."""

    states: dict[str, StateMetaInfo]
    stream: SegmentHandle | None
    """None: no state, only the folders (Flink: EmptyFileMergingOperatorStreamStateHandle)."""
    task_owned_folder: str
    shared_folder: str

    @property
    def size_bytes(self) -> int:
        return self.stream.size_bytes if self.stream is not None else 0

    def __repr__(self) -> str:
        return _shown(self, *_states(self.states), self.stream)


OperatorHandle = OperatorStreamHandle | FileMergingOperatorHandle


class InputChannelHandle(msgspec.Struct, frozen=True, tag="input_channel"):
    """State of an input channel (Flink: InputChannelStateHandle). Ours carries positions in the exchange log."""

    subtask: int
    gate: int
    channel: int
    offsets: tuple[int, ...]
    size_bytes: int
    stream: StreamHandle

    def __repr__(self) -> str:
        return _shown(self, f"subtask {self.subtask}", f"channel {self.gate}.{self.channel}", self.stream)


class ResultSubpartitionHandle(msgspec.Struct, frozen=True, tag="result_subpartition"):
    """State of an output channel (Flink: ResultSubpartitionStateHandle)."""

    subtask: int
    partition: int
    subpartition: int
    offsets: tuple[int, ...]
    size_bytes: int
    stream: StreamHandle

    def __repr__(self) -> str:
        channel = f"channel {self.partition}.{self.subpartition}"
        return _shown(self, f"subtask {self.subtask}", channel, self.stream)


class ChannelContent(msgspec.Struct, frozen=True, array_like=True):
    """What a merged handle knows of one channel."""

    group: int
    """Gate of an input channel, partition of a result subpartition."""
    channel: int
    offsets: tuple[int, ...]
    size_bytes: int


class MergedInputChannelHandle(msgspec.Struct, frozen=True, tag="merged_input_channel"):
    """All input channels of a subtask whose state lies in one stream (Flink: MergedInputChannelStateHandle)."""

    subtask: int
    channels: tuple[ChannelContent, ...]
    size_bytes: int
    stream: StreamHandle

    def __repr__(self) -> str:
        return _shown(self, f"subtask {self.subtask}", f"{len(self.channels)} channels", self.stream)


class MergedResultSubpartitionHandle(msgspec.Struct, frozen=True, tag="merged_result_subpartition"):
    """All output channels of a subtask whose state lies in one stream (Flink: MergedResultSubpartitionStateHandle)."""

    subtask: int
    channels: tuple[ChannelContent, ...]
    size_bytes: int
    stream: StreamHandle

    def __repr__(self) -> str:
        return _shown(self, f"subtask {self.subtask}", f"{len(self.channels)} channels", self.stream)


InputHandle = InputChannelHandle | MergedInputChannelHandle
OutputHandle = ResultSubpartitionHandle | MergedResultSubpartitionHandle
StateHandle = (
    StreamHandle
    | KeyedHandle
    | ChangelogBytesHandle
    | ChangelogFilesHandle
    | OperatorHandle
    | InputHandle
    | OutputHandle
)


def _shown(handle: msgspec.Struct, *parts: object) -> str:
    """A handle for people: what it is of, where it lies, how large it is; never the bytes themselves."""
    return f"{type(handle).__name__}({', '.join(map(str, parts))})"


def _groups(key_groups: KeyGroupRange) -> str:
    return f"key groups {key_groups.start} to {key_groups.end}" if len(key_groups) else "no key groups"


def _states(states: dict[str, StateMetaInfo]) -> Iterator[str]:
    return (f"{name}: {len(info.offsets)} {info.mode.value}" for name, info in states.items())


def shown_bytes(size_bytes: int) -> str:
    """A size for people."""
    size, units = float(size_bytes), iter(("bytes", "KB", "MB", "GB", "TB"))
    unit = next(units)
    while abs(size) >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"


def checkpointed_bytes(handle: StateHandle) -> int:
    """What of a handle its own checkpoint has written (Flink: getCheckpointedSize). Handles of the memory backend don't
    tell new files from older ones: there, as in Flink's heap backend, it is the whole."""
    match handle:
        case IncrementalKeyedHandle() if handle.written_bytes == UNKNOWN_SIZE_BYTES:
            return handle.size_bytes
        case IncrementalKeyedHandle() | ChangelogHandle() | ChangelogFilesHandle():
            return handle.written_bytes
        case _:
            return handle.size_bytes


def streams_of(handle: StateHandle) -> Iterator[StreamHandle]:
    """Every stream that a handle refers to."""
    match handle:
        case ByteStreamHandle() | FileHandle() | SegmentHandle():
            yield handle
        case IncrementalKeyedHandle():
            yield from (h.stream for h in handle.shared)
            yield from (h.stream for h in handle.private)
            yield handle.metadata
        case ChangelogHandle():
            for part in (*handle.materialized, *handle.changes):
                yield from streams_of(part)
        case ChangelogFilesHandle():
            yield from (place.stream for place in handle.streams)
        case ChangelogBytesHandle():
            pass
        case FileMergingOperatorHandle():
            if handle.stream is not None:
                yield handle.stream
        case _:
            yield handle.stream


def paths_of(handle: StateHandle) -> Iterator[str]:
    """Every object of the checkpoint storage that a handle refers to; the same path may come more than once."""
    for stream in streams_of(handle):
        if not isinstance(stream, ByteStreamHandle):
            yield stream.path
