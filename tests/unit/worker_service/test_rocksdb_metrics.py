"""What a worker exports of its state in RocksDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.unit.backends.backends import SMALL, change, rocksdb

from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.ids import CheckpointId
from moorage_worker.rocksdb_metrics import BACKEND_METRICS, MEMORY_METRICS, RocksDbCollector

LABELS = {"job_name": "job", "vertex": "vertex", "subtask": "0"}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[RocksDbEnvironment]:
    environment = RocksDbEnvironment(tmp_path, SMALL)
    yield environment
    environment.close()


def test_every_metric_in_the_lists_is_exported_and_tells_of_the_backend(environment: RocksDbEnvironment) -> None:
    registry = CollectorRegistry()
    registry.register(RocksDbCollector(environment))
    backend = rocksdb(environment)()
    change(backend, [f"key-{i}" for i in range(300)])
    backend.snapshot(CheckpointId(1), CheckpointId(0)).encode()
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert names == {metric.name for metric in (*MEMORY_METRICS, *BACKEND_METRICS)}
    assert registry.get_sample_value("moorage_rocksdb_entries", LABELS) == 300
    assert (registry.get_sample_value("moorage_rocksdb_table_bytes", LABELS) or 0) > 1_000
    assert registry.get_sample_value("moorage_rocksdb_row_cache_misses_total", LABELS) == 300
    assert registry.get_sample_value("moorage_rocksdb_block_cache_capacity_bytes") == SMALL.rocksdb_bytes
    backend.close()
    assert registry.get_sample_value("moorage_rocksdb_entries", LABELS) is None


def test_a_backend_without_rows_has_its_series(environment: RocksDbEnvironment) -> None:
    registry = CollectorRegistry()
    registry.register(RocksDbCollector(environment))
    backend = rocksdb(environment)()
    assert registry.get_sample_value("moorage_rocksdb_live_bytes", LABELS) == 0
    backend.close()
