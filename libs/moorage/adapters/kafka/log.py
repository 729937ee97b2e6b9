"""One process's connection to Kafka: every client gets its options and its name here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from moorage.adapters.kafka.admin import KafkaAdmin
from moorage.adapters.kafka.client import Options
from moorage.adapters.kafka.readers import KafkaReader, KafkaRecordReader, read_to_end
from moorage.adapters.kafka.writers import KafkaRecordWriter, KafkaTransactionalWriter, KafkaWriter
from moorage.ids import TopicPartition
from moorage.ports import LogMessage, OffsetSpec, Partitioner, TopicSpec

_COMMON: Final[Options] = {
    # A broker that comes back is found at once; the default backs off to 10 s.
    "reconnect.backoff.max.ms": 1_000,
    "socket.keepalive.enable": True,
}
_CONSUMER: Final[Options] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": False,
    "allow.auto.create.topics": False,
    # A position that is not in the log is an error; a reader never jumps.
    "auto.offset.reset": "error",
    # What is prefetched while the owner is held back by flow control, per client.
    "queued.max.messages.kbytes": 32_768,
    # When that is full, look again soon; the default of 1 s would be a pause of the stream.
    "fetch.queue.backoff.ms": 10,
    # A fetch that waits for records delays the first one after an assign or a seek.
    "fetch.wait.max.ms": 100,
}
_BULK_CONSUMER: Final[Options] = {
    # Fewer and larger fetches: under load they halve the broker's CPU, at low rates they cost up to the wait.
    "fetch.min.bytes": 100_000,
}
_PRODUCER: Final[Options] = {
    "enable.idempotence": True,
    # With more, messages are lost without an error. A broker that knows nothing of a producer in a partition takes any
    # first sequence number: when the first request fails because the partition has no leader yet, the second one is
    # stored, and librdkafka takes the refusal of the first one, sent again, for "stored already".
    "max.in.flight.requests.per.connection": 1,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 5,
    # Bounded by bytes (1 GB by default) and by our callers' flow control, not by count.
    "queue.buffering.max.messages": 1_000_000,
}


class KafkaLog:
    """``ports.Log``.

    ``common``, ``consumer`` and ``producer`` are librdkafka options (TLS, SASL, ...) that override ours; ``consumer``
    goes to every consumer, ``bulk_consumer`` besides to those that read much. ``client_id`` names the process in the
    broker's logs and quotas; each client adds its own name. ``timeout_ms`` bounds each *blocking* call.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        client_id: str = "moorage",
        timeout_ms: int = 60_000,
        common: Options | None = None,
        consumer: Options | None = None,
        bulk_consumer: Options | None = None,
        producer: Options | None = None,
    ) -> None:
        self._client_id = client_id
        self._timeout_ms = timeout_ms
        self._common = {"bootstrap.servers": bootstrap_servers, **_COMMON, **(common or {})}
        self._consumer = {**_CONSUMER, **(consumer or {})}
        self._bulk_consumer = {**self._consumer, **_BULK_CONSUMER, **(bulk_consumer or {})}
        self._producer = {**_PRODUCER, **(producer or {})}
        self._admin = KafkaAdmin(self._options("admin", {}), timeout_ms)

    def check(self, timeout_ms: int) -> None:
        """*Blocking.* For the start: SettingError when the options make no client, LogUnavailableError when Kafka does
        not answer."""
        self.reader("check").close()
        self.record_reader("check", group=None, read_committed=True, max_poll_records=1).close()
        self.writer("check").close()
        self._admin.check(timeout_ms)

    # --- the port ----------------------------------------------------------------------------------------------------

    def reader(self, name: str, *, read_committed: bool = False, bulk: bool = False) -> KafkaReader:
        options = self._bulk_consumer if bulk else self._consumer
        return KafkaReader(self._options(name, {**options, **self._reading(name, read_committed)}))

    def record_reader(
        self, name: str, *, group: str | None, read_committed: bool, max_poll_records: int
    ) -> KafkaRecordReader:
        options = {**self._bulk_consumer, **self._reading(group or name, read_committed)}
        return KafkaRecordReader(self._options(name, options), commits=group is not None)

    def writer(self, name: str) -> KafkaWriter:
        return KafkaWriter(self._options(name, self._producer))

    def transactional_writer(
        self,
        transactional_id: str,
        *,
        transaction_timeout_ms: int,
        partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM,
    ) -> KafkaTransactionalWriter:
        options = {
            **self._producer,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": transaction_timeout_ms,
            "partitioner": partitioner.value,
        }
        return KafkaTransactionalWriter(self._options(transactional_id, options), self._timeout_ms)

    def record_writer(
        self, name: str, *, partitioner: Partitioner = Partitioner.CONSISTENT_RANDOM
    ) -> KafkaRecordWriter:
        options = {**self._producer, "partitioner": partitioner.value}
        return KafkaRecordWriter(self._options(name, options), self._timeout_ms)

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        self._admin.create_topics(topics)

    def delete_topics(self, names: Iterable[str]) -> None:
        self._admin.delete_topics(names)

    def topics(self) -> Mapping[str, int]:
        return self._admin.topics()

    def offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec | int) -> Mapping[TopicPartition, int]:
        return self._admin.offsets(partitions, spec)

    def read_to_end(
        self,
        partitions: Iterable[TopicPartition],
        *,
        read_committed: bool,
        start: Mapping[TopicPartition, int] | None = None,
    ) -> Sequence[LogMessage]:
        name = "read-to-end"
        options = self._options(name, {**self._consumer, **self._reading(name, read_committed)})
        # The client's own look-up of a beginning takes half a second.
        beginnings = self._admin.offsets(partitions, OffsetSpec.EARLIEST)
        known = start or {}
        positions = {partition: max(begin, known.get(partition, 0)) for partition, begin in beginnings.items()}
        return read_to_end(options, positions, self._timeout_ms)

    def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        return self._admin.committed(group, partitions)

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        return self._admin.delete_records(before)

    def delete_groups(self, groups: Iterable[str]) -> None:
        self._admin.delete_groups(groups)

    def close(self) -> None:
        """Readers and writers are closed by their owners."""

    # -----------------------------------------------------------------------------------------------------------------

    def _options(self, name: str, options: Options) -> Options:
        return {**self._common, **options, "client.id": f"{self._client_id}.{name}"}

    def _reading(self, group: str, read_committed: bool) -> Options:
        # librdkafka wants a group's name from everyone, also from who never joins or commits.
        return {"group.id": group, "isolation.level": "read_committed" if read_committed else "read_uncommitted"}
