"""What a registry that has lost its data must know again of a job, from the checkpoints in the storage.

Each ``_metadata`` carries the job's record and the ids that were completed before it (``CheckpointOrigin``), so the
newest one tells everything but what happened after it: numbers that were given out since are skipped by a wide margin,
for their barriers and frames may lie in the exchange logs.

A ``_metadata`` file alone is no proof that its checkpoint was completed: the registry may have been lost, or the
checkpoint aborted, between the two. It is whole all the same, so the newest of all is taken. Of older ones those count
that lie in its history: the others were rolled back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from moorage.effects import JobHistory
from moorage.errors import CorruptDataError
from moorage.graph.lineage import lineage_of, running_attempts, segment_with
from moorage.ids import Attempt, CheckpointId, VertexId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, LineageSegment
from moorage.state.operator_state import CheckpointOrigin

IDS_SKIPPED = 1_000_000
"""More than a job gives out between two completed checkpoints."""
ATTEMPTS_SKIPPED = 1_000


class StoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint in the storage all of whose files are there."""

    record: CheckpointRecord
    origin: CheckpointOrigin


def encode_record(record: JobRecord) -> bytes:
    """For ``CheckpointOrigin.record``."""
    return msgspec.json.encode(record)


def decode_record(origin: CheckpointOrigin) -> JobRecord:
    """CorruptDataError: it holds none."""
    try:
        return msgspec.json.decode(origin.record, type=JobRecord)
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"the job of a checkpoint of {origin.job} can't be read: {error}") from error


def rebuilt_history(
    found: Sequence[StoredCheckpoint],
    newest_seen: CheckpointId,
    running: Attempt,
    retain: int | None = None,
    parallelism: Mapping[VertexId, frozenset[int]] = MappingProxyType({}),
) -> JobHistory | None:
    """The job as the registry will hold it; None: no checkpoint is left.

    ``newest_seen``: the highest id in any name of a file; ``running``: the highest attempt that workers run, 0: none;
    ``parallelism``: of what they run.
    An attempt that the newest checkpoint belongs to goes on; else a new one will start from it, with a number above all
    that was ever given out.
    """
    if not found:
        return None
    newest = max(found, key=lambda stored: stored.record.checkpoint)
    record = decode_record(newest.origin)
    count = record.graph.checkpoint.retained if retain is None else retain
    history = [stored.record for stored in found if _is_in_history(stored.record, record.lineage, newest.record)]
    retained = sorted(history, key=lambda r: r.checkpoint)[-count:]
    former = record.former_parallelism
    former = {v: tuple(sorted({*former.get(v, ()), *parallelism.get(v, ())})) for v in {**former, **parallelism}}
    record = msgspec.structs.replace(record, former_parallelism=former)
    goes_on = running == newest.record.attempt
    if not goes_on:
        attempt = Attempt(max(running, newest.record.attempt) + ATTEMPTS_SKIPPED)
        record = msgspec.structs.replace(record, status=JobStatus.RESTARTING, attempt=attempt)
    return JobHistory(
        record=record,
        # Their bases are not retained any more, but the files are there.
        checkpoints=tuple(msgspec.structs.replace(r, base=CheckpointId(0)) for r in retained),
        completed_ids=tuple(sorted({*newest.origin.completed, *(r.checkpoint for r in retained)})),
        last_checkpoint_id=CheckpointId(max(newest_seen, newest.record.checkpoint) + IDS_SKIPPED),
        last_attempt=record.attempt,
    )


def _is_in_history(record: CheckpointRecord, lineage: Sequence[LineageSegment], newest: CheckpointRecord) -> bool:
    """Did ``newest`` come out of it, in every part of the job? The lineage is that of the attempt of ``newest``."""
    for vertex in running_attempts(lineage):
        segment = segment_with(lineage_of(lineage, vertex), record.checkpoint, record.attempt)
        end = newest.checkpoint if segment is None or segment.end is None else segment.end
        if segment is None or record.checkpoint > min(end, newest.checkpoint):
            return False
    return True
