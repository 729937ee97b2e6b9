"""Orders from the host, as a user would send them, and the results as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator
from typing import Self

import msgspec
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from moorage.testing.oracle import Oracle, OracleReport
from moorage_cli.demo import OrderStream, Output

ORDERS, TOTALS = "orders", "totals"
_STEP_S = 0.02
_decode = msgspec.json.Decoder(Output).decode


class Traffic:
    """A thread that sends ``rate`` orders per second and reads the results, read-committed, until it is ended."""

    def __init__(self, bootstrap_servers: str, rate: int) -> None:
        self._servers = bootstrap_servers
        self._rate = rate
        self._oracle = Oracle()
        self._stream = OrderStream(self._oracle)
        self._lock = threading.Lock()
        self._sending = True
        self._ended = False
        self._seen: dict[str, int] = {}
        self._refused: list[str] = []
        self.results = 0
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    @property
    def sent(self) -> int:
        return self._oracle.inputs

    def sent_by_now(self) -> dict[Hashable, int]:
        """Number of every user's newest order."""
        with self._lock:
            return self._oracle.highest_inputs()

    def has_result_after(self, sent: dict[Hashable, int]) -> bool:
        """The result of an order that was sent later has been committed."""
        with self._lock:
            return any(count > sent.get(user, 0) for user, count in self._seen.items())

    def stop_sending(self) -> None:
        with self._lock:
            self._sending = False

    def is_complete(self) -> bool:
        return self.results >= self._oracle.inputs

    def verdict(self) -> OracleReport:
        """Judged by the whole topic, read anew."""
        assert not self._refused, self._refused
        for output in map(_decode, read_results(self._servers, TOTALS)):
            self._oracle.observe(output.user, output.count, output.total)
        return self._oracle.report()

    def _run(self) -> None:
        producer = Producer({"bootstrap.servers": self._servers, "enable.idempotence": True, "log_level": 0})
        consumer = _consumer(self._servers)
        consumer.assign([TopicPartition(TOTALS, p, 0) for p in _partitions(consumer, TOTALS)])
        started_s = time.monotonic()
        while not self._ended:
            with self._lock:
                due = int((time.monotonic() - started_s) * self._rate) if self._sending else 0
                orders = [self._stream.next() for _ in range(due - self._oracle.inputs)]
            for key, value in orders:
                producer.produce(ORDERS, value, key, on_delivery=self._delivered)
            producer.poll(0)
            self._read(consumer)
        producer.flush(30)
        consumer.close()

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._refused.append(str(error))

    def _read(self, consumer: Consumer) -> None:
        for message in consumer.consume(1_000, timeout=_STEP_S):
            if message.error():
                continue  # Kafka is away; the client goes on where it was
            output = _decode(message.value() or b"")
            with self._lock:
                self._seen[output.user] = output.count
                self.results += 1


def read_results(bootstrap_servers: str, topic: str) -> Iterator[bytes]:
    """Everything that is committed in an output topic."""
    consumer = _consumer(bootstrap_servers, **{"enable.partition.eof": True})
    for partition in _partitions(consumer, topic):
        consumer.assign([TopicPartition(topic, partition, 0)])
        at_end = False
        while not at_end:
            for message in consumer.consume(10_000, timeout=0.5):
                if error := message.error():
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    at_end = True
                else:
                    yield message.value() or b""
    consumer.close()


def _consumer(bootstrap_servers: str, **options: object) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "compose-test",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
            **options,
        }
    )


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
