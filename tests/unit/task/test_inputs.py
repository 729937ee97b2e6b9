"""Reading an exchange: the gate's demands carried out on a log, positions published, bad frames named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.barrier.worlds import TOPIC, World, exchange, segment, tp
from tests.unit.task.contexts import TaskWorld
from tests.unit.task.harness import SETTINGS

from moorage.barrier.gate import InputGate
from moorage.barrier.pending import Declined
from moorage.errors import CorruptDataError, UnknownSchemaError
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import Attempt, CheckpointId, TopicPartition
from moorage.messages.barriers import Alignment, Barrier, SnapshotOptions
from moorage.messages.commands import JobFates
from moorage.messages.registry import LineageSegment
from moorage.ports import TopicSpec
from moorage.serde import control
from moorage.serde.frames import ColumnCodec, Columns, FrameKind, encode_frame
from moorage.task.inputs import ExchangeInput
from moorage.task.pace import Pace

CODEC: ColumnCodec[Any, Any] = ColumnCodec()


def data_frame(attempt: int, producer: int, sequence: int, *values: Any, filler: int = 0) -> bytes:
    columns = Columns(["x" * filler] * len(values), values, [0] * len(values))
    return encode_frame(FrameKind.DATA, Attempt(attempt), producer, sequence, len(values), CODEC.encode(columns))


def barrier_frame(attempt: int, producer: int, sequence: int, checkpoint: int) -> bytes:
    payload = control.encode(Barrier(checkpoint=CheckpointId(checkpoint), triggered_ms=0))
    return encode_frame(FrameKind.BARRIER, Attempt(attempt), producer, sequence, 0, payload)


class Input:
    """An ExchangeInput on a world's logs, and what it processed."""

    def __init__(
        self,
        world: World,
        *,
        held_bytes_max: int = 1 << 20,
        max_poll_frames: int = 64,
        first_live: Mapping[TopicPartition, int] | None = None,
        resumed: Collection[TopicPartition] = (),
        pace: Pace | None = None,
        **options: Any,
    ) -> None:
        self.world = world
        self.task = TaskWorld()
        self.task.log.create_topics([TopicSpec(TOPIC, len(world.logs), {})])
        for number, log in enumerate(world.logs):
            sent: Counter[tuple[int, int]] = Counter()
            for offset, frame in enumerate(log):
                channel = (frame.attempt, frame.producer)
                if frame.barrier is None:
                    data = data_frame(*channel, sent[channel], (number, offset), filler=frame.size_bytes)
                else:
                    data = barrier_frame(*channel, sent[channel], frame.barrier)
                sent[channel] += 1
                self.task.cluster.append(tp(number), data)
        self.context = self.task.context(
            "totals",
            attempt=world.lineage[-1].attempt,
            settings=replace(SETTINGS, max_poll_frames=max_poll_frames, **options),
        )
        self.starts = {tp(number): 0 for number, _ in enumerate(world.logs)}
        self.gate = InputGate(
            {TOPIC: (world.exchange, range(len(world.logs)))},
            world.lineage,
            self.starts,
            first_live=first_live,
            held_bytes_max=held_bytes_max,
        )
        self.input = ExchangeInput(
            self.context,
            {TOPIC: world.exchange},
            {TOPIC: CODEC},
            self.task.log.reader("input"),
            self.gate,
            self.starts,
            self,
            resumed,
            pace,
        )
        self.processed: list[tuple[int, int]] = []
        self.aligned: dict[int, list[tuple[int, int]]] = {}
        self.abandoned: list[int] = []

    def step(self) -> bool:
        return self.input.step()

    def on_records(self, partition: TopicPartition, columns: Columns[Any, Any]) -> None:
        for number, offset in columns.values:
            assert number == partition.partition
            self.processed.append((number, offset))

    def on_snapshot(self, barrier: Barrier) -> None:
        assert self.gate.due == barrier.checkpoint
        self.aligned[barrier.checkpoint] = list(self.processed)
        self.input.release()

    def on_declined(self, declined: Declined) -> None:
        self.abandoned.append(declined.checkpoint)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(ExchangeKind),
    bound=st.sampled_from([0, 100, 1 << 20]),
    frames=st.sampled_from([1, 3, 64]),
)
def test_whatever_lies_in_the_log_is_processed_up_to_the_barriers_and_once(
    seed: int, kind: ExchangeKind, bound: int, frames: int
) -> None:
    world = World(Random(seed), kind)
    source = Input(world, held_bytes_max=bound, max_poll_frames=frames)
    attempt = world.lineage[-1].attempt
    idle = 0
    while idle < 2:
        idle = 0 if source.step() else idle + 1
        if idle and source.gate.aligning is not None:
            source.input.abort(source.gate.aligning)
            idle = 0
        elif world.rng.random() < 0.03:
            source.input.abort(CheckpointId(world.rng.choice([*world.checkpoints[attempt], 1])))
        source.gate.validate()
    for partition, _ in enumerate(world.logs):
        for producer in world.channels(partition, attempt):
            channel = (attempt, producer)
            in_channel = set(world.data(partition, channel))
            done = [o for number, o in source.processed if number == partition and o in in_channel]
            assert done == world.data(partition, channel)
            for checkpoint, processed in source.aligned.items():
                barrier = world.barrier(partition, channel, checkpoint)
                before = [o for number, o in processed if number == partition and o in in_channel]
                assert before == [o for o in done if o < barrier]
    assert len(source.processed) == len(set(source.processed))
    counters = source.context.counters
    assert counters.records_in == len(source.processed)
    others = sum(frame.attempt != attempt for log in world.logs for frame in log)
    assert counters.frames_void >= others


def small_world(*frames: bytes, lineage: Sequence[LineageSegment] = (segment(1, None, 2),), **options: Any) -> Input:
    """One partition with these frames of two producers."""
    world = World(Random(0), ExchangeKind.KEYED)
    world.logs = [[]]
    world.exchange = exchange(partitions=1)
    world.lineage = list(lineage)
    source = Input(world, **options)
    for frame in frames:
        source.task.cluster.append(tp(0), frame)
    return source


def test_an_abandonment_in_the_middle_of_what_was_polled_keeps_the_order_of_what_was_spilled() -> None:
    """All in one poll: barrier 1, spilled frames behind it, barrier 2 of the other producer, more frames."""
    frames = [
        barrier_frame(1, 0, 0, 1),
        data_frame(1, 0, 1, (0, 1)),
        data_frame(1, 0, 2, (0, 2)),
        barrier_frame(1, 1, 0, 2),
        data_frame(1, 0, 3, (0, 4)),
        barrier_frame(1, 0, 4, 2),
        data_frame(1, 0, 5, (0, 6)),
        data_frame(1, 1, 1, (0, 7)),
    ]
    source = small_world(*frames, held_bytes_max=0)
    while source.step():
        pass
    assert source.abandoned == [1]
    assert source.aligned == {2: [(0, 1), (0, 2), (0, 4)]}
    assert source.processed == [(0, 1), (0, 2), (0, 4), (0, 6), (0, 7)]


def test_a_step_is_bounded_in_records() -> None:
    source = small_world(*(data_frame(1, 0, i, *[(0, i)] * 10) for i in range(10)), max_poll_records=25)
    steps = []
    while source.step():
        steps.append(len(source.processed))
    assert steps == [30, 60, 90, 100]


def test_a_frame_that_takes_too_long_is_processed_in_pieces() -> None:
    pace = Pace(4, 50)
    source = small_world(data_frame(1, 0, 0, *[(0, i) for i in range(10)]), data_frame(1, 0, 1, (0, 10)), pace=pace)
    steps = []
    while source.step():
        steps.append(len(source.processed))
    assert steps == [4, 8, 11], "its rest and what follows, while there is time"
    assert source.processed == [(0, i) for i in range(11)]
    assert source.context.counters.records_in == 11
    assert source.context.counters.frames_in == 2


@pytest.mark.parametrize("alignment", [Alignment.UNALIGNED, Alignment.TIMEOUT])
def test_no_snapshot_is_taken_in_the_middle_of_a_frame(alignment: Alignment) -> None:
    """Its position is behind the frame, so all of the frame must be in the state."""
    frames = [data_frame(1, 0, n, *[(0, 10 * n + i) for i in range(10)]) for n in range(2)]
    source = small_world(*frames, pace=Pace(4, 50))
    assert source.step()
    options = SnapshotOptions(alignment=alignment)
    source.input.announce(Barrier(checkpoint=CheckpointId(1), triggered_ms=0, options=options))
    if alignment is Alignment.TIMEOUT:
        source.input.announce(Barrier(checkpoint=CheckpointId(1), triggered_ms=0, options=options))
        source.gate.overtake(CheckpointId(1))
        source.input.housekeeping(0)
    assert source.aligned == {}
    assert source.step()
    assert source.aligned == {}
    assert source.step()
    assert source.aligned == {1: [(0, i) for i in range(10)]}
    while source.step():
        pass
    assert len(source.processed) == 20


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (encode_frame(FrameKind.DATA, Attempt(1), 0, 1, 1, b"\xff"), CorruptDataError, "frame payload"),
        (encode_frame(FrameKind.BARRIER, Attempt(1), 0, 1, 0, b"?"), CorruptDataError, "expected a barrier"),
        (
            encode_frame(FrameKind.BARRIER, Attempt(1), 0, 1, 0, b"\xc3\x01" + bytes(9)),
            UnknownSchemaError,
            "unknown schema 0000000000000000",
        ),
    ],
)
def test_a_bad_frame_is_named(frame: bytes, error: type[Exception], message: str) -> None:
    source = small_world(data_frame(1, 0, 0, (0, 0)), frame)
    with pytest.raises(error, match=rf"moorage.orders.a--b\[0\] offset 1: .*{message}"):
        source.step()
    assert source.processed == [(0, 0)]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [(b"", "frame of 0 bytes is shorter"), (data_frame(1, 0, 1, (0, 1))[:-1] + b"\0", "frame checksum is")],
)
class TestFramesThatAreNotWhatWasWritten:
    def test_are_skipped_and_counted_where_they_were_nobodys(self, damaged: bytes, message: str) -> None:
        source = small_world(data_frame(1, 0, 0, (0, 0)), damaged, data_frame(1, 0, 1, (0, 2)))
        while source.step():
            pass
        assert source.processed == [(0, 0), (0, 2)]
        assert source.context.counters.frames_corrupt == 1
        (warning,) = source.task.warnings
        assert warning.startswith(f"moorage.orders.a--b[0] offset 1 is skipped: {message}")

    def test_end_the_attempt_when_one_is_missed(self, damaged: bytes, message: str) -> None:
        source = small_world(data_frame(1, 0, 0, (0, 0)), damaged, data_frame(1, 0, 2, (0, 2)))
        with pytest.raises(CorruptDataError, match=r"offset 2: frame 2 of producer 0 came where 1 was next"):
            source.step()
        assert (source.processed, len(source.task.warnings)) == ([(0, 0)], 1), message

    def test_end_the_attempt_before_a_checkpoint_without_them(self, damaged: bytes, message: str) -> None:
        source = small_world(damaged, barrier_frame(1, 0, 1, 1), barrier_frame(1, 1, 0, 1))
        with pytest.raises(CorruptDataError, match=r"offset 1: frame 1 of producer 0 came where 0 was next"):
            source.step()
        assert (source.aligned, len(source.task.warnings)) == ({}, 1), message

    def test_end_the_attempt_where_nobody_would_miss_them(self, damaged: bytes, message: str) -> None:
        source = small_world(damaged, resumed={tp(0)})
        with pytest.raises(CorruptDataError, match=rf"moorage.orders.a--b\[0\] offset 0: {message}"):
            source.step()
        assert source.context.counters.frames_corrupt == 0

    def test_end_the_attempt_in_the_frames_of_a_former_one(self, damaged: bytes, message: str) -> None:
        source = small_world(damaged, lineage=[segment(1, 1, 2), segment(2, None, 2)], first_live={tp(0): 0})
        with pytest.raises(CorruptDataError, match=rf"moorage.orders.a--b\[0\] offset 0: {message}"):
            source.step()


def test_a_checkpoint_that_was_aborted_without_a_word_frees_its_alignment() -> None:
    source = small_world(barrier_frame(1, 0, 0, 1), data_frame(1, 0, 1, (0, 1)))
    source.step()
    source.input.housekeeping(0)
    source.step()
    assert (source.gate.aligning, source.processed) == (1, [])
    source.context.fates.heard(
        JobFates(
            job=source.context.job,
            attempt=Attempt(1),
            last_id=CheckpointId(1),
            pending=(),
            completed=(),
            complete_from=CheckpointId(1),
        )
    )
    source.input.housekeeping(10_000)
    source.step()
    assert (source.gate.aligning, source.processed) == (None, [(0, 1)])


def test_positions_are_published_when_they_change_and_now_and_then() -> None:
    source = small_world(data_frame(1, 0, 0, (0, 0)), data_frame(1, 1, 0, (0, 1)))
    published = source.task.published
    interval = source.context.settings.progress_interval_ms
    source.input.housekeeping(0)
    source.step()
    source.input.housekeeping(interval - 1)
    assert [p.positions for p in published] == [(0, 0)]
    source.input.housekeeping(interval)
    assert published[-1].positions == (1, 2)
    assert (published[-1].partitions, published[-1].producers) == ((0, 0), (0, 1))
    assert (published[-1].exchange, published[-1].consumer, published[-1].attempt) == ("a--b", 0, 1)
    for step in range(2, 40):
        source.input.housekeeping(step * interval)
    assert 2 < len(published) < 5, "a report may be lost, and a producer that waits for it would wait for ever"


def test_a_missing_frame_ends_the_attempt() -> None:
    """Whoever lost it: the broker said that it was stored, and the log has no gap."""
    source = small_world(data_frame(1, 0, 0, (0, 0)), data_frame(1, 0, 2, (0, 1)))
    with pytest.raises(CorruptDataError, match=r"offset 1: frame 2 of producer 0 came where 1 was next"):
        source.step()


def test_the_first_frame_of_a_channel_must_not_be_missing() -> None:
    source = small_world(data_frame(1, 0, 1, (0, 0)))
    with pytest.raises(CorruptDataError, match="frame 1 of producer 0 came where 0 was next"):
        source.step()
