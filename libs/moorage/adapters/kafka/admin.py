"""Topics, offsets and groups, through Kafka's admin requests. Every call blocks, within the timeout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka import admin as kafka_admin
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from moorage.adapters.kafka.client import ClientLog, Options, create, is_unavailable, translate
from moorage.adapters.kafka.readers import kafka_positions
from moorage.errors import LogError, LogUnavailableError
from moorage.ids import TopicPartition
from moorage.ports import OffsetSpec, TopicSpec

T = TypeVar("T")

_KafkaOffsetSpec: Any = kafka_admin.OffsetSpec  # type: ignore[attr-defined]  # untyped there

_NO_SUCH_TOPIC = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
_RETRY_S = 0.1
_BROKERS_DEFAULT = -1


class KafkaAdmin:
    """The *blocking* calls of ``ports.Log``."""

    def __init__(self, options: Options, timeout_ms: int) -> None:
        self._bootstrap_servers: str = options["bootstrap.servers"]
        self._timeout_s = timeout_ms / 1000
        self._client: AdminClient = create(AdminClient, options, ClientLog(options["client.id"]))

    def check(self, timeout_ms: int) -> None:
        try:
            self._client.list_topics(timeout=timeout_ms / 1000)
        except KafkaException as error:
            raise LogUnavailableError(
                f"Kafka at {self._bootstrap_servers} does not answer within {timeout_ms} ms: {error.args[0].str()}"
            ) from None

    def create_topics(self, topics: Iterable[TopicSpec]) -> None:
        wanted = {spec.name: spec for spec in topics}
        self._each(
            lambda names: self._client.create_topics(
                [
                    NewTopic(name, wanted[name].partitions, _BROKERS_DEFAULT, config=dict(wanted[name].config))
                    for name in names
                ],
                request_timeout=self._timeout_s,
            ),
            wanted,
            "can't create topic {}",
            tolerated=frozenset({KafkaError.TOPIC_ALREADY_EXISTS}),
        )
        # A created topic becomes known to the brokers a moment later.
        deadline_s = time.monotonic() + self._timeout_s
        while not wanted.keys() <= (present := self.topics()).keys():
            if time.monotonic() > deadline_s:
                raise LogUnavailableError(f"Kafka at {self._bootstrap_servers} does not show the topics it has created")
            time.sleep(_RETRY_S)
        for name, spec in wanted.items():
            if present[name] != spec.partitions:
                raise LogError(f"topic {name} has {present[name]} partitions, not {spec.partitions}")

    def delete_topics(self, names: Iterable[str]) -> None:
        self._each(
            lambda names: self._client.delete_topics(list(names), request_timeout=self._timeout_s),
            names,
            "can't delete topic {}",
            tolerated=_NO_SUCH_TOPIC,
        )

    def topics(self) -> Mapping[str, int]:
        self._client.poll(0)
        try:
            metadata = self._client.list_topics(timeout=self._timeout_s)
        except KafkaException as error:
            raise translate(f"Kafka at {self._bootstrap_servers} can't list its topics", error.args[0]) from None
        return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}

    def offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec | int) -> Mapping[TopicPartition, int]:
        wanted = tuple(partitions)
        present = self.topics()
        for topic, partition in wanted:
            if partition >= present.get(topic, 0):
                raise LogError(f"Kafka at {self._bootstrap_servers} has no partition {partition} of topic {topic}")
        found = self._list_offsets(wanted, spec)
        if isinstance(spec, int):
            beyond = [partition for partition, offset in found.items() if offset < 0]
            found.update(self._list_offsets(beyond, OffsetSpec.LATEST))
        return found

    def committed(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        wanted = [KafkaTopicPartition(*partition) for partition in partitions]
        if not wanted:
            return {}  # the client takes an empty list for a mistake
        request = [ConsumerGroupTopicPartitions(group, wanted)]
        answers = self._each(
            lambda _: self._client.list_consumer_group_offsets(request, request_timeout=self._timeout_s),
            [group],
            "can't read the offsets of group {}",
        )
        found = {}
        for answer in answers[group].topic_partitions:
            if answer.error is not None:
                raise translate(f"Kafka can't read the offsets of group {group}", answer.error)
            if answer.offset >= 0:
                found[TopicPartition(answer.topic, answer.partition)] = answer.offset
        return found

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        present = self.topics()
        answers = self._each(
            lambda partitions: self._by_partition(
                self._client.delete_records(
                    kafka_positions({partition: before[partition] for partition in partitions}),
                    request_timeout=self._timeout_s,
                )
            ),
            [partition for partition in before if partition.partition < present.get(partition.topic, 0)],
            "can't delete the records of {0.topic}/{0.partition}",
            tolerated=_NO_SUCH_TOPIC,
        )
        return {partition: answer.low_watermark for partition, answer in answers.items() if answer is not None}

    def delete_groups(self, groups: Iterable[str]) -> None:
        self._each(
            lambda names: self._client.delete_consumer_groups(list(names), request_timeout=self._timeout_s),
            groups,
            "can't delete group {}",
            tolerated=frozenset({KafkaError.GROUP_ID_NOT_FOUND}),
        )

    def _list_offsets(self, partitions: Iterable[TopicPartition], spec: OffsetSpec | int) -> dict[TopicPartition, int]:
        stable = spec is not OffsetSpec.END
        answers = self._each(
            lambda some: self._by_partition(
                self._client.list_offsets(
                    {KafkaTopicPartition(*partition): _kafka_offset_spec(spec) for partition in some},
                    isolation_level=IsolationLevel.READ_COMMITTED if stable else IsolationLevel.READ_UNCOMMITTED,
                    request_timeout=self._timeout_s,
                )
            ),
            partitions,
            "can't find an offset of {0.topic}/{0.partition}",
        )
        return {partition: answer.offset for partition, answer in answers.items()}

    @staticmethod
    def _by_partition(futures: Mapping[KafkaTopicPartition, T]) -> dict[TopicPartition, T]:
        return {TopicPartition(where.topic, where.partition): future for where, future in futures.items()}

    def _each(
        self,
        request: Callable[[list[Any]], Mapping[Any, Future[Any]]],
        things: Iterable[T],
        what: str,
        tolerated: frozenset[int] = frozenset(),
    ) -> dict[T, Any]:
        """One request for all things, again for those whose answer may be better the next time. What each was answered;
        None for a tolerated error."""
        self._client.poll(0)  # what it has logged meanwhile
        deadline_s = time.monotonic() + self._timeout_s
        answers: dict[T, Any] = {}
        missing = list(things)
        while missing:
            futures = request(missing)
            again = []
            for thing in missing:
                try:
                    answers[thing] = futures[thing].result()
                except KafkaException as error:
                    reason = error.args[0]
                    if reason.code() in tolerated:
                        answers[thing] = None
                    elif _may_heal(reason) and time.monotonic() < deadline_s:
                        again.append(thing)
                    else:
                        raise translate(f"Kafka at {self._bootstrap_servers} {what.format(thing)}", reason) from None
            if again:
                time.sleep(_RETRY_S)
                with suppress(LogUnavailableError):
                    self.topics()  # or the client would ask the same leaders with the same epoch, for ever
            missing = again
        return answers


def _may_heal(error: KafkaError) -> bool:
    # The client finds no leader among what it knows.
    return is_unavailable(error) or error.code() == KafkaError._NOENT  # noqa: SLF001


def _kafka_offset_spec(spec: OffsetSpec | int) -> Any:
    match spec:
        case OffsetSpec.EARLIEST:
            return _KafkaOffsetSpec.earliest()
        case OffsetSpec.LATEST | OffsetSpec.END:
            return _KafkaOffsetSpec.latest()
        case timestamp_ms:
            return _KafkaOffsetSpec.for_timestamp(timestamp_ms)
