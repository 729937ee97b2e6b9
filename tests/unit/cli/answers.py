"""Answers of a coordinator in Flink's shapes: one running job with two checkpoints."""

from __future__ import annotations

from typing import Any

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
                }
            ],
            "truncated": False,
        }
    },
    "/jobs/orders/checkpoints": {
        "counts": {"restored": 0, "total": 2, "in_progress": 0, "completed": 1, "failed": 1},
        "summary": {},
        "latest": {"completed": _COMPLETED},
        "history": [_COMPLETED, _FAILED],
    },
}
