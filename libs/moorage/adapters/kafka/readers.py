"""Consumers that are told where to read: no group membership, no rebalancing, nothing committed by itself.

librdkafka drops what it has prefetched when a partition is assigned anew or sought: its queue of messages is versioned
per partition. The contract tests hold it to that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from moorage.adapters.kafka.client import (
    ClientLog,
    Options,
    create,
    is_unavailable,
    offset_of,
    partition_of,
    topic_of,
    translate,
)
from moorage.errors import FencedError, LogError, LogUnavailableError
from moorage.ids import TopicPartition
from moorage.ports import LogMessage, RecordBatch

_POLL_S = 0.05
_MAX_MESSAGES = 1_000_000
"""What ``Consumer.consume`` takes at most."""

_milliseconds = itemgetter(1)


def kafka_positions(positions: Mapping[TopicPartition, int]) -> list[KafkaTopicPartition]:
    return [KafkaTopicPartition(topic, partition, offset) for (topic, partition), offset in positions.items()]


class _Reader:
    def __init__(self, options: Options) -> None:
        self._name: str = options["client.id"]
        self._client_log = ClientLog(self._name)
        self._consumer: Consumer = create(Consumer, options, self._client_log)
        self._error: LogError | FencedError | None = None

    def close(self) -> None:
        self._client_log.mute()
        # Letting go of the consumer ends it at once; its own ``close`` talks to the group's coordinator first.
        vars(self).pop("_consumer", None)

    def _consume(self, limit: int) -> list[Message]:
        """Messages that have arrived. An error that does not heal is raised now and ever after: a later message would
        be a gap."""
        if self._error is not None:
            raise self._error
        messages: list[Message] = self._consumer.consume(min(limit, _MAX_MESSAGES), 0)
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not self._is_event(message)]
        return messages

    def _is_event(self, message: Message) -> bool:
        error: KafkaError | None = message.error()
        if error is None:
            return False
        if not is_unavailable(error):
            self._error = translate(f"Kafka client {self._name} can't read {_place(message)}", error)
            raise self._error
        return True


def _place(event: Message) -> str:
    if event.topic() is None:
        return "its partitions"
    offset = offset_of(event)
    return f"{event.topic()}/{event.partition()}" + (f" at {offset}" if offset >= 0 else "")


def _log_message(message: Message) -> LogMessage:
    return LogMessage(
        topic_of(message),
        partition_of(message),
        offset_of(message),
        message.value() or b"",
        message.key(),
        message.timestamp()[1],
    )


class KafkaReader(_Reader):
    """``ports.LogReader``."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._error = None
        self._consumer.assign(kafka_positions(positions))

    def poll(self, max_messages: int) -> Sequence[LogMessage]:
        return list(map(_log_message, self._consume(max_messages)))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        try:
            self._consumer.seek(KafkaTopicPartition(*partition, offset))
        except KafkaException as error:
            raise translate(
                f"Kafka client {self._name} can't seek {partition.topic}/{partition.partition} to {offset}",
                error.args[0],
            ) from None


class KafkaRecordReader(_Reader):
    """``ports.RecordReader``: columns made by C-level iteration, no Python frame per record."""

    def __init__(self, options: Options, *, commits: bool) -> None:
        self._commits = commits
        self._positions: dict[TopicPartition, int] = {}
        super().__init__({**options, "on_commit": self._on_commit})

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        if self._error is not None:
            # What the client had read beyond our positions was dropped with the error.
            self._consumer.unassign()
            self._positions = {}
            self._error = None
        moved = {
            partition: offset for partition, offset in positions.items() if self._positions.get(partition) != offset
        }
        left = {
            partition: offset
            for partition, offset in self._positions.items()
            if partition in moved or partition not in positions
        }
        self._consumer.incremental_unassign(kafka_positions(left))
        self._consumer.incremental_assign(kafka_positions(moved))
        self._positions = dict(positions)

    def poll(self, max_records: int) -> Sequence[RecordBatch]:
        messages = self._consume(max_records)
        batches = []
        start = 0
        for place, run in groupby(zip(map(topic_of, messages), map(partition_of, messages), strict=True)):
            end = start + len(list(run))
            batch = messages[start:end]
            offsets = list(map(offset_of, batch))
            self._positions[TopicPartition(*place)] = offsets[-1] + 1
            batches.append(
                RecordBatch(
                    *place,
                    offsets,
                    list(map(Message.key, batch)),
                    list(map(Message.value, batch)),
                    list(map(_milliseconds, map(Message.timestamp, batch))),
                )
            )
            start = end
        return batches

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        if self._commits and positions:
            try:
                self._consumer.commit(offsets=kafka_positions(positions), asynchronous=True)
            except KafkaException as error:
                self._on_commit(error.args[0], [])

    def lag_records(self) -> int:
        lag = 0
        for partition, position in self._positions.items():
            _, end = self._consumer.get_watermark_offsets(KafkaTopicPartition(*partition), cached=True)
            lag += max(0, end - position)  # an end that is not known yet is negative
        return lag

    def _on_commit(self, error: KafkaError | None, _: Sequence[KafkaTopicPartition]) -> None:
        if error is not None:
            self._client_log.pass_on(logging.WARNING, "COMMIT", f"offsets were not committed: {error.str()}")


def read_to_end(options: Options, positions: Mapping[TopicPartition, int], timeout_ms: int) -> Sequence[LogMessage]:
    """Everything from these positions to where the partitions end now; *blocking*."""
    unread = set(positions)
    name = options["client.id"]
    # Ends are told by events; an empty partition tells its own only after the fetch's wait.
    consumer: Consumer = create(
        Consumer, {**options, "enable.partition.eof": True, "fetch.wait.max.ms": 10}, ClientLog(name)
    )
    consumer.assign(kafka_positions(positions))
    deadline_s = time.monotonic() + timeout_ms / 1000
    messages: list[LogMessage] = []
    while unread:
        if time.monotonic() > deadline_s:
            missing = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(unread))
            raise LogUnavailableError(f"Kafka client {name} can't read {missing} to the end within {timeout_ms} ms")
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        error = message.error()
        if error is None:
            messages.append(_log_message(message))
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            unread.discard(TopicPartition(topic_of(message), partition_of(message)))
        elif not is_unavailable(error):
            raise translate(f"Kafka client {name} can't read {_place(message)}", error)
    return messages
