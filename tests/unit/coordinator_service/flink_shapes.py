"""The answers of a real Flink 2.2 as shapes: the names of its fields and the JSON types of their values.

Taken from a small running job (Kafka source, keyed operator, Kafka sink). ``Map`` is an object whose names are data,
``Maybe`` a value that Flink leaves null where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Map(NamedTuple):
    values: Any


class Maybe(NamedTuple):
    value: Any


def _all(kind: Any, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, kind)


_JOB_STATES = _all(
    int,
    *("CANCELLING", "RECONCILING", "CANCELED", "RUNNING", "FAILING", "RESTARTING", "FAILED"),
    *("INITIALIZING", "SUSPENDED", "CREATED", "FINISHED"),
)
_TASK_STATES = _all(
    int,
    *("DEPLOYING", "SCHEDULED", "CANCELED", "INITIALIZING", "FINISHED"),
    *("RECONCILING", "CANCELING", "CREATED", "FAILED", "RUNNING"),
)
_STATISTICS = {**_all(int, "min", "max", "avg"), **_all(float, "p50", "p90", "p95", "p99", "p999")}
_TASK_CHECKPOINT = {
    **_all(int, "id", "latest_ack_timestamp", "checkpointed_size", "state_size", "end_to_end_duration"),
    **_all(int, "alignment_buffered", "processed_data", "persisted_data", "num_subtasks", "num_acknowledged_subtasks"),
    "status": str,
}
_CHECKPOINT = {
    **_TASK_CHECKPOINT,
    **_all(str, "className", "checkpoint_type"),
    "is_savepoint": bool,
    "savepointFormat": Maybe(str),
    "trigger_timestamp": int,
    "tasks": Map(_TASK_CHECKPOINT),
}
COMPLETED_CHECKPOINT = {**_CHECKPOINT, "external_path": str, "discarded": bool}
FAILED_CHECKPOINT = {**_CHECKPOINT, "failure_timestamp": int, "failure_message": str}
PENDING_CHECKPOINT = _CHECKPOINT
RESTORED_CHECKPOINT = {**_all(int, "id", "restore_timestamp"), "is_savepoint": bool, "external_path": str}
COMPLETED_SUBTASK = {
    **_all(int, "index", "ack_timestamp", "end_to_end_duration", "checkpointed_size", "state_size", "start_delay"),
    **_all(str, "className", "status"),
    "checkpoint": _all(int, "sync", "async"),
    "alignment": _all(int, "buffered", "processed", "persisted", "duration"),
    **_all(bool, "unaligned_checkpoint", "aborted"),
}
PENDING_SUBTASK = {**_all(str, "className", "status"), "index": int}
TASK_DETAILS = {
    **_TASK_CHECKPOINT,
    "summary": {
        **_all(_STATISTICS, "checkpointed_size", "state_size", "end_to_end_duration", "start_delay"),
        "checkpoint_duration": _all(_STATISTICS, "sync", "async"),
        "alignment": _all(_STATISTICS, "buffered", "processed", "persisted", "duration"),
    },
    "subtasks": [COMPLETED_SUBTASK],
}
_RESOURCE = {
    "cpuCores": float,
    **_all(int, "taskHeapMemory", "taskOffHeapMemory", "managedMemory", "networkMemory"),
    "extendedResources": Map(float),
}
_TASK_MANAGER = {
    **_all(str, "id", "path"),
    **_all(int, "dataPort", "jmxPort", "timeSinceLastHeartbeat", "slotsNumber", "freeSlots"),
    **_all(_RESOURCE, "totalResource", "freeResource"),
    "hardware": _all(int, "cpuCores", "physicalMemory", "freeMemory", "managedMemory"),
    "memoryConfiguration": _all(
        int,
        *("frameworkHeap", "taskHeap", "frameworkOffHeap", "taskOffHeap", "networkMemory", "managedMemory"),
        *("jvmMetaspace", "jvmOverhead", "totalFlinkMemory", "totalProcessMemory"),
    ),
}
FLINK: dict[str, Any] = {
    "/overview": {
        **_all(int, "taskmanagers", "slots-total", "slots-available"),
        **_all(int, "jobs-running", "jobs-finished", "jobs-cancelled", "jobs-failed"),
        **_all(str, "flink-version", "flink-commit"),
    },
    "/config": {
        **_all(int, "refresh-interval", "timezone-offset"),
        **_all(str, "timezone-name", "flink-version", "flink-revision"),
        "features": _all(bool, "web-submit", "web-cancel", "web-rescale", "web-history"),
    },
    "/jobs": {"jobs": [_all(str, "id", "status")]},
    "/jobs/overview": {
        "jobs": [
            {
                **_all(str, "jid", "name", "state"),
                **_all(int, "start-time", "end-time", "duration", "last-modification", "pending-operators"),
                "tasks": _all(int, "total", *(state.lower() for state in _TASK_STATES)),
            }
        ]
    },
    "/jobs/orders": {
        **_all(str, "jid", "name", "state", "job-type"),
        "isStoppable": bool,
        **_all(int, "start-time", "end-time", "duration", "maxParallelism", "now", "pending-operators"),
        "timestamps": _JOB_STATES,
        "status-counts": _TASK_STATES,
        "vertices": [
            {
                **_all(str, "id", "slotSharingGroupId", "name", "status"),
                **_all(int, "maxParallelism", "parallelism", "start-time", "end-time", "duration"),
                "tasks": _TASK_STATES,
                "metrics": {
                    **_all(int, "read-bytes", "write-bytes", "read-records", "write-records"),
                    **_all(bool, "read-bytes-complete", "write-bytes-complete"),
                    **_all(bool, "read-records-complete", "write-records-complete"),
                    **_all(int, "accumulated-backpressured-time", "accumulated-idle-time"),
                    "accumulated-busy-time": float,
                },
            }
        ],
        "plan": {
            **_all(str, "jid", "name", "type"),
            "nodes": [
                {
                    **_all(str, "id", "operator", "operator_strategy", "description"),
                    "parallelism": int,
                    "optimizer_properties": Map(str),
                    "inputs": [{**_all(str, "id", "exchange", "ship_strategy"), "num": int}],
                }
            ],
        },
    },
    "/jobs/orders/config": {
        **_all(str, "jid", "name"),
        "execution-config": {
            "restart-strategy": str,
            "job-parallelism": int,
            "object-reuse-mode": bool,
            "user-config": Map(str),
        },
    },
    "/jobs/orders/exceptions": {
        "exceptionHistory": {
            "entries": [
                {
                    **_all(str, "exceptionName", "stacktrace"),
                    "timestamp": int,
                    "failureLabels": Map(str),
                    **_all(Maybe(str), "taskName", "endpoint", "taskManagerId"),
                    "concurrentExceptions": [],
                }
            ],
            "truncated": bool,
        }
    },
    "/jobs/orders/checkpoints": {
        "counts": _all(int, "restored", "total", "in_progress", "completed", "failed"),
        "summary": _all(
            _STATISTICS,
            *("checkpointed_size", "state_size", "end_to_end_duration"),
            *("alignment_buffered", "processed_data", "persisted_data"),
        ),
        "latest": {
            "completed": COMPLETED_CHECKPOINT,
            "savepoint": Maybe(COMPLETED_CHECKPOINT),
            "failed": Maybe(FAILED_CHECKPOINT),
            "restored": Maybe(RESTORED_CHECKPOINT),
        },
        "history": [COMPLETED_CHECKPOINT],
    },
    "/jobs/orders/checkpoints/config": {
        **_all(str, "mode", "state_backend", "checkpoint_storage"),
        **_all(int, "interval", "timeout", "min_pause", "max_concurrent", "tolerable_failed_checkpoints"),
        **_all(int, "aligned_checkpoint_timeout", "changelog_periodic_materialization_interval"),
        "externalization": _all(bool, "enabled", "delete_on_cancellation"),
        **_all(bool, "unaligned_checkpoints", "checkpoints_after_tasks_finish", "state_changelog_enabled"),
        "changelog_storage": Maybe(str),
    },
    "/taskmanagers": {"taskmanagers": [_TASK_MANAGER]},
    "/taskmanagers/w1/1": {
        **_TASK_MANAGER,
        "allocatedSlots": [{"jobId": str, "resource": _RESOURCE}],
        "metrics": {
            **_all(int, *(f"{kind}{part}" for kind in ("heap", "nonHeap") for part in ("Used", "Committed", "Max"))),
            **_all(int, *(f"{kind}{part}" for kind in ("direct", "mapped") for part in ("Count", "Used", "Max"))),
            **_all(int, *(f"nettyShuffleMemorySegments{part}" for part in ("Available", "Used", "Total"))),
            **_all(int, *(f"nettyShuffleMemory{part}" for part in ("Available", "Used", "Total"))),
            "garbageCollectors": [],
        },
    },
}

OURS = frozenset(
    {
        *(
            "waiting-for",
            "failure",
            "fingerprint",
            "attempt",
            "vertex-attempts",
            "unreadable-checkpoints",
            "assignedTasks",
        ),
        *("times", "firstTimestamp"),
        *("operator_coordinators", "master_hooks", "acknowledgements"),
    }
)
"""Fields that Flink does not have."""


def differences(flink: Any, ours: Any, at: str = "") -> Iterator[str]:
    """Where ``ours`` has not the fields and the types of ``flink``."""
    if isinstance(flink, Maybe):
        if ours is not None:
            yield from differences(flink.value, ours, at)
    elif isinstance(flink, Map):
        for key, value in ours.items():
            yield from differences(flink.values, value, f"{at}/{key}")
    elif isinstance(flink, dict):
        if not isinstance(ours, dict):
            yield f"{at}: {ours!r} is no object"
            return
        yield from (f"{at}/{name} is missing" for name in flink.keys() - ours.keys())
        yield from (f"{at}/{name} is not Flink's" for name in ours.keys() - flink.keys() - OURS)
        for name in flink.keys() & ours.keys():
            yield from differences(flink[name], ours[name], f"{at}/{name}")
    elif isinstance(flink, list):
        if not isinstance(ours, list):
            yield f"{at}: {ours!r} is no list"
            return
        for index, value in enumerate(ours):
            yield from differences(flink[0], value, f"{at}[{index}]")
    elif type(ours) is not flink:
        yield f"{at}: {ours!r} is no {flink.__name__}"
