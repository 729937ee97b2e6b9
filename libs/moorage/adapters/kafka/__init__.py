"""The ``Log`` port on Apache Kafka, through confluent-kafka (librdkafka)."""

from moorage.adapters.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
