"""The input gate: a pure state machine that gives each frame its verdict and finds when a snapshot is due.

Theory of operation
-------------------
A subtask reads partitions; each partition carries one channel per (attempt, producer). Of every channel the gate keeps
the *position*: the offset of the next frame to process. All positions together are the whole channel state of a
checkpoint.

A channel is in one of these states:

=========  ==========================  =====================================================
state      frames of the channel are   left by
=========  ==========================  =====================================================
OPEN       processed                   barrier of a checkpoint that aligns -> BLOCKED;
                                       barrier that ends its segment -> ENDED; end-of-partition -> ENDED
BLOCKED    held                        its checkpoint is settled or given up -> OPEN
WAITING    held                        the replay that precedes its segment is aligned -> OPEN
ENDED      void                        never
=========  ==========================  =====================================================

*Held* frames stay in memory up to a bound; beyond it the log is the spill file: on release the partition is sought
back, and what was processed of other channels meanwhile is recognised by its position and skipped.

*Pending* is a checkpoint that was announced by the coordinator's trigger or by a first barrier and is not settled. Its
snapshot is due

- ALIGNED, TIMEOUT: when every live channel has delivered its barrier; those that did are BLOCKED meanwhile,
- UNALIGNED: at once, as is TIMEOUT after ``overtake``,
- AT_LEAST_ONCE: when every live channel has delivered its barrier; nothing is blocked but the end of data, because a
  subtask whose input ended behind a barrier had not finished before it,

and not before every older pending one is settled or given up (``barrier.pending``). A barrier of a checkpoint that is
settled already only moves the position of its channel: what lay before it was in flight.

*In flight* are the channels of former attempts that a checkpoint without alignment left open. Each ends at the barrier
that ended its segment. In every partition all that counts of them lies before the running attempt's first frame
(``barrier.lineage``), so the order of the log is the order of processing.

*Replay* (exactly-once sinks only): a sink whose last transaction was lost reads again from its commit marker to the
restored checkpoint ``replay_until``. Barriers before that one are passed over, that one is aligned, and the segments
after it wait.

The caller decides nothing and forgets nothing: after SNAPSHOT or RELEASE it takes the snapshot that is ``due``, calls
``release()``, seeks where it is told to, offers the held frames again before any newer one, and looks whether the next
snapshot is due. It tells the coordinator what was ``declined``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum

from moorage.barrier.channels import (
    Channel,
    ChannelPosition,
    ChannelState,
    Held,
    HeldFrames,
    InFlight,
    Partition,
    Release,
)
from moorage.barrier.lineage import producers_of
from moorage.barrier.pending import Declined, PendingCheckpoints
from moorage.graph.job_graph import Exchange
from moorage.ids import Attempt, CheckpointId, TopicPartition
from moorage.messages.barriers import Alignment, Barrier, SnapshotOptions
from moorage.messages.events import DeclineReason
from moorage.messages.registry import LineageSegment


class Verdict(Enum):
    PROCESS = "process"
    HELD = "held"
    VOID = "void"
    """Not part of the history that counts."""
    SEEN = "seen"
    """Processed already: read again after a seek or a restart."""
    NOTED = "noted"
    """A barrier or an end: taken note of."""
    SNAPSHOT = "snapshot"
    """The snapshot of ``gate.due`` is due: take it, then release."""
    RELEASE = "release"
    """A checkpoint was given up: release what was held for it."""


def as_asked(options: SnapshotOptions) -> Alignment | None:
    """How most subtasks align: as the barrier says."""
    return options.alignment


class InputGate:
    """See the module. ``inputs`` are the exchanges with the partitions that this subtask owns, by topic."""

    def __init__(
        self,
        inputs: Mapping[str, tuple[Exchange, Iterable[int]]],
        lineage: Sequence[LineageSegment],
        starts: Mapping[TopicPartition, int],
        *,
        in_flight: Iterable[InFlight] = (),
        positions: Iterable[tuple[Attempt, ChannelPosition]] = (),
        first_live: Mapping[TopicPartition, int] | None = None,
        replay_until: CheckpointId | None = None,
        held_bytes_max: int = 64 << 20,
        alignment_limit_bytes: int | None = None,
        alignment_of: Callable[[SnapshotOptions], Alignment | None] = as_asked,
    ) -> None:
        """``starts``: where each partition is read from; ``positions``: channels that are further already.

        ``in_flight``: the open channels of the checkpoint that was restored. ``first_live``: index of the first segment
        of the lineage that is not over at the start of a partition (default: the running one). ``replay_until``: see
        the module; it must be the end of a segment. ``alignment_limit_bytes``: held frames beyond which a checkpoint is
        declined. ``alignment_of``: None for a barrier that is passed over.
        """
        self.due_barrier: Barrier | None = None
        self.replay_until = replay_until
        self._alignment_of = alignment_of
        self._alignment_limit_bytes = alignment_limit_bytes
        self._pending = PendingCheckpoints(self._unblock)
        self.must_release = False
        """What was held for a checkpoint that was given up is to be released."""
        self._partitions: dict[TopicPartition, Partition] = {}
        self._held = HeldFrames(self._partitions, held_bytes_max)
        self._running = lineage[-1].attempt
        self._attempt = self._running
        """The attempt whose barriers count now."""
        if replay_until is not None:
            self._attempt = next(s.attempt for s in lineage if s.end == replay_until)
            self._pending.announce(Barrier(checkpoint=replay_until, triggered_ms=0), Alignment.ALIGNED)
        for topic, (exchange, partitions) in inputs.items():
            for number in partitions:
                tp = TopicPartition(topic, number)
                self._partitions[tp] = Partition()
                live = len(lineage) - 1 if first_live is None else first_live[tp]
                for segment in lineage[live:]:
                    for producer in producers_of(exchange, number, segment):
                        self._add(Channel(tp, segment.attempt, producer, starts[tp], segment.end))
        for tp, attempt, producer, offset, until in in_flight:
            if until:
                self._add(Channel(tp, attempt, producer, offset, until))
        self._data_channels = sum(1 for _ in self._all())
        """Channels from which data may come."""
        self._open_channels = self._data_channels
        """Channels that are not ENDED."""
        for attempt, position in positions:
            known = self._partitions[position.partition].channels.get((attempt, position.producer))
            if known is not None:
                known.position = position.offset
                known.has_finished = position.has_finished
                if position.has_finished:
                    self._end(known)
        self._live = self._count_live()
        self._find_due()

    def _add(self, channel: Channel) -> None:
        if channel.attempt > self._attempt:
            channel.state = ChannelState.WAITING
        self._partitions[channel.partition].channels[channel.attempt, channel.producer] = channel

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
        barrier: Barrier | None = None,
        end_of_data: bool = False,
        end_of_partition: bool = False,
    ) -> Verdict:
        """The verdict on one frame. ``item`` is given back by ``release`` when the frame was held: look at
        ``must_release`` then, because it may be one too many."""
        channel = self._partitions[tp].channels.get((attempt, producer))
        if channel is None or channel.state is ChannelState.ENDED:
            return Verdict.VOID
        if offset < channel.position:
            return Verdict.SEEN
        if end_of_data and channel.barrier in self._pending:
            channel.state = ChannelState.BLOCKED
        if channel.state is not ChannelState.OPEN:
            return self._hold(channel, Held(tp, offset, size_bytes, item), is_data=barrier is None)
        channel.position = offset + 1
        if barrier is not None:
            return self._barrier(channel, barrier)
        if end_of_data:
            if channel.end is None and channel.has_data:
                channel.has_data = False
                self._data_channels -= 1
            return Verdict.NOTED
        if end_of_partition:
            self._finish(channel)
            return self._verdict()
        return Verdict.PROCESS

    def _hold(self, channel: Channel, frame: Held, *, is_data: bool) -> Verdict:
        """Barriers don't count against the limit: with many channels they alone might pass it, for ever."""
        self._held.hold(frame, is_data=is_data)
        limit = self._alignment_limit_bytes
        if limit is None or self._held.data_bytes <= limit or channel.state is not ChannelState.BLOCKED:
            return Verdict.HELD
        detail = f"more than {limit} bytes would have to be held back"
        self._pending.give_up(channel.barrier, DeclineReason.ALIGNMENT_LIMIT, detail)
        self._find_due()
        return Verdict.HELD

    # --- barriers ----------------------------------------------------------------------------------------------------

    def announce(self, barrier: Barrier) -> Verdict:
        """The coordinator has triggered a checkpoint."""
        alignment = self._alignment_of(barrier.options)
        if alignment is not None and self.replay_until is None:
            self._pending.announce(barrier, alignment)
            self._find_due()
        return self._verdict()

    def _barrier(self, channel: Channel, barrier: Barrier) -> Verdict:
        checkpoint = barrier.checkpoint
        if channel.end == checkpoint:
            self._end(channel)
        alignment = self._alignment_of(barrier.options)
        if channel.attempt != self._attempt or alignment is None:
            return Verdict.NOTED
        if self.replay_until is not None and checkpoint != self.replay_until:
            return Verdict.NOTED  # history: only the barrier that ends the replay matters
        former, channel.barrier = channel.barrier, checkpoint
        if self._pending.delivered(former, barrier, alignment) and channel.state is ChannelState.OPEN:
            channel.state = ChannelState.BLOCKED
        self._find_due()
        return self._verdict()

    def overtake(self, checkpoint: CheckpointId) -> Verdict:
        """The time to align is over: the snapshot waits for no more barriers."""
        self._pending.overtake(checkpoint)
        self._find_due()
        return self._verdict()

    def abort(self, checkpoint: CheckpointId) -> Verdict:
        """The checkpoint was aborted: it is neither started nor continued."""
        self._pending.give_up(checkpoint)
        self._find_due()
        return self._verdict()

    def _unblock(self, checkpoint: CheckpointId) -> None:
        for channel in self._channels(self._attempt):
            if channel.state is ChannelState.BLOCKED and channel.barrier == checkpoint:
                channel.state = ChannelState.OPEN
                self.must_release = True

    def _find_due(self) -> None:
        if self.due_barrier is None:
            self.due_barrier = self._pending.settle_due(self._live)

    def _verdict(self) -> Verdict:
        if self.due is not None:
            return Verdict.SNAPSHOT
        return Verdict.RELEASE if self.must_release else Verdict.NOTED

    def release(self) -> Release:
        """The snapshot that was due is taken: open what was blocked for it; see the module for what the caller owes."""
        if self.due is not None:
            settled, self.due_barrier = self.due, None
            if settled == self.replay_until:
                self._end_replay()
            self._unblock(settled)
        self.must_release = False
        self._find_due()
        return self._held.release()

    def _end_replay(self) -> None:
        for channel in self._channels(self._attempt):
            self._end(channel)
        self.replay_until = None
        self._attempt = self._running
        self._live = self._count_live()
        for channel in self._channels(self._attempt):
            if channel.state is ChannelState.WAITING:
                channel.state = ChannelState.OPEN

    # --- ends --------------------------------------------------------------------------------------------------------

    def _finish(self, channel: Channel) -> None:
        """Nothing more comes from this producer: nobody waits for its barriers."""
        self._end(channel)
        channel.has_finished = True
        if channel.attempt == self._attempt:
            self._live -= 1
            self._pending.left(channel.barrier)
            self._find_due()

    def _end(self, channel: Channel) -> None:
        if channel.state is ChannelState.ENDED:
            return
        channel.state = ChannelState.ENDED
        self._open_channels -= 1
        if channel.has_data:
            channel.has_data = False
            self._data_channels -= 1

    def _count_live(self) -> int:
        """Channels whose barriers are waited for."""
        return sum(1 for c in self._channels(self._attempt) if c.state is not ChannelState.ENDED)

    @property
    def has_data_ended(self) -> bool:
        """No more data comes, from any channel."""
        return self._data_channels == 0

    @property
    def has_ended(self) -> bool:
        """Nothing more comes at all."""
        return self._open_channels == 0

    # --- what others want to know ------------------------------------------------------------------------------------

    @property
    def attempt(self) -> Attempt:
        """The attempt whose barriers count now."""
        return self._attempt

    @property
    def due(self) -> CheckpointId | None:
        """The checkpoint whose snapshot is to be taken now."""
        return None if self.due_barrier is None else self.due_barrier.checkpoint

    @property
    def aligning(self) -> CheckpointId | None:
        """The oldest checkpoint that is pending and has barriers."""
        return self._pending.aligning

    @property
    def pending(self) -> Sequence[Barrier]:
        return self._pending.barriers

    @property
    def declined(self) -> list[Declined]:
        """What was given up here: to be told to the coordinator, and cleared, by the caller."""
        return self._pending.declined

    @property
    def held_bytes(self) -> int:
        """In memory."""
        return self._held.bytes

    def live_channels(self, tp: TopicPartition) -> Iterator[tuple[Attempt, int]]:
        """Attempt and producer of the channels of a partition whose frames may count from now on."""
        for channel in self._partitions[tp].channels.values():
            if channel.state is not ChannelState.ENDED:
                yield channel.attempt, channel.producer

    def positions(self, attempt: Attempt | None = None) -> Sequence[ChannelPosition]:
        """Positions of all channels of an attempt (default: the one whose barriers count)."""
        return [
            ChannelPosition(c.partition, c.producer, c.position, c.has_finished)
            for c in self._channels(self._attempt if attempt is None else attempt)
        ]

    def snapshot(self) -> Sequence[InFlight]:
        """The channel state of the checkpoint that is due."""
        assert self.due is not None
        return [c for partition in self._partitions.values() for c in partition.snapshot(self._running, self.due)]

    def _channels(self, attempt: Attempt) -> Iterator[Channel]:
        return (channel for channel in self._all() if channel.attempt == attempt)

    def _all(self) -> Iterator[Channel]:
        for partition in self._partitions.values():
            yield from partition.channels.values()

    def validate(self) -> None:
        """Raise AssertionError when the state contradicts itself; for tests."""
        self._held.validate()
        self._pending.validate()
        assert self._open_channels == sum(c.state is not ChannelState.ENDED for c in self._all()), "open channels"
        assert self._data_channels == sum(c.has_data for c in self._all()), "channels with data"
        for channel in self._all():
            if channel.state is ChannelState.BLOCKED:
                assert channel.barrier == self.due or channel.barrier in self._pending or self.must_release
        for checkpoint in (barrier.checkpoint for barrier in self._pending.barriers):
            delivered = [c for c in self._channels(self._attempt) if c.barrier >= checkpoint and not c.has_finished]
            assert self._pending.arrived(checkpoint) == len(delivered), f"arrived of {checkpoint}"
