"""The channels of an input gate and the frames that it holds back.

A channel is (exchange partition, producer subtask) of one attempt. Its position, the offset of the next frame to
process, is the whole channel state of a checkpoint: what is in flight lies in the log already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from moorage.ids import Attempt, CheckpointId, TopicPartition

NONE = CheckpointId(0)


class ChannelState(Enum):
    OPEN = "open"
    BLOCKED = "blocked"
    WAITING = "waiting"
    ENDED = "ended"


class Held(NamedTuple):
    """A frame as it was offered."""

    partition: TopicPartition
    offset: int
    size_bytes: int
    item: object
    """What the caller wants back."""


class Release(NamedTuple):
    frames: Sequence[Held]
    """In offset order per partition, to be offered again before anything newer."""
    seeks: Mapping[TopicPartition, int]
    """Partitions whose held frames were forgotten: read again from here."""


class ChannelPosition(NamedTuple):
    partition: TopicPartition
    producer: int
    offset: int
    has_finished: bool = False
    """The producer has sent END_OF_PARTITION."""


class InFlight(NamedTuple):
    """A channel in a checkpoint."""

    partition: TopicPartition
    attempt: Attempt
    producer: int
    offset: int
    until: CheckpointId
    """What lies between the offset and this barrier is in flight; 0: nothing is."""


class Channel:
    __slots__ = ("attempt", "barrier", "end", "has_data", "has_finished", "partition", "position", "producer", "state")

    def __init__(
        self, partition: TopicPartition, attempt: Attempt, producer: int, position: int, end: CheckpointId | None
    ) -> None:
        self.partition = partition
        self.attempt = attempt
        self.producer = producer
        self.position = position
        self.end = end
        """The barrier that ends it; None: it belongs to the running attempt."""
        self.state = ChannelState.OPEN
        self.barrier = NONE
        """The newest barrier that it delivered and that was of interest."""
        self.has_data = True
        self.has_finished = False


class Partition:
    """Channels of one partition, and what of it is held back."""

    __slots__ = ("channels", "held", "held_bytes", "spilled_from")

    def __init__(self) -> None:
        self.channels: dict[tuple[int, int], Channel] = {}
        """By attempt and producer."""
        self.held: list[Held] = []
        self.held_bytes = 0
        self.spilled_from: int | None = None
        """First offset of the held frames that were forgotten."""

    def snapshot(self, running: Attempt, checkpoint: CheckpointId) -> Iterator[InFlight]:
        """The channels that a restore from ``checkpoint`` must know. Finished ones only say how far the log was read,
        so they are left out as soon as others do."""
        finished: list[Channel] = []
        for channel in self.channels.values():
            tp, attempt, producer, offset = channel.partition, channel.attempt, channel.producer, channel.position
            if channel.state is not ChannelState.ENDED:
                behind = checkpoint if channel.barrier < checkpoint else NONE
                yield InFlight(tp, attempt, producer, offset, behind if channel.end is None else channel.end)
            elif attempt == running:
                finished.append(channel)
        if len(finished) == sum(1 for c in self.channels.values() if c.attempt == running) and finished:
            last = max(finished, key=lambda c: c.position)
            yield InFlight(last.partition, last.attempt, last.producer, last.position, NONE)


class HeldFrames:
    """Frames that are held back, in memory up to a bound: beyond it those of a partition are forgotten, and read again
    from the log."""

    def __init__(self, partitions: Mapping[TopicPartition, Partition], bytes_max: int) -> None:
        self.bytes = 0
        """In memory."""
        self.data_bytes = 0
        """Of data, with what was forgotten, since the last release."""
        self._partitions = partitions
        self._bytes_max = bytes_max

    def hold(self, frame: Held, *, is_data: bool) -> None:
        self.data_bytes += frame.size_bytes if is_data else 0
        partition = self._partitions[frame.partition]
        if partition.spilled_from is not None:
            return
        partition.held.append(frame)
        partition.held_bytes += frame.size_bytes
        self.bytes += frame.size_bytes
        if self.bytes > self._bytes_max:
            partition.spilled_from = partition.held[0].offset
            self._forget(partition)

    def release(self) -> Release:
        frames: list[Held] = []
        seeks: dict[TopicPartition, int] = {}
        for tp, partition in self._partitions.items():
            frames += partition.held
            self._forget(partition)
            if partition.spilled_from is not None:
                seeks[tp] = partition.spilled_from
                partition.spilled_from = None
        self.data_bytes = 0
        return Release(frames, seeks)

    def _forget(self, partition: Partition) -> None:
        self.bytes -= partition.held_bytes
        partition.held_bytes = 0
        partition.held = []

    def validate(self) -> None:
        held = 0
        for tp, partition in self._partitions.items():
            offsets = [h.offset for h in partition.held]
            assert offsets == sorted(offsets), f"{tp}: held frames out of order"
            assert partition.held_bytes == sum(h.size_bytes for h in partition.held), f"{tp}: held bytes"
            assert partition.spilled_from is None or not partition.held, f"{tp}: spilled and held"
            held += partition.held_bytes
        assert held == self.bytes, "held bytes"
        assert self.bytes <= self._bytes_max, "held beyond the bound"
