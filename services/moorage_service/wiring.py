"""From settings to adapters."""

from __future__ import annotations

from urllib.parse import urlencode

from moorage.adapters.clock import SystemClock
from moorage.adapters.kafka import KafkaLog
from moorage.adapters.object_storage import check_storage, open_storage
from moorage.adapters.redis_registry import RedisRegistry
from moorage.config import KafkaSettings, RedisSettings, StorageSettings
from moorage.errors import ObjectMissingError, RegistryUnavailableError, StorageError
from moorage.locations import LocatedStorage
from moorage.ports import CheckpointStorage, Registry
from moorage.testing.memory_registry import MemoryRegistry

MEMORY_URL = "memory:"
_CONNECT_TIMEOUT_MS = 30_000


def kafka_log(settings: KafkaSettings, client_id: str) -> KafkaLog:
    """*Blocking.* Connected and checked: LogUnavailableError names the brokers that do not answer."""
    log = connected_log(settings, client_id)
    log.check(_CONNECT_TIMEOUT_MS)
    return log


def connected_log(settings: KafkaSettings, client_id: str) -> KafkaLog:
    """Not checked: it connects in the background."""
    return KafkaLog(
        settings.bootstrap_servers,
        client_id=client_id,
        common=dict(settings.options),
        consumer=dict(settings.consumer_options),
        producer=dict(settings.producer_options),
    )


def open_checkpoint_storage(settings: StorageSettings) -> CheckpointStorage:
    """*Blocking.* Opened and checked: StorageError says why it can't be used. Savepoints may lie at any URL."""
    storage = open_storage(settings.url)
    check_storage(storage, settings.url)
    return LocatedStorage(storage, open_storage)


def present_checkpoint_storage(settings: StorageSettings) -> CheckpointStorage:
    """*Blocking.* The same for commands that work on what services have written: a folder that is not there is the
    wrong one (StorageError), so it is not made."""
    try:
        storage = open_storage(settings.url, create=False)
    except ObjectMissingError:
        raise StorageError(
            f"there is no checkpoint storage at {settings.checkpoint_dir}: set MOORAGE_CHECKPOINT_DIR to that of the"
            " services"
        ) from None
    check_storage(storage, settings.url)
    return LocatedStorage(storage, open_storage)


def coordinator_registry(settings: RedisSettings) -> Registry:
    """*Blocking.* ``redis_registry``, or one in this process's memory (Flink: StandaloneCompletedCheckpointStore)."""
    return MemoryRegistry(SystemClock()) if settings.url == MEMORY_URL else redis_registry(settings)


def redis_registry(settings: RedisSettings) -> RedisRegistry:
    """*Blocking.* Connected and checked: RegistryUnavailableError names the Redis that does not answer."""
    url = settings.url
    if url == MEMORY_URL:
        raise settings.refuse("url", "must name a Redis: a registry in the coordinator's memory is nobody else's")
    if settings.options:
        # In the query of the URL, redis-py gives every option the type that it needs.
        url += ("&" if "?" in url else "?") + urlencode(dict(settings.options))
    password = {} if settings.password is None else {"password": settings.password.reveal()}
    registry = RedisRegistry(url, namespace=settings.namespace, timeout_ms=settings.socket_timeout_ms, options=password)
    try:
        registry.check()
    except RegistryUnavailableError as error:
        raise RegistryUnavailableError(f"{error} (MOORAGE_REDIS_URL names it)") from error
    return registry
