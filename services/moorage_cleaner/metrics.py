"""Prometheus metrics of a cleaner. ``METRICS`` is the one list of them; docs and dashboards are held against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moorage.cleaner.classify import Verdict
from moorage.cleaner_process.observer import CleanerObserver
from moorage.errors import CorruptDataError, FencedError, LogError, MoorageError, RegistryError, StorageError
from moorage.ids import JobId
from moorage.ports import Clock
from moorage_service.metrics import Metric
from moorage_service.runtime import LoopTime

_ERROR_KINDS: Mapping[type[MoorageError], str] = {
    CorruptDataError: "metadata",
    StorageError: "storage",
    RegistryError: "registry",
    FencedError: "registry",
    LogError: "log",
}
_DURATIONS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3_600.0)


METRICS: Sequence[Metric] = (
    Metric(
        "moorage_cleaner_files_deleted_total",
        "counter",
        "Files deleted by kind: subsumed or aborted (of such checkpoints), orphan (nobody ever told of them), claimed"
        " (of a savepoint that the job was started from), unfinished (uploads; their bytes are not known).",
        ("kind",),
    ),
    Metric("moorage_cleaner_bytes_deleted_total", "counter", "Bytes of these files.", ("kind",)),
    Metric("moorage_cleaner_log_offsets_trimmed_total", "counter", "Offsets cut from the beginning of exchange logs."),
    Metric(
        "moorage_cleaner_log_bytes_trimmed_total",
        "counter",
        "Bytes of these frames before compression, estimated from some of them: Kafka does not tell what it deletes.",
    ),
    Metric("moorage_cleaner_topics_deleted_total", "counter", "Topics of purged jobs deleted."),
    Metric("moorage_cleaner_backlog_files", "gauge", "Files that were found to go and are still there."),
    Metric("moorage_cleaner_backlog_bytes", "gauge", "Bytes of these files."),
    Metric(
        "moorage_cleaner_oldest_candidate_age_seconds",
        "gauge",
        "Age of the oldest file that was found to go and is still there; 0: there is none.",
    ),
    Metric(
        "moorage_cleaner_last_full_sweep_timestamp_seconds",
        "gauge",
        "Since then every job's manifests were read anew and all its files listed; a job that fails holds it back.",
    ),
    Metric("moorage_cleaner_job_seconds", "histogram", "Cleaning one job once, without errors."),
    Metric(
        "moorage_cleaner_errors_total",
        "counter",
        "Errors by what failed: metadata (it can't be read, so nothing of that job is deleted), storage, registry,"
        " log, message (of the cleanup topic; it is skipped) or other.",
        ("kind",),
    ),
    Metric("moorage_cleaner_loop_busy_seconds_total", "counter", "Time that the loop was not waiting."),
)


class CleanerMetrics(CleanerObserver):
    """Called from the loop; ages and times of the loop are computed when they are scraped."""

    def __init__(self, registry: CollectorRegistry, loop_time: LoopTime, clock: Clock) -> None:
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for name, kind, doc, labels in METRICS:
            match kind:
                case "counter":
                    self._counters[name] = Counter(name, doc, labels, registry=registry)
                case "gauge":
                    self._gauges[name] = Gauge(name, doc, labels, registry=registry)
                case "histogram":
                    self._histograms[name] = Histogram(name, doc, labels, buckets=_DURATIONS_S, registry=registry)
        self._oldest_ms: int | None = None
        self._clock = clock
        self._gauges["moorage_cleaner_oldest_candidate_age_seconds"].set_function(self._oldest_age_s)
        self._loop_time = loop_time
        self._counted_busy_ns = 0

    def update(self) -> None:
        """Set what is looked up instead of reported; now and then."""
        busy_ns = self._loop_time.busy_ns
        self._count("moorage_cleaner_loop_busy_seconds_total", amount=(busy_ns - self._counted_busy_ns) / 1e9)
        self._counted_busy_ns = busy_ns

    def files_deleted(self, verdict: Verdict, files: int, size_bytes: int) -> None:
        self._count("moorage_cleaner_files_deleted_total", verdict.reason, amount=files)
        self._count("moorage_cleaner_bytes_deleted_total", verdict.reason, amount=size_bytes)

    def log_trimmed(self, offsets: int, size_bytes: int) -> None:
        self._count("moorage_cleaner_log_offsets_trimmed_total", amount=offsets)
        self._count("moorage_cleaner_log_bytes_trimmed_total", amount=size_bytes)

    def topics_deleted(self, topics: int) -> None:
        self._count("moorage_cleaner_topics_deleted_total", amount=topics)

    def backlog_changed(self, files: int, size_bytes: int, oldest_ms: int | None) -> None:
        self._gauges["moorage_cleaner_backlog_files"].set(files)
        self._gauges["moorage_cleaner_backlog_bytes"].set(size_bytes)
        self._oldest_ms = oldest_ms

    def job_cleaned(self, job: JobId, duration_ms: int) -> None:
        self._histograms["moorage_cleaner_job_seconds"].observe(duration_ms / 1e3)

    def all_swept(self, wall_ms: int) -> None:
        self._gauges["moorage_cleaner_last_full_sweep_timestamp_seconds"].set(wall_ms / 1e3)

    def job_failed(self, job: JobId, error: Exception) -> None:
        self._failed(error)

    def uploads_failed(self, job: JobId, error: Exception) -> None:
        self._failed(error)

    def failed(self, error: Exception) -> None:
        self._failed(error)

    def message_rejected(self, error: Exception) -> None:
        self._count("moorage_cleaner_errors_total", "message")

    def _failed(self, error: Exception) -> None:
        kind = next((kind for cls, kind in _ERROR_KINDS.items() if isinstance(error, cls)), "other")
        self._count("moorage_cleaner_errors_total", kind)

    def _oldest_age_s(self) -> float:
        return 0.0 if self._oldest_ms is None else (self._clock.wall_ms() - self._oldest_ms) / 1e3

    def _count(self, name: str, *labels: str, amount: float = 1) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)
