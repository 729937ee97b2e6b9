"""Settings, declared once: name, type, default, check and doc. Nothing else reads the environment.

A service calls ``load`` once for each class that it needs, at its start, and hands the objects on.
"""

from moorage.config.declaration import Options, Secret
from moorage.config.loader import load
from moorage.config.settings import (
    CleanerSettings,
    CommandLineSettings,
    CoordinatorSettings,
    KafkaSettings,
    RedisSettings,
    ServiceSettings,
    StorageSettings,
    WorkerSettings,
)

__all__ = [
    "CleanerSettings",
    "CommandLineSettings",
    "CoordinatorSettings",
    "KafkaSettings",
    "Options",
    "RedisSettings",
    "Secret",
    "ServiceSettings",
    "StorageSettings",
    "WorkerSettings",
    "load",
]
