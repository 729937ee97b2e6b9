"""What goes when a job ends, as Flink's CheckpointProperties has it."""

from __future__ import annotations

import msgspec
import pytest

from moorage.cleaner.retention import CheckpointRetention, is_discarded
from moorage.ids import Attempt, CheckpointId
from moorage.messages.registry import CheckpointRecord, JobStatus

CHECKPOINT = CheckpointRecord(
    checkpoint=CheckpointId(1),
    attempt=Attempt(1),
    kind="checkpoint",
    metadata_path="orders/chk-1/_metadata",
    metadata_bytes=0,
    metadata_checksum=0,
    triggered_ms=0,
    completed_ms=0,
    state_bytes=0,
)
ENDED = {JobStatus.FINISHED, JobStatus.CANCELED, JobStatus.FAILED, JobStatus.SUSPENDED}


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (CheckpointRetention.NEVER_RETAIN_AFTER_TERMINATION, set()),
        (CheckpointRetention.RETAIN_ON_FAILURE, {JobStatus.FAILED}),
        (CheckpointRetention.RETAIN_ON_CANCELLATION, {JobStatus.FAILED, JobStatus.CANCELED, JobStatus.SUSPENDED}),
    ],
)
def test_what_the_retention_names_is_kept(retention: CheckpointRetention, kept: set[JobStatus]) -> None:
    discarded = {status for status in JobStatus if is_discarded(CHECKPOINT, status, retention)}
    assert discarded == ENDED - kept


@pytest.mark.parametrize("retention", CheckpointRetention)
@pytest.mark.parametrize("status", JobStatus)
def test_savepoints_are_always_kept(retention: CheckpointRetention, status: JobStatus) -> None:
    savepoint = msgspec.structs.replace(CHECKPOINT, kind="savepoint")
    assert not is_discarded(savepoint, status, retention)
