"""The topics of a pipeline, and making those that are missing: a convenience of `moorage dev` and the demo.

In production somebody decides on partitions, retention and access; there nothing creates input topics.
"""

from __future__ import annotations

from collections.abc import Collection

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from moorage.api.compiler import CompiledPipeline
from moorage.api.operators import SinkOperator, SourceOperator
from moorage.errors import LogError

TIMEOUT_S = 20.0


def topics_of(pipeline: CompiledPipeline) -> list[str]:
    """Every input, output and dead-letter topic, once each, inputs first."""
    names: dict[str, None] = {}
    for operator in pipeline.operators.values():
        if isinstance(operator, SourceOperator):
            names |= dict.fromkeys(operator.source.topics)
    for operator in pipeline.operators.values():
        if isinstance(operator, SourceOperator) and operator.source.dead_letter_topic is not None:
            names[operator.source.dead_letter_topic] = None
        if isinstance(operator, SinkOperator):
            names[operator.sink.topic] = None
    return list(names)


def list_topics(bootstrap_servers: str) -> set[str]:
    try:
        return set(_admin(bootstrap_servers).list_topics(timeout=TIMEOUT_S).topics)
    except KafkaException as error:
        raise LogError(f"Kafka at {bootstrap_servers} did not list its topics: {error.args[0].str()}") from error


def create_missing(bootstrap_servers: str, names: Collection[str], partitions: int) -> list[str]:
    """Create those of the topics that don't exist, with the broker's own replication; returns their names."""
    missing = [name for name in names if name not in list_topics(bootstrap_servers)]
    if missing:
        admin = _admin(bootstrap_servers)  # its requests end with it
        for name, result in admin.create_topics([NewTopic(name, partitions, -1) for name in missing]).items():
            try:
                result.result(TIMEOUT_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise LogError(f"topic {name!r} can't be created: {error.args[0].str()}") from error
    return missing


def delete(bootstrap_servers: str, names: Collection[str]) -> None:
    """Delete topics; tolerates those that are gone."""
    if not names:
        return
    admin = _admin(bootstrap_servers)
    for name, result in admin.delete_topics(list(names)).items():
        try:
            result.result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise LogError(f"topic {name!r} can't be deleted: {error.args[0].str()}") from error


def _admin(bootstrap_servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_servers})
