"""KafkaSource at work in one subtask: which partitions, from where, decoding, dead letters.

Partitions are spread over the subtasks by topic and number alone, so every subtask finds its own without asking, and
a partition that is added later has exactly one owner. The position of a partition in a checkpoint is the offset behind
the last record that went into the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec
import xxhash

from moorage.api.connectors import KafkaSource, StartAt
from moorage.connectors.kafka_source_coordinator import decode_partitions, encode_backlog
from moorage.errors import CorruptDataError, LogError, RecordError
from moorage.ids import OperatorUid, TopicPartition
from moorage.messages.events import OperatorEvent
from moorage.naming import source_group
from moorage.ports import OffsetSpec, Partitioner, RecordBatch, TransactionalWriter
from moorage.task.batch import Batch, Origin
from moorage.task.context import TaskContext


class SplitState(msgspec.Struct, frozen=True, array_like=True):
    """One partition in a checkpoint."""

    topic: str
    partition: int
    offset: int
    """The next record to read."""
    end: int | None
    """A bounded source stops before this offset."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SplitState)
_CHECKSUM_BYTES = 8
_LAG_INTERVAL_MS = 1_000
_RETRY_MS = 1_000


class KafkaSourceReader:
    """``moorage.task.source.SourceReader`` for Kafka."""

    def __init__(self, context: TaskContext, uid: OperatorUid, source: KafkaSource) -> None:
        self._context = context
        self._uid = uid
        self._source = source
        self._group = source.group or source_group(context.job, uid)
        self._decode = source.value.decoder()
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._key_groups: dict[TopicPartition, int] = {}
        self._ended = False
        """A partition has come to its end and is still assigned."""
        self._is_open = False
        self._is_looking = False
        self._next_look_ms = 0
        self._partitions: Mapping[str, int] | None = None
        """What the source's coordinator has told and this subtask has not looked at; None: nothing."""
        self._discovered: Sequence[SplitState] = ()
        self._next_lag_ms = 0
        self._has_backlog = False
        self._dead_letters: TransactionalWriter | None = None
        self._closed = False
        self._reader = context.log.record_reader(
            context.name,
            group=self._group,
            read_committed=source.read_committed,
            max_poll_records=context.settings.max_poll_records,
        )

    # --- where to read -----------------------------------------------------------------------------------------------

    def find(self, restored: Sequence[bytes] | None) -> list[SplitState]:
        topics = self._context.log.topics()
        return self._find_splits(topics, {}, None if restored is None else decode_splits(restored))

    def open(self, found: Sequence[SplitState]) -> None:
        if self._source.dead_letter_topic is not None:
            self._dead_letters = self._context.log.record_writer(
                f"{self._context.name}.dead-letters", partitioner=Partitioner.CONSISTENT_RANDOM
            )
        self._add(found)
        self._is_open = True

    def _mine(self, topics: Mapping[str, int]) -> list[TopicPartition]:
        """The partitions of this subtask, of those that there are."""
        missing = [topic for topic in self._source.topics if topic not in topics]
        if missing:
            raise LogError(f"source {self._uid!r}: topic {', '.join(missing)} does not exist; create it first")
        parallelism, subtask = self._context.parallelism, self._context.subtask
        return [
            TopicPartition(topic, number)
            for topic in self._source.topics
            for number in range(topics[topic])
            if _spread(TopicPartition(topic, number)) % parallelism == subtask
        ]

    def _find_splits(
        self,
        topics: Mapping[str, int],
        known: Mapping[TopicPartition, int],
        restored: Mapping[TopicPartition, SplitState] | None,
    ) -> list[SplitState]:
        """*Blocking.* The partitions of this subtask that are not ``known``, and where each is read from.

        Without a checkpoint (``restored`` is None) from ``start``; with one from its offset. A partition that neither
        the checkpoint nor ``known`` has was added later: it is read from its beginning, by a bounded source not at all.
        """
        new = [tp for tp in self._mine(topics) if tp not in known]
        if restored is not None:
            bounded = self._source.until is not None
            added = self._context.log.offsets([tp for tp in new if tp not in restored], OffsetSpec.EARLIEST)
            return [restored.get(tp) or SplitState(*tp, added[tp], added[tp] if bounded else None) for tp in new]
        starts = self._starts(new)
        if self._source.until is None:
            return [SplitState(*tp, starts[tp], None) for tp in new]
        if self._source.until == "latest":
            ends = self._context.log.offsets(new, OffsetSpec.LATEST)
        else:
            ends = {TopicPartition(*tp): offset for tp, offset in self._source.until.items()}
        return [SplitState(*tp, starts[tp], ends.get(tp, starts[tp])) for tp in new]

    def _starts(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        log = self._context.log
        match self._source.start:
            case StartAt(kind="earliest"):
                return log.offsets(partitions, OffsetSpec.EARLIEST)
            case StartAt(kind="latest"):
                return log.offsets(partitions, OffsetSpec.LATEST)
            case StartAt(kind="timestamp", timestamp_ms=timestamp_ms):
                return log.offsets(partitions, timestamp_ms)
            case _:
                return {
                    **log.offsets(partitions, OffsetSpec.EARLIEST),
                    **log.committed(self._group, partitions),
                }

    def _add(self, splits: Sequence[SplitState]) -> None:
        max_parallelism = self._context.deploy.graph.max_parallelism
        for split in splits:
            tp = TopicPartition(split.topic, split.partition)
            self._positions[tp] = split.offset
            if split.end is not None:
                self._ends[tp] = split.end
            # Whatever the parallelism: so records of a partition keep their order over a rescale.
            self._key_groups[tp] = _spread(tp) % max_parallelism
        self._assign()

    def _assign(self) -> None:
        self._reader.assign({tp: offset for tp, offset in self._positions.items() if not self._at_end(tp)})

    def _at_end(self, tp: TopicPartition) -> bool:
        end = self._ends.get(tp)
        return end is not None and self._positions[tp] >= end

    def operator_event(self, payload: bytes) -> None:
        """The source's coordinator tells which partitions there are."""
        self._partitions = decode_partitions(payload)

    def _look(self, now_ms: int) -> None:
        """Take the share of what the coordinator has told, in the background."""
        if self._is_looking:
            return
        partitions, self._partitions = self._partitions, None
        if partitions is None or all(tp in self._positions for tp in self._mine(partitions)):
            return
        self._is_looking = True
        known = dict(self._positions)

        def found(splits: list[SplitState] | None, error: Exception | None) -> None:
            self._is_looking = False
            if self._closed:
                return
            if error is not None:
                self._context.warn(f"source {self._uid!r}: looking for new partitions failed: {error}")
                self._partitions = self._partitions or partitions
                self._next_look_ms = now_ms + _RETRY_MS
            elif splits:
                self._discovered = splits

        self._context.executor.submit(lambda: self._find_splits(partitions, known, {}), found)

    def _measure_lag(self, now_ms: int) -> None:
        if now_ms < self._next_lag_ms:
            return
        self._next_lag_ms = now_ms + _LAG_INTERVAL_MS
        lag = self._context.counters.source_lag_records = self._reader.lag_records()
        if self._source.backlog_records is None:
            return
        before, self._has_backlog = self._has_backlog, lag > self._source.backlog_records
        if self._has_backlog or before:  # A backlog is told again and again, for a new leader has not heard of it.
            context = self._context
            context.report(
                OperatorEvent(
                    worker=context.worker,
                    job=context.job,
                    attempt=context.attempt,
                    vertex=context.vertex.vertex,
                    subtask=context.subtask,
                    operator=self._uid,
                    payload=encode_backlog(self._has_backlog),
                )
            )

    # --- records -----------------------------------------------------------------------------------------------------

    def poll(self, now_ms: int, max_records: int) -> Sequence[Batch]:
        if self._discovered:
            found, self._discovered = self._discovered, ()
            self._add(found)
        if self._partitions is not None and self._is_open and now_ms >= self._next_look_ms:
            self._look(now_ms)
        self._measure_lag(now_ms)
        if self._dead_letters is not None:
            self._dead_letters.poll()
        batches = [self._batch(records) for records in self._reader.poll(max_records)]
        if self._ended:
            # Not earlier: only now the positions are behind everything that was polled.
            self._ended = False
            self._assign()
        return [batch for batch in batches if batch.values]

    def _batch(self, records: RecordBatch) -> Batch:
        tp = TopicPartition(records.topic, records.partition)
        end = self._ends.get(tp)
        if end is not None and records.offsets[-1] >= end - 1:
            records = _before(records, end)
            self._positions[tp] = end
            self._ended = True
        else:
            self._positions[tp] = records.offsets[-1] + 1
        group = self._key_groups[tp]
        try:
            values = list(map(self._decode, records.values))  # type: ignore[arg-type]
            return Batch(group, values, records.timestamps_ms, Origin(tp, records.offsets))
        except Exception:  # noqa: BLE001 - one record of the batch: find it, and do as configured
            return self._batch_one_by_one(group, records)

    def _batch_one_by_one(self, group: int, records: RecordBatch) -> Batch:
        values: list[Any] = []
        timestamps: list[int] = []
        offsets: list[int] = []
        for index, value in enumerate(records.values):
            if value is not None:
                try:
                    values.append(self._decode(value))
                except Exception as error:  # noqa: BLE001 - whatever a decoder raises
                    self._bad_record(records, index, error)
                    continue
            else:
                values.append(None)
            timestamps.append(records.timestamps_ms[index])
            offsets.append(records.offsets[index])
        return Batch(group, values, timestamps, Origin(TopicPartition(records.topic, records.partition), offsets))

    def _bad_record(self, records: RecordBatch, index: int, error: Exception) -> None:
        counters = self._context.counters
        where = f"{records.topic}[{records.partition}] offset {records.offsets[index]}"
        match self._source.on_error:
            case "fail":
                raise RecordError(
                    f"source {self._uid!r} can't decode the record at {where} by {self._source.value!r}: {error}."
                    " Mend the record, or choose on_error='skip' or 'dead_letter'"
                ) from error
            case "skip":
                counters.records_skipped += 1
            case "dead_letter":
                counters.records_dead_lettered += 1
                if self._dead_letters is not None and self._source.dead_letter_topic is not None:
                    reason = [("moorage.error", str(error).encode()), ("moorage.origin", where.encode())]
                    self._dead_letters.append_records(
                        self._source.dead_letter_topic,
                        [records.keys[index]],
                        [records.values[index]],
                        [records.timestamps_ms[index]],
                        [reason],
                    )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        return self._source.until is not None and not self._ended and all(map(self._at_end, self._positions))

    def snapshot(self) -> Sequence[bytes]:
        return [encode_split(SplitState(*tp, offset, self._ends.get(tp))) for tp, offset in self._positions.items()]

    def flush(self) -> Callable[[], None] | None:
        return None if self._dead_letters is None else self._dead_letters.commit

    def completed(self, elements: Sequence[bytes]) -> None:
        self._reader.commit({tp: split.offset for tp, split in decode_splits(elements).items()})

    def close(self) -> None:
        self._closed = True
        self._reader.close()
        if self._dead_letters is not None:
            self._dead_letters.close()


def _spread(partition: TopicPartition) -> int:
    """Partitions of a topic follow each other, topics begin anywhere."""
    return crc32(partition.topic.encode()) + partition.partition


def encode_split(split: SplitState) -> bytes:
    """A checksum (xxh3-64, little endian), then msgpack."""
    content = _encoder.encode(split)
    return xxhash.xxh3_64_intdigest(content).to_bytes(_CHECKSUM_BYTES, "little") + content


def decode_splits(elements: Sequence[bytes]) -> dict[TopicPartition, SplitState]:
    splits: dict[TopicPartition, SplitState] = {}
    for element in elements:
        content = element[_CHECKSUM_BYTES:]
        if xxhash.xxh3_64_intdigest(content).to_bytes(_CHECKSUM_BYTES, "little") != element[:_CHECKSUM_BYTES]:
            raise CorruptDataError("position of a Kafka source: wrong checksum")
        try:
            split = _decoder.decode(content)
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"position of a Kafka source: {error}") from error
        splits[TopicPartition(split.topic, split.partition)] = split
    return splits


def _before(records: RecordBatch, end: int) -> RecordBatch:
    """The records with an offset below ``end``."""
    count = sum(1 for offset in records.offsets if offset < end)
    return RecordBatch(
        records.topic,
        records.partition,
        records.offsets[:count],
        records.keys[:count],
        records.values[:count],
        records.timestamps_ms[:count],
    )
