"""Prometheus metrics of a worker, read from its counters when they are scraped: the loop pays nothing for them.

``METRICS`` is the one list of them; docs/metrics.md and the dashboards' tests are made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from moorage.task.context import TaskContext
from moorage.task.worker import WorkerProcess
from moorage_service.runtime import LoopTime


class Metric(NamedTuple):
    name: str
    """With ``_total`` for counters, as Prometheus shows it."""
    kind: Literal["counter", "gauge"]
    doc: str
    counter: str
    """Attribute of the counters it is read from; a path with dots goes through their fields."""
    scale: float = 1.0


TASK_LABELS = ("job_name", "vertex", "subtask")

TASK_METRICS = (
    Metric("moorage_task_records_in_total", "counter", "Records that the subtask has read.", "records_in"),
    Metric("moorage_task_records_out_total", "counter", "Records that the subtask has written.", "records_out"),
    Metric("moorage_task_bytes_in_total", "counter", "Bytes of frames read from exchanges.", "bytes_in"),
    Metric("moorage_task_bytes_out_total", "counter", "Bytes of frames written to exchanges.", "bytes_out"),
    Metric("moorage_task_frames_in_total", "counter", "Frames read from exchanges.", "frames_in"),
    Metric(
        "moorage_task_frames_void_total",
        "counter",
        "Frames skipped because they are not part of the history that counts: work after the barrier that a restart"
        " went back to, writes of zombies.",
        "frames_void",
    ),
    Metric(
        "moorage_task_frames_seen_total",
        "counter",
        "Frames skipped because they were processed already: read again after a seek or a restart.",
        "frames_seen",
    ),
    Metric(
        "moorage_task_frames_corrupt_total",
        "counter",
        "Frames skipped because they are not what was written (checksum, format): if one counted, the attempt ends as"
        " soon as it is missed, and the next one sends it again.",
        "frames_corrupt",
    ),
    Metric(
        "moorage_source_records_skipped_total",
        "counter",
        "Input records that could not be decoded and were skipped (on_error='skip').",
        "records_skipped",
    ),
    Metric(
        "moorage_source_records_dead_lettered_total",
        "counter",
        "Input records that could not be decoded and were sent to the dead-letter topic.",
        "records_dead_lettered",
    ),
    Metric(
        "moorage_source_lag_records",
        "gauge",
        "Input that the source has not read yet, as far as Kafka has told it; markers of transactions count, too.",
        "source_lag_records",
    ),
    Metric(
        "moorage_task_blocked_steps_total",
        "counter",
        "Turns of the loop in which the subtask read no input because a consumer or the broker lags too far behind.",
        "blocked_steps",
    ),
    Metric(
        "moorage_exchange_lag_frames",
        "gauge",
        "Own frames in the exchange that their consumers have not processed yet.",
        "lag_frames",
    ),
    Metric(
        "moorage_exchange_lag_bytes",
        "gauge",
        "Bytes of own frames in the exchange that their consumers have not processed yet.",
        "lag_bytes",
    ),
    Metric(
        "moorage_task_held_bytes",
        "gauge",
        "Bytes of frames held back in memory while barriers are aligned.",
        "held_bytes",
    ),
    Metric("moorage_sink_commits_total", "counter", "Transactions committed by the exactly-once sink.", "commits"),
    Metric(
        "moorage_sink_committed_checkpoint",
        "gauge",
        "Newest checkpoint whose output is committed.",
        "committed_checkpoint",
    ),
    Metric(
        "moorage_sink_last_commit_timestamp_seconds",
        "gauge",
        "When the exactly-once sink last committed, or found its output committed.",
        "committed_ms",
        1e-3,
    ),
    Metric(
        "moorage_sink_transactions_replayed_total",
        "counter",
        "Lost transactions that were written again from the exchange log.",
        "transactions_replayed",
    ),
    Metric(
        "moorage_sink_transactions_broken_total",
        "counter",
        "Transactions that were given up after an error and begun anew.",
        "broken_transactions",
    ),
    Metric(
        "moorage_task_restored_local_bytes_total",
        "counter",
        "Bytes of state that the subtask has restored from copies on its worker.",
        "restored_local_bytes",
    ),
    Metric(
        "moorage_task_restored_storage_bytes_total",
        "counter",
        "Bytes of state that the subtask has restored from the checkpoint storage.",
        "restored_storage_bytes",
    ),
    Metric(
        "moorage_task_checkpoint_acknowledged_id",
        "gauge",
        "Newest checkpoint that the subtask has acknowledged; the ones below are of that one.",
        "acknowledged_checkpoint",
    ),
    Metric(
        "moorage_task_checkpoint_acknowledged_timestamp_seconds",
        "gauge",
        "When it did; 0: it has acknowledged none.",
        "acknowledged_ms",
        1e-3,
    ),
    Metric(
        "moorage_task_checkpoint_start_delay_seconds",
        "gauge",
        "From the trigger to the subtask's first barrier.",
        "snapshot.start_delay_ms",
        1e-3,
    ),
    Metric(
        "moorage_task_checkpoint_alignment_seconds",
        "gauge",
        "From the first barrier to the last.",
        "snapshot.alignment_ms",
        1e-3,
    ),
    Metric(
        "moorage_task_checkpoint_sync_seconds",
        "gauge",
        "Synchronous part of the snapshot: the subtask processed nothing.",
        "snapshot.sync_ms",
        1e-3,
    ),
    Metric(
        "moorage_task_checkpoint_async_seconds",
        "gauge",
        "Asynchronous part of the snapshot: upload, and what was written confirmed by Kafka.",
        "snapshot.async_ms",
        1e-3,
    ),
    Metric(
        "moorage_task_checkpoint_held_bytes",
        "gauge",
        "Bytes of frames that were held back for the alignment.",
        "snapshot.held_bytes",
    ),
    Metric(
        "moorage_task_checkpoint_written_bytes",
        "gauge",
        "New bytes that the subtask wrote.",
        "snapshot.written_bytes",
    ),
    Metric(
        "moorage_task_checkpoint_state_bytes",
        "gauge",
        "Bytes of everything that the subtask's part of the checkpoint refers to.",
        "snapshot.state_bytes",
    ),
    Metric(
        "moorage_task_checkpoint_processed_bytes",
        "gauge",
        "Bytes of frames that were processed between the first barrier and the snapshot.",
        "snapshot.processed_bytes",
    ),
    Metric(
        "moorage_task_checkpoint_persisted_bytes",
        "gauge",
        "Bytes of frames in flight that the subtask's part of the checkpoint refers to in the exchange logs.",
        "snapshot.persisted_bytes",
    ),
)

WORKER_METRICS = (
    Metric("moorage_worker_commands_total", "counter", "Commands heard from the coordinator.", "commands"),
    Metric(
        "moorage_worker_stale_commands_total",
        "counter",
        "Commands dropped because they came from a former leader or concern a former attempt.",
        "stale_commands",
    ),
    Metric(
        "moorage_worker_malformed_messages_total",
        "counter",
        "Messages on control topics that could not be decoded.",
        "malformed_messages",
    ),
    Metric("moorage_worker_deployments_total", "counter", "Attempts that this worker took part in.", "deployments"),
    Metric("moorage_worker_subtask_failures_total", "counter", "Subtasks that failed on this worker.", "failures"),
)

_OF_SINKS = "moorage_sink_"
_OF_SOURCES = "moorage_source_"
_NOT_OF_SINKS = "moorage_task_checkpoint_"
"""An exactly-once sink has no state in a checkpoint and acknowledges none."""

GAUGES = {
    "moorage_worker_slots": "Slots of this worker.",
    "moorage_worker_subtasks": "Subtasks that run on this worker.",
    "moorage_worker_coordinator_epoch": "Newest epoch of a coordinator that this worker has heard of.",
    "moorage_worker_unsent_control_bytes": "Bytes of control messages that the broker has not confirmed yet.",
}

BUSY = "moorage_worker_loop_busy_seconds_total"
BUSY_DOC = "Time that the worker's loop was not waiting; its rate is the share of one core."
STEP = "moorage_worker_step_seconds"
STEP_DOC = (
    "For how long the loop has been in its present step, in user code perhaps; more than 1 is slow code or a hang."
)


class WorkerCollector(Collector):
    """Everything that a worker exports."""

    def __init__(self, worker: WorkerProcess, slots: int, loop: LoopTime) -> None:
        self._worker = worker
        self._slots = slots
        self._loop = loop

    def collect(self) -> Iterator[Any]:
        worker = self._worker
        values = (self._slots, worker.running_subtasks, worker.epoch, worker.unsent_bytes)
        for (name, doc), value in zip(GAUGES.items(), values, strict=True):
            yield GaugeMetricFamily(name, doc, value=value)
        yield CounterMetricFamily(BUSY, BUSY_DOC, value=self._loop.busy_ns / 1e9)
        yield GaugeMetricFamily(STEP, STEP_DOC, value=self._loop.step_ms / 1e3)
        for metric in WORKER_METRICS:
            yield CounterMetricFamily(metric.name, metric.doc, value=getattr(worker.counters, metric.counter))
        contexts = list(worker.contexts())
        for metric in TASK_METRICS:
            yield _family(metric, contexts)


def _family(metric: Metric, contexts: Iterable[TaskContext]) -> Any:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    read = attrgetter(metric.counter)
    family = kind(metric.name, metric.doc, labels=TASK_LABELS)
    for context in contexts:
        if metric.name.startswith(_NOT_OF_SINKS if context.vertex.is_committer else _OF_SINKS):
            continue
        if metric.name.startswith(_OF_SOURCES) and not context.vertex.is_source:
            continue
        value = read(context.counters) * metric.scale
        family.add_metric([context.job, context.vertex.vertex, str(context.subtask)], value)
    return family
