"""What the simulation can do to the log twin beyond the port's contract."""

from __future__ import annotations

import pytest

from moorage.errors import FencedError, LogError, LogUnavailableError
from moorage.ids import TopicPartition
from moorage.ports import NO_OFFSET, OffsetSpec, TopicSpec
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog, MemoryTransactionalWriter

FIRST = TopicPartition("t", 0)
SECOND = TopicPartition("t", 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cluster(clock: ManualClock) -> MemoryCluster:
    cluster = MemoryCluster(clock)
    cluster.create_topic(TopicSpec("t", 2, {}))
    return cluster


def ignore(_offset: int, _error: LogError | None) -> None:
    pass


def stored(cluster: MemoryCluster, *, read_committed: bool = True) -> list[bytes | None]:
    return [record.value for record in cluster.records("t", read_committed=read_committed)]


def holder(log: MemoryLog, timeout_ms: int = 1_000) -> MemoryTransactionalWriter:
    writer = log.transactional_writer("id", transaction_timeout_ms=timeout_ms)
    writer.init()
    writer.begin()
    return writer


class TestDelivery:
    def test_messages_wait_per_writer_and_partition(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster, immediate=False)
        writer, other = log.writer("w"), log.writer("o")
        offsets: list[int] = []
        writer.append("t", 0, b"a", lambda offset, _: offsets.append(offset))
        writer.append("t", 0, b"b", lambda offset, _: offsets.append(offset))
        writer.append("t", 1, b"c", ignore)
        other.append("t", 0, b"d", ignore)
        writer.poll()
        assert stored(cluster) == []
        assert writer.pending_bytes == 3
        assert [(q.writer, q.partition, len(q)) for q in log.pending()] == [
            ("w", FIRST, 2),
            ("w", SECOND, 1),
            ("o", FIRST, 1),
        ]
        first, second, third = log.pending()
        log.deliver_one(second)
        log.deliver_one(third)
        log.deliver_one(first)
        log.deliver_one(first)
        assert stored(cluster) == [b"d", b"a", b"b", b"c"]
        assert log.pending() == []
        assert offsets == []
        writer.poll()
        assert offsets == [1, 2]
        assert writer.pending_bytes == 0

    def test_the_offset_of_a_message_that_was_sent_again_is_not_known(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster, immediate=False)
        writer = log.writer("w")
        reports: list[tuple[int, LogError | None]] = []
        writer.append("t", 0, b"a", lambda *report: reports.append(report))
        log.deliver_one(log.pending()[0], offset_known=False)
        writer.poll()
        assert reports == [(NO_OFFSET, None)]
        assert stored(cluster) == [b"a"]

    def test_commit_sends_what_is_queued(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster, immediate=False)
        writer = holder(log)
        writer.append("t", 0, None, b"a")
        writer.append_records("t", [b"k"], [b"b"], [5], [[("h", b"1")]])
        assert writer.pending_records == 2
        writer.commit()
        assert sorted(record.value or b"" for record in cluster.records("t")) == [b"a", b"b"]
        (record,) = (record for record in cluster.records("t") if record.value == b"b")
        assert (record.key, record.timestamp_ms, record.headers) == (b"k", 5, [("h", b"1")])

    def test_a_message_can_be_refused(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster)
        refused = LogError("refused")
        log.faults.fail_next("append", refused)
        writer = log.writer("w")
        reports: list[tuple[int, LogError | None]] = []
        writer.append("t", 0, b"a", lambda *report: reports.append(report))
        writer.append("t", 0, b"b", lambda *report: reports.append(report))
        writer.poll()
        assert reports == [(-1, refused), (0, None)]
        assert stored(cluster) == [b"b"]


class TestProcesses:
    def test_what_a_killed_process_had_queued_is_lost(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster, "p", immediate=False)
        writer, reader = log.writer("w"), log.reader("r")
        reader.assign({FIRST: 0})
        writer.append("t", 0, b"a", ignore)
        log.kill()
        assert log.pending() == []
        for call in (
            lambda: writer.append("t", 0, b"b", ignore),
            writer.poll,
            lambda: reader.poll(1),
            log.topics,
            lambda: log.transactional_writer("id", transaction_timeout_ms=1).init(),
        ):
            with pytest.raises(LogError, match="p was killed"):
                call()

    def test_what_it_had_sent_arrives_after_its_replacement_started(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster, immediate=False)
        writer = log.writer("w")
        writer.append("t", 0, b"late", ignore)
        log.kill(keep_in_flight=True)
        MemoryLog(cluster).writer("w").append("t", 0, b"replacement", ignore)
        (queue,) = log.pending()
        log.deliver_one(queue)
        assert stored(cluster) == [b"replacement", b"late"]

    def test_a_late_transactional_write_is_refused(self, cluster: MemoryCluster) -> None:
        zombie = MemoryLog(cluster, immediate=False)
        writer = holder(zombie)
        writer.append("t", 0, None, b"a")
        writer.append("t", 0, None, b"b")
        (queue,) = zombie.pending()
        zombie.deliver_one(queue)
        holder(MemoryLog(cluster))
        zombie.deliver_one(queue)
        with pytest.raises(FencedError):
            writer.commit()
        assert stored(cluster, read_committed=False) == [b"a"]
        assert stored(cluster) == []

    def test_readers_see_as_far_as_the_simulation_lets_them(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster)
        for n in range(10):
            cluster.append(FIRST, b"%d" % n)
        reader = log.reader("r")
        reader.assign({FIRST: 0})
        log.fetch_limit = lambda partition, position, end: min(position + 2, end)
        assert [m.offset for m in reader.poll(100)] == [0, 1]
        assert [m.offset for m in reader.poll(100)] == [2, 3]
        log.fetch_limit = lambda partition, position, end: position
        assert reader.poll(100) == []

    def test_partitions_take_turns(self, cluster: MemoryCluster) -> None:
        for _ in range(3):
            cluster.append(FIRST, b"")
            cluster.append(SECOND, b"")
        reader = MemoryLog(cluster).reader("r")
        reader.assign({FIRST: 0, SECOND: 0})
        assert [reader.poll(1)[0].partition for _ in range(6)] == [0, 1, 0, 1, 0, 1]


class TestOutages:
    def test_nothing_gets_through_while_kafka_is_gone(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster)
        writer, reader = log.writer("w"), log.reader("r")
        reader.assign({FIRST: 0})
        cluster.available = False
        writer.append("t", 0, b"a", ignore)
        writer.poll()
        assert writer.pending_bytes == 1
        assert log.pending() == []
        assert reader.poll(10) == []
        with pytest.raises(LogUnavailableError):
            log.offsets([FIRST], OffsetSpec.LATEST)
        cluster.available = True
        writer.poll()
        assert writer.pending_bytes == 0
        assert [m.value for m in reader.poll(10)] == [b"a"]

    def test_a_commit_may_fail_before_or_after_it_took_effect(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster)
        for after, outcome in ((False, []), (True, [b"a"])):
            writer = holder(log)
            writer.append("t", 0, None, b"a")
            log.faults.fail_next("commit", LogUnavailableError("no answer"), after=after)
            with pytest.raises(LogUnavailableError):
                writer.commit()
            with pytest.raises(LogUnavailableError):
                writer.poll()
            writer.close()
            holder(log).close()
            assert stored(cluster) == outcome

    @pytest.mark.parametrize("operation", ["create_topics", "delete_topics", "topics", "offsets", "committed"])
    def test_every_blocking_call_can_fail(self, cluster: MemoryCluster, operation: str) -> None:
        log = MemoryLog(cluster)
        log.faults.fail_next(operation, LogError("no"))
        calls = {
            "create_topics": lambda: log.create_topics([]),
            "delete_topics": lambda: log.delete_topics([]),
            "topics": log.topics,
            "offsets": lambda: log.offsets([], OffsetSpec.LATEST),
            "committed": lambda: log.committed("g", []),
        }
        with pytest.raises(LogError, match="no"):
            calls[operation]()
        calls[operation]()


class TestTransactions:
    def test_only_old_transactions_expire(self, cluster: MemoryCluster, clock: ManualClock) -> None:
        writer = holder(MemoryLog(cluster), timeout_ms=1_000)
        writer.append("t", 0, None, b"a")
        assert cluster.open_transactions() == ["id"]
        clock.advance(999)
        assert cluster.expire_transactions() == []
        clock.advance(1)
        assert cluster.expire_transactions() == ["id"]
        assert cluster.open_transactions() == []
        with pytest.raises(FencedError):
            writer.commit()

    def test_a_named_one_expires_whatever_its_age(self, cluster: MemoryCluster) -> None:
        writer = holder(MemoryLog(cluster))
        writer.append("t", 0, None, b"a")
        assert cluster.expire_transactions("another") == []
        assert cluster.expire_transactions("id") == ["id"]
        with pytest.raises(FencedError):
            writer.commit()

    def test_markers_may_come_later(self, cluster: MemoryCluster) -> None:
        log = MemoryLog(cluster)
        cluster.markers_at_once = False
        writer = holder(log)
        writer.append("t", 0, None, b"a")
        writer.commit()
        assert stored(cluster) == []
        assert log.offsets([FIRST], OffsetSpec.LATEST) == {FIRST: 0}
        assert cluster.expire_transactions("id") == []
        cluster.write_markers()
        assert stored(cluster) == [b"a"]
        writer.begin()
        writer.append("t", 0, None, b"b")
        writer.commit()
        writer.begin()
        writer.append("t", 0, None, b"c")
        assert stored(cluster) == [b"a", b"b"]
        holder(log)
        assert stored(cluster) == [b"a", b"b"]

    def test_init_writes_the_markers_of_what_was_committed(self, cluster: MemoryCluster) -> None:
        cluster.markers_at_once = False
        writer = holder(MemoryLog(cluster))
        writer.append("t", 0, None, b"a")
        writer.commit()
        holder(MemoryLog(cluster))
        assert stored(cluster) == [b"a"]

    def test_misuse_is_an_error(self, cluster: MemoryCluster) -> None:
        writer = MemoryLog(cluster).transactional_writer("id", transaction_timeout_ms=1)
        with pytest.raises(LogError, match="init"):
            writer.begin()
        writer.init()
        with pytest.raises(LogError, match="no open transaction"):
            writer.append("t", 0, None, b"a")
        with pytest.raises(LogError, match="no open transaction"):
            writer.commit()
        writer.begin()
        with pytest.raises(LogError, match="begin"):
            writer.begin()
