"""The cluster as a whole, and its workers (Flink: ClusterOverviewWithVersion, TaskManagerInfo, ...)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from moorage.cluster.views import ClusterView, WorkerView
from moorage.ids import JobId, WorkerId
from moorage.messages.registry import JobStatus


class Overview(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    taskmanagers: int
    slots_total: int
    slots_available: int
    jobs_running: int
    jobs_finished: int
    jobs_cancelled: int
    jobs_failed: int
    flink_version: str
    flink_commit: str = ""


class Features(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """What a user interface may offer."""

    web_submit: bool = False
    web_cancel: bool = True
    web_rescale: bool = True
    web_history: bool = False


class Configuration(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    refresh_interval: int = 3_000
    timezone_name: str = "Coordinated Universal Time"
    timezone_offset: int = 0
    flink_version: str
    flink_revision: str = ""
    features: Features = Features()


class Resource(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A worker's slots are not cut to measure: nothing is known of their memory."""

    cpu_cores: float = 0.0
    task_heap_memory: int = 0
    task_off_heap_memory: int = 0
    managed_memory: int = 0
    network_memory: int = 0
    extended_resources: dict[str, float] = {}


class Hardware(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``cpu_cores``: that the worker may use; ``physical_memory``: of its machine, in bytes. The others are a JVM's."""

    cpu_cores: int
    physical_memory: int
    free_memory: int = 0
    managed_memory: int = 0


class MemoryConfiguration(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    framework_heap: int = 0
    task_heap: int = 0
    framework_off_heap: int = 0
    task_off_heap: int = 0
    network_memory: int = 0
    managed_memory: int = 0
    jvm_metaspace: int = 0
    jvm_overhead: int = 0
    total_flink_memory: int = 0
    total_process_memory: int = 0


class TaskManager(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A worker. ``path``: host and port of its metrics; ``time_since_last_heartbeat``: of the last one, as in Flink."""

    id: str
    path: str
    data_port: int = -1
    jmx_port: int = -1
    time_since_last_heartbeat: int
    slots_number: int
    free_slots: int
    total_resource: Resource = Resource()
    free_resource: Resource = Resource()
    hardware: Hardware
    memory_configuration: MemoryConfiguration = MemoryConfiguration()


class TaskManagers(msgspec.Struct, frozen=True):
    taskmanagers: tuple[TaskManager, ...]


class Slot(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    job_id: str
    assigned_tasks: int
    resource: Resource = Resource()


class TaskManagerMetrics(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of a JVM, in Flink; a worker's own are at its Prometheus port."""

    heap_used: int = 0
    heap_committed: int = 0
    heap_max: int = 0
    non_heap_used: int = 0
    non_heap_committed: int = 0
    non_heap_max: int = 0
    direct_count: int = 0
    direct_used: int = 0
    direct_max: int = 0
    mapped_count: int = 0
    mapped_used: int = 0
    mapped_max: int = 0
    netty_shuffle_memory_segments_available: int = 0
    netty_shuffle_memory_segments_used: int = 0
    netty_shuffle_memory_segments_total: int = 0
    netty_shuffle_memory_available: int = 0
    netty_shuffle_memory_used: int = 0
    netty_shuffle_memory_total: int = 0
    garbage_collectors: tuple[str, ...] = ()


class TaskManagerDetails(TaskManager, frozen=True, kw_only=True, rename="camel"):
    allocated_slots: tuple[Slot, ...]
    metrics: TaskManagerMetrics = TaskManagerMetrics()


def overview(view: ClusterView, version: str) -> Overview:
    statuses = Counter(job.status for job in view.jobs)
    ended = statuses[JobStatus.FINISHED] + statuses[JobStatus.CANCELED] + statuses[JobStatus.FAILED]
    return Overview(
        taskmanagers=len(view.workers),
        slots_total=sum(worker.slots for worker in view.workers),
        slots_available=sum(worker.free_slots for worker in view.workers),
        jobs_running=len(view.jobs) - ended,
        jobs_finished=statuses[JobStatus.FINISHED],
        jobs_cancelled=statuses[JobStatus.CANCELED],
        jobs_failed=statuses[JobStatus.FAILED],
        flink_version=version,
    )


def configuration(version: str) -> Configuration:
    return Configuration(flink_version=version)


def task_managers(view: ClusterView) -> TaskManagers:
    return TaskManagers(tuple(TaskManager(**_facts(worker)) for worker in view.workers))


def task_manager(view: ClusterView, worker: str) -> TaskManagerDetails | None:
    """None: there is no such worker."""
    found = next((known for known in view.workers if known.worker == worker), None)
    if found is None:
        return None
    return TaskManagerDetails(**_facts(found), allocated_slots=tuple(_slots(view, found.worker)))


def _facts(worker: WorkerView) -> dict[str, Any]:
    return {
        "id": worker.worker,
        "path": f"{worker.host}:{worker.metrics_port}",
        "time_since_last_heartbeat": worker.last_heartbeat_ms,
        "slots_number": worker.slots,
        "free_slots": worker.free_slots,
        "hardware": Hardware(cpu_cores=worker.cpu_cores, physical_memory=worker.memory_bytes),
    }


def _slots(view: ClusterView, worker: WorkerId) -> list[Slot]:
    """Slot i of a job runs subtask i of its vertices."""
    tasks: Counter[tuple[JobId, int]] = Counter(
        (job.job, subtask.subtask.subtask) for job in view.jobs for subtask in job.subtasks if subtask.worker == worker
    )
    return [Slot(job_id=job, assigned_tasks=count) for (job, _), count in sorted(tasks.items())]
