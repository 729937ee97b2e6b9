"""A job without checkpointing: nothing is triggered, and everybody who asks hears why."""

from __future__ import annotations

import pytest
from tests.unit.checkpoint.lone import Lone
from tests.unit.cluster.graphs import SOURCE, TOTALS, orders_graph, subtasks

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.deactivated import DeactivatedCheckpoints
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import NextCheckpointId
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, CheckpointId
from moorage.messages.barriers import SnapshotKind
from moorage.messages.events import SubtaskState
from moorage.messages.registry import CheckpointRecord

GRAPH = orders_graph(2, checkpoint=CheckpointConfig(enabled=False), with_sink=False)


@pytest.fixture
def lone() -> Lone:
    lone = Lone(GRAPH)
    lone.start()
    return lone


def test_nothing_is_triggered_by_itself(lone: Lone) -> None:
    for _ in range(50):
        lone.tick(1_000)
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        lone.becomes(subtask, SubtaskState.RUNNING, data_ended=True)
    lone.tick(1_000)
    assert lone.triggered() == []
    assert lone.operations(NextCheckpointId) == []
    assert lone.coordinator.stats.snapshot().history == ()


@pytest.mark.parametrize("kind", [SnapshotKind.CHECKPOINT, SnapshotKind.SAVEPOINT, SnapshotKind.SUSPEND])
def test_whoever_asks_is_told_why_not(lone: Lone, kind: SnapshotKind) -> None:
    lone.request(CheckpointRequest(kind=kind))
    (outcome,) = lone.outcomes
    assert outcome == CheckpointFailed(None, Reason.DEACTIVATED, "")
    assert outcome.message == "checkpointing is not enabled for this job"
    assert not lone.coordinator.is_stopping
    assert lone.failures == []


def test_an_acknowledgement_of_what_was_never_triggered_is_unknown(lone: Lone) -> None:
    assert lone.acknowledge(subtasks(GRAPH)[0], checkpoint=1) is AcknowledgeOutcome.UNKNOWN


def test_there_is_nothing_to_restart_from_and_nothing_is_added() -> None:
    record = CheckpointRecord(
        checkpoint=CheckpointId(5),
        attempt=Attempt(1),
        kind="checkpoint",
        metadata_path="orders/chk-5/_metadata",
        metadata_bytes=1,
        metadata_checksum=1,
        base=CheckpointId(0),
        triggered_ms=1,
        completed_ms=2,
        state_bytes=3,
    )
    store: CompletedCheckpoints = DeactivatedCheckpoints([record], base=CheckpointId(5))
    assert store.restorable() is store.latest is store.stop is None
    assert store.newest_id == 5, "the registry still holds that of the earlier job"
    with pytest.raises(AssertionError, match="checkpoint 5 of a job without checkpointing"):
        store.add(record, ())
