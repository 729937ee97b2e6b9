"""From settings to adapters."""

from __future__ import annotations

from moorage.adapters.object_storage import ObjectStorage
from moorage.adapters.redis_registry import RedisRegistry

from moorage.adapters.kafka import KafkaLog
from moorage.config import KafkaSettings, RedisSettings, StorageSettings

_CONNECT_TIMEOUT_MS = 30_000


def kafka_log(settings: KafkaSettings, client_id: str) -> KafkaLog:
    """*Blocking.* Connected and checked: LogUnavailableError names the brokers that do not answer."""
    log = KafkaLog(
        settings.bootstrap_servers,
        client_id=client_id,
        common=dict(settings.options),
        consumer=dict(settings.consumer_options),
        producer=dict(settings.producer_options),
    )
    log.check(_CONNECT_TIMEOUT_MS)
    return log


def object_storage(settings: StorageSettings) -> ObjectStorage:
    return ObjectStorage(settings.checkpoint_dir)


def redis_registry(settings: RedisSettings) -> RedisRegistry:
    return RedisRegistry(settings.url)
