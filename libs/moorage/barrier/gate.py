"""The input gate: a pure state machine that gives each frame its verdict and finds when barriers are aligned.

Theory of operation
-------------------
A subtask reads partitions; each partition carries one channel per (attempt, producer) of the lineage. Of every channel
the gate keeps the *position*: the offset of the next frame to process. All positions together are the whole channel
state of a checkpoint.

A channel is in one of these states:

=========  ==========================  =====================================================
state      frames of the channel are   left by
=========  ==========================  =====================================================
OPEN       processed                   barrier of the checkpoint being aligned -> BLOCKED;
                                       barrier that ends its segment -> ENDED; end-of-partition -> ENDED
BLOCKED    held                        alignment complete or abandoned -> OPEN
WAITING    held                        the replay that precedes its segment is aligned -> OPEN
ENDED      void                        never
=========  ==========================  =====================================================

*Held* frames stay in memory up to ``held_bytes_max``. Beyond it the held frames of the partition are forgotten and its
first held offset is remembered: on release the partition is sought back to it, and what was processed of other channels
meanwhile is recognised by its position and skipped. The log is the spill file.

*Alignment*: the first barrier of checkpoint n starts it; it is complete when every live channel of the segment has
delivered barrier n. A barrier of a later checkpoint on a channel that did not deliver n shows that n will never come
there: n is abandoned (Flink: SingleCheckpointBarrierHandler). A checkpoint known to be aborted is neither started nor
continued.

*Replay* (exactly-once sinks only): a sink whose last transaction was lost reads again from its commit marker to the
restored checkpoint ``replay_until``. Barriers before that one are passed over, that one is aligned, and the segments
after it wait.

The caller decides nothing and forgets nothing: after ALIGNED or ABANDONED it calls ``release()``, offers the held
frames again before any newer one, and seeks where it is told to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from moorage.barrier.lineage import producers_of
from moorage.graph.job_graph import Exchange
from moorage.ids import Attempt, CheckpointId, TopicPartition
from moorage.messages.registry import LineageSegment


class Verdict(Enum):
    PROCESS = "process"
    HELD = "held"
    VOID = "void"
    """Not part of the history that counts."""
    SEEN = "seen"
    """Processed already: read again after a seek or a restart."""
    BARRIER = "barrier"
    """Taken note of."""
    ALIGNED = "aligned"
    """``gate.aligned`` has arrived on every channel: take the snapshot, then release."""
    ABANDONED = "abandoned"
    """``gate.abandoned`` will never be aligned: release."""
    ENDED = "ended"
    """End of partition on every channel."""


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


class _Channel:
    __slots__ = ("attempt", "end", "position", "producer", "state")

    def __init__(self, attempt: Attempt, producer: int, position: int, end: CheckpointId | None) -> None:
        self.attempt = attempt
        self.producer = producer
        self.position = position
        self.end = end
        self.state = ChannelState.OPEN


class _Partition:
    __slots__ = ("channels", "held", "held_bytes", "spilled_from")

    def __init__(self) -> None:
        self.channels: dict[tuple[int, int], _Channel] = {}
        self.held: list[Held] = []
        self.held_bytes = 0
        self.spilled_from: int | None = None
        """First offset of the held frames that were forgotten."""


class InputGate:
    """See the module. ``inputs`` are the exchanges with the partitions that this subtask owns, by topic."""

    def __init__(
        self,
        inputs: Mapping[str, tuple[Exchange, Iterable[int]]],
        lineage: Sequence[LineageSegment],
        starts: Mapping[TopicPartition, int],
        *,
        positions: Iterable[tuple[Attempt, ChannelPosition]] = (),
        first_live: Mapping[TopicPartition, int] | None = None,
        replay_until: CheckpointId | None = None,
        held_bytes_max: int = 64 << 20,
    ) -> None:
        """``starts``: where each partition is read from; ``positions``: channels that are further already.

        ``first_live``: index of the first segment of the lineage that is not over at the start of a partition (default:
        the running one). ``replay_until``: see the module; it must be the end of a segment.
        """
        self.aligning: CheckpointId | None = None
        self.aligned: CheckpointId | None = None
        self.abandoned: CheckpointId | None = None
        self.held_bytes = 0
        self.replay_until = replay_until
        self._held_bytes_max = held_bytes_max
        self._arrived = 0
        self._floor = CheckpointId(0)
        """Every checkpoint up to this one is aligned, abandoned or of no interest."""
        self._aborted: set[CheckpointId] = set()
        self._partitions: dict[TopicPartition, _Partition] = {}
        running = lineage[-1].attempt
        self._attempt = running
        if replay_until is not None:
            self._attempt = next(s.attempt for s in lineage if s.end == replay_until)
        """The attempt whose barriers are aligned now."""
        self._running = running
        for topic, (exchange, partitions) in inputs.items():
            for number in partitions:
                tp = TopicPartition(topic, number)
                partition = self._partitions[tp] = _Partition()
                live = len(lineage) - 1 if first_live is None else first_live[tp]
                for segment in lineage[live:]:
                    for producer in producers_of(exchange, number, segment):
                        channel = _Channel(segment.attempt, producer, starts[tp], segment.end)
                        if segment.attempt > self._attempt:
                            channel.state = ChannelState.WAITING
                        partition.channels[segment.attempt, producer] = channel
        for attempt, (tp, producer, offset) in positions:
            known = self._partitions[tp].channels.get((attempt, producer))
            if known is not None:
                known.position = offset
        self._live = self._count_live()

    # --- frames ------------------------------------------------------------------------------------------------------

    def offer(
        self,
        tp: TopicPartition,
        offset: int,
        attempt: Attempt,
        producer: int,
        size_bytes: int,
        item: object,
        *,
        barrier: CheckpointId | None = None,
        end_of_partition: bool = False,
    ) -> Verdict:
        """The verdict on one frame. ``item`` is given back by ``release`` when the frame was held."""
        partition = self._partitions[tp]
        channel = partition.channels.get((attempt, producer))
        if channel is None or channel.state is ChannelState.ENDED:
            return Verdict.VOID
        if offset < channel.position:
            return Verdict.SEEN
        if channel.state is not ChannelState.OPEN:
            self._hold(partition, Held(tp, offset, size_bytes, item))
            return Verdict.HELD
        channel.position = offset + 1
        if barrier is not None:
            return self._barrier(channel, barrier)
        if end_of_partition:
            channel.state = ChannelState.ENDED
            return self._channel_left(channel)
        return Verdict.PROCESS

    def _hold(self, partition: _Partition, held: Held) -> None:
        if partition.spilled_from is not None:
            return
        partition.held.append(held)
        partition.held_bytes += held.size_bytes
        self.held_bytes += held.size_bytes
        if self.held_bytes > self._held_bytes_max:
            partition.spilled_from = partition.held[0].offset
            self._forget_held(partition)

    def _forget_held(self, partition: _Partition) -> None:
        self.held_bytes -= partition.held_bytes
        partition.held_bytes = 0
        partition.held = []

    # --- barriers ----------------------------------------------------------------------------------------------------

    def _barrier(self, channel: _Channel, checkpoint: CheckpointId) -> Verdict:
        if channel.end == checkpoint:
            channel.state = ChannelState.ENDED
        if channel.attempt != self._attempt or (self.replay_until is not None and checkpoint != self.replay_until):
            return Verdict.BARRIER  # history: only the barrier that ends the replay matters
        if checkpoint <= self._floor or checkpoint in self._aborted:
            return Verdict.BARRIER
        verdict = Verdict.BARRIER
        if self.aligning is not None and checkpoint != self.aligning:
            if checkpoint < self.aligning:
                return Verdict.BARRIER
            self._abandon()
            verdict = Verdict.ABANDONED
        if self.aligning is None:
            self.aligning = checkpoint
        self._arrived += 1
        if channel.state is ChannelState.OPEN:
            channel.state = ChannelState.BLOCKED
        if self._arrived == self._live:
            # With a single channel nothing was held for the abandoned one, so its verdict may be overtaken.
            return self._complete()
        return verdict

    def _count_live(self) -> int:
        """Channels that must deliver a barrier: all of the aligned attempt (end-of-partition takes them out)."""
        return sum(1 for _ in self._channels(self._attempt))

    def _channels(self, attempt: Attempt) -> Iterator[_Channel]:
        for partition in self._partitions.values():
            for channel in partition.channels.values():
                if channel.attempt == attempt:
                    yield channel

    def _channel_left(self, channel: _Channel) -> Verdict:
        if channel.attempt != self._attempt:
            return Verdict.BARRIER
        self._live -= 1
        if self._live == 0:
            return Verdict.ENDED
        if self.aligning is not None and self._arrived == self._live:
            return self._complete()
        return Verdict.BARRIER

    def _complete(self) -> Verdict:
        assert self.aligning is not None
        self.aligned, self.aligning = self.aligning, None
        self._settle(self.aligned)
        return Verdict.ALIGNED

    def _abandon(self) -> None:
        assert self.aligning is not None
        self.abandoned, self.aligning = self.aligning, None
        self._settle(self.abandoned)
        for channel in self._channels(self._attempt):
            if channel.state is ChannelState.BLOCKED:
                channel.state = ChannelState.OPEN

    def _settle(self, checkpoint: CheckpointId) -> None:
        self._floor = checkpoint
        self._aborted = {n for n in self._aborted if n > checkpoint}
        self._arrived = 0

    def abort(self, checkpoint: CheckpointId) -> bool:
        """The checkpoint was aborted. True when it was being aligned: the caller must release."""
        if checkpoint <= self._floor:
            return False
        if self.aligning == checkpoint:
            self._abandon()
            return True
        self._aborted.add(checkpoint)
        return False

    def release(self) -> Release:
        """Open what the last alignment or abandonment had blocked; see the module for what the caller owes."""
        if self.replay_until is not None and self.aligned == self.replay_until:
            self.replay_until = None
            self._attempt = self._running
            self._live = self._count_live()
            self._open(ChannelState.WAITING)
        if self.aligning is None:
            self._open(ChannelState.BLOCKED)
        frames: list[Held] = []
        seeks: dict[TopicPartition, int] = {}
        for tp, partition in self._partitions.items():
            frames += partition.held
            self._forget_held(partition)
            if partition.spilled_from is not None:
                seeks[tp] = partition.spilled_from
                partition.spilled_from = None
        return Release(frames, seeks)

    def _open(self, state: ChannelState) -> None:
        for channel in self._channels(self._attempt):
            if channel.state is state:
                channel.state = ChannelState.OPEN

    # --- what others want to know ------------------------------------------------------------------------------------

    @property
    def attempt(self) -> Attempt:
        """The attempt whose barriers are aligned now."""
        return self._attempt

    def live_channels(self, tp: TopicPartition) -> Iterator[tuple[Attempt, int]]:
        """Attempt and producer of the channels of a partition whose frames may count from now on."""
        for channel in self._partitions[tp].channels.values():
            if channel.state is not ChannelState.ENDED:
                yield channel.attempt, channel.producer

    def positions(self, attempt: Attempt | None = None) -> Sequence[ChannelPosition]:
        """Positions of all channels of an attempt (default: the one being aligned)."""
        wanted = self._attempt if attempt is None else attempt
        return [
            ChannelPosition(tp, channel.producer, channel.position)
            for tp, partition in self._partitions.items()
            for channel in partition.channels.values()
            if channel.attempt == wanted
        ]

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        held = 0
        for tp, partition in self._partitions.items():
            offsets = [h.offset for h in partition.held]
            assert offsets == sorted(offsets), f"{tp}: held frames out of order"
            assert partition.held_bytes == sum(h.size_bytes for h in partition.held), f"{tp}: held bytes"
            assert partition.spilled_from is None or not partition.held, f"{tp}: spilled and held"
            held += partition.held_bytes
        assert held == self.held_bytes, "held bytes"
        assert self.held_bytes <= self._held_bytes_max, "held beyond the bound"
        if self.aligning is None and self.aligned is None:
            assert self._arrived == 0, "arrived without an alignment"
        assert self.aligning is None or self.aligning > self._floor, "aligning a checkpoint that is over"
