"""Positions in exchange logs: the whole channel state of a checkpoint, and what a sink has committed.

A channel is (exchange partition, producer subtask). Its position is the offset of the next frame to be processed of it
(design, section 6). Nothing is copied: what is in flight lies in the log already.
"""

from __future__ import annotations

import msgspec

from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid


class ExchangePositions(msgspec.Struct, frozen=True, array_like=True):
    """Positions of one consumer subtask in one exchange; the columns are parallel.

    Of a channel whose barrier of this checkpoint lies behind the position the frames in between are in flight: whoever
    restores processes them before any of a later attempt (design, section 6). A channel of a former attempt may still
    be open, too. So each says where it ends, and a restore needs no lineage.
    """

    exchange: ExchangeId
    partitions: tuple[int, ...]
    attempts: tuple[Attempt, ...]
    producers: tuple[int, ...]
    offsets: tuple[int, ...]
    until: tuple[CheckpointId, ...]
    """The barrier before which the frames count; 0: none does any more."""

    def start_offsets(self) -> dict[int, int]:
        """Per partition the lowest position: where reading must start, and what must be kept of the log."""
        start: dict[int, int] = {}
        for partition, offset in zip(self.partitions, self.offsets, strict=True):
            start[partition] = min(offset, start.get(partition, offset))
        return start


class InputPositions(msgspec.Struct, frozen=True, array_like=True):
    """The position vector of a subtask; it travels as the bytes of the subtask's only InputChannelHandle."""

    exchanges: tuple[ExchangePositions, ...]


class CommitClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Of a key group, by whoever opens a sink that was rescaled: attempts before this one write nothing any more.

    Beside the markers, one for each parallelism: the transactional id that may write it belongs to one parallelism, so
    a later attempt's claim is never replaced by an earlier one's (docs/decisions/0004).
    """

    sink: OperatorUid
    key_group: int
    parallelism: int
    base: CheckpointId
    """The life of the job that the attempt belongs to: the last checkpoint id of the life before."""
    attempt: Attempt


class CommitMarker(msgspec.Struct, frozen=True, kw_only=True):
    """Written in the same transaction as the output it speaks of: everything of this key group up to the barrier of
    ``checkpoint`` is committed. Compacted topic ``moorage.<job>.commits``, partition = key group."""

    sink: OperatorUid
    key_group: int
    checkpoint: CheckpointId
    attempt: Attempt
    """The attempt whose barrier it was."""
    producers: tuple[int, ...]
    offsets: tuple[int, ...]
    """Parallel: per producer of that attempt the offset behind its barrier in the exchange partition ``key_group``."""
    finished: tuple[int, ...] = ()
    """Producers of that attempt from which nothing more comes."""

    @property
    def start_offset(self) -> int:
        """Where reading of the exchange partition must start again; the log before it is not needed by this sink."""
        return min(self.offsets)
