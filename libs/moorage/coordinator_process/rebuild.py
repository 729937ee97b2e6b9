"""Bring a job back into a registry that has lost its data (design, section 8)."""

from __future__ import annotations

from collections.abc import Mapping

import xxhash

from moorage.checkpoint.rebuild import StoredCheckpoint, rebuilt_history
from moorage.coordinator_process.origin import is_intact, origin_of
from moorage.effects import JobHistory, RebuildJob
from moorage.errors import CorruptDataError, ObjectMissingError
from moorage.ids import CheckpointId, JobId
from moorage.messages.registry import CheckpointRecord
from moorage.naming import job_prefix, parse_storage_path
from moorage.ports import CheckpointStorage, ObjectInfo, Registry
from moorage.serde.metadata import decode_metadata
from moorage.state.handles import ByteStreamHandle, SegmentHandle, StreamHandle, streams_of
from moorage.state.operator_state import CheckpointMetadata


def rebuild_job(registry: Registry, storage: CheckpointStorage, operation: RebuildJob) -> JobHistory | None:
    """*Blocking.* None, and nothing is changed: the storage holds no checkpoint of the job that can be restored.

    StaleAttemptError: the registry knows the job.
    """
    present = {found.path: found for found in storage.list(job_prefix(operation.job))}
    newest_seen, stored = read_checkpoints(storage, operation.job, present)
    history = rebuilt_history(stored, newest_seen, operation.running, parallelism=operation.parallelism)
    if history is None or history.record is None:
        return None
    registry.rebuild_job(
        operation.epoch,
        history.record,
        history.checkpoints,
        history.completed_ids,
        history.last_checkpoint_id,
    )
    return history


def read_checkpoints(
    storage: CheckpointStorage, job: JobId, present: Mapping[str, ObjectInfo]
) -> tuple[CheckpointId, list[StoredCheckpoint]]:
    """*Blocking.* The highest id in any name, and every checkpoint that is whole."""
    named = [(path, at) for path in present if (at := parse_storage_path(path)) is not None and at.job == job]
    newest_seen = max((at.checkpoint for _, at in named), default=CheckpointId(0))
    stored = []
    for path, at in named:
        if at.is_metadata and (one := _read_checkpoint(storage, at.checkpoint, path, present)) is not None:
            stored.append(one)
    return newest_seen, stored


def _read_checkpoint(
    storage: CheckpointStorage, checkpoint: CheckpointId, path: str, present: Mapping[str, ObjectInfo]
) -> StoredCheckpoint | None:
    """None: it is damaged, or not one of ours."""
    try:
        data = storage.read(path)
        if not is_intact(data):
            return None
        metadata = decode_metadata(data)
        origin = origin_of(metadata)
    except (CorruptDataError, ObjectMissingError):
        return None
    if origin is None or not origin.record or metadata.checkpoint != checkpoint or not _is_whole(metadata, present):
        return None
    record = CheckpointRecord(
        checkpoint=checkpoint,
        attempt=origin.attempt,
        kind="checkpoint",
        metadata_path=path,
        metadata_bytes=len(data),
        metadata_checksum=xxhash.xxh3_64_intdigest(data),
        triggered_ms=origin.triggered_ms,
        completed_ms=max(origin.triggered_ms, present[path].modified_ms),
        state_bytes=sum(s.size_bytes for operator in metadata.operators for s in operator.subtasks.values()),
    )
    return StoredCheckpoint(record=record, origin=origin)


def _is_whole(metadata: CheckpointMetadata, present: Mapping[str, ObjectInfo]) -> bool:
    """Is every file there, and long enough?"""
    for operator in metadata.operators:
        for subtask in operator.subtasks.values():
            for handle in subtask.handles():
                if not all(_is_there(stream, present) for stream in streams_of(handle)):
                    return False
    return True


def _is_there(stream: StreamHandle, present: Mapping[str, ObjectInfo]) -> bool:
    if isinstance(stream, ByteStreamHandle):
        return True
    found = present.get(stream.path)
    end = stream.size_bytes + (stream.offset if isinstance(stream, SegmentHandle) else 0)
    return found is not None and found.size_bytes >= end
