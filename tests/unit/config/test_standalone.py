"""A coordinator that keeps the registry in its own memory: no Redis, and jobs come back from the storage."""

from __future__ import annotations

import pytest

from moorage.config import RedisSettings, load
from moorage.errors import SettingError
from moorage.testing.memory_registry import MemoryRegistry
from moorage_service.wiring import coordinator_registry, redis_registry


def test_memory_needs_no_redis() -> None:
    settings = load(RedisSettings, {"MOORAGE_REDIS_URL": "memory:"})
    assert isinstance(coordinator_registry(settings), MemoryRegistry)


def test_who_is_no_coordinator_needs_a_redis() -> None:
    settings = load(RedisSettings, {"MOORAGE_REDIS_URL": "memory:"})
    with pytest.raises(SettingError, match="MOORAGE_REDIS_URL=memory:: must name a Redis"):
        redis_registry(settings)
