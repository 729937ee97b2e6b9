"""The reading side of an exchange: messages from the log, through the gate, to whoever processes them.

Shared by keyed subtasks and exactly-once sinks: decoding of frames, released frames before newer ones, seeks, positions
for producers (flow control).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from moorage.barrier.gate import InputGate, Verdict
from moorage.barrier.pending import Declined
from moorage.errors import CorruptDataError, LogError, MoorageError, RecordError
from moorage.graph.job_graph import Exchange
from moorage.ids import Attempt, CheckpointId, TopicPartition
from moorage.messages.barriers import Barrier
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import ExchangeProgress
from moorage.ports import LogMessage, LogReader
from moorage.serde import control
from moorage.serde.frames import SEQUENCES, ColumnCodec, Columns, Frame, FrameKind, decode_frame
from moorage.task.alignment import AlignmentTimes
from moorage.task.context import TaskContext
from moorage.task.pace import Pace


class InputUser(Protocol):
    """The subtask that reads."""

    def on_records(self, tp: TopicPartition, columns: Columns[Any, Any], /) -> None: ...

    def on_snapshot(self, barrier: Barrier, /) -> None:
        """The snapshot is due now; the input pauses until ``ExchangeInput.release``."""

    def on_declined(self, declined: Declined, /) -> None:
        """A checkpoint was given up."""


_REPEAT_INTERVALS = 20
"""Positions that do not change are published again once in so many intervals."""


class _Rest(NamedTuple):
    """What is left of a frame that the gate let pass."""

    tp: TopicPartition
    offset: int
    columns: Columns[Any, Any]
    start: int
    """Index of the next record."""


class ExchangeInput:
    def __init__(
        self,
        context: TaskContext,
        inputs: Mapping[str, Exchange],
        codecs: Mapping[str, ColumnCodec[Any, Any]],
        reader: LogReader,
        gate: InputGate,
        starts: Mapping[TopicPartition, int],
        user: InputUser,
        resumed: Collection[TopicPartition] = (),
        pace: Pace | None = None,
    ) -> None:
        """``resumed``: partitions whose start lies behind the first frames of the running attempt. ``pace``: of a user
        whose own code decides how long a record takes; a frame may be processed in several steps then, but no snapshot
        is due in between. None: whole frames."""
        self._context = context
        self._inputs = inputs
        self._codecs = codecs
        self._reader = reader
        self.gate = gate
        self.times = AlignmentTimes()
        self.processed_bytes = 0
        """Of frames with records; barriers and what is passed over are no input."""
        self._user = user
        self._pace = pace
        self._rest: _Rest | None = None
        self._is_paused = False
        """A snapshot is due or being decided on."""
        self._queue: deque[LogMessage] = deque()
        """Polled and not offered yet."""
        self._last_barrier: tuple[bytes, Barrier] | None = None
        self._published: dict[str, tuple[int, ...]] = {}
        self._next_housekeeping_ms = 0
        self._next_repeat_ms = 0
        self._next_offsets = dict(starts)
        self._sequences: dict[tuple[TopicPartition, Attempt, int], int] = {
            (position.partition, context.attempt, position.producer): 0
            for position in gate.positions(context.attempt)
            if position.partition not in resumed
        }
        reader.assign(starts)

    def open(self) -> None:
        """Begin, once the user knows this input."""
        self._follow()

    def step(self) -> bool:
        """Work off a bounded number of records; nothing while a snapshot is waited for."""
        if self._is_paused:
            return False
        if not self._queue and self._rest is None:
            self._queue.extend(self._poll())
            if not self._queue:
                return False
        counters, pace = self._context.counters, self._pace
        started_ms, records_before = self._context.clock.monotonic_ms(), counters.records_in
        records_max = self._context.settings.max_poll_records if pace is None else pace.records
        while not self._is_paused and counters.records_in < records_before + records_max:
            if self._rest is not None:
                self._process(self._rest)
            elif self._queue:
                self._offer(self._queue.popleft())
            else:
                break
        if pace is not None:
            pace.took(counters.records_in - records_before, self._context.clock.monotonic_ms() - started_ms)
        return True

    @property
    def waiting_bytes(self) -> int:
        """Of frames that were polled and not processed."""
        return sum(len(message.value) for message in self._queue)

    def _poll(self) -> Sequence[LogMessage]:
        """Exchanges have neither transactions nor compaction, so their offsets have no gaps: a gap is lost frames, and
        the attempt must end before anything builds on it."""
        messages = self._reader.poll(self._context.settings.max_poll_frames)
        for message in messages:
            tp = TopicPartition(message.topic, message.partition)
            expected = self._next_offsets[tp]
            if message.offset != expected:
                raise LogError(f"{tp.topic}[{tp.partition}]: offset {message.offset} came where {expected} was next")
            self._next_offsets[tp] = expected + 1
        return messages

    def _offer(self, message: LogMessage) -> None:
        tp = TopicPartition(message.topic, message.partition)
        counters = self._context.counters
        try:
            frame = decode_frame(message.value)
        except CorruptDataError as error:
            self._corrupt_frame(tp, message.offset, error)
            return
        try:
            barrier = self._barrier(frame.payload) if frame.kind is FrameKind.BARRIER else None
        except MoorageError as error:
            raise type(error)(f"{tp.topic}[{tp.partition}] offset {message.offset}: {error}") from error
        verdict = self.gate.offer(
            tp,
            message.offset,
            frame.attempt,
            frame.producer,
            len(message.value),
            message,
            barrier=barrier,
            end_of_data=frame.kind is FrameKind.END_OF_DATA,
            end_of_partition=frame.kind is FrameKind.END_OF_PARTITION,
        )
        if verdict is Verdict.HELD:
            if self.gate.must_release:
                self._follow()
            return  # it is offered again
        if verdict not in (Verdict.VOID, Verdict.SEEN):
            self._check_sequence(tp, message.offset, frame)
        counters.frames_in += 1
        counters.bytes_in += len(message.value)
        match verdict:
            case Verdict.PROCESS:
                try:
                    columns = self._codecs[tp.topic].decode(frame.payload)
                except CorruptDataError as error:
                    raise CorruptDataError(f"{tp.topic}[{tp.partition}] offset {message.offset}: {error}") from error
                self.processed_bytes += len(message.value)
                self._process(_Rest(tp, message.offset, columns, 0))
            case Verdict.VOID:
                counters.frames_void += 1
            case Verdict.SEEN:
                counters.frames_seen += 1
            case _:
                if barrier is not None:
                    now_ms = self._context.clock.monotonic_ms()
                    self.times.arrived(barrier.checkpoint, now_ms, self.processed_bytes)
                self._follow()

    def _process(self, rest: _Rest) -> None:
        """A frame, or as much of it as is due in one step."""
        tp, offset, columns, start = rest
        size = len(columns)
        end = size if self._pace is None else min(size, start + self._pace.records)
        self._rest = rest._replace(start=end) if end < size else None
        piece = columns if end - start == size else columns.piece(start, end)
        self._context.counters.records_in += end - start
        try:
            self._user.on_records(tp, piece)
        except RecordError as error:
            where = f"in a frame of {size} in {tp.topic}[{tp.partition}] offset {offset}"
            raise RecordError(f"{error}, {where}") from error.__cause__
        if start and self._rest is None:
            self._follow()

    def _barrier(self, payload: bytes) -> Barrier:
        """The same bytes come once by every channel."""
        if self._last_barrier is None or self._last_barrier[0] != payload:
            self._last_barrier = payload, control.decode(payload, control.BARRIERS)
        return self._last_barrier[1]

    def _follow(self) -> None:
        """Do what the gate asks for, but not in the middle of a frame: its position is behind all of it."""
        if self._rest is not None:
            return
        gate = self.gate
        if gate.declined:
            for declined in gate.declined:
                self._user.on_declined(declined)
            gate.declined.clear()
        if gate.due_barrier is not None:
            self._is_paused = True
            self._user.on_snapshot(gate.due_barrier)
        elif gate.must_release:
            self.release()

    def _corrupt_frame(self, tp: TopicPartition, offset: int, error: CorruptDataError) -> None:
        """Skipped and counted where a frame that counts would be missed: the next one of its channel has not the number
        that is next then, the attempt ends, and the following one sends again what was in it. Failing here would make
        every attempt fail that reads from before it, though the frame may be a zombie's, or nobody's. Channels of
        former attempts have nobody who sends again."""
        attempt = self._context.attempt
        for channel_attempt, producer in self.gate.live_channels(tp):
            if channel_attempt != attempt or (tp, attempt, producer) not in self._sequences:
                raise CorruptDataError(f"{tp.topic}[{tp.partition}] offset {offset}: {error}") from error
        self._context.counters.frames_corrupt += 1
        self._context.warn(f"{tp.topic}[{tp.partition}] offset {offset} is skipped: {error}")

    def _check_sequence(self, tp: TopicPartition, offset: int, frame: Frame) -> None:
        """Frames of a channel are numbered: a missing one is lost, though its producer was told that it is stored. The
        attempt must end before anything builds on that."""
        channel = (tp, frame.attempt, frame.producer)
        expected = self._sequences.get(channel)
        if expected is not None and frame.sequence != expected:
            raise CorruptDataError(  # not a LogError: it does not heal by reading again
                f"{tp.topic}[{tp.partition}] offset {offset}: frame {frame.sequence} of producer {frame.producer} came"
                f" where {expected} was next"
            )
        self._sequences[channel] = (frame.sequence + 1) % SEQUENCES

    def announce(self, barrier: Barrier) -> None:
        """The coordinator has triggered a checkpoint."""
        self.times.heard(barrier.checkpoint, self._context.clock.monotonic_ms())
        self.gate.announce(barrier)
        self._follow_unless_paused()

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up; what was held for it is worked off."""
        self.gate.abort(checkpoint)
        self._follow_unless_paused()

    def _follow_unless_paused(self) -> None:
        if not self._is_paused:
            self._follow()

    def release(self) -> None:
        """Go on after a snapshot."""
        self._is_paused = False
        released = self.gate.release()
        if released.seeks:
            # What was polled of these partitions comes again; offered now it would overtake what was forgotten.
            self._queue = deque(m for m in self._queue if TopicPartition(m.topic, m.partition) not in released.seeks)
            for tp, offset in released.seeks.items():
                self._reader.seek(tp, offset)
                self._next_offsets[tp] = offset
        self._queue.extendleft(held.item for held in reversed(released.frames) if isinstance(held.item, LogMessage))
        self._follow()

    def housekeeping(self, now_ms: int) -> None:
        """End alignments whose time is over. Now and then: tell the producers how far their channels are processed, and
        give up checkpoints that were aborted without us hearing of it."""
        pending = () if self._is_paused else self.gate.pending
        if pending:
            for overdue in self.times.overdue(pending, now_ms):
                self.gate.overtake(overdue)
                self._follow()
        if now_ms < self._next_housekeeping_ms:
            return
        context = self._context
        self._next_housekeeping_ms = now_ms + context.settings.progress_interval_ms
        context.counters.held_bytes = self.gate.held_bytes
        for barrier in pending:
            if context.fates.fate(barrier.checkpoint) is CheckpointFate.ABORTED:
                self.abort(barrier.checkpoint)
        if now_ms >= self._next_repeat_ms:
            # A lost report would block a producer for ever whose frames are all processed: nothing would change again.
            self._next_repeat_ms = now_ms + _REPEAT_INTERVALS * context.settings.progress_interval_ms
            self._published.clear()
        self._publish_progress()

    def _publish_progress(self) -> None:
        context = self._context
        positions = self.gate.positions(context.attempt)
        for topic, exchange in self._inputs.items():
            channels = [p for p in positions if p.partition.topic == topic]
            offsets = tuple(p.offset for p in channels)
            if self._published.get(topic) == offsets:
                continue
            self._published[topic] = offsets
            context.publish(
                ExchangeProgress(
                    job=context.job,
                    attempt=context.attempt,
                    exchange=exchange.exchange,
                    consumer=context.subtask,
                    partitions=tuple(p.partition.partition for p in channels),
                    producers=tuple(p.producer for p in channels),
                    positions=offsets,
                )
            )

    def close(self) -> None:
        self._reader.close()
