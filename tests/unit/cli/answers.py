"""Answers of a coordinator in Flink's shapes: one running job with two checkpoints."""

from __future__ import annotations

from typing import Any

_TASK = {
    "id": 7,
    "status": "COMPLETED",
    "latest_ack_timestamp": 1_795_335_082_917,
    "checkpointed_size": 1_024,
    "state_size": 2_048,
    "end_to_end_duration": 448,
    "alignment_buffered": 0,
    "processed_data": 37,
    "persisted_data": 0,
    "num_subtasks": 2,
    "num_acknowledged_subtasks": 2,
}


def _subtask(index: int, duration_ms: int) -> dict[str, Any]:
    return {
        "className": "completed",
        "index": index,
        "status": "completed",
        "ack_timestamp": 1_795_335_082_469 + duration_ms,
        "end_to_end_duration": duration_ms,
        "checkpointed_size": 512,
        "state_size": 1_024,
        "checkpoint": {"sync": 1, "async": 30},
        "alignment": {"buffered": 0, "processed": 0, "persisted": 0, "duration": 7},
        "start_delay": 3,
        "unaligned_checkpoint": False,
        "aborted": False,
    }


_COMPLETED = {
    "className": "completed",
    "id": 7,
    "status": "COMPLETED",
    "is_savepoint": False,
    "savepointFormat": None,
    "trigger_timestamp": 1_795_335_082_469,
    "latest_ack_timestamp": 1_795_335_082_917,
    "checkpointed_size": 221_924,
    "state_size": 664_885,
    "end_to_end_duration": 448,
    "num_subtasks": 4,
    "num_acknowledged_subtasks": 4,
    "external_path": "file:/checkpoints/orders/chk-7",
    "discarded": False,
}
_FAILED = {**_COMPLETED, "className": "failed", "id": 6, "status": "FAILED", "failure_message": "storage"}
_PENDING_SUBTASK = {"className": "pending", "index": 1, "status": "pending_or_failed"}
CHECKPOINTS = "/jobs/orders/checkpoints"
TRIGGER = "0123456789abcdef" * 2
BAD_TRIGGER = "fedcba9876543210" * 2

POSTS: dict[str, dict[str, str]] = {
    "/jobs": {"jobid": "orders"},
    CHECKPOINTS: {"request-id": TRIGGER},
    "/jobs/broken/checkpoints": {"request-id": BAD_TRIGGER},
    "/jobs/brief/checkpoints": {"request-id": TRIGGER},
}

ANSWERS: dict[str, Any] = {
    "/overview": {"taskmanagers": 2, "slots-total": 4, "slots-available": 2, "jobs-running": 1, "flink-version": "x"},
    "/taskmanagers": {"taskmanagers": [{"id": "worker-0/ab", "slotsNumber": 2, "freeSlots": 1, "dataPort": -1}]},
    "/jobs/overview": {
        "jobs": [
            {
                "jid": "orders",
                "name": "orders",
                "start-time": 1_000,
                "end-time": -1,
                "duration": 5_000,
                "state": "RUNNING",
                "last-modification": 1_500,
                "tasks": {"running": 4, "total": 4},
                "pending-operators": 0,
            }
        ]
    },
    "/jobs/orders": {"jid": "orders", "state": "RUNNING"},
    "/jobs/orders/exceptions": {
        "exceptionHistory": {
            "entries": [
                {
                    "exceptionName": "totals/0 failed: KeyError: 'amount'",
                    "stacktrace": "Traceback (most recent call last):\nKeyError: 'amount'\n",
                    "timestamp": 3_000,
                    "taskName": "totals/0",
                    "taskManagerId": "worker-0/ab",
                    "attempt": 4,
                },
                {
                    "exceptionName": "worker worker-0/ab is lost: no heartbeat",
                    "stacktrace": "worker worker-0/ab is lost: no heartbeat",
                    "timestamp": 2_000,
                    "taskName": None,
                    "taskManagerId": "worker-0/ab",
                    "attempt": 3,
                    "times": 2,
                    "firstTimestamp": 1_000,
                },
            ],
            "truncated": False,
        }
    },
    f"{CHECKPOINTS}/{TRIGGER}": {
        "status": {"id": "COMPLETED"},
        "operation": {"checkpointId": 7, "failureCause": None},
    },
    f"/jobs/brief/checkpoints/{TRIGGER}": {
        "status": {"id": "COMPLETED"},
        "operation": {"checkpointId": 7, "failureCause": None},
    },
    f"/jobs/broken/checkpoints/{BAD_TRIGGER}": {
        "status": {"id": "COMPLETED"},
        "operation": {
            "checkpointId": 8,
            "failureCause": {"class": "CheckpointException", "stack-trace": "disk full", "serialized-throwable": ""},
        },
    },
    f"{CHECKPOINTS}/details/7": {
        **_COMPLETED,
        "tasks": {"orders": _TASK, "totals": _TASK},
        "operator_coordinators": {
            "orders": {"ack_timestamp": 2_010, "duration": 7, "state_size": 30},
            "totals": {"ack_timestamp": -1, "duration": -1, "state_size": 0},
        },
        "master_hooks": {"ack_timestamp": 2_003, "duration": 3, "state_size": 12},
        "acknowledgements": {"success": 5, "duplicate": 2, "unknown": 0, "discarded": 1},
    },
    f"{CHECKPOINTS}/details/7/subtasks/orders": {**_TASK, "subtasks": [_subtask(0, 20), _subtask(1, 25)]},
    f"{CHECKPOINTS}/details/7/subtasks/totals": {**_TASK, "subtasks": [_subtask(0, 448), _PENDING_SUBTASK]},
    CHECKPOINTS: {
        "counts": {"restored": 0, "total": 2, "in_progress": 0, "completed": 1, "failed": 1},
        "summary": {},
        "latest": {"completed": _COMPLETED},
        "history": [_COMPLETED, _FAILED],
    },
}
