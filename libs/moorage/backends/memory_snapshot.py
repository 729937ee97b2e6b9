"""A snapshot of the memory backend, from the barrier until its handles are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from moorage.backends.canonical import CHUNK_BYTES, CanonicalSnapshot
from moorage.backends.memory_changes import Changes, LoggedDelta
from moorage.backends.memory_encoding import Expired, GroupEncoding
from moorage.backends.pieces import StatePiece
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import KeyedSegmentCodec, SegmentWriter
from moorage.serde.segment_blocks import seal
from moorage.state.handles import NO_OFFSET, ByteStreamHandle, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_SEAL_BYTES = 8 << 20
"""Encoded rows that are gathered before they are compressed."""


class Segment(NamedTuple):
    file: int
    offset: int
    stored_bytes: int
    size: int
    """Rows and entries, in a base."""


Chain = tuple[Segment, ...]
Encoding = GroupEncoding[K, R] | LoggedDelta[K, R]


def _forget(forgotten: list[object]) -> None:
    while forgotten:
        forgotten.pop()  # one by one: to free a large set takes milliseconds, in which no thread can run


class MemorySnapshot(Generic[K, R]):
    """What the synchronous phase leaves. The thread that calls ``encode`` has it for itself until ``finish``."""

    def __init__(
        self,
        name: str,
        key_groups: KeyGroupRange,
        checkpoint: CheckpointId,
        file: int,
        chains: dict[int, Chain],
        encodings: Mapping[int, Encoding[K, R]],
        files: Mapping[int, StreamHandle],
        changes: dict[int, Changes[K, R]],
        expired: Callable[[int, Sequence[Expired]], None],
        forgotten: list[object],
    ) -> None:
        """``forgotten``: what nobody asks for any more."""
        self._name = name
        self._key_groups = key_groups
        self._file = file
        self._encodings = encodings
        self._expired = expired
        self._cancelled = False
        self.checkpoint = checkpoint
        self.chains = chains
        """Without the new segments until it is finished."""
        self._segments: dict[int, Segment] = {}
        self._forgotten = forgotten
        self._known_files = files
        self.files: dict[int, StreamHandle] = {}
        """Every file of the chains."""
        self.used_bytes: dict[int, int] = {}
        """Of each file."""
        self.changes = changes
        """What changed since the snapshot before."""

    def encode(self) -> Sequence[StatePiece]:
        _forget(self._forgotten)
        data = bytearray()
        ready: dict[int, SegmentWriter[K, R]] = {}
        for group, encoding in self._encodings.items():
            encoding.encode()
            if self._cancelled:
                return []
            ready[group] = encoding.writer
            if sum(writer.raw_bytes for writer in ready.values()) >= _SEAL_BYTES:
                self._seal(ready, data)
                ready.clear()
        self._seal(ready, data)
        return [StatePiece(self._name, True, bytes(data), carried_bytes=self._carried_bytes())] if data else []

    def _carried_bytes(self) -> int:
        inline = {file: s.size_bytes for file, s in self._known_files.items() if isinstance(s, ByteStreamHandle)}
        if not inline:
            return 0
        return sum(inline.get(file, 0) for file in {segment.file for c in self.chains.values() for segment in c})

    def _seal(self, ready: Mapping[int, SegmentWriter[K, R]], data: bytearray) -> None:
        sealed = seal([writer.take() for writer in ready.values()])
        for (group, writer), segment in zip(ready.items(), sealed, strict=True):
            self._segments[group] = Segment(self._file, len(data), len(segment), writer.size)
            data += segment

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyGroupsHandle, ...]:
        """The chains as handles, oldest file first."""
        self.chains |= {group: (*self.chains[group], segment) for group, segment in self._segments.items()}
        offsets: dict[int, dict[int, int]] = {}
        for group, chain in self.chains.items():
            for segment in chain:
                offsets.setdefault(segment.file, {})[group] = segment.offset
                self.used_bytes[segment.file] = self.used_bytes.get(segment.file, 0) + segment.stored_bytes
        known = {**self._known_files, **dict(zip([self._file], streams, strict=False))}
        self.files = {file: known[file] for file in offsets}
        for group, encoding in self._encodings.items():
            self._expired(group, encoding.expired)
        self._encodings = {}
        return tuple(
            KeyGroupsHandle(
                self._key_groups,
                tuple(by_group.get(group, NO_OFFSET) for group in self._key_groups.groups()),
                self.files[file],
            )
            for file, by_group in sorted(offsets.items())
        )

    def cancel(self) -> None:
        """It was aborted: what is not encoded yet will not be."""
        self._cancelled = True
        for encoding in self._encodings.values():
            encoding.cancel()


class MemoryCanonicalSnapshot(CanonicalSnapshot, Generic[K, R]):
    """A canonical snapshot, which no later one builds on. ``encodings``: of all rows of each key group, in the order in
    which they are written; ``changes``, ``expired`` and ``forgotten`` are those of MemorySnapshot."""

    def __init__(
        self,
        codec: KeyedSegmentCodec[K, R],
        key_groups: KeyGroupRange,
        checkpoint: CheckpointId,
        encodings: Mapping[int, GroupEncoding[K, R]],
        changes: dict[int, Changes[K, R]],
        expired: Callable[[int, Sequence[Expired]], None],
        forgotten: list[object],
    ) -> None:
        super().__init__(
            operator=codec.operator,
            checkpoint=checkpoint,
            key_groups=key_groups,
            groups=encodings,
            schema=codec.schema,
            blocks=lambda group: encodings[group].blocks(CHUNK_BYTES),
        )
        self._encodings = encodings
        self._expired = expired
        self._forgotten = forgotten
        self.changes = changes

    def encode(self) -> Iterator[StatePiece]:
        _forget(self._forgotten)
        return super().encode()

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyGroupsHandle, ...]:
        for group, encoding in self._encodings.items():
            self._expired(group, encoding.expired)
        return super().finish(streams)

    def cancel(self) -> None:
        """It was aborted: what is not encoded yet will not be."""
        self.discard()
        for encoding in self._encodings.values():
            encoding.cancel()
