"""Flink's JSON: our views in the shapes of Flink 2.2's REST API.

What Flink has and Moorage can fill holds true values. What it can't fill is 0, -1, empty or null, as in Flink itself
where a value is not known. Times are ms since 1970, durations ms, sizes bytes. A job's id is its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from moorage.checkpoint.stats import (
    CheckpointStats,
    CheckpointStatsSnapshot,
    CheckpointStatus,
    Distribution,
    RestoredStats,
    TaskStats,
)
from moorage.cluster.views import ClusterView, FailureView, JobView, SubtaskView, WorkerView
from moorage.graph.execution import ExecutionState
from moorage.graph.job_graph import ExchangeKind, JobVertex
from moorage.messages.registry import JobStatus

Json = dict[str, Any]

_TASK_STATES = (
    "CREATED",
    "SCHEDULED",
    "DEPLOYING",
    "RECONCILING",
    "INITIALIZING",
    "RUNNING",
    "FINISHED",
    "CANCELING",
    "CANCELED",
    "FAILED",
)
_JOB_STATES = ("INITIALIZING", "RECONCILING", *(status.value for status in JobStatus))
_SHIP_STRATEGIES = {ExchangeKind.KEYED: "HASH", ExchangeKind.FORWARD: "FORWARD"}


def overview(view: ClusterView, version: str) -> Json:
    statuses = Counter(job.status for job in view.jobs)
    ended = statuses[JobStatus.FINISHED] + statuses[JobStatus.CANCELED] + statuses[JobStatus.FAILED]
    return {
        "taskmanagers": len(view.workers),
        "slots-total": sum(worker.slots for worker in view.workers),
        "slots-available": sum(worker.free_slots for worker in view.workers),
        "jobs-running": len(view.jobs) - ended,
        "jobs-finished": statuses[JobStatus.FINISHED],
        "jobs-cancelled": statuses[JobStatus.CANCELED],
        "jobs-failed": statuses[JobStatus.FAILED],
        "flink-version": version,
        "flink-commit": "",
    }


def jobs(view: ClusterView) -> Json:
    return {"jobs": [{"id": job.job, "status": job.status.value} for job in view.jobs]}


def jobs_overview(view: ClusterView) -> Json:
    return {"jobs": [_job_overview(job, view.now_ms) for job in view.jobs]}


def _job_overview(job: JobView, now_ms: int) -> Json:
    counts = _state_counts(job, job.subtasks)
    return {
        "jid": job.job,
        "name": job.job,
        **_span(job, now_ms),
        "state": job.status.value,
        "last-modification": max(job.status_since_ms.values()),
        "tasks": {"total": sum(counts.values()), **{state.lower(): counts[state] for state in _TASK_STATES}},
        "pending-operators": 0,
        **_trouble(job),
    }


def _trouble(job: JobView) -> Json:
    """Why a job does not run; Flink has no such fields."""
    return {"waiting-for": job.waiting_for, "failure": job.failure}


def job_details(job: JobView, now_ms: int) -> Json:
    counts = _state_counts(job, job.subtasks)
    since = {status.value: since_ms for status, since_ms in job.status_since_ms.items()}
    return {
        "jid": job.job,
        "name": job.job,
        "isStoppable": False,
        "state": job.status.value,
        "job-type": "STREAMING",
        **_span(job, now_ms),
        "maxParallelism": job.graph.max_parallelism,
        "now": now_ms,
        "timestamps": {state: since.get(state, 0) for state in _JOB_STATES},
        "vertices": [_vertex(job, vertex, now_ms) for vertex in job.graph.vertices],
        "status-counts": {state: counts[state] for state in _TASK_STATES},
        "plan": _plan(job),
        "pending-operators": 0,
        "fingerprint": job.graph.fingerprint,
        "attempt": job.attempt,
        **_trouble(job),
        "unreadable-checkpoints": list(job.unreadable),
    }


def _vertex(job: JobView, vertex: JobVertex, now_ms: int) -> Json:
    subtasks = [subtask for subtask in job.subtasks if subtask.subtask.vertex == vertex.vertex]
    counts = _state_counts(job, subtasks, total=vertex.parallelism)
    started_ms = job.status_since_ms.get(JobStatus.RUNNING, -1)
    return {
        "id": vertex.vertex,
        "slotSharingGroupId": job.job,
        "name": vertex.name,
        "maxParallelism": job.graph.max_parallelism,
        "parallelism": vertex.parallelism,
        "status": _aggregate(counts),
        "start-time": started_ms,
        "end-time": -1,
        "duration": now_ms - started_ms if started_ms >= 0 else -1,
        "tasks": {state: counts[state] for state in _TASK_STATES},
        "metrics": {
            "read-bytes": 0,
            "read-bytes-complete": False,
            "write-bytes": 0,
            "write-bytes-complete": False,
            "read-records": 0,
            "read-records-complete": False,
            "write-records": 0,
            "write-records-complete": False,
            "accumulated-backpressured-time": 0,
            "accumulated-idle-time": 0,
            "accumulated-busy-time": 0.0,
        },
    }


def _plan(job: JobView) -> Json:
    exchanges = {exchange.exchange: exchange for exchange in job.graph.exchanges}
    return {
        "jid": job.job,
        "name": job.job,
        "type": "STREAMING",
        "nodes": [
            {
                "id": vertex.vertex,
                "parallelism": vertex.parallelism,
                "operator": "",
                "operator_strategy": "",
                "description": " -> ".join(operator.name for operator in vertex.operators),
                "optimizer_properties": {},
                "inputs": [
                    {
                        "id": exchanges[name].producer,
                        "num": number,
                        "exchange": "log",
                        "ship_strategy": _SHIP_STRATEGIES[exchanges[name].kind],
                    }
                    for number, name in enumerate(vertex.inputs)
                ],
            }
            for vertex in job.graph.vertices
        ],
    }


def _span(job: JobView, now_ms: int) -> Json:
    ended_ms = job.status_since_ms.get(job.status, now_ms) if job.status.is_terminal else -1
    return {
        "start-time": job.submitted_ms,
        "end-time": ended_ms,
        "duration": (ended_ms if ended_ms >= 0 else now_ms) - job.submitted_ms,
    }


def _state_counts(job: JobView, subtasks: Iterable[SubtaskView], total: int | None = None) -> Counter[str]:
    """How many subtasks are in each of Flink's states. Without an attempt all are in the one that fits the job."""
    counts = Counter(subtask.state.value for subtask in subtasks)
    if not counts:
        expected = sum(vertex.parallelism for vertex in job.graph.vertices) if total is None else total
        counts[_STATE_WITHOUT_ATTEMPT.get(job.status, "SCHEDULED")] = expected
    return counts


_STATE_WITHOUT_ATTEMPT = {
    JobStatus.CREATED: "CREATED",
    JobStatus.FINISHED: "FINISHED",
    JobStatus.CANCELLING: "CANCELED",
    JobStatus.CANCELED: "CANCELED",
    JobStatus.FAILING: "FAILED",
    JobStatus.FAILED: "FAILED",
}


def _aggregate(counts: Counter[str]) -> str:
    """The state that describes a whole vertex: the one that is furthest from all being well."""
    order = (
        ExecutionState.FAILED,
        ExecutionState.CANCELED,
        ExecutionState.RECONCILING,
        ExecutionState.DEPLOYING,
        ExecutionState.INITIALIZING,
        ExecutionState.RUNNING,
        ExecutionState.FINISHED,
    )
    return next((state.value for state in order if counts[state.value]), next(iter(counts), "CREATED"))


# --- failures --------------------------------------------------------------------------------------------------------


def exceptions(job: JobView) -> Json:
    return {"exceptionHistory": {"entries": [_failure(entry) for entry in job.failures], "truncated": False}}


def _failure(entry: FailureView) -> Json:
    return {
        "exceptionName": entry.cause,
        "stacktrace": entry.trace or entry.cause,
        "timestamp": entry.failed_ms,
        "failureLabels": {},
        "taskName": None if entry.subtask is None else str(entry.subtask),
        "endpoint": entry.worker,
        "taskManagerId": entry.worker,
        "concurrentExceptions": [],
    }


# --- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoints(stats: CheckpointStatsSnapshot, storage_url: str) -> Json:
    counts = stats.counts
    latest = stats.latest_completed
    return {
        "counts": {
            "restored": counts.restored,
            "total": counts.total,
            "in_progress": counts.in_progress,
            "completed": counts.completed,
            "failed": counts.failed,
        },
        "summary": {
            "checkpointed_size": _distribution(stats.summary.written_bytes),
            "state_size": _distribution(stats.summary.state_bytes),
            "end_to_end_duration": _distribution(stats.summary.duration_ms),
            "alignment_buffered": _distribution(stats.summary.held_bytes),
            "processed_data": _distribution(None),
            "persisted_data": _distribution(None),
        },
        "latest": {
            "completed": None if latest is None else _checkpoint(latest, storage_url),
            "savepoint": None,
            "failed": None if stats.latest_failed is None else _checkpoint(stats.latest_failed, storage_url),
            "restored": None if stats.latest_restored is None else _restored(stats.latest_restored, storage_url),
        },
        "history": [_checkpoint(entry, storage_url) for entry in stats.history],
    }


def _checkpoint(entry: CheckpointStats, storage_url: str) -> Json:
    shape: Json = {
        "className": entry.status.value.lower(),
        "id": entry.checkpoint,
        "status": entry.status.value,
        "is_savepoint": False,
        "savepointFormat": None,
        "trigger_timestamp": entry.triggered_ms,
        "latest_ack_timestamp": -1 if entry.latest_ack_ms is None else entry.latest_ack_ms,
        "checkpointed_size": entry.metrics.written_bytes,
        "state_size": entry.metrics.state_bytes,
        "end_to_end_duration": entry.duration_ms,
        "alignment_buffered": entry.metrics.held_bytes,
        "processed_data": 0,
        "persisted_data": 0,
        "num_subtasks": entry.subtasks,
        "num_acknowledged_subtasks": entry.acknowledged,
        "checkpoint_type": "CHECKPOINT",
        "tasks": {task.vertex: _task(entry, task) for task in entry.tasks},
    }
    if entry.status is CheckpointStatus.COMPLETED:
        shape |= {"external_path": _external_path(entry.path, storage_url), "discarded": entry.discarded}
    elif entry.status is CheckpointStatus.FAILED:
        shape |= {"failure_timestamp": entry.failed_ms, "failure_message": entry.failure}
    return shape


def _task(entry: CheckpointStats, task: TaskStats) -> Json:
    latest_ms = task.latest_ack_ms
    return {
        "id": entry.checkpoint,
        "status": entry.status.value,
        "latest_ack_timestamp": -1 if latest_ms is None else latest_ms,
        "checkpointed_size": task.metrics.written_bytes,
        "state_size": task.metrics.state_bytes,
        "end_to_end_duration": -1 if latest_ms is None else latest_ms - entry.triggered_ms,
        "alignment_buffered": task.metrics.held_bytes,
        "processed_data": 0,
        "persisted_data": 0,
        "num_subtasks": task.subtasks,
        "num_acknowledged_subtasks": task.acknowledged,
    }


def _restored(restored: RestoredStats, storage_url: str) -> Json:
    return {
        "id": restored.checkpoint,
        "restore_timestamp": restored.restored_ms,
        "is_savepoint": restored.is_savepoint,
        "external_path": _external_path(restored.path, storage_url),
    }


def _external_path(metadata_path: str | None, storage_url: str) -> str | None:
    """The folder of the checkpoint."""
    return None if metadata_path is None else f"{storage_url.rstrip('/')}/{metadata_path.rpartition('/')[0]}"


def _distribution(values: Distribution | None) -> Json:
    known = values or Distribution(0, 0, 0, 0, 0, 0, 0, 0)
    return {
        "min": known.minimum,
        "max": known.maximum,
        "avg": known.average,
        "p50": float(known.p50),
        "p90": float(known.p90),
        "p95": float(known.p95),
        "p99": float(known.p99),
        "p999": float(known.p999),
    }


# --- workers and configuration ---------------------------------------------------------------------------------------


def taskmanagers(view: ClusterView) -> Json:
    return {"taskmanagers": [_taskmanager(worker) for worker in view.workers]}


def _taskmanager(worker: WorkerView) -> Json:
    resource = {
        "cpuCores": 0.0,
        "taskHeapMemory": 0,
        "taskOffHeapMemory": 0,
        "managedMemory": 0,
        "networkMemory": 0,
        "extendedResources": {},
    }
    return {
        "id": worker.worker,
        "path": f"{worker.host}:{worker.metrics_port}",
        "dataPort": -1,
        "jmxPort": -1,
        "timeSinceLastHeartbeat": worker.last_heartbeat_ms,
        "slotsNumber": worker.slots,
        "freeSlots": worker.free_slots,
        "totalResource": resource,
        "freeResource": resource,
        "hardware": {"cpuCores": 0, "physicalMemory": 0, "freeMemory": 0, "managedMemory": 0},
        "memoryConfiguration": {},
    }


def config(version: str) -> Json:
    return {
        "refresh-interval": 3_000,
        "timezone-name": "Coordinated Universal Time",
        "timezone-offset": 0,
        "flink-version": version,
        "flink-revision": "",
        "features": {"web-submit": False, "web-cancel": True, "web-rescale": False, "web-history": False},
    }
