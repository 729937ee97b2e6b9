"""A Kafka cluster in memory, and the ``Log`` port for each process that uses it.

``MemoryCluster`` is what survives: topics, partitions with offsets and timestamps, committed offsets of groups, and the
transaction coordinator: transactional id -> epoch, fencing by ``init``, the last stable offset of each partition,
control markers that take an offset of their own, expiry. As in Kafka, read-committed readers see neither open nor
aborted records and stop at the last stable offset. There is no compaction and no retention: both only ever hide what
nobody may need.

``MemoryLog(cluster, name)`` is one process's connection to it. Left alone everything is immediate: an append is stored
at once and reported at the writer's next ``poll``. A simulation takes over, with its own randomness:

``MemoryLog(..., immediate=False)``
    An append waits in a queue per (writer, partition) until ``deliver_one``.
``log.pending()`` and ``log.deliver_one(queue)``
    The queues that hold something, none while the cluster is unavailable; the head of one reaches the cluster. Order is
    kept per partition, partitions are independent. With ``offset_known=False`` the report does not tell the offset, as
    when the first answer was lost and the message was sent again.
``log.kill(keep_in_flight=False)``
    The process dies: every later call fails. What is queued is lost or, with ``keep_in_flight``, was sent already and
    can still be delivered later, after the replacement has started. A stopped process that wakes up again is simply
    one that was not scheduled for a while.
``log.fetch_limit``
    ``(partition, position, end) -> offset`` up to which this process's readers see at this poll.
``log.faults.fail_next(operation, error, after=False)``
    The next call of that name fails: ``init``, ``commit``, ``abort``, ``create_topics``, ``offsets``, ...; ``append``
    is the next message to reach the cluster (the error is reported), ``fetch`` a reader's next poll. ``after``: it
    fails when all is done.
``cluster.available = False``
    Kafka is gone: blocking calls raise LogUnavailableError, writers queue, readers see nothing.
``cluster.expire_transactions()``
    Abort and fence the open transactions that are older than their timeout; with an id, that one whatever its age.
``cluster.markers_at_once = False``
    What is committed or aborted becomes visible only at ``write_markers()`` or at the id's next transaction, as in
    Kafka for some milliseconds.

``cluster.append`` stores a record from outside, ``cluster.records`` reads a topic whole: for test set-ups and oracles.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from typing import NamedTuple
from zlib import crc32

import msgspec

from moorage.errors import FencedError, LogError, LogUnavailableError, OffsetOutOfRangeError
from moorage.ids import TopicPartition
from moorage.ports import NO_OFFSET, Clock, Delivery, LogMessage, OffsetSpec, Partitioner, RecordBatch, TopicSpec
from moorage.testing.faults import Faults

Headers = Sequence[tuple[str, bytes]]

_Report = Callable[[int, LogError | FencedError | None], None]
"""How a message's fate reaches its writer: its offset (NO_OFFSET with an error), error."""

# --- the cluster -----------------------------------------------------------------------------------------------------


class StoredRecord(NamedTuple):
    """A record as an oracle sees it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers


class _TransactionState(Enum):
    OPEN = "open"
    DECIDED = "decided"
    """The coordinator has answered, the markers are not written."""
    COMMITTED = "committed"
    ABORTED = "aborted"


class _Transaction:
    """What one holder of a transactional id has written since its last commit or abort."""

    __slots__ = ("commit", "partitions", "started_ms", "state")

    def __init__(self, started_ms: int) -> None:
        self.state = _TransactionState.OPEN
        self.commit = False
        self.started_ms = started_ms
        self.partitions: set[_Partition] = set()


class _TransactionalId(msgspec.Struct):
    """What the transaction coordinator knows of an id."""

    epoch: int = -1
    timeout_ms: int = 0
    transaction: _Transaction | None = None


class _Payload(NamedTuple):
    """What a producer sends."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers


class _Entry(NamedTuple):
    """One offset of a partition."""

    payload: _Payload | None
    """None: a control marker."""
    transaction: _Transaction | None


class _Partition:
    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self.entries: list[_Entry] = []
        self.unstable: dict[_Transaction, int] = {}
        """First offset of each transaction without a marker, in the order of offsets."""

    @property
    def last_stable(self) -> int:
        return next(iter(self.unstable.values()), self.end)

    def append(self, entry: _Entry) -> int:
        offset = self.end
        self.end += 1
        self.entries.append(entry)
        return offset

    def delete_before(self, offset: int) -> None:
        if offset > self.start:
            del self.entries[: offset - self.start]
            self.start = offset

    def visible(self, first: int, limit: int, read_committed: bool) -> list[tuple[int, _Payload]]:
        """Offsets and payloads of the records in ``[first, limit)`` that a reader with this isolation sees."""
        entries = self.entries[first - self.start : limit - self.start]
        return [
            (offset, payload)
            for offset, (payload, transaction) in enumerate(entries, first)
            if payload is not None
            and (not read_committed or transaction is None or transaction.state is _TransactionState.COMMITTED)
        ]


class MemoryCluster:
    """Shared by every MemoryLog of a test."""

    def __init__(self, clock: Clock) -> None:
        self.available = True
        self.markers_at_once = True
        self._clock = clock
        self._topics: dict[str, list[_Partition]] = {}
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._transactional_ids: defaultdict[str, _TransactionalId] = defaultdict(_TransactionalId)
        self._unmarked: list[_Transaction] = []
        self._groups: dict[str, dict[TopicPartition, int]] = {}

    # --- for tests and the simulation --------------------------------------------------------------------------------

    def append(
        self,
        partition: TopicPartition,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp_ms: int | None = None,
        headers: Headers = (),
    ) -> int:
        """Store a record outside of any transaction; its offset."""
        stamp = self.now_ms() if timestamp_ms is None else timestamp_ms
        return self.partition(partition).append(_Entry(_Payload(key, value, stamp, headers), None))

    def records(
        self, topic: str, *, read_committed: bool = True, starts: Mapping[int, int] | None = None
    ) -> Sequence[StoredRecord]:
        """Every record of a topic that a reader with this isolation can read now, by partition and offset; from the
        offsets ``starts`` of some partitions on."""
        starts = starts or {}
        return [
            StoredRecord(topic, number, offset, *payload)
            for number, log in enumerate(self._topics[topic])
            for offset, payload in log.visible(
                max(log.start, starts.get(number, 0)), log.last_stable if read_committed else log.end, read_committed
            )
        ]

    def open_transactions(self) -> Sequence[str]:
        """Ids that hold an open transaction."""
        return [
            name
            for name, known in self._transactional_ids.items()
            if known.transaction is not None and known.transaction.state is _TransactionState.OPEN
        ]

    def expire_transactions(self, transactional_id: str | None = None) -> Sequence[str]:
        """Abort open transactions and fence their holders, as the coordinator does after ``transaction.timeout.ms``: of
        those that are older than that, or of one id whatever its age. Returns the ids."""
        expired = []
        for name in self.open_transactions():
            known = self._transactional_ids[name]
            assert known.transaction is not None
            is_old = self.now_ms() - known.transaction.started_ms >= known.timeout_ms
            if name == transactional_id or (transactional_id is None and is_old):
                known.epoch += 1
                self._decide(known, commit=False)
                expired.append(name)
        return expired

    def write_markers(self) -> None:
        """Make visible what was committed while ``markers_at_once`` was off."""
        for transaction in self._unmarked:
            self._mark(transaction)
        self._unmarked.clear()

    # --- for MemoryLog -----------------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        return self._clock.wall_ms()

    @property
    def topics(self) -> Mapping[str, Sequence[_Partition]]:
        return self._topics

    @property
    def groups(self) -> dict[str, dict[TopicPartition, int]]:
        return self._groups

    def check_available(self) -> None:
        if not self.available:
            raise LogUnavailableError("Kafka does not answer")

    def has(self, partition: TopicPartition) -> bool:
        return partition in self._partitions

    @property
    def partitions(self) -> Mapping[TopicPartition, _Partition]:
        """Those of all topics."""
        return self._partitions

    def partition(self, partition: TopicPartition) -> _Partition:
        found = self._partitions.get(partition)
        if found is None:
            raise LogError(f"Kafka has no partition {partition.partition} of topic {partition.topic}")
        return found

    def add_partitions(self, topic: str, count: int = 1) -> None:
        """As an administrator does while jobs run."""
        present = self._topics[topic]
        for number in range(len(present), len(present) + count):
            present.append(_Partition())
            self._partitions[TopicPartition(topic, number)] = present[number]

    def create_topic(self, spec: TopicSpec) -> None:
        present = self._topics.get(spec.name)
        if present is None:
            present = self._topics[spec.name] = []
            self.add_partitions(spec.name, spec.partitions)
        if len(present) != spec.partitions:
            raise LogError(f"topic {spec.name} has {len(present)} partitions, not {spec.partitions}")

    def delete_topic(self, name: str) -> None:
        for number in range(len(self._topics.pop(name, ()))):
            del self._partitions[TopicPartition(name, number)]

    def init_transactions(self, transactional_id: str, timeout_ms: int) -> int:
        """Fence all holders of the id; the new epoch."""
        known = self._transactional_ids[transactional_id]
        known.epoch += 1
        known.timeout_ms = timeout_ms
        self._finish(known)
        return known.epoch

    def append_transactional(
        self, transactional_id: str, epoch: int, partition: TopicPartition, payload: _Payload
    ) -> int:
        known = self._holder(transactional_id, epoch)
        log = self.partition(partition)
        if known.transaction is None or known.transaction.state is not _TransactionState.OPEN:
            self._finish(known)
            known.transaction = _Transaction(self.now_ms())
        known.transaction.partitions.add(log)
        offset = log.append(_Entry(payload, known.transaction))
        log.unstable.setdefault(known.transaction, offset)
        return offset

    def end_transaction(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        self._decide(self._holder(transactional_id, epoch), commit=commit)

    def _holder(self, transactional_id: str, epoch: int) -> _TransactionalId:
        known = self._transactional_ids[transactional_id]
        if known.epoch != epoch:
            raise FencedError(f"transactional id {transactional_id} has a newer holder")
        return known

    def _decide(self, known: _TransactionalId, *, commit: bool) -> None:
        transaction = known.transaction
        if transaction is None or transaction.state is not _TransactionState.OPEN:
            raise LogError("there is no open transaction to end")
        transaction.state = _TransactionState.DECIDED
        transaction.commit = commit
        if self.markers_at_once:
            self._mark(transaction)
        else:
            self._unmarked.append(transaction)

    def _finish(self, known: _TransactionalId) -> None:
        """The id's last transaction has its markers: aborted if it was open."""
        if known.transaction is None:
            return
        if known.transaction.state is _TransactionState.OPEN:
            self._decide(known, commit=False)
        self._mark(known.transaction)

    def _mark(self, transaction: _Transaction) -> None:
        if transaction.state is not _TransactionState.DECIDED:
            return
        transaction.state = _TransactionState.COMMITTED if transaction.commit else _TransactionState.ABORTED
        for log in transaction.partitions:
            log.append(_Entry(None, transaction))
            del log.unstable[transaction]


# --- one process's connection ----------------------------------------------------------------------------------------


def _everything(partition: TopicPartition, position: int, end: int) -> int:
    return end


class InFlight:
    """Messages of one writer to one partition that have not reached the cluster, in order."""

    def __init__(self, writer: _Writer, partition: TopicPartition, number: int, waiting: dict[int, InFlight]) -> None:
        """``waiting``: where the queue is, under its ``number``, while it holds something."""
        self.writer = writer.name
        self.partition = partition
        self._writer = writer
        self._messages: deque[tuple[_Payload, _Report]] = deque()
        self._number = number
        self._waiting = waiting

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"<InFlight {self.writer} -> {self.partition.topic}/{self.partition.partition}: {len(self)}>"

    def add(self, payload: _Payload, report: _Report) -> None:
        if not self._messages:
            self._waiting[self._number] = self
        self._messages.append((payload, report))

    def clear(self) -> None:
        self._messages.clear()
        self._waiting.pop(self._number, None)

    def deliver_one(self, *, offset_known: bool = True) -> None:
        payload, report = self._messages.popleft()
        if not self._messages:
            del self._waiting[self._number]
        self._writer.deliver(self.partition, payload, report, offset_known=offset_known)


class MemoryLog:
    """``ports.Log`` for one process; see the module's docstring."""

    def __init__(self, cluster: MemoryCluster, name: str = "test", *, immediate: bool = True) -> None:
        self.cluster = cluster
        self.name = name
        self.immediate = immediate
        self.faults = Faults()
        self.fetch_limit: Callable[[TopicPartition, int, int], int] = _everything
        self._killed = False
        self._queues = 0
        """How many were opened."""
        self._waiting: dict[int, InFlight] = {}
        """Queues that hold something, by their number."""

    # --- for the simulation ------------------------------------------------------------------------------------------

    def pending(self) -> Sequence[InFlight]:
        """Queues that hold something which could reach the cluster now, oldest queue first."""
        return [queue for _, queue in sorted(self._waiting.items())] if self.cluster.available else []

    def deliver_one(self, queue: InFlight, *, offset_known: bool = True) -> None:
        """The head of the queue reaches the cluster; its report waits for the writer's next ``poll``."""
        queue.deliver_one(offset_known=offset_known)

    def kill(self, *, keep_in_flight: bool = False) -> None:
        self._killed = True
        if not keep_in_flight:
            for queue in list(self._waiting.values()):
                queue.clear()

    # --- for the clients ---------------------------------------------------------------------------------------------

    def check_alive(self) -> None:
        if self._killed:
            raise LogError(f"process {self.name} was killed")

    def check_reachable(self) -> None:
        self.check_alive()
        self.cluster.check_available()

    def open_queue(self, writer: _Writer, partition: TopicPartition) -> InFlight:
        self._queues += 1
        return InFlight(writer, partition, self._queues, self._waiting)

    # --- the port ----------------------------------------------------------------------------------------------------

    def reader(self, name: str, *, read_committed: bool = False, bulk: bool = False) -> MemoryReader:
        return MemoryReader(self, read_committed)

    def record_reader(
        self, name: str, *, group: str | None, read_committed: bool, max_poll_records: int
    ) -> MemoryRecordReader:
        return MemoryRecordReader(self, group, read_committed)

    def writer(self, name: str) -> MemoryWriter:
        return MemoryWriter(self, name)

    def transactional_writer(
        self,
        transactional_id: str,
        *,
        transaction_timeout_ms: int,
        partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM,
    ) -> MemoryTransactionalWriter:
        return MemoryTransactionalWriter(self, transactional_id, transaction_timeout_ms, partitioner)

    def record_writer(
        self, name: str, *, partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM
    ) -> MemoryRecordWriter:
        return MemoryRecordWriter(self, name, partitioner)

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        self.check_reachable()
        with self.faults.around("create_topics"):
            for spec in topics:
                self.cluster.create_topic(spec)

    def delete_topics(self, names: Iterable[str]) -> None:
        self.check_reachable()
        with self.faults.around("delete_topics"):
            for name in names:
                self.cluster.delete_topic(name)

    def topics(self) -> Mapping[str, int]:
        self.check_reachable()
        with self.faults.around("topics"):
            return {name: len(partitions) for name, partitions in self.cluster.topics.items()}

    def offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec | int) -> Mapping[TopicPartition, int]:
        self.check_reachable()
        with self.faults.around("offsets"):
            return {partition: self._offset(self.cluster.partition(partition), spec) for partition in partitions}

    def _offset(self, log: _Partition, spec: OffsetSpec | int) -> int:
        if spec is OffsetSpec.EARLIEST:
            return log.start
        if spec is OffsetSpec.LATEST:
            return log.last_stable
        if spec is OffsetSpec.END:
            return log.end
        readable = log.visible(log.start, log.last_stable, read_committed=False)
        return next((offset for offset, payload in readable if payload.timestamp_ms >= spec), log.last_stable)

    def read_to_end(
        self,
        partitions: Iterable[TopicPartition],
        *,
        read_committed: bool,
        start: Mapping[TopicPartition, int] | None = None,
    ) -> Sequence[LogMessage]:
        self.check_reachable()
        with self.faults.around("read_to_end"):
            messages = []
            for partition in partitions:
                log = self.cluster.partition(partition)
                end = log.last_stable if read_committed else log.end
                first = max(log.start, (start or {}).get(partition, 0))
                if first > log.end:
                    raise OffsetOutOfRangeError(
                        f"{partition.topic}/{partition.partition} ends at {log.end}, before {first}"
                    )
                readable = log.visible(first, max(first, end), read_committed)
                messages += [_log_message(partition, offset, payload) for offset, payload in readable]
            return messages

    def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.check_reachable()
        with self.faults.around("committed"):
            positions = self.cluster.groups.get(group, {})
            return {partition: positions[partition] for partition in partitions if partition in positions}

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        self.check_reachable()
        with self.faults.around("delete_records"):
            present = {
                partition: self.cluster.partition(partition) for partition in before if self.cluster.has(partition)
            }
            for partition, log in present.items():
                if before[partition] > log.end:
                    raise OffsetOutOfRangeError(
                        f"{partition.topic}/{partition.partition} ends at {log.end}, before {before[partition]}"
                    )
                log.delete_before(before[partition])
            return {partition: log.start for partition, log in present.items()}

    def delete_groups(self, groups: Iterable[str]) -> None:
        self.check_reachable()
        with self.faults.around("delete_groups"):
            for group in groups:
                self.cluster.groups.pop(group, None)

    def close(self) -> None:
        for queue in list(self._waiting.values()):
            queue.clear()


def _log_message(partition: TopicPartition, offset: int, payload: _Payload) -> LogMessage:
    return LogMessage(*partition, offset, payload.value or b"", payload.key, payload.timestamp_ms)


# --- readers ---------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, log: MemoryLog, read_committed: bool) -> None:
        self._log = log
        self._read_committed = read_committed
        self._positions: dict[TopicPartition, int] = {}
        self._turns: deque[TopicPartition] = deque()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._log.check_alive()
        self._positions = dict(positions)
        self._turns = deque(positions)

    def close(self) -> None:
        self._positions.clear()
        self._turns.clear()

    def _fetch(self, limit: int) -> Sequence[tuple[TopicPartition, Sequence[tuple[int, _Payload]]]]:
        """Up to ``limit`` messages, partition by partition; another one comes first each time."""
        self._log.check_alive()
        fetched: list[tuple[TopicPartition, Sequence[tuple[int, _Payload]]]] = []
        if not self._log.cluster.available:
            return fetched
        with self._log.faults.around("fetch"):
            positions, partitions = self._positions, self._log.cluster.partitions
            for partition in self._turns:
                log = partitions.get(partition)
                if log is None or positions[partition] == log.end:
                    continue
                messages = self._fetch_partition(partition, log, limit)
                if messages:
                    limit -= len(messages)
                    fetched.append((partition, messages))
            self._turns.rotate(-1)
        return fetched

    def _fetch_partition(
        self, partition: TopicPartition, log: _Partition, limit: int
    ) -> Sequence[tuple[int, _Payload]]:
        position, end = self._positions[partition], log.end
        if not log.start <= position <= end:
            raise OffsetOutOfRangeError(
                f"{partition.topic}/{partition.partition} holds offsets {log.start} to {end}, not {position}"
            )
        if self._read_committed:
            end = log.last_stable
        if limit <= 0 or position >= end:
            return ()
        end = min(end, self._log.fetch_limit(partition, position, end))
        if position >= end:
            return ()
        messages = log.visible(position, end, self._read_committed)
        if len(messages) > limit:
            del messages[limit:]
        if len(messages) == limit:
            end = messages[-1][0] + 1
        self._positions[partition] = end
        return messages


class MemoryReader(_Reader):
    """``ports.LogReader``."""

    def poll(self, max_messages: int) -> Sequence[LogMessage]:
        return [
            LogMessage(topic, number, offset, payload.value or b"", payload.key, payload.timestamp_ms)
            for (topic, number), messages in self._fetch(max_messages)
            for offset, payload in messages
        ]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._log.check_alive()
        if partition not in self._positions:
            raise LogError(f"{partition.topic}/{partition.partition} is not assigned")
        self._positions[partition] = offset


class MemoryRecordReader(_Reader):
    """``ports.RecordReader``."""

    def __init__(self, log: MemoryLog, group: str | None, read_committed: bool) -> None:
        super().__init__(log, read_committed)
        self._group = group

    def poll(self, max_records: int) -> Sequence[RecordBatch]:
        return [
            RecordBatch(
                *partition,
                [offset for offset, _ in messages],
                [payload.key for _, payload in messages],
                [payload.value for _, payload in messages],
                [payload.timestamp_ms for _, payload in messages],
            )
            for partition, messages in self._fetch(max_records)
        ]

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        self._log.check_alive()
        if self._group is not None:
            self._log.cluster.groups.setdefault(self._group, {}).update(positions)

    def lag_records(self) -> int:
        cluster = self._log.cluster
        return sum(
            max(0, cluster.partition(partition).end - position)
            for partition, position in self._positions.items()
            if cluster.has(partition)
        )


# --- writers ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Queues per partition and reports that wait for ``poll``."""

    def __init__(self, log: MemoryLog, name: str) -> None:
        self.name = name
        self._log = log
        self._queues: dict[TopicPartition, InFlight] = {}
        self._reports: deque[Callable[[], None]] = deque()
        self._closed = False

    def deliver(self, partition: TopicPartition, payload: _Payload, report: _Report, *, offset_known: bool) -> None:
        """A message reaches the cluster."""
        try:
            with self._log.faults.around("append"):
                offset = self._store(partition, payload)
        except (LogError, FencedError) as error:
            self._reports.append(partial(report, NO_OFFSET, error))
        else:
            self._reports.append(partial(report, offset if offset_known else NO_OFFSET, None))

    def close(self) -> None:
        self._closed = True
        self._reports.clear()
        for queue in self._queues.values():
            queue.clear()

    def _store(self, partition: TopicPartition, payload: _Payload) -> int:
        return self._log.cluster.partition(partition).append(_Entry(payload, None))

    def _queue(self, partition: TopicPartition, payload: _Payload, report: _Report) -> None:
        self._log.check_alive()
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = self._log.open_queue(self, partition)
        queue.add(payload, report)
        if self._log.immediate:
            self._flush()

    def _flush(self) -> None:
        """Everything queued reaches the cluster, if it is there."""
        for queue in self._queues.values():
            while queue and self._log.cluster.available:
                queue.deliver_one()

    def _serve(self) -> None:
        self._log.check_alive()
        if self._log.immediate:
            self._flush()
        for _ in range(len(self._reports)):
            self._reports.popleft()()


class MemoryWriter(_Writer):
    """``ports.LogWriter``."""

    def __init__(self, log: MemoryLog, name: str) -> None:
        super().__init__(log, name)
        self._pending_bytes = 0

    def append(self, topic: str, partition: int, value: bytes, delivered: Delivery) -> None:
        def report(offset: int, error: LogError | FencedError | None) -> None:
            assert not isinstance(error, FencedError)
            self._pending_bytes -= len(value)
            delivered(offset, error)

        self._pending_bytes += len(value)
        self._queue(TopicPartition(topic, partition), _Payload(None, value, self._log.cluster.now_ms(), ()), report)

    def poll(self) -> None:
        self._serve()

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes


class MemoryRecordWriter(_Writer):
    """``ports.TransactionalWriter`` without transactions: the at-least-once writer."""

    def __init__(self, log: MemoryLog, name: str, partitioner: Partitioner) -> None:
        super().__init__(log, name)
        self._partitioner = partitioner
        self._pending_records = 0
        self._keyless_records = 0
        self._error: LogError | FencedError | None = None

    def init(self) -> None:
        self._log.check_alive()

    def begin(self) -> None:
        self._log.check_alive()

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        self._append(TopicPartition(topic, partition), _Payload(key, value, self._log.cluster.now_ms(), ()))

    def append_records(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Headers | None] | None,
    ) -> None:
        partitions = len(self._log.cluster.topics.get(topic, ()))
        for index, (key, value, timestamp_ms) in enumerate(zip(keys, values, timestamps_ms, strict=True)):
            record_headers = headers[index] if headers is not None else None
            partition = TopicPartition(topic, self._partition_of(key, partitions))
            self._append(partition, _Payload(key, value, timestamp_ms, record_headers or ()))

    def poll(self) -> None:
        self._serve()
        self._check_error()

    @property
    def pending_records(self) -> int:
        return self._pending_records

    def commit(self) -> None:
        with self._blocking("commit"):
            self._flush()
            self.poll()

    def abort(self) -> None:
        self._log.check_alive()

    def _append(self, partition: TopicPartition, payload: _Payload) -> None:
        self._check_error()
        self._pending_records += 1
        self._queue(partition, payload, self._reported)

    def _reported(self, offset: int, error: LogError | FencedError | None) -> None:
        self._pending_records -= 1
        self._error = self._error or error

    def _check_error(self) -> None:
        if self._error is not None:
            raise self._error

    @contextmanager
    def _blocking(self, operation: str) -> Iterator[None]:
        """An error of the operation is latched, too."""
        self._check_error()
        if self._closed:
            # What was queued is dropped: to commit the rest would lose it.
            raise LogError(f"writer {self.name} was closed")
        try:
            self._log.check_reachable()
            with self._log.faults.around(operation):
                yield
        except (LogError, FencedError) as error:
            self._error = self._error or error
            raise

    def _partition_of(self, key: bytes | None, partitions: int) -> int:
        """Where librdkafka would put it, but for what it puts at random: that goes round in a circle."""
        if partitions == 0:
            return 0
        if key is not None and self._partitioner is Partitioner.MURMUR2_RANDOM:
            return (murmur2(key) & 0x7FFFFFFF) % partitions
        if key and self._partitioner is Partitioner.CONSISTENT_RANDOM:
            return crc32(key) % partitions
        self._keyless_records += 1
        return self._keyless_records % partitions


class MemoryTransactionalWriter(MemoryRecordWriter):
    """``ports.TransactionalWriter``."""

    def __init__(self, log: MemoryLog, transactional_id: str, timeout_ms: int, partitioner: Partitioner) -> None:
        super().__init__(log, transactional_id, partitioner)
        self._timeout_ms = timeout_ms
        self._epoch: int | None = None
        self._is_open = False
        self._is_empty = True

    def init(self) -> None:
        with self._blocking("init"):
            self._epoch = self._log.cluster.init_transactions(self.name, self._timeout_ms)

    def begin(self) -> None:
        super().begin()
        self._check_error()
        if self._epoch is None or self._is_open:
            raise LogError(f"transactional id {self.name}: begin comes after init, and after the last one has ended")
        self._is_open = True
        self._is_empty = True

    def commit(self) -> None:
        self._check_open()
        with self._blocking("commit"):
            self._flush()
            self.poll()
            self._end(commit=True)

    def abort(self) -> None:
        self._check_open()
        with self._blocking("abort"):
            for queue in self._queues.values():
                queue.clear()
            self._pending_records = 0
            self._reports.clear()
            self._end(commit=False)

    def _append(self, partition: TopicPartition, payload: _Payload) -> None:
        self._check_open()
        self._is_empty = False
        super()._append(partition, payload)

    def _store(self, partition: TopicPartition, payload: _Payload) -> int:
        assert self._epoch is not None
        return self._log.cluster.append_transactional(self.name, self._epoch, partition, payload)

    def _check_open(self) -> None:
        if not self._is_open:
            raise LogError(f"transactional id {self.name} has no open transaction")

    def _end(self, *, commit: bool) -> None:
        assert self._epoch is not None
        if not self._is_empty:
            self._log.cluster.end_transaction(self.name, self._epoch, commit=commit)
        self._is_open = False


def murmur2(data: bytes) -> int:
    """The hash of Kafka's Java clients (32 bits, unsigned)."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    hashed = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        hashed = (hashed * multiplier & mask) ^ word
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    hashed = (hashed ^ hashed >> 13) * multiplier & mask
    return hashed ^ hashed >> 15
