"""The values of a coordinator's Prometheus metrics; ``metric_list`` says which there are."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moorage.checkpoint.notices import (
    CheckpointAborted,
    CheckpointCompleted,
    CheckpointTriggered,
    HooksNotClosed,
    OperatorCoordinatorNotClosed,
    SavepointNotDeleted,
)
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.stats import CheckpointSummary, Distribution
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import (
    AttemptFailed,
    AttemptRunning,
    AttemptStarted,
    CheckpointUnreadable,
    JobRebuilt,
    JobStatusChanged,
    JobUnknown,
    JobWaiting,
    LeadershipChanged,
    LeaderState,
    LogReachability,
    MessageDropped,
    RecoveryPhaseEnded,
    SinksCommitted,
    WorkerGone,
    WorkerJoined,
)
from moorage.cluster.views import JobCounts
from moorage.coordinator_process.process import MalformedMessage, MessageLost
from moorage.effects import CallRepeated, Notice
from moorage.ids import JobId
from moorage.messages.registry import JobStatus
from moorage_coordinator.metric_list import METRICS
from moorage_service.runtime import LoopTime

_DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)

_OF_LIVE_JOBS = (
    "moorage_checkpoints_in_progress",
    "moorage_checkpoint_interval_seconds",
    "moorage_checkpoint_timeout_seconds",
    "moorage_checkpoint_last_completed_id",
    "moorage_checkpoint_last_completed_timestamp_seconds",
    "moorage_checkpoint_last_state_bytes",
    "moorage_checkpoint_restored_id",
    "moorage_checkpoint_restored_timestamp_seconds",
    "moorage_checkpoint_last_failed_id",
    "moorage_checkpoint_last_failed_timestamp_seconds",
    "moorage_checkpoint_last_savepoint_id",
    "moorage_checkpoint_last_savepoint_timestamp_seconds",
    "moorage_checkpoint_duration_summary_seconds",
    "moorage_checkpoint_size_summary_bytes",
    "moorage_sink_commits_heard_timestamp_seconds",
)
_OF_JOBS = frozenset(metric.name for metric in METRICS if "job_name" in metric.labels)
LEFT_JOB_SHOWN_S = 600.0
"""How long the counters of a job are shown when it lives here no more: it has ended, or another coordinator leads. Long
enough for every scrape to see how it ended; without an end, each name that was ever used would stay in memory."""
_SIZES = ("written", "state", "held", "processed", "persisted")
_STATISTICS = ("min", "max", "avg", "p50", "p90", "p95", "p99", "p999")
"""In the order of ``stats.Distribution``."""


class CoordinatorMetrics:
    """Called from the loop."""

    def __init__(self, registry: CollectorRegistry, loop_time: LoopTime) -> None:
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
        self._loop_time = loop_time
        self._counted_busy_ns = 0
        self._live_jobs: set[JobId] = set()
        self._spoken_of: set[JobId] = set()
        """Since the last update, by notices."""
        self._left_s: dict[JobId, float] = {}
        """When jobs that are still shown were first seen to live here no more."""
        self._summaries: dict[JobId, CheckpointSummary] = {}
        """As they are shown."""
        self._gauges["moorage_coordinator_log_reachable"].set(1)

    def update(self, core: CoordinatorCore, now_s: float, events_delay_ms: int = 0) -> None:
        """Set what is looked up instead of reported; now and then. ``now_s``: of any clock that only goes forward."""
        counts = core.counts()
        self._set("moorage_coordinator_heartbeat_age_seconds", counts.silence_ms / 1e3)
        self._set("moorage_coordinator_events_delay_seconds", events_delay_ms / 1e3)
        self._update_jobs(counts.live_jobs, now_s)
        self._forget_left(now_s)
        self._set("moorage_coordinator_is_leader", core.state is LeaderState.LEADING)
        self._set("moorage_coordinator_epoch", core.epoch)
        self._set("moorage_coordinator_workers", counts.workers)
        self._set("moorage_coordinator_slots", counts.slots)
        self._set("moorage_coordinator_slots_free", counts.free_slots)
        for status in JobStatus:
            self._set("moorage_coordinator_jobs", counts.jobs.get(status, 0), status.value)
        busy_ns = self._loop_time.busy_ns
        self._count("moorage_coordinator_loop_busy_seconds_total", amount=(busy_ns - self._counted_busy_ns) / 1e9)
        self._counted_busy_ns = busy_ns

    def _update_jobs(self, jobs: Mapping[JobId, JobCounts], now_s: float) -> None:
        """Jobs that have ended, and all of them at a coordinator that leads no more, have no gauges any longer."""
        left = (self._live_jobs | self._spoken_of) - jobs.keys()
        self._spoken_of.clear()
        for job in left:
            self._left_s.setdefault(job, now_s)
            self._summaries.pop(job, None)
            for name in _OF_LIVE_JOBS:
                self._gauges[name].remove_by_labels({"job_name": job})
        for job in jobs.keys() - self._live_jobs:
            self._left_s.pop(job, None)
            self._start_at_zero(job)
        self._live_jobs = set(jobs)
        for job, counts in jobs.items():
            self._set("moorage_checkpoints_in_progress", counts.in_progress, job)
            self._set("moorage_checkpoint_interval_seconds", counts.checkpoint_interval_ms / 1e3, job)
            self._set("moorage_checkpoint_timeout_seconds", counts.checkpoint_timeout_ms / 1e3, job)
            self._set("moorage_checkpoint_last_completed_timestamp_seconds", counts.completed_ms / 1e3, job)
            if (last := counts.last_completed) is not None:
                self._set("moorage_checkpoint_last_completed_id", last.checkpoint, job)
                self._set("moorage_checkpoint_last_state_bytes", last.state_bytes, job)
            if (restored := counts.restored) is not None:
                self._set("moorage_checkpoint_restored_id", restored.checkpoint, job)
                self._set("moorage_checkpoint_restored_timestamp_seconds", restored.restored_ms / 1e3, job)
            if (failed := counts.failed) is not None:
                self._set("moorage_checkpoint_last_failed_id", failed.checkpoint, job)
                self._set("moorage_checkpoint_last_failed_timestamp_seconds", (failed.failed_ms or 0) / 1e3, job)
            if (savepoint := counts.savepoint) is not None:
                self._set("moorage_checkpoint_last_savepoint_id", savepoint.checkpoint, job)
                self._set("moorage_checkpoint_last_savepoint_timestamp_seconds", savepoint.triggered_ms / 1e3, job)
            self._summarise(job, counts.summary)

    def _forget_left(self, now_s: float) -> None:
        for job in [job for job, left_s in self._left_s.items() if now_s - left_s >= LEFT_JOB_SHOWN_S]:
            del self._left_s[job]
            for families in (self._counters, self._gauges, self._histograms):
                for name in _OF_JOBS & families.keys():
                    families[name].remove_by_labels({"job_name": job})

    def _summarise(self, job: JobId, summary: CheckpointSummary) -> None:
        """Only what has changed: a summary is made anew when a checkpoint is completed."""
        if self._summaries.get(job) is summary:
            return
        self._summaries[job] = summary
        if summary.duration_ms is not None:
            for statistic, value_ms in zip(_STATISTICS, summary.duration_ms, strict=True):
                self._set("moorage_checkpoint_duration_summary_seconds", value_ms / 1e3, job, statistic)
        for measure in _SIZES:
            sizes: Distribution | None = getattr(summary, f"{measure}_bytes")
            for statistic, value in zip(_STATISTICS, sizes or (), strict=sizes is not None):
                self._set("moorage_checkpoint_size_summary_bytes", value, job, measure, statistic)

    def _start_at_zero(self, job: JobId) -> None:
        """A counter that appears with its first event has not increased, as Prometheus sees it."""
        self._count("moorage_checkpoints_total", job, "completed", "", amount=0)
        for reason in CheckpointFailureReason:
            self._count("moorage_checkpoints_total", job, "failed", reason.label, amount=0)
        for name in ("started", "failed"):
            self._count(f"moorage_coordinator_attempts_{name}_total", job, amount=0)
        self._count("moorage_checkpoints_unreadable_total", job, amount=0)

    def call(self, operation: str, duration_ms: int, ok: bool) -> None:
        """A call has ended."""
        self._observe("moorage_coordinator_call_seconds", duration_ms / 1e3, operation)
        self._count("moorage_coordinator_calls_failed_total", operation, amount=not ok)

    def notice(self, notice: Notice) -> None:
        if (job := getattr(notice, "job", None)) is not None:
            self._spoken_of.add(job)
        match notice:
            case CheckpointTriggered(job=job):
                self._count("moorage_checkpoints_triggered_total", job)
            case CheckpointCompleted(job=job):
                self._completed(notice)
            case CheckpointAborted(job=job, checkpoint=checkpoint, reason=reason):
                outcome = "refused" if checkpoint is None else "failed"
                self._count("moorage_checkpoints_total", job, outcome, reason.label)
            case JobWaiting(job=job):
                self._count("moorage_coordinator_job_waits_total", job)
            case CheckpointUnreadable(job=job):
                self._count("moorage_checkpoints_unreadable_total", job)
            case SavepointNotDeleted(job=job):
                self._count("moorage_checkpoint_savepoints_left_total", job)
            case HooksNotClosed():
                self._count("moorage_coordinator_not_closed_total", "hooks")
            case OperatorCoordinatorNotClosed():
                self._count("moorage_coordinator_not_closed_total", "operator_coordinator")
            case SinksCommitted(job=job, committed_ms=committed_ms):
                self._set("moorage_sink_commits_heard_timestamp_seconds", committed_ms / 1e3, job)
            case LeadershipChanged(state=state):
                self._count("moorage_coordinator_elections_total", amount=state is LeaderState.LOADING)
            case WorkerJoined():
                self._count("moorage_coordinator_workers_joined_total")
            case WorkerGone():
                self._count("moorage_coordinator_workers_gone_total")
            case JobStatusChanged(job=job, status=status):
                self._count("moorage_coordinator_job_status_changes_total", job, status.value)
            case AttemptStarted(job=job, restored=restored, restored_from=restored_from):
                self._count("moorage_coordinator_attempts_started_total", job)
                is_restored = restored is not None or restored_from is not None
                self._count("moorage_checkpoints_restored_total", job, amount=is_restored)
            case AttemptFailed(job=job):
                self._count("moorage_coordinator_attempts_failed_total", job)
            case RecoveryPhaseEnded(job=job, phase=phase, duration_ms=duration_ms):
                self._observe("moorage_coordinator_recovery_phase_seconds", duration_ms / 1e3, job, phase)
            case AttemptRunning(job=job, recovery_ms=recovery_ms):
                if recovery_ms is not None:
                    self._observe("moorage_coordinator_recovery_seconds", recovery_ms / 1e3, job)
            case MessageDropped(kind=kind, reason=dropped):
                self._count("moorage_coordinator_messages_dropped_total", kind, dropped.value)
            case JobRebuilt():
                self._count("moorage_coordinator_jobs_rebuilt_total")
            case JobUnknown():
                self._count("moorage_coordinator_jobs_unknown_total")
            case MalformedMessage(topic=topic):
                self._count("moorage_coordinator_messages_malformed_total", topic)
            case MessageLost(kind=kind):
                self._count("moorage_coordinator_messages_lost_total", kind)
            case LogReachability(reachable=reachable):
                self._set("moorage_coordinator_log_reachable", reachable)
            case CallRepeated(operation=operation):
                self._count("moorage_coordinator_calls_repeated_total", operation)
            case _:
                raise TypeError(f"no metric for {notice}")

    def _completed(self, notice: CheckpointCompleted) -> None:
        job, metrics = notice.job, notice.stats.metrics
        self._count("moorage_checkpoints_total", job, "completed", "")
        self._count("moorage_checkpoint_written_bytes_total", job, amount=metrics.written_bytes)
        self._count("moorage_checkpoint_held_bytes_total", job, amount=metrics.held_bytes)
        self._count("moorage_checkpoint_processed_bytes_total", job, amount=metrics.processed_bytes)
        self._count("moorage_checkpoint_persisted_bytes_total", job, amount=metrics.persisted_bytes)
        self._observe("moorage_checkpoint_duration_seconds", notice.stats.duration_ms / 1e3, job)
        self._observe("moorage_checkpoint_start_delay_seconds", metrics.start_delay_ms / 1e3, job)
        self._observe("moorage_checkpoint_alignment_seconds", metrics.alignment_ms / 1e3, job)
        self._observe("moorage_checkpoint_sync_seconds", metrics.sync_ms / 1e3, job)
        self._observe("moorage_checkpoint_async_seconds", metrics.async_ms / 1e3, job)
        if (hooks := notice.stats.hooks) is not None:
            self._observe("moorage_checkpoint_hooks_seconds", hooks.duration_ms / 1e3, job)
        if coordinators := notice.stats.coordinators.values():
            longest_ms = max(one.duration_ms for one in coordinators)
            self._observe("moorage_checkpoint_operator_coordinators_seconds", longest_ms / 1e3, job)

    def _count(self, name: str, *labels: str, amount: float = 1) -> None:
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def _set(self, name: str, value: float, *labels: str) -> None:
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def _observe(self, name: str, value: float, *labels: str) -> None:
        histogram = self._histograms[name]
        (histogram.labels(*labels) if labels else histogram).observe(value)
