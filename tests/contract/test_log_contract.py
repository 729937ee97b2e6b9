"""What every ``ports.Log`` promises, on the twin and on a real Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from zlib import crc32

import pytest

from moorage.adapters.kafka import KafkaLog
from moorage.errors import FencedError, LogError, OffsetOutOfRangeError
from moorage.ids import TopicPartition
from moorage.ports import (
    Log,
    LogMessage,
    LogReader,
    OffsetSpec,
    Partitioner,
    RecordBatch,
    TopicSpec,
    TransactionalWriter,
)
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog, MemoryReader, murmur2

DEADLINE_S = 30.0
QUIET_S = 0.4
"""How long nothing must come from Kafka before we believe that nothing will."""


class Cluster:
    """A Kafka, or what stands for it, and a way to be a process that uses it."""

    def log(self) -> Log:
        raise NotImplementedError

    def let_expire(self, transactional_id: str, partition: TopicPartition) -> None:
        """Returns when the transaction coordinator has given up the open transaction."""
        raise NotImplementedError


class Twin(Cluster):
    def __init__(self) -> None:
        self._cluster = MemoryCluster(ManualClock())

    def log(self) -> Log:
        return MemoryLog(self._cluster)

    def let_expire(self, transactional_id: str, partition: TopicPartition) -> None:
        assert self._cluster.expire_transactions(transactional_id) == [transactional_id]


class RealKafka(Cluster):
    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers

    def log(self) -> Log:
        return KafkaLog(
            self._bootstrap_servers,
            client_id="contract",
            timeout_ms=30_000,
            common={"topic.metadata.propagation.max.ms": 500},
        )

    def let_expire(self, transactional_id: str, partition: TopicPartition) -> None:
        log = self.log()
        stuck = log.offsets([partition], OffsetSpec.LATEST)
        wait_until(lambda: log.offsets([partition], OffsetSpec.LATEST) != stuck)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Twin() if request.param == "memory" else RealKafka(request.getfixturevalue("kafka"))


@pytest.fixture
def log(cluster: Cluster) -> Iterator[Log]:
    log = cluster.log()
    yield log
    log.close()


@pytest.fixture
def new_topic(log: Log) -> Callable[..., str]:
    def create(partitions: int = 1, **config: str) -> str:
        name = f"contract-{uuid.uuid4().hex}"
        log.create_topics([TopicSpec(name, partitions, {key.replace("_", "."): text for key, text in config.items()})])
        return name

    return create


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.005)


def read(reader: LogReader, count: int) -> Sequence[LogMessage]:
    """The next ``count`` messages."""
    messages: list[LogMessage] = []

    def enough() -> bool:
        messages.extend(reader.poll(count - len(messages)))
        return len(messages) >= count

    wait_until(enough)
    return messages


def read_all(reader: LogReader) -> Sequence[LogMessage]:
    """Everything until it is quiet."""
    patience_s = 0.0 if isinstance(reader, MemoryReader) else QUIET_S
    messages: list[LogMessage] = []
    quiet_s = time.monotonic() + patience_s
    while True:
        if some := reader.poll(1000):
            messages += some
            quiet_s = time.monotonic() + patience_s
        elif time.monotonic() >= quiet_s:
            return messages
        else:
            time.sleep(0.005)


def values(log: Log, positions: Mapping[TopicPartition, int], *, read_committed: bool = True) -> Sequence[bytes]:
    """What can be read from there now."""
    reader = log.reader("values", read_committed=read_committed)
    reader.assign(positions)
    try:
        return [message.value for message in read_all(reader)]
    finally:
        reader.close()


def append(log: Log, partition: TopicPartition, *contents: bytes) -> Sequence[int]:
    """Append and wait for the offsets."""
    writer = log.writer("append")
    offsets: list[int] = []

    def delivered(offset: int, error: LogError | None) -> None:
        assert error is None
        offsets.append(offset)

    for content in contents:
        writer.append(*partition, content, delivered)

    def all_delivered() -> bool:
        writer.poll()
        return len(offsets) == len(contents)

    wait_until(all_delivered)
    writer.close()
    return offsets


def write(writer: TransactionalWriter, partition: TopicPartition, *contents: bytes) -> None:
    """Append and wait until the broker has it."""
    for content in contents:
        writer.append(*partition, None, content)

    def confirmed() -> bool:
        writer.poll()
        return writer.pending_records == 0

    wait_until(confirmed)


def holder(log: Log, transactional_id: str, timeout_ms: int = 60_000) -> TransactionalWriter:
    """A writer that has taken the id and begun a transaction."""
    writer = log.transactional_writer(transactional_id, transaction_timeout_ms=timeout_ms)
    writer.init()
    writer.begin()
    return writer


def new_id() -> str:
    return f"contract-{uuid.uuid4().hex}"


class TestReader:
    def test_messages_come_in_offset_order_with_what_was_written(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        assert append(log, partition, *(b"%d" % n for n in range(500))) == list(range(500))
        reader = log.reader("reader")
        reader.assign({partition: 0})
        messages = read(reader, 500)
        assert [(m.topic, m.partition, m.offset, m.value, m.key) for m in messages] == [
            (*partition, n, b"%d" % n, None) for n in range(500)
        ]
        assert all(message.timestamp_ms > 1_600_000_000_000 for message in messages)
        reader.close()

    def test_poll_gives_no_more_than_asked_for_and_never_waits(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        append(log, partition, *(b"%d" % n for n in range(10)))
        reader = log.reader("reader")
        reader.assign({partition: 4})
        assert [m.offset for m in read(reader, 3)] == [4, 5, 6]
        assert [m.offset for m in read_all(reader)] == [7, 8, 9]
        started_s = time.monotonic()
        assert list(reader.poll(10)) == []
        assert time.monotonic() - started_s < 0.1
        reader.close()

    def test_what_is_appended_later_is_read(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        reader = log.reader("reader", bulk=True)
        reader.assign({partition: 0})
        assert list(reader.poll(1)) == []
        append(log, partition, b"later")
        assert read(reader, 1)[0].value == b"later"
        reader.close()

    def test_assign_replaces_what_was_assigned(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, first, b"a", b"b", b"c")
        append(log, second, b"x", b"y")
        reader = log.reader("reader")
        reader.assign({first: 0})
        read(reader, 1)
        reader.assign({second: 1})
        assert [m.value for m in read_all(reader)] == [b"y"]
        reader.close()

    def test_seek_drops_what_was_prefetched(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        sought, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, sought, *(b"%d" % n for n in range(300)))
        append(log, other, *(b"%d" % n for n in range(300)))
        reader = log.reader("reader")
        reader.assign({sought: 0, other: 0})
        seen = {sought: 0, other: 0}
        for target in (250, 3, 120, 0, 299, 10):
            for message in read(reader, 40):
                partition = TopicPartition(message.topic, message.partition)
                assert message.offset == seen[partition]
                seen[partition] += 1
            reader.seek(sought, target)
            seen[sought] = target
            if seen[other] > 200:
                reader.seek(other, 0)
                seen[other] = 0
        assert {m.offset for m in read_all(reader) if m.partition == 0} == set(range(10, 300))
        reader.close()

    def test_seek_right_after_assign(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        append(log, partition, b"a", b"b", b"c")
        reader = log.reader("reader")
        reader.assign({partition: 0})
        reader.seek(partition, 2)
        assert [m.value for m in read_all(reader)] == [b"c"]
        reader.close()

    @pytest.mark.parametrize("position", [0, 99], ids=["trimmed", "beyond the end"])
    def test_a_position_that_is_not_in_the_log_raises_ever_after(
        self, log: Log, new_topic: Callable[..., str], position: int
    ) -> None:
        partition = TopicPartition(new_topic(), 0)
        append(log, partition, b"a", b"b", b"c")
        log.delete_records({partition: 1})
        reader = log.reader("reader")
        reader.assign({partition: position})

        def raises() -> bool:
            try:
                assert list(reader.poll(10)) == []
            except OffsetOutOfRangeError as error:
                return partition.topic in str(error)
            return False

        wait_until(raises)
        with pytest.raises(OffsetOutOfRangeError):
            reader.poll(10)
        reader.assign({partition: 1})
        assert [m.value for m in read_all(reader)] == [b"b", b"c"]
        reader.close()

    def test_the_end_is_a_position(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        append(log, partition, b"a")
        reader = log.reader("reader")
        reader.assign({partition: 1})
        assert read_all(reader) == []
        append(log, partition, b"b")
        assert [m.value for m in read(reader, 1)] == [b"b"]
        reader.close()

    def test_a_partition_that_is_not_there_yet_has_no_messages(self, log: Log) -> None:
        partition = TopicPartition(new_id(), 0)
        reader = log.reader("reader")
        reader.assign({partition: 0})
        assert read_all(reader) == []
        log.create_topics([TopicSpec(partition.topic, 1, {})])
        append(log, partition, b"a")
        assert [m.value for m in read(reader, 1)] == [b"a"]
        reader.close()

    def test_a_reader_can_be_closed_twice(self, log: Log) -> None:
        reader = log.reader("reader")
        reader.close()
        reader.close()


class TestRecordReader:
    def drain(self, reader: object, count: int) -> Sequence[RecordBatch]:
        batches: list[RecordBatch] = []

        def enough() -> bool:
            batches.extend(reader.poll(10_000))  # type: ignore[attr-defined]
            return sum(len(batch.offsets) for batch in batches) >= count

        wait_until(enough)
        return batches

    def test_lag_is_what_was_not_polled(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        reader = log.record_reader("reader", group=None, read_committed=True, max_poll_records=500)
        assert reader.lag_records() == 0
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, first, b"a", b"b", b"c")
        append(log, second, b"d")
        reader.assign({first: 1, second: 0})
        wait_until(lambda: reader.lag_records() == 3)
        self.drain(reader, 3)
        assert reader.lag_records() == 0
        append(log, first, b"e")
        wait_until(lambda: reader.lag_records() == 1)
        reader.close()

    def test_columns_of_one_partition_each(self, log: Log, new_topic: Callable[..., str]) -> None:
        topics = [new_topic(3), new_topic(1)]
        writer = log.record_writer("writer")
        writer.init()
        writer.begin()
        for topic in topics:
            keys = [b"%d" % n for n in range(1_000)]
            writer.append_records(topic, keys, [b"v" + key for key in keys], range(5_000, 6_000), None)
        writer.append(topics[1], 0, b"deleted", None)
        writer.commit()
        reader = log.record_reader("reader", group=None, read_committed=True, max_poll_records=500)
        reader.assign({TopicPartition(topics[0], n): 0 for n in range(3)} | {TopicPartition(topics[1], 0): 0})
        batches = self.drain(reader, 2_001)
        seen: dict[TopicPartition, int] = {}
        for topic, partition, offsets, keys, payloads, timestamps_ms in batches:
            where = TopicPartition(topic, partition)
            assert list(offsets) == list(range(seen.get(where, 0), seen.get(where, 0) + len(offsets)))
            seen[where] = offsets[-1] + 1
            for key, payload, timestamp_ms in zip(keys, payloads, timestamps_ms, strict=True):
                if key == b"deleted":
                    assert payload is None
                else:
                    assert payload == b"v" + key
                    assert timestamp_ms == 5_000 + int(key)
        assert sum(seen.values()) == 2_001
        assert len(seen) == 4
        reader.close()
        writer.close()

    def test_assign_does_not_disturb_partitions_whose_position_is_the_same(
        self, log: Log, new_topic: Callable[..., str]
    ) -> None:
        topic = new_topic(3)
        parts = [TopicPartition(topic, n) for n in range(3)]
        for partition in parts:
            append(log, partition, *(b"%d" % n for n in range(10)))
        reader = log.record_reader("reader", group=None, read_committed=True, max_poll_records=500)
        reader.assign({parts[0]: 0})
        self.drain(reader, 10)
        reader.assign({parts[0]: 10, parts[1]: 5})
        assert [list(batch.offsets) for batch in self.drain(reader, 5)] == [[5, 6, 7, 8, 9]]
        reader.assign({parts[0]: 8, parts[2]: 9})
        batches = {batch.partition: list(batch.offsets) for batch in self.drain(reader, 3)}
        assert batches == {0: [8, 9], 2: [9]}
        reader.close()

    def test_an_error_loses_nothing_for_who_assigns_again(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        good, bad = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, good, b"a", b"b")
        reader = log.record_reader("reader", group=None, read_committed=True, max_poll_records=500)
        reader.assign({good: 0, bad: 77})
        got: list[bytes | None] = []

        def raises() -> bool:
            try:
                got.extend(value for batch in reader.poll(10) for value in batch.values)
            except OffsetOutOfRangeError:
                return True
            return False

        wait_until(raises)
        reader.assign({good: len(got)})
        while len(got) < 2:
            got += [value for batch in self.drain(reader, 1) for value in batch.values]
        assert got == [b"a", b"b"]
        reader.close()

    def test_commits_reach_the_group(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic, group = new_topic(2), new_id()
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, first, b"a", b"b")
        assert log.committed(group, [first, second]) == log.committed(group, []) == {}
        reader = log.record_reader("reader", group=group, read_committed=True, max_poll_records=500)
        reader.assign({first: 0})
        self.drain(reader, 2)
        reader.commit({first: 2})

        def committed() -> bool:
            reader.poll(1)
            return log.committed(group, [first, second]) == {first: 2}

        wait_until(committed)
        reader.close()
        log.delete_groups([group, new_id()])
        assert log.committed(group, [first]) == {}


class TestWriter:
    def test_every_message_is_reported_once_with_its_offset(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        writer = log.writer("writer")
        reports: dict[int, list[int]] = {0: [], 1: []}
        for n in range(200):
            partition = n % 2
            writer.append(topic, partition, b"%d" % n, lambda offset, _, p=partition: reports[p].append(offset))
        assert writer.pending_bytes == sum(len(b"%d" % n) for n in range(200))

        def settled() -> bool:
            writer.poll()
            return writer.pending_bytes == 0

        wait_until(settled)
        assert reports == {0: list(range(100)), 1: list(range(100))}
        expected = [b"%d" % n for n in range(0, 200, 2)]
        assert values(log, {TopicPartition(topic, 0): 0}) == expected
        writer.close()

    def test_a_lost_message_is_reported_with_its_error(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(1)
        writer = log.writer("writer")
        errors: list[LogError | None] = []
        writer.append(topic, 7, b"nowhere", lambda _, error: errors.append(error))

        def reported() -> bool:
            writer.poll()
            return bool(errors)

        wait_until(reported)
        assert isinstance(errors[0], LogError)
        assert topic in str(errors[0])
        assert writer.pending_bytes == 0
        writer.close()

    def test_nothing_is_reported_after_close(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(1)
        writer = log.writer("writer")
        reports: list[int] = []
        for _ in range(100):
            writer.append(topic, 0, b"x", lambda offset, _: reports.append(offset))
        writer.close()
        time.sleep(0.05)
        assert reports == []


class TestTransactions:
    def test_a_committed_transaction_is_visible_as_a_whole(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic, name = new_topic(2), new_id()
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        writer = holder(log, name)
        write(writer, first, b"a", b"b")
        write(writer, second, b"c")
        assert values(log, {first: 0, second: 0}) == []
        assert sorted(values(log, {first: 0, second: 0}, read_committed=False)) == [b"a", b"b", b"c"]
        writer.commit()
        assert sorted(values(log, {first: 0, second: 0})) == [b"a", b"b", b"c"]
        writer.close()

    def test_transactions_follow_one_another_and_markers_take_an_offset(
        self, log: Log, new_topic: Callable[..., str]
    ) -> None:
        partition = TopicPartition(new_topic(), 0)
        writer = holder(log, new_id())
        write(writer, partition, b"a")
        writer.commit()
        writer.begin()
        write(writer, partition, b"b")
        writer.abort()
        writer.begin()
        write(writer, partition, b"c")
        writer.commit()
        reader = log.reader("reader", read_committed=True)
        reader.assign({partition: 0})
        assert [(m.offset, m.value) for m in read(reader, 2)] == [(0, b"a"), (4, b"c")]
        assert values(log, {partition: 0}, read_committed=False) == [b"a", b"b", b"c"]
        reader.close()
        writer.close()

    def test_commit_waits_for_what_was_appended(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(4)
        writer = holder(log, new_id())
        keys = [b"%d" % n for n in range(20_000)]
        writer.append_records(topic, keys, keys, [1_000] * len(keys), None)
        writer.commit()
        assert writer.pending_records == 0
        assert len(values(log, {TopicPartition(topic, n): 0 for n in range(4)})) == len(keys)
        writer.close()

    def test_records_keep_key_value_headers_and_timestamp(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(1)
        writer = holder(log, new_id())
        writer.append_records(topic, [b"k", None], [b"v", None], [11, 12], [[("h", b"1"), ("h", b"2")], None])
        writer.commit()
        reader = log.record_reader("reader", group=None, read_committed=True, max_poll_records=10)
        reader.assign({TopicPartition(topic, 0): 0})
        (batch,) = TestRecordReader().drain(reader, 2)
        assert (batch.keys, batch.values, batch.timestamps_ms) == ([b"k", None], [b"v", None], [11, 12])
        reader.close()
        writer.close()

    @pytest.mark.parametrize("partitioner", list(Partitioner))
    def test_the_partition_follows_from_the_key(
        self, log: Log, new_topic: Callable[..., str], partitioner: Partitioner
    ) -> None:
        topic = new_topic(7)
        writer = log.transactional_writer(new_id(), transaction_timeout_ms=60_000, partitioner=partitioner)
        writer.init()
        writer.begin()
        keys = [b"key-%d" % n for n in range(200)] + [b"\xff" * n for n in range(1, 9)]
        writer.append_records(topic, keys, keys, [1] * len(keys), None)
        writer.commit()
        if partitioner is Partitioner.CONSISTENT_RANDOM:
            expected = {key: crc32(key) % 7 for key in keys}
        else:
            expected = {key: (murmur2(key) & 0x7FFFFFFF) % 7 for key in keys}
        reader = log.reader("reader", read_committed=True)
        reader.assign({TopicPartition(topic, n): 0 for n in range(7)})
        assert {message.value: message.partition for message in read(reader, len(keys))} == expected
        reader.close()
        writer.close()

    def test_init_aborts_what_another_holder_left_open(
        self, cluster: Cluster, log: Log, new_topic: Callable[..., str]
    ) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        lost = holder(cluster.log(), name)
        write(lost, partition, b"lost")
        append(log, partition, b"from another writer")
        assert log.offsets([partition], OffsetSpec.LATEST) == {partition: 0}
        assert log.offsets([partition], OffsetSpec.END) == {partition: 2}
        assert values(log, {partition: 0}) == []
        holder(log, name).close()
        assert values(log, {partition: 0}) == [b"from another writer"]
        assert log.offsets([partition], OffsetSpec.LATEST) == {partition: 3}
        assert log.offsets([partition], OffsetSpec.END) == {partition: 3}
        lost.close()

    def test_a_fenced_holder_can_not_commit(self, cluster: Cluster, log: Log, new_topic: Callable[..., str]) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        fenced = holder(cluster.log(), name)
        write(fenced, partition, b"lost")
        newer = holder(log, name)
        with pytest.raises(FencedError):
            fenced.commit()
        with pytest.raises(FencedError):
            fenced.poll()
        write(newer, partition, b"kept")
        newer.commit()
        assert values(log, {partition: 0}) == [b"kept"]
        fenced.close()
        newer.close()

    def test_a_fenced_holder_can_not_write(self, cluster: Cluster, log: Log, new_topic: Callable[..., str]) -> None:
        topic, name = new_topic(2), new_id()
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        fenced = holder(cluster.log(), name)
        write(fenced, first, b"lost")
        newer = holder(log, name)
        with pytest.raises(FencedError):
            write(fenced, first, b"late")
        with pytest.raises(FencedError):
            write(fenced, second, b"later")
        with pytest.raises(FencedError):
            fenced.commit()
        write(newer, second, b"kept")
        newer.commit()
        assert values(log, {first: 0, second: 0}) == [b"kept"]
        fenced.close()
        newer.close()

    def test_a_fenced_holder_can_not_open_another_transaction(
        self, cluster: Cluster, log: Log, new_topic: Callable[..., str]
    ) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        fenced = holder(cluster.log(), name)
        newer = holder(log, name)
        with pytest.raises(FencedError):
            write(fenced, partition, b"lost")
        with pytest.raises(FencedError):
            fenced.commit()
        newer.close()
        fenced.close()
        assert values(log, {partition: 0}) == []

    def test_what_was_committed_is_visible_after_init(
        self, cluster: Cluster, log: Log, new_topic: Callable[..., str]
    ) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        first = holder(cluster.log(), name)
        write(first, partition, b"kept")
        first.commit()
        second = log.transactional_writer(name, transaction_timeout_ms=60_000)
        second.init()
        assert [m.value for m in log.read_to_end([partition], read_committed=True)] == [b"kept"]
        first.close()
        second.close()

    def test_an_expired_transaction_is_aborted_and_its_holder_fenced(
        self, cluster: Cluster, log: Log, new_topic: Callable[..., str]
    ) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        writer = holder(log, name, timeout_ms=1_000)
        write(writer, partition, b"lost")
        cluster.let_expire(name, partition)
        with pytest.raises(FencedError):
            writer.commit()
        writer.close()
        again = holder(log, name)
        write(again, partition, b"kept")
        again.commit()
        assert values(log, {partition: 0}) == [b"kept"]
        again.close()

    def test_an_empty_transaction_commits_and_aborts(self, log: Log) -> None:
        writer = holder(log, new_id())
        writer.commit()
        writer.begin()
        writer.abort()
        writer.begin()
        writer.commit()
        writer.close()

    def test_a_delivery_error_is_latched(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(1)
        writer = holder(log, new_id())
        with pytest.raises(LogError):
            write(writer, TopicPartition(topic, 5), b"nowhere")
        with pytest.raises(LogError):
            writer.poll()
        with pytest.raises(LogError):
            writer.append(topic, 0, None, b"somewhere")
        with pytest.raises(LogError):
            writer.commit()
        writer.close()
        assert values(log, {TopicPartition(topic, 0): 0}) == []

    def test_closing_leaves_nothing_visible(self, cluster: Cluster, log: Log, new_topic: Callable[..., str]) -> None:
        partition, name = TopicPartition(new_topic(), 0), new_id()
        writer = holder(cluster.log(), name)
        write(writer, partition, b"lost")
        writer.append(*partition, None, b"lost, too")
        writer.close()
        writer.close()
        with pytest.raises(LogError, match="closed"):
            writer.commit()
        holder(log, name).close()
        assert values(log, {partition: 0}) == []


class TestAdministration:
    def test_topics_are_created_once(self, log: Log) -> None:
        name = new_id()
        log.create_topics([TopicSpec(name, 3, {"retention.ms": "-1"})])
        log.create_topics([TopicSpec(name, 3, {})])
        assert log.topics()[name] == 3
        with pytest.raises(LogError, match="3 partitions"):
            log.create_topics([TopicSpec(name, 4, {})])
        log.delete_topics([name, new_id()])
        wait_until(lambda: name not in log.topics())

    def test_offsets(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        partition, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
        writer = log.record_writer("writer")
        writer.append_records(topic, [b"0"] * 5, [b"v"] * 5, [100, 200, 300, 300, 400], None)
        writer.commit()
        writer.close()
        partition = TopicPartition(topic, crc32(b"0") % 2)
        empty = TopicPartition(topic, 1 - partition.partition)
        both = [partition, empty]
        assert log.offsets(both, OffsetSpec.EARLIEST) == {partition: 0, empty: 0}
        assert log.offsets(both, OffsetSpec.LATEST) == {partition: 5, empty: 0}
        assert log.offsets(both, 250) == {partition: 2, empty: 0}
        assert log.offsets(both, 300) == {partition: 2, empty: 0}
        assert log.offsets(both, 401) == {partition: 5, empty: 0}
        assert log.offsets([], OffsetSpec.EARLIEST) == {}
        with pytest.raises(LogError):
            log.offsets([TopicPartition(topic, 9)], OffsetSpec.LATEST)

    def test_the_latest_offset_is_the_last_stable_one(self, log: Log, new_topic: Callable[..., str]) -> None:
        partition = TopicPartition(new_topic(), 0)
        append(log, partition, b"before")
        writer = holder(log, new_id())
        write(writer, partition, b"open")
        append(log, partition, b"behind")
        assert log.offsets([partition], OffsetSpec.LATEST) == {partition: 1}
        writer.abort()
        wait_until(lambda: log.offsets([partition], OffsetSpec.LATEST) == {partition: 4})
        writer.close()

    def test_delete_records(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(2)
        first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
        append(log, first, b"a", b"b", b"c")
        append(log, second, b"x")
        assert log.delete_records({first: 2, second: 0}) == {first: 2, second: 0}
        assert log.offsets([first], OffsetSpec.EARLIEST) == {first: 2}
        assert values(log, {first: 2}) == [b"c"]
        assert log.delete_records({first: 1}) == {first: 2}
        assert log.delete_records({TopicPartition(new_id(), 0): 1}) == {}
        with pytest.raises(OffsetOutOfRangeError):
            log.delete_records({first: 9})
        assert log.delete_records({first: 3}) == {first: 3}
        assert append(log, first, b"d") == [3]

    def test_read_to_end(self, log: Log, new_topic: Callable[..., str]) -> None:
        topic = new_topic(3)
        first, second, empty = (TopicPartition(topic, n) for n in range(3))
        append(log, first, b"a", b"b", b"c")
        log.delete_records({first: 1})
        writer = holder(log, new_id())
        write(writer, first, b"d")
        writer.abort()
        writer.begin()
        write(writer, second, b"open")
        append(log, second, b"behind")
        committed = log.read_to_end([first, second, empty], read_committed=True)
        assert [(m.offset, m.value) for m in committed] == [(1, b"b"), (2, b"c")]
        everything = log.read_to_end([first, second], read_committed=False)
        assert sorted(m.value for m in everything) == [b"b", b"behind", b"c", b"d", b"open"]
        assert list(log.read_to_end([], read_committed=True)) == []
        known = log.read_to_end([first, second, empty], read_committed=True, start={first: 2, second: 0})
        assert [(m.offset, m.value) for m in known] == [(2, b"c")]
        assert list(log.read_to_end([first], read_committed=True, start={first: 3})) == []
        with pytest.raises(OffsetOutOfRangeError):
            log.read_to_end([empty], read_committed=True, start={empty: 1})
        writer.close()
