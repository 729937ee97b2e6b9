"""Master hooks: something outside takes part in checkpoints (Flink: MasterTriggerRestoreHook).

A hook is asked before the subtasks are, once per checkpoint and job, and what it answers is part of the checkpoint. It
runs in a thread of the coordinator process, so it may block; while it does, checkpoints of its job wait, and one that
waits too long is aborted with a reason of its own. Hooks are named by the setting ``MOORAGE_MASTER_HOOKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from moorage.ids import CheckpointId, JobId

T = TypeVar("T")


class VersionedSerializer(Protocol[T]):
    """A hook's state as bytes (Flink: SimpleVersionedSerializer)."""

    @property
    def version(self) -> int:
        """Of what ``serialize`` writes."""
        ...

    def serialize(self, state: T) -> bytes: ...

    def deserialize(self, version: int, data: bytes) -> T:
        """``version``: that of whoever wrote it; raise for one that is not known."""
        ...


class MasterHook(Protocol[T]):
    """One hook of one job. Calls come one after another; each may block, and each may raise, which is the answer that
    it did not work. A leader that takes over makes a new hook and restores nothing, for the job goes on."""

    @property
    def identifier(self) -> str:
        """Its state is found by it: the same in every version of the hook."""
        ...

    @property
    def serializer(self) -> VersionedSerializer[T]: ...

    def trigger(self, checkpoint: CheckpointId, timestamp_ms: int) -> T | None:
        """A checkpoint begins. What is to be stored in it, if anything. An error aborts the checkpoint."""
        ...

    def restore(self, checkpoint: CheckpointId, state: T | None) -> None:
        """The job goes back to ``checkpoint``; None: the hook stored nothing in it. The job starts when it returns; an
        error is tried again until it does."""
        ...

    def reset(self) -> None:
        """The job starts from nothing."""
        ...

    def close(self) -> None:
        """The job has ended, or another leader has it."""
        ...


MasterHookFactory = Callable[[JobId], MasterHook[Any] | None]
"""What the setting names: makes the hook of a job; None: this job has none."""
