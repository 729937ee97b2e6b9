"""What the command line does with Kafka by itself: a connection with the user's options, and missing topics.

Making topics is a convenience of `moorage dev` and the demo. In production somebody decides on partitions, retention
and access; there nothing creates input topics.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

from moorage.adapters.kafka import KafkaLog
from moorage.api.compiler import CompiledPipeline
from moorage.api.operators import SinkOperator, SourceOperator
from moorage.config import KafkaSettings, load
from moorage.ports import TopicSpec
from moorage_service.wiring import kafka_log


def connect(bootstrap_servers: str) -> KafkaLog:
    """*Blocking.* A checked connection to these servers, with the options (TLS, SASL) that the services will use."""
    settings = replace(load(KafkaSettings, os.environ), bootstrap_servers=bootstrap_servers)
    return kafka_log(settings, "moorage-cli")


def topics_of(pipeline: CompiledPipeline) -> list[str]:
    """Every input, dead-letter and output topic, once each, inputs first."""
    sources = [operator.source for operator in pipeline.operators.values() if isinstance(operator, SourceOperator)]
    names = [topic for source in sources for topic in source.topics]
    names += [source.dead_letter_topic for source in sources if source.dead_letter_topic is not None]
    names += [operator.sink.topic for operator in pipeline.operators.values() if isinstance(operator, SinkOperator)]
    return list(dict.fromkeys(names))


def create_missing(log: KafkaLog, names: Collection[str], partitions: int) -> list[str]:
    """*Blocking.* Create those of the topics that don't exist, with the broker's own settings; returns their names."""
    present = log.topics()
    missing = [name for name in names if name not in present]
    log.create_topics([TopicSpec(name, partitions, {}) for name in missing])
    return missing
