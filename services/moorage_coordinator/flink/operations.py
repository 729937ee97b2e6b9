"""What goes on after the answer, and is asked for by its id (Flink: AsynchronousOperationResult and its operations)."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")


class FailureCause(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Flink's SerializedThrowable; ours is never a Java object."""

    class_: str = msgspec.field(name="class")
    stack_trace: str
    serialized_throwable: str = ""


class QueueStatus(msgspec.Struct, frozen=True):
    id: Literal["IN_PROGRESS", "COMPLETED"]


class OperationResult(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """``operation`` null: still in progress."""

    status: QueueStatus
    operation: T | None


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    checkpoint_id: int | None
    failure_cause: FailureCause | None


class SavepointInfo(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """``location``: folder of the savepoint; null: it failed."""

    location: str | None
    failure_cause: FailureCause | None


class OperationInfo(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    failure_cause: FailureCause | None


class TriggerResponse(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    request_id: str


IN_PROGRESS = QueueStatus("IN_PROGRESS")
COMPLETED = QueueStatus("COMPLETED")


def failure_cause(kind: str, message: str) -> FailureCause:
    """``kind``: Flink's class of such exceptions."""
    return FailureCause(class_=kind, stack_trace=message)
