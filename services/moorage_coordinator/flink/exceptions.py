"""Why attempts of a job ended (Flink: JobExceptionsInfoWithHistory)."""

from __future__ import annotations

import msgspec

from moorage.cluster.views import JobView
from moorage.messages.registry import JobFailure


class RootException(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The newest of all failures with one cause. ``task_name`` and ``endpoint`` null: not the fault of one subtask.
    ``attempt``, ``times`` and ``first_timestamp``: Flink has no such fields."""

    exception_name: str
    stacktrace: str
    timestamp: int
    failure_labels: dict[str, str] = {}
    task_name: str | None
    endpoint: str | None
    task_manager_id: str | None
    concurrent_exceptions: tuple[str, ...] = ()
    """Always empty: what follows from the first failure of an attempt is not kept."""
    attempt: int
    times: int
    first_timestamp: int


class ExceptionHistory(msgspec.Struct, frozen=True, kw_only=True):
    entries: tuple[RootException, ...]
    """Newest first."""
    truncated: bool


class Exceptions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    exception_history: ExceptionHistory


def exceptions(job: JobView, at_most: int) -> Exceptions:
    shown = job.failures[:at_most]
    return Exceptions(
        exception_history=ExceptionHistory(
            entries=tuple(_entry(failure) for failure in shown), truncated=len(shown) < len(job.failures)
        )
    )


def _entry(failure: JobFailure) -> RootException:
    return RootException(
        exception_name=failure.cause,
        stacktrace=failure.trace or failure.cause,
        timestamp=failure.failed_ms,
        task_name=None if failure.subtask is None else str(failure.subtask),
        endpoint=failure.worker,
        task_manager_id=failure.worker,
        attempt=failure.attempt,
        times=failure.times,
        first_timestamp=failure.failed_ms if failure.first_ms is None else failure.first_ms,
    )
