"""State that workers keep in RocksDB: a row of the pipeline's dashboard."""

from __future__ import annotations

from grafana.common import JOB, RATE
from grafana.model import Query, Row, graph


def _by_subtask(metric: str) -> Query:
    return Query(f"sum by (vertex, subtask) ({metric}{{{JOB}}})", "{{vertex}}/{{subtask}}")


def _rate(metric: str) -> str:
    return f"sum(rate({metric}{{{JOB}}}{RATE}))"


ROCKSDB = Row(
    "State in RocksDB",
    [
        graph(
            "Tables on local disks",
            "By subtask. More than the live data by a half or more: compactions are behind.",
            "bytes",
            _by_subtask("moorage_rocksdb_table_bytes"),
            Query(f"sum(moorage_rocksdb_live_bytes{{{JOB}}})", "live data, all together"),
        ),
        graph(
            "Rows and entries",
            "Estimated, by subtask. Growing without end: keys or entries are never removed; give states a ttl.",
            "none",
            _by_subtask("moorage_rocksdb_entries"),
        ),
        graph(
            "Row cache",
            "Share of the keys of batches whose row was in memory. Low: every record is read from RocksDB, which takes"
            " several times as long; more MOORAGE_WORKER_STATE_MEMORY_BYTES may help.",
            "percentunit",
            Query(
                f"{_rate('moorage_rocksdb_row_cache_hits_total')} / ({_rate('moorage_rocksdb_row_cache_hits_total')}"
                f" + {_rate('moorage_rocksdb_row_cache_misses_total')})",
                "hits",
            ),
        ),
        graph(
            "Memory",
            "Block cache of each worker against what it may take, and the memtables in it. It is normal that it is"
            " full; decoded rows come on top of it.",
            "bytes",
            Query("moorage_rocksdb_block_cache_bytes", "{{instance}} block cache"),
            Query("moorage_rocksdb_block_cache_capacity_bytes", "{{instance}} limit"),
            Query(f"sum(moorage_rocksdb_memtable_bytes{{{JOB}}})", "memtables, all together"),
        ),
        graph(
            "Compactions",
            "What has to be rewritten. Growing without end: the disk or the processor is too slow for the changes.",
            "bytes",
            _by_subtask("moorage_rocksdb_pending_compaction_bytes"),
        ),
        graph(
            "Compactions running, and failures",
            "Failed flushes and compactions: normal is 0; otherwise the local disk is full or broken, and the subtask"
            " will fail.",
            "none",
            Query(f"sum(moorage_rocksdb_running_compactions{{{JOB}}})", "running"),
            Query(f"sum(increase(moorage_rocksdb_background_errors_total{{{JOB}}}{RATE}))", "failed"),
        ),
    ],
)
