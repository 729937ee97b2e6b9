"""What a subtask writes to an exchange: which frames, where to, what is confirmed, and when it must wait."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import pytest

from moorage.errors import LogError, LogUnavailableError, MoorageError, RecordError
from moorage.exchange.result_partition import ExchangeLimits, ResultPartition
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import Attempt, ExchangeId, OperatorUid, TopicPartition, VertexId
from moorage.ports import NO_OFFSET, Delivery, TopicSpec
from moorage.serde.frames import ColumnCodec, Columns, FrameKind, decode_frame
from moorage.state.key_groups import key_group
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import InFlight, MemoryCluster, MemoryLog, MemoryWriter

TOPIC = "moorage.orders.a--b"
PARTITIONS = 8


class Order(msgspec.Struct):
    user: str


class Colour(enum.Enum):
    RED = "red"


class Sent(NamedTuple):
    kind: FrameKind
    partition: int
    columns: Columns[Any, Any] | None


class World:
    """A result partition whose frames reach the log one by one, when the test says so."""

    def __init__(
        self,
        kind: ExchangeKind = ExchangeKind.KEYED,
        *,
        subtask: int = 0,
        parallelism: int = 2,
        typed_keys: bool = False,
        typed_values: bool = False,
        **limits: int,
    ) -> None:
        self.cluster = MemoryCluster(ManualClock())
        self.log = MemoryLog(self.cluster, immediate=False)
        self.log.create_topics([TopicSpec(TOPIC, PARTITIONS, {})])
        self.writer = self.log.writer("producer")
        self.output = ResultPartition(
            Exchange(
                exchange=ExchangeId("a--b"),
                kind=kind,
                producer=VertexId("a"),
                producer_operator=OperatorUid("b:key_by"),
                consumer=VertexId("b"),
                partitions=PARTITIONS,
            ),
            TOPIC,
            Attempt(7),
            subtask,
            parallelism,
            self.writer,
            ColumnCodec(),
            ExchangeLimits(**limits),
            typed_keys=typed_keys,
            typed_values=typed_values,
        )

    def emit(self, keys: Sequence[Any], values: Sequence[Any] | None = None) -> None:
        self.output.emit_keyed(keys, list(range(len(keys))) if values is None else values, [5] * len(keys))

    def queue(self, partition: int) -> InFlight:
        return next(q for q in self.log.pending() if q.partition == TopicPartition(TOPIC, partition))

    def deliver(self, *partitions: int) -> None:
        """Let everything (of these partitions) reach the log, and report it."""
        for queue in self.log.pending():
            if not partitions or queue.partition.partition in partitions:
                while queue:
                    queue.deliver_one()
        self.writer.poll()

    def sent(self) -> list[Sent]:
        self.deliver()
        found = []
        for record in self.cluster.records(TOPIC):
            frame = decode_frame(record.value or b"")
            assert (frame.attempt, frame.producer) == (7, self.output._subtask)
            columns = ColumnCodec().decode(frame.payload) if frame.kind is FrameKind.DATA else None
            assert frame.records == (0 if columns is None else len(columns))
            found.append(Sent(frame.kind, record.partition, columns))
        return found

    def sizes(self) -> list[int]:
        return [len(sent.columns) for sent in self.sent() if sent.columns is not None]


# --- frames ----------------------------------------------------------------------------------------------------------


def test_records_go_to_the_partition_of_their_key_in_order() -> None:
    world = World()
    keys = [f"user-{i % 5}" for i in range(40)]
    world.emit(keys)
    assert (world.output.pending_records, world.output.records_out) == (40, 40)
    world.output.flush()
    assert world.output.pending_records == 0
    rows: dict[str, list[int]] = {}
    for sent in world.sent():
        assert sent.columns is not None
        assert {key_group(key, PARTITIONS) for key in sent.columns.keys} == {sent.partition}
        assert list(sent.columns.timestamps_ms) == [5] * len(sent.columns)
        for key, value in zip(sent.columns.keys, sent.columns.values, strict=True):
            rows.setdefault(key, []).append(value)
    assert rows == {f"user-{i}": list(range(i, 40, 5)) for i in range(5)}
    assert world.output.frames_out == len(world.sent())


def test_a_frame_closes_at_its_number_of_records() -> None:
    world = World(frame_max_records=10)
    world.emit(["same"] * 9)
    world.output.flush_full()
    assert world.sizes() == []
    world.emit(["same"] * 3)
    world.emit(["another"])
    world.output.flush_full()
    assert world.sizes() == [12]
    assert world.output.pending_records == 1
    world.output.flush()
    world.output.flush()
    assert sorted(world.sizes()) == [1, 12]


def test_a_frame_that_is_too_large_is_split_and_keeps_its_order() -> None:
    world = World(ExchangeKind.FORWARD, frame_max_bytes=100)
    headers = [[("n", bytes([i]))] if i % 2 else None for i in range(20)]
    world.output.emit_forward(3, [None] * 20, [b"x" * 20 + bytes([i]) for i in range(20)], list(range(20)), headers)
    world.output.flush()
    frames = [sent.columns for sent in world.sent() if sent.columns is not None]
    assert len(frames) > 4
    assert all(record.value is not None and len(record.value) <= 124 for record in world.cluster.records(TOPIC))
    assert [value[-1] for columns in frames for value in columns.values] == list(range(20))
    assert [t for columns in frames for t in columns.timestamps_ms] == list(range(20))
    assert [h for columns in frames for h in columns.headers or ()] == [h and [*h] for h in headers]


def test_a_record_that_is_larger_than_a_frame_may_be_is_named() -> None:
    world = World(frame_max_bytes=50)
    world.emit(["small", "large"], ["x", "x" * 60])
    with pytest.raises(
        RecordError, match=r"a record of \d+ bytes \(key 'large'\) is too large for exchange a--b: .*frame_max_bytes=50"
    ):
        world.output.flush()


def test_headers_are_a_column_only_where_there_are_any() -> None:
    world = World(ExchangeKind.FORWARD)
    world.output.emit_forward(0, [b"a"], [b"1"], [1])
    world.output.emit_forward(0, [b"b"], [b"2"], [2], [[("h", b"x")]])
    world.output.emit_forward(0, [b"c"], [b"3"], [3])
    world.output.flush()
    world.output.emit_forward(0, [b"d"], [b"4"], [4])
    world.output.flush()
    assert [sent.columns.headers for sent in world.sent() if sent.columns] == [[None, [("h", b"x")], None], None]


# --- barriers --------------------------------------------------------------------------------------------------------


def test_a_barrier_goes_everywhere_behind_everything_that_was_buffered() -> None:
    world = World()
    world.emit(["user"])
    assert world.output.barrier(b"barrier") == 0
    sent = world.sent()
    assert sorted(s.partition for s in sent if s.kind is FrameKind.BARRIER) == list(range(PARTITIONS))
    assert [s.kind for s in sent if s.partition == key_group("user", PARTITIONS)] == [FrameKind.DATA, FrameKind.BARRIER]
    assert world.output.pending_records == 0


@pytest.mark.parametrize(("subtask", "owned"), [(0, [0, 1, 2]), (1, [3, 4, 5]), (2, [6, 7])])
def test_a_forward_exchange_gets_barriers_only_where_its_producer_writes(subtask: int, owned: list[int]) -> None:
    world = World(ExchangeKind.FORWARD, subtask=subtask, parallelism=3)
    world.output.barrier(b"barrier")
    assert [s.partition for s in world.sent()] == owned


def test_an_epoch_is_confirmed_when_it_and_all_before_it_are_stored_in_whatever_order() -> None:
    world = World(ExchangeKind.FORWARD, parallelism=4)  # two partitions
    first = world.output.barrier(b"1")
    second = world.output.barrier(b"2")
    world.output.emit_forward(0, [None], [b"x"], [0])
    world.output.flush()
    assert (first, second) == (0, 1)
    world.deliver(1)
    assert not world.output.confirmed(first)
    assert not world.output.confirmed(second)
    world.queue(0).deliver_one()
    world.writer.poll()
    assert world.output.confirmed(first)
    assert not world.output.confirmed(second)
    world.queue(0).deliver_one()
    world.writer.poll()
    assert world.output.confirmed(second)
    assert not world.output.confirmed(2), "this epoch has not ended"
    world.deliver()
    assert world.output.confirmed(first)
    assert not world.output.confirmed(2)


def test_a_frame_that_was_not_stored_stays_an_error_and_is_never_confirmed() -> None:
    world = World(ExchangeKind.FORWARD, parallelism=8)
    world.log.faults.fail_next("append", LogUnavailableError("lost"))
    lost = world.output.barrier(b"1")
    world.deliver()
    later = world.output.barrier(b"2")
    world.log.faults.fail_next("append", LogError("a later error"))
    world.output.barrier(b"3")
    world.deliver()
    for _ in range(2):
        with pytest.raises(MoorageError, match="exchange a--b: a frame was not stored: lost"):
            world.output.check()
        assert not world.output.confirmed(lost)
        assert not world.output.confirmed(later)


# --- flow control ----------------------------------------------------------------------------------------------------


def test_a_producer_waits_while_it_is_too_many_frames_ahead_of_a_consumer() -> None:
    world = World(ExchangeKind.FORWARD, max_lag_frames=2)
    for number in range(3):
        assert not world.output.blocked
        world.output.emit_forward(0, [None], [b"x"], [0])
        world.output.flush()
        assert world.output.lag()[0] == number + 1
    assert world.output.blocked
    world.deliver()
    assert world.output.blocked, "stored is not processed"
    world.output.progress(0, 1)
    assert not world.output.blocked
    world.output.barrier(b"never held up")
    world.deliver()
    assert world.output.lag()[0] == 2, "barriers don't count"
    world.output.emit_forward(0, [None], [b"x"], [0])
    world.output.flush()
    assert world.output.blocked
    world.output.progress(0, 0)
    assert world.output.blocked, "an old report changes nothing"
    world.deliver()
    world.output.progress(0, 5)
    assert not world.output.blocked
    assert world.output.lag() == (0, 0)


def test_a_producer_waits_while_it_is_too_many_bytes_ahead_of_a_consumer() -> None:
    world = World(ExchangeKind.FORWARD, max_lag_bytes=1_000)
    world.output.emit_forward(1, [None], [b"x" * 1_000], [0])
    world.output.flush()
    assert world.output.blocked
    assert world.output.lag()[1] == world.output.bytes_out
    world.deliver()
    world.output.progress(1, 1)
    assert not world.output.blocked
    assert world.output.lag() == (0, 0)


def test_a_consumer_may_be_faster_than_the_report_of_the_broker() -> None:
    world = World(ExchangeKind.FORWARD, max_lag_frames=1)
    for _ in range(2):
        world.output.emit_forward(0, [None], [b"x"], [0])
        world.output.flush()
    queue = world.queue(0)
    queue.deliver_one()
    queue.deliver_one()
    world.output.progress(0, 2)
    assert world.output.blocked, "what is under way counts"
    world.writer.poll()
    assert not world.output.blocked
    assert world.output.lag() == (0, 0)


@pytest.mark.parametrize("processed_before_the_report", [False, True])
def test_a_frame_of_unknown_offset_counts_until_the_one_before_it_is_processed(
    processed_before_the_report: bool,
) -> None:
    class Retried(MemoryWriter):
        """The broker had stored the messages already when they were sent again."""

        def append(self, topic: str, partition: int, value: bytes, delivered: Delivery) -> None:
            reports.append(delivered)

    world = World(ExchangeKind.FORWARD, max_lag_frames=1)
    reports: list[Delivery] = []
    world.output._writer = Retried(world.log, "producer")
    for _ in range(3):
        world.output.emit_forward(0, [None], [b"x"], [0])
        world.output.flush()
    assert world.output.blocked
    if processed_before_the_report:
        world.output.progress(0, 3)
    for offset, report in zip((0, NO_OFFSET, NO_OFFSET), reports, strict=True):
        report(offset, None)
    if not processed_before_the_report:
        assert world.output.lag()[0] == 3
        world.output.progress(0, 3)
    assert world.output.lag() == (0, 0)
    assert not world.output.blocked


# --- keys and values -------------------------------------------------------------------------------------------------


def test_keys_that_are_equal_in_python_go_by_their_bytes() -> None:
    world = World()
    keys = [1, True, 1.0, "1", b"1", None, (1, "a"), (1, ("b", None))]
    world.emit(keys)
    for key in keys:
        world.emit([key], [-1])
    world.output.flush()
    found = {}
    for sent in world.sent():
        assert sent.columns is not None
        for key, value in zip(sent.columns.keys, sent.columns.values, strict=True):
            found[(type(key), key, value)] = sent.partition
    assert found == {(type(k), k, v): key_group(k, PARTITIONS) for i, k in enumerate(keys) for v in (i, -1)}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ([1], "unhashable type: 'list'"),
        ({"a": 1}, "unhashable type: 'dict'"),
        ((1, [2]), "unhashable type: 'list'"),
        (frozenset({1}), "its type frozenset is not declared"),
        (Colour.RED, "its type Colour is not declared"),
        (1 << 70, "can't serialize ints"),
        ("\ud800", "surrogates not allowed"),
    ],
)
@pytest.mark.parametrize("among_others", [False, True])
def test_a_key_that_can_not_be_one_is_named(key: Any, reason: str, among_others: bool) -> None:
    world = World()
    with pytest.raises(RecordError, match=rf"operator 'b:key_by': .* can't be a key: .*{reason}.*Keys may be str"):
        world.emit(["ok", key] if among_others else [key])


def test_declared_keys_may_be_objects() -> None:
    world = World(typed_keys=True)
    world.emit([Colour.RED])
    world.output.flush()
    assert world.sizes() == [1]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([{"a": 1}, Order("ann")], "its type Order is not declared"),
        ([object()], "its type object is not declared"),
        ([{"a": object()}], "Encoding objects of type object is unsupported"),
        ([1 << 70], "can't serialize ints"),
        (["\ud800"], "surrogates not allowed"),
    ],
)
def test_a_value_that_can_not_be_sent_is_named_with_what_to_do(values: list[Any], reason: str) -> None:
    world = World()
    world.emit(["user"] * len(values), values)
    with pytest.raises(RecordError, match=rf"exchange a--b can't be sent: .*{reason}.*name the type: returns=..."):
        world.output.flush()


def test_a_value_that_holds_itself_is_named() -> None:
    circle: list[Any] = []
    circle.append(circle)
    world = World()
    world.emit(["user"], [circle])
    with pytest.raises(RecordError, match=r"can't be sent: .*recursion"):
        world.output.flush()


def test_declared_values_may_be_objects() -> None:
    world = World(typed_values=True)
    world.emit(["user"], [Order("ann")])
    world.output.flush()
    assert [sent.columns.values for sent in world.sent() if sent.columns] == [[{"user": "ann"}]]
