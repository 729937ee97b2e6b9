"""Every metric of every service, and docs/metrics.md: ``python -m moorage_cli.metrics_page > docs/metrics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import moorage_cleaner.metrics
import moorage_coordinator.metric_list
import moorage_worker.metrics
from moorage_worker import rocksdb_metrics

_INTRODUCTION = """\
# Metrics

Each service serves these for Prometheus at `/metrics` of its `MOORAGE_METRICS_PORT`. Times are in seconds, sizes in
bytes. The label `job_name` is Moorage's job (Prometheus has another use for `job`), `vertex` an operator with all that
is chained to it, `subtask` its number from 0 on. Besides these there are prometheus-client's own about the process
(`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds`, ...).

Only the coordinator that leads has the metrics of jobs. The dashboards in `grafana/` and the alert rules in
`compose/prometheus/` use no others.

<!-- Written by python -m moorage_cli.metrics_page; change the lists in the services' metrics.py, not this file. -->
"""


class MetricEntry(NamedTuple):
    name: str
    """As Prometheus shows it; of a histogram without ``_bucket``, ``_sum`` and ``_count``."""
    kind: str
    labels: tuple[str, ...]
    doc: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        return (
            tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count")) if self.is_histogram else (self.name,)
        )

    @property
    def plain_name(self) -> str:
        """Without what says that it is a counter, as OpenMetrics names it."""
        return self.name.removesuffix("_total")

    @property
    def is_histogram(self) -> bool:
        return self.kind == "histogram"


def _worker() -> Iterator[MetricEntry]:
    worker = moorage_worker.metrics
    for name, doc in worker.GAUGES.items():
        yield MetricEntry(name, "gauge", (), doc)
    yield MetricEntry(worker.BUSY, "counter", (), worker.BUSY_DOC)
    yield MetricEntry(worker.STEP, "gauge", (), worker.STEP_DOC)
    for metric in worker.WORKER_METRICS:
        yield MetricEntry(metric.name, metric.kind, (), metric.doc)
    for metric in worker.TASK_METRICS:
        yield MetricEntry(metric.name, metric.kind, worker.TASK_LABELS, metric.doc)
    for kept in rocksdb_metrics.MEMORY_METRICS:
        yield MetricEntry(kept.name, kept.kind, (), kept.doc)
    for kept in rocksdb_metrics.BACKEND_METRICS:
        yield MetricEntry(kept.name, kept.kind, rocksdb_metrics.BACKEND_LABELS, kept.doc)


METRICS: dict[str, Sequence[MetricEntry]] = {
    "Coordinator": [MetricEntry(m.name, m.kind, m.labels, m.doc) for m in moorage_coordinator.metric_list.METRICS],
    "Worker": list(_worker()),
    "Cleaner": [MetricEntry(m.name, m.kind, m.labels, m.doc) for m in moorage_cleaner.metrics.METRICS],
}
"""By service."""


def page() -> str:
    return "\n".join(
        [_INTRODUCTION, *(line for service, entries in METRICS.items() for line in _section(service, entries))]
    )


def _section(service: str, entries: Sequence[MetricEntry]) -> Iterator[str]:
    yield f"## {service}\n"
    yield "| metric | kind | labels | meaning |"
    yield "|---|---|---|---|"
    for entry in entries:
        labels = ", ".join(f"`{label}`" for label in entry.labels)
        yield f"| `{entry.name}` | {entry.kind} | {labels} | {entry.doc} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
