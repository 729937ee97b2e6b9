"""Metrics of the state that a worker keeps in RocksDB, read when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from moorage.backends.rocksdb_environment import RocksDbEnvironment


class RocksDbMetric(NamedTuple):
    name: str
    """With ``_total`` for counters, as Prometheus shows it."""
    kind: Literal["counter", "gauge"]
    doc: str
    figure: str
    """Of a backend (``RocksDbKeyedBackend.figures``) or of the worker (``RocksDbEnvironment.memory``)."""


BACKEND_LABELS = ("job_name", "vertex", "subtask")

BACKEND_METRICS = (
    RocksDbMetric("moorage_rocksdb_live_bytes", "gauge", "Data without what was overwritten, estimated.", "live_bytes"),
    RocksDbMetric("moorage_rocksdb_table_bytes", "gauge", "Tables on the local disk.", "table_bytes"),
    RocksDbMetric("moorage_rocksdb_entries", "gauge", "Rows and entries of states, estimated.", "entries"),
    RocksDbMetric("moorage_rocksdb_memtable_bytes", "gauge", "Memtables that are not flushed.", "memtable_bytes"),
    RocksDbMetric(
        "moorage_rocksdb_pending_compaction_bytes",
        "gauge",
        "What compactions have to rewrite until the tables are in order, estimated.",
        "pending_compaction_bytes",
    ),
    RocksDbMetric("moorage_rocksdb_running_compactions", "gauge", "Compactions under way.", "running_compactions"),
    RocksDbMetric(
        "moorage_rocksdb_background_errors_total",
        "counter",
        "Flushes and compactions that failed.",
        "background_errors",
    ),
    RocksDbMetric(
        "moorage_rocksdb_row_cache_hits_total",
        "counter",
        "Keys of batches whose row was in memory, decoded.",
        "cache_hits",
    ),
    RocksDbMetric(
        "moorage_rocksdb_row_cache_misses_total",
        "counter",
        "Keys of batches that were looked for in RocksDB, new ones too.",
        "cache_misses",
    ),
)

MEMORY_METRICS = (
    RocksDbMetric(
        "moorage_rocksdb_block_cache_bytes",
        "gauge",
        "Block cache in use by all instances of the worker; memtables, indexes and filters count in it.",
        "block_cache",
    ),
    RocksDbMetric(
        "moorage_rocksdb_block_cache_capacity_bytes",
        "gauge",
        "What the block cache may take: half of MOORAGE_WORKER_STATE_MEMORY_BYTES.",
        "block_cache_capacity",
    ),
)


class RocksDbCollector(Collector):
    """Series of a backend are there while it is open."""

    def __init__(self, environment: RocksDbEnvironment) -> None:
        self._environment = environment

    def collect(self) -> Iterator[Any]:
        memory = self._environment.memory()
        for metric in MEMORY_METRICS:
            yield GaugeMetricFamily(metric.name, metric.doc, value=memory[metric.figure])
        figures = [(member.owner, member.figures()) for member in self._environment.members()]
        for metric in BACKEND_METRICS:
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.doc, labels=BACKEND_LABELS)
            for owner, values in figures:
                family.add_metric([owner.job, owner.vertex, str(owner.subtask)], values[metric.figure])
            yield family
