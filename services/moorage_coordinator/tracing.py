"""A trace of each checkpoint through OpenTelemetry, with the names of Flink's checkpoint spans.

A span is made when the outcome of a checkpoint is known, with the times that its statistics hold: ``Checkpoint`` from
the trigger to the end, and below it a ``Checkpoint_Task`` for each vertex from the trigger to its last acknowledgement.
They are sent in the background; a collector that does not answer costs spans, never a checkpoint. Nothing of
OpenTelemetry is imported unless an endpoint is configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import moorage
from moorage.checkpoint.notices import CheckpointAborted, CheckpointCompleted
from moorage.checkpoint.stats import CheckpointStats, CheckpointStatus, TaskStats
from moorage.effects import Notice
from moorage.errors import SettingError
from moorage.ids import Attempt, JobId
from moorage.messages.events import CheckpointMetrics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_NS_PER_MS = 1_000_000


class CheckpointTracer:
    """``processor``: where finished spans go."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        resource = Resource.create({"service.name": "moorage-coordinator", "service.version": moorage.__version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("moorage.checkpoint", moorage.__version__)

    def notice(self, notice: Notice) -> None:
        match notice:
            case CheckpointCompleted(job=job, attempt=attempt, stats=stats):
                self._trace(job, attempt, stats)
            case CheckpointAborted(job=job, attempt=attempt, stats=CheckpointStats() as stats):
                self._trace(job, attempt, stats)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def _trace(self, job: JobId, attempt: Attempt, stats: CheckpointStats) -> None:
        from opentelemetry.trace import Status, StatusCode, set_span_in_context

        end_ms = stats.triggered_ms + stats.duration_ms
        span = self._tracer.start_span(
            "Checkpoint",
            start_time=stats.triggered_ms * _NS_PER_MS,
            attributes={
                "jobId": job,
                "attempt": attempt,
                "checkpointId": stats.checkpoint,
                "checkpointStatus": stats.status.value,
                "checkpointType": stats.options.kind.value,
                "numSubtasks": stats.subtasks,
                "numAcknowledgedSubtasks": stats.acknowledged,
                **_measures(stats.metrics),
            },
        )
        if stats.status is CheckpointStatus.FAILED:
            span.set_status(Status(StatusCode.ERROR, stats.failure))
        context = set_span_in_context(span)
        for task in stats.tasks:
            child = self._tracer.start_span(
                "Checkpoint_Task",
                context,
                start_time=stats.triggered_ms * _NS_PER_MS,
                attributes=_task_attributes(task),
            )
            child.end((end_ms if task.latest_ack_ms is None else task.latest_ack_ms) * _NS_PER_MS)
        span.end(end_ms * _NS_PER_MS)


def open_tracer(endpoint: str) -> CheckpointTracer:
    """One that sends to an OTLP collector over HTTP. SettingError: OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingError(
            f"MOORAGE_COORDINATOR_TRACES_ENDPOINT={endpoint}: {error.name} is not installed;"
            " pip install 'moorage[otel]'"
        ) from error
    return CheckpointTracer(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))


def _task_attributes(task: TaskStats) -> dict[str, str | int | bool]:
    return {
        "jobVertexId": task.vertex,
        "numSubtasks": task.subtasks,
        "numAcknowledgedSubtasks": task.acknowledged,
        **_measures(task.metrics),
    }


def _measures(metrics: CheckpointMetrics) -> dict[str, int | bool]:
    return {
        "checkpointedSize": metrics.written_bytes,
        "fullSize": metrics.state_bytes,
        "alignmentBuffered": metrics.held_bytes,
        "processedData": metrics.processed_bytes,
        "persistedData": metrics.persisted_bytes,
        "maxStartDelayMs": metrics.start_delay_ms,
        "maxAlignmentDurationMs": metrics.alignment_ms,
        "maxSyncDurationMs": metrics.sync_ms,
        "maxAsyncDurationMs": metrics.async_ms,
        "isUnaligned": metrics.unaligned,
    }
