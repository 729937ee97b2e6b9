"""What a checkpoint asks of the subtasks (Flink: CheckpointOptions), from the job's configuration and the request."""

from __future__ import annotations

from moorage.checkpoint.decider import CheckpointRequest
from moorage.graph.job_graph import CheckpointConfig
from moorage.messages.barriers import Alignment, SnapshotKind, SnapshotOptions


def snapshot_options(
    config: CheckpointConfig, request: CheckpointRequest, folder: str | None, *, must_be_full: bool
) -> SnapshotOptions:
    """``folder``: of a savepoint; ``must_be_full``: the checkpoint may refer to no file of an earlier one.

    A savepoint refers to no log, so it is aligned whatever the configuration says.
    """
    if request.kind.is_savepoint:
        return SnapshotOptions(kind=request.kind, native=request.native, location=folder)
    alignment = alignment_of(config)
    return SnapshotOptions(
        kind=SnapshotKind.FULL_CHECKPOINT if must_be_full else request.kind,
        alignment=alignment,
        aligned_timeout_ms=config.aligned_timeout_ms if alignment is Alignment.TIMEOUT else 0,
    )


def alignment_of(config: CheckpointConfig) -> Alignment:
    """That of the job's checkpoints."""
    if config.mode == "at_least_once":
        return Alignment.AT_LEAST_ONCE
    if not config.unaligned:
        return Alignment.ALIGNED
    return Alignment.TIMEOUT if config.aligned_timeout_ms > 0 else Alignment.UNALIGNED
