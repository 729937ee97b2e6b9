"""Snapshots in the segments that every backend reads (``serde.keyed_segments``), in bounded memory.

State is read key group by key group and some blocks at a time; these are compressed into a file in memory. A file that
is large enough is handed over before the next one is begun, and whoever takes it may store it first. A key group that
does not fit into one file goes on in the next one: its segment there is a delta after the base in the file before. So
neither who writes nor who restores needs memory for more than one file, however large a key group is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from moorage.backends.pieces import StatePiece
from moorage.errors import StateStoreError
from moorage.ids import CheckpointId
from moorage.serde.segment_blocks import BASE, DELTA, Block, SegmentFile
from moorage.state.handles import NO_OFFSET, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

FILE_BYTES = 32 << 20
"""A file that is as large is closed."""
CHUNK_BYTES = 4 << 20
"""Encoded rows that are gathered before they are compressed."""

Blocks = Callable[[int], Iterator[Sequence[Block]]]
"""*Blocking*. Of a key group as it was at the barrier, about CHUNK_BYTES at a time; nothing when it has no rows."""


class CanonicalSnapshot:
    """``groups``: all that may have rows, in the order in which they are written. ``schema``: of the blocks."""

    def __init__(
        self,
        *,
        operator: str,
        checkpoint: CheckpointId,
        key_groups: KeyGroupRange,
        groups: Iterable[int],
        schema: bytes,
        blocks: Blocks,
    ) -> None:
        self.checkpoint = checkpoint
        self._operator = operator
        self._key_groups = key_groups
        self._groups = groups
        self._schema = schema
        self._blocks: Blocks | None = blocks
        self._offsets: list[dict[int, int]] = []
        """Of each file: key group -> where its segment begins."""

    def encode(self) -> Iterator[StatePiece]:
        file, offsets = SegmentFile(), dict[int, int]()
        for group in self._groups:
            kind = BASE
            for blocks in self._read(group):
                if file.size_bytes >= FILE_BYTES:
                    yield self._piece(file, offsets)
                    file, offsets = SegmentFile(), {}
                if group not in offsets:
                    offsets[group] = file.begin(kind, self._schema)
                    kind = DELTA
                file.add(blocks)
        if offsets:
            yield self._piece(file, offsets)

    def _read(self, group: int) -> Iterator[Sequence[Block]]:
        read = self._blocks
        for blocks in () if read is None else read(group):
            if self._blocks is None:
                break
            yield blocks
        if self._blocks is None:
            raise StateStoreError("the snapshot was given up")

    def _piece(self, file: SegmentFile, offsets: dict[int, int]) -> StatePiece:
        self._offsets.append(offsets)
        return StatePiece(f"{self._operator}.{len(self._offsets) - 1}", True, file.getvalue())

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyGroupsHandle, ...]:
        self.discard()
        return tuple(
            KeyGroupsHandle(
                self._key_groups,
                tuple(offsets.get(group, NO_OFFSET) for group in self._key_groups.groups()),
                stream,
                canonical=True,
            )
            for offsets, stream in zip(self._offsets, streams, strict=True)
        )

    def discard(self) -> None:
        """Let go of what was frozen; ``encode`` ends with an error."""
        self._blocks = None
