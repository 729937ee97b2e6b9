"""Producers: for frames and control messages, for output records, and for output records in transactions.

A fatal error is raised by confluent-kafka from the call that happens to serve events, and a callback that runs while
it does so breaks with a SystemError. So events are only ever served by ``Producer.poll``, which stops at such an error,
and nothing is outstanding when a transaction is committed or aborted.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from moorage.adapters.kafka.client import ClientLog, Options, create, translate
from moorage.errors import FencedError, LogError, LogUnavailableError
from moorage.ports import NO_OFFSET, Delivery

_ANY_PARTITION = -1
_POLL_S = 0.05
_DISCARD_S = 1.0
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}  # noqa: SLF001


def _discard(producer: Producer) -> None:
    """Drop what is queued and under way, and serve the reports: an unserved one would keep its callback in memory."""
    producer.purge()
    deadline_s = time.monotonic() + _DISCARD_S
    while len(producer) > 0 and time.monotonic() < deadline_s:
        with suppress(KafkaException):  # the reason may be why it is thrown away
            producer.poll(_POLL_S)


class KafkaWriter:
    """``ports.LogWriter``."""

    def __init__(self, options: Options) -> None:
        self._name: str = options["client.id"]
        self._client_log = ClientLog(self._name)
        self._pending_bytes = 0
        self._rejected: deque[tuple[Delivery, LogError]] = deque()
        self._closed = False
        self._producer: Producer = create(Producer, options, self._client_log)

    def append(self, topic: str, partition: int, value: bytes, delivered: Delivery) -> None:
        size_bytes = len(value)

        def report(error: KafkaError | None, message: Message) -> None:
            if self._closed:
                return
            self._pending_bytes -= size_bytes
            if error is None:
                # The broker does not tell the offset when it answers a message sent again, which it had stored.
                offset: int | None = message.offset()
                delivered(NO_OFFSET if offset is None else offset, None)
            else:
                delivered(NO_OFFSET, self._lost(topic, partition, error))

        try:
            self._producer.produce(topic, value, None, partition, report)
        except BufferError:
            full = f"Kafka client {self._name} can't write to {topic}/{partition}: its queue is full"
            self._rejected.append((delivered, LogUnavailableError(full)))
        except KafkaException as error:
            self._rejected.append((delivered, self._lost(topic, partition, error.args[0])))
        else:
            self._pending_bytes += size_bytes

    def poll(self) -> None:
        while self._rejected:
            delivered, error = self._rejected.popleft()
            delivered(NO_OFFSET, error)
        try:
            self._producer.poll(0)
        except KafkaException as error:
            # Fatal for the producer: every message under way and every later one is reported with it.
            self._client_log.pass_on(logging.WARNING, "FATAL", error.args[0].str())

    @property
    def pending_bytes(self) -> int:
        return self._pending_bytes

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._rejected.clear()
            self._client_log.mute()
            _discard(self._producer)
            del self._producer

    def _lost(self, topic: str, partition: int, error: KafkaError) -> LogError:
        lost = translate(f"Kafka client {self._name} can't write to {topic}/{partition}", error)
        return lost if isinstance(lost, LogError) else LogError(str(lost))


class KafkaRecordWriter:
    """``ports.TransactionalWriter`` without transactions."""

    def __init__(self, options: Options, timeout_ms: int) -> None:
        self._name: str = options["client.id"]
        self._timeout_s = timeout_ms / 1000
        self._error: LogError | FencedError | None = None
        # Reports of what was stored would cost as much as writing it; of failures the first one is all we need.
        reporting = {"on_delivery": self._on_failure, "delivery.report.only.error": True}
        self._client_log = ClientLog(self._name)
        self._producer: Producer | None = create(Producer, {**options, **reporting}, self._client_log)

    def init(self) -> None:
        """Nothing to fence."""

    def begin(self) -> None:
        """Nothing to open."""

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        self._produce(topic, value, key, partition)

    def append_records(
        self,
        topic: str,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]] | None] | None,
    ) -> None:
        # ``produce`` with positional arguments costs what ``produce_batch`` costs, which takes no timestamps.
        produce = self._open_producer().produce
        if headers is None:
            for key, value, timestamp_ms in zip(keys, values, timestamps_ms, strict=True):
                try:
                    produce(topic, value, key, _ANY_PARTITION, None, None, timestamp_ms)
                except (BufferError, KafkaException):
                    self._produce(topic, value, key, _ANY_PARTITION, None, None, timestamp_ms)
        else:
            for key, value, timestamp_ms, record_headers in zip(keys, values, timestamps_ms, headers, strict=True):
                fields = list(record_headers) if record_headers else None
                self._produce(topic, value, key, _ANY_PARTITION, None, None, timestamp_ms, fields)

    def poll(self) -> None:
        self._serve(self._open_producer(), 0)

    @property
    def pending_records(self) -> int:
        return len(self._open_producer())

    def commit(self) -> None:
        self._flush(self._open_producer())

    def abort(self) -> None:
        """Nothing to take back."""

    def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            self._client_log.mute()
            _discard(producer)

    def _produce(self, *arguments: Any) -> None:
        """Queue a message; when the queue is full, as soon as there is room."""
        producer = self._open_producer()
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            self._check()
            try:
                return producer.produce(*arguments)
            except BufferError:
                if time.monotonic() > deadline_s:
                    self._fail(LogUnavailableError(f"Kafka client {self._name}: its queue has been full for too long"))
                self._serve(producer, _POLL_S)
            except KafkaException as error:
                self._serve(producer, 0)  # raises the reason, if what we have is but its consequence
                self._fail(translate(f"Kafka client {self._name} can't write to {arguments[0]}", error.args[0]))

    def _serve(self, producer: Producer, timeout_s: float) -> None:
        try:
            producer.poll(timeout_s)
        except KafkaException as error:
            self._fail(translate(f"Kafka client {self._name}", error.args[0]))
        self._check()

    def _flush(self, producer: Producer) -> None:
        """Returns when every record is confirmed."""
        deadline_s = time.monotonic() + self._timeout_s
        while len(producer) > 0:
            if time.monotonic() > deadline_s:
                self._fail(LogUnavailableError(f"Kafka client {self._name}: {len(producer)} records are not confirmed"))
            self._serve(producer, _POLL_S)
        self._check()
        # Closed meanwhile by the loop's thread? Then what is not outstanding any more may have been dropped.
        self._open_producer()

    def _on_failure(self, error: KafkaError, message: Message) -> None:
        if error.code() not in _PURGED and self._error is None:
            self._error = translate(f"Kafka client {self._name} can't write to {message.topic()}", error)

    def _fail(self, error: LogError | FencedError) -> NoReturn:
        self._error = self._error or error
        raise self._error

    def _open_producer(self) -> Producer:
        producer = self._producer
        if producer is None:
            raise LogError(f"Kafka client {self._name} was closed")
        return producer

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class KafkaTransactionalWriter(KafkaRecordWriter):
    """``ports.TransactionalWriter``."""

    def init(self) -> None:
        self._call("can't take its transactional id", self._open_producer().init_transactions)

    def begin(self) -> None:
        self._check()
        try:
            self._open_producer().begin_transaction()
        except KafkaException as error:
            self._fail(translate(f"Kafka client {self._name} can't begin a transaction", error.args[0]))

    def commit(self) -> None:
        producer = self._open_producer()
        self._flush(producer)
        self._call("can't commit its transaction", producer.commit_transaction)

    def abort(self) -> None:
        producer = self._open_producer()
        _discard(producer)
        self._call("can't abort its transaction", producer.abort_transaction)

    def _call(self, what: str, call: Callable[[float], None]) -> None:
        """A blocking call, resumed until it has ended or the time is up."""
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            self._check()
            try:
                return call(max(0.0, deadline_s - time.monotonic()))
            except KafkaException as error:
                reason = error.args[0]
                if not reason.retriable() or time.monotonic() > deadline_s:
                    self._fail(translate(f"Kafka client {self._name} {what}", reason))
                time.sleep(_POLL_S)
