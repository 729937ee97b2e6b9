"""Checkpoints through the whole coordinator: from the trigger to the registry, and everything that gets in between."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, SINK, SOURCE, TOTALS, orders_graph
from tests.unit.cluster.world import CONFIG, STEP_MS, World, acknowledgement, running_world

from moorage.checkpoint.notices import CheckpointAborted, CheckpointCompleted, CheckpointDone, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.stats import CheckpointStatus
from moorage.cluster.protocol import DropReason, MessageDropped, Refused
from moorage.coordinator_process.origin import origin_of
from moorage.errors import RegistryUnavailableError, StorageError
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState, TrimExchange
from moorage.messages.commands import (
    CoordinatorHeartbeat,
    JobFates,
    NotifyCheckpointAborted,
    NotifyCheckpointComplete,
    TriggerCheckpoint,
)
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus
from moorage.naming import metadata_path
from moorage.serde.metadata import decode_metadata

BY_HAND = CheckpointConfig(interval_ms=0, timeout_ms=5_000, tolerable_failures=1, retained=2)
FIRST = CheckpointId(1)
ATTEMPT = Attempt(1)


@pytest.fixture
def world() -> World:
    """The job runs, its workers acknowledge nothing by themselves, checkpoints are taken by hand."""
    world = running_world(orders_graph(checkpoint=BY_HAND))
    for worker in world.workers:
        worker.acknowledges = False
    return world


def acknowledge_all(world: World, checkpoint: CheckpointId) -> None:
    for worker in world.workers:
        for subtask in worker.subtasks(JOB):
            if subtask.vertex != SINK:
                worker.acknowledge(JOB, ATTEMPT, subtask, checkpoint)


def last_fates(world: World) -> JobFates:
    return world.commands(CoordinatorHeartbeat)[-1].jobs[0]


def test_a_checkpoint_from_trigger_to_notification(world: World) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    trigger = world.commands(TriggerCheckpoint)[-1]
    assert (trigger.checkpoint, trigger.attempt, trigger.base) == (1, 1, 0)
    assert leader.job(JOB).checkpoints.history[0].status is CheckpointStatus.IN_PROGRESS

    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)

    assert leader.replies[request] == CheckpointDone(FIRST, metadata_path(JOB, FIRST))
    record = world.registry.checkpoints(JOB)[0]
    assert (record.checkpoint, record.attempt, record.base, record.state_bytes) == (1, 1, 0, 1_200)
    notified = world.commands(NotifyCheckpointComplete)
    assert [(n.checkpoint, n.attempt) for n in notified] == [(1, 1)]
    (completed,) = leader.noticed(CheckpointCompleted)
    metrics = completed.stats.metrics
    assert (metrics.state_bytes, metrics.written_bytes, metrics.alignment_ms) == (1_200, 400, 7)


def test_the_metadata_holds_every_operator_with_its_subtasks_and_the_origin(world: World) -> None:
    world.coordinators[0].trigger(JOB)
    world.run(2 * STEP_MS)
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    metadata = decode_metadata(world.storage.read(metadata_path(JOB, FIRST)))
    assert metadata.checkpoint == 1
    assert [(o.uid, o.parallelism, o.max_parallelism, sorted(o.subtasks)) for o in metadata.operators] == [
        ("orders", 2, 8, [0, 1]),
        ("totals", 2, 8, [0, 1]),
        ("results-encode", 2, 8, []),
    ]
    assert sorted(metadata.paths()) == [
        "orders/chk-1/orders-0-a1-state",
        "orders/chk-1/orders-1-a1-state",
        "orders/chk-1/totals-0-a1-state",
        "orders/chk-1/totals-1-a1-state",
    ]
    origin = origin_of(metadata)
    assert origin is not None
    assert (origin.job, origin.attempt) == (JOB, 1)


def test_it_waits_for_every_subtask_but_the_sinks(world: World) -> None:
    world.coordinators[0].trigger(JOB)
    world.run(2 * STEP_MS)
    first, second = world.workers
    for subtask in (SubtaskId(SOURCE, 0), SubtaskId(TOTALS, 0)):
        first.acknowledge(JOB, ATTEMPT, subtask, FIRST)
    second.acknowledge(JOB, ATTEMPT, SubtaskId(SOURCE, 1), FIRST)
    world.run(20 * STEP_MS)
    assert world.registry.checkpoints(JOB) == []
    second.acknowledge(JOB, ATTEMPT, SubtaskId(TOTALS, 1), FIRST)
    world.run(2 * STEP_MS)
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [1]


def test_duplicate_acknowledgements_change_nothing_and_discard_nothing(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.workers[0].acknowledge(JOB, ATTEMPT, SubtaskId(TOTALS, 0), FIRST)
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    assert [record.state_bytes for record in world.registry.checkpoints(JOB)] == [1_200]
    assert world.cleanups(DiscardState) == []
    dropped = [n for n in leader.noticed(MessageDropped) if n.kind == "AcknowledgeCheckpoint"]
    assert {n.reason for n in dropped} == {DropReason.DUPLICATE}
    assert len(dropped) == 5
    (stats,) = leader.job(JOB).checkpoints.history
    assert (stats.acknowledgements.success, stats.acknowledgements.duplicate) == (4, 5)
    assert leader.job(JOB).checkpoints.latest_completed == stats


def test_an_acknowledgement_after_the_abort_is_discarded_with_its_files(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(BY_HAND.timeout_ms + 2 * STEP_MS)
    world.workers[0].acknowledge(JOB, ATTEMPT, SubtaskId(TOTALS, 0), FIRST)
    world.run(2 * STEP_MS)
    (discarded,) = world.cleanups(DiscardState)
    assert discarded.paths == ("orders/chk-1/totals-0-a1-state",)
    assert world.registry.checkpoints(JOB) == []


def test_acknowledgements_that_nobody_waits_for_have_no_effect(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(2 * STEP_MS)
    worker = world.workers[0]
    graph = orders_graph()
    other_operator = msgspec.structs.replace(
        acknowledgement(graph, worker.worker, ATTEMPT, SubtaskId(TOTALS, 0), FIRST),
        operators=acknowledgement(graph, worker.worker, ATTEMPT, SubtaskId(SOURCE, 0), FIRST).operators,
    )
    worker.say(other_operator)
    worker.say(acknowledgement(graph, worker.worker, ATTEMPT, SubtaskId(SINK, 0), FIRST))
    worker.say(acknowledgement(graph, worker.worker, ATTEMPT, SubtaskId(TOTALS, 0), CheckpointId(99)))
    worker.say(acknowledgement(graph, worker.worker, Attempt(7), SubtaskId(TOTALS, 0), FIRST))
    world.run(2 * STEP_MS)
    assert [n.reason for n in leader.noticed(MessageDropped)] == [
        DropReason.UNKNOWN_SUBTASK,
        DropReason.UNKNOWN_SUBTASK,
        DropReason.UNKNOWN_SUBTASK,
        DropReason.OLD_ATTEMPT,
    ]
    assert leader.job(JOB).checkpoints.history[0].acknowledged == 0
    assert world.cleanups(DiscardState) == []


def test_a_timeout_aborts_and_names_who_was_missing(world: World) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.workers[0].acknowledge(JOB, ATTEMPT, SubtaskId(TOTALS, 0), FIRST)
    world.run(BY_HAND.timeout_ms)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason is CheckpointFailureReason.EXPIRED
    assert "3 subtasks did not acknowledge: orders/0, orders/1, totals/1" in reply.message
    assert [n.checkpoint for n in world.commands(NotifyCheckpointAborted)] == [1]
    assert [m.checkpoint for m in world.cleanups(DiscardCheckpoint)] == [1]
    failed = leader.job(JOB).checkpoints.latest_failed
    assert failed is not None
    assert (failed.checkpoint, failed.acknowledged, failed.subtasks) == (1, 1, 4)


def test_a_decline_aborts_at_once_with_its_reason(world: World) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.workers[1].decline(JOB, ATTEMPT, SubtaskId(TOTALS, 1), FIRST)
    world.run(2 * STEP_MS)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason is CheckpointFailureReason.DECLINED_STORAGE
    assert "totals/1 on w2/1: disk full" in reply.message
    world.workers[1].decline(JOB, ATTEMPT, SubtaskId(TOTALS, 1), FIRST)
    world.run(2 * STEP_MS)
    assert leader.job(JOB).checkpoints.counts.failed == 1


def test_too_many_failures_in_a_row_restart_the_job(world: World) -> None:
    leader = world.coordinators[0]
    for checkpoint in (1, 2):
        leader.trigger(JOB)
        world.run(2 * STEP_MS)
        world.workers[0].decline(JOB, ATTEMPT, SubtaskId(TOTALS, 0), CheckpointId(checkpoint))
        world.run(2 * STEP_MS)
    view = leader.job(JOB)
    assert "more than 1 checkpoints failed in a row" in (view.failure or "")
    assert "disk full" in (view.failure or "")
    world.run_until(lambda: leader.job(JOB).attempt == 2)


def test_a_completed_checkpoint_forgives_earlier_failures(world: World) -> None:
    leader = world.coordinators[0]
    for checkpoint in (1, 2, 3):
        leader.trigger(JOB)
        world.run(2 * STEP_MS)
        if checkpoint == 2:
            acknowledge_all(world, CheckpointId(2))
        else:
            world.workers[0].decline(JOB, ATTEMPT, SubtaskId(TOTALS, 0), CheckpointId(checkpoint))
        world.run(2 * STEP_MS)
    assert leader.job(JOB).attempt == 1
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_metadata_that_can_not_be_written_aborts_the_checkpoint(world: World) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.storage.faults.fail_next("write", StorageError("no space left on device"))
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason is CheckpointFailureReason.METADATA_NOT_WRITTEN
    assert "no space left on device" in reply.message
    assert world.registry.checkpoints(JOB) == []
    assert [m.checkpoint for m in world.cleanups(DiscardCheckpoint)] == [1]


def test_metadata_that_arrives_after_the_abort_is_discarded_again(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(2 * STEP_MS)
    leader.runs_calls = False
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    world.workers[0].report(JOB, ATTEMPT, SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run(2 * STEP_MS)
    assert [m.checkpoint for m in world.cleanups(DiscardCheckpoint)] == [1]
    leader.runs_calls = True
    world.run(2 * STEP_MS)
    assert world.storage.paths() == [metadata_path(JOB, FIRST)]
    assert [m.checkpoint for m in world.cleanups(DiscardCheckpoint)] == [1, 1]
    assert world.registry.checkpoints(JOB) == []


@pytest.mark.parametrize("after", [True, False], ids=["it was added", "it was not added"])
def test_a_registry_outage_leaves_the_fate_open_until_the_registry_answers(world: World, after: bool) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.registry.faults.fail_next("add_checkpoint", RegistryUnavailableError("connection lost"), after=after)
    acknowledge_all(world, FIRST)
    world.step()
    world.registry.available = False
    # Long enough for the timeout of the checkpoint, short enough for the lease.
    world.run(CONFIG.lease_ttl_ms // 2)
    assert request not in leader.replies
    assert last_fates(world).pending == (1,)
    assert last_fates(world).completed == ()
    assert world.commands(NotifyCheckpointAborted) == []
    world.registry.available = True
    world.run(CONFIG.heartbeat_interval_ms * 2)
    assert leader.replies[request] == CheckpointDone(FIRST, metadata_path(JOB, FIRST))
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [1]
    assert last_fates(world).pending == ()
    assert last_fates(world).completed == (1,)


def test_no_attempt_starts_while_an_outcome_is_unknown(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.registry.faults.fail_next("add_checkpoint", RegistryUnavailableError("connection lost"), after=True)
    acknowledge_all(world, FIRST)
    world.step()
    world.registry.available = False
    world.workers[0].report(JOB, ATTEMPT, SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run(1_000)
    view = leader.job(JOB)
    assert view.status is JobStatus.RESTARTING
    assert "registry" in (view.waiting_for or "")
    world.registry.available = True
    world.run_until(lambda: leader.job(JOB).attempt == 2)
    (job,) = world.registry.jobs()
    assert job.restored_checkpoint == 1
    assert [(s.attempt, s.end) for s in job.lineage] == [(1, 1), (2, None)]


def test_an_id_that_the_registry_does_not_give_fails_the_request_only(world: World) -> None:
    leader = world.coordinators[0]
    world.registry.faults.fail_next("next_checkpoint_id", RegistryUnavailableError("connection lost"))
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert (reply.checkpoint, reply.reason) == (None, CheckpointFailureReason.ID_NOT_AVAILABLE)
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_requests_by_hand_are_refused_while_a_subtask_does_not_run() -> None:
    world = running_world(orders_graph(checkpoint=BY_HAND))
    leader = world.coordinators[0]
    world.add_worker("w1", "2")
    for worker in world.workers:
        worker.is_silent = True
    world.workers[-1].is_silent = False
    world.run(400)
    request = leader.trigger(JOB)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason in (
        CheckpointFailureReason.JOB_NOT_RUNNING,
        CheckpointFailureReason.NOT_ALL_REQUIRED_TASKS_RUNNING,
    )


def test_a_request_for_a_job_that_does_not_exist_is_refused(world: World) -> None:
    leader = world.coordinators[0]
    request = leader.trigger(JobId("other"))
    assert isinstance(leader.replies[request], Refused)


def test_the_oldest_are_subsumed_and_handed_to_the_cleaner() -> None:
    world = running_world(orders_graph(checkpoint=CheckpointConfig(interval_ms=200, retained=2)))
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 4)
    retained = [record.checkpoint for record in world.registry.checkpoints(JOB)]
    assert retained == [record.checkpoint for record in leader.job(JOB).retained]
    assert len(retained) == 2
    assert [m.checkpoint for m in world.cleanups(DiscardCheckpoint)] == list(range(1, retained[0]))
    assert world.cleanups(TrimExchange) != []
    assert [s.discarded for s in leader.job(JOB).checkpoints.history if s.checkpoint <= 2] == [True, True]


def test_a_trigger_names_the_newest_completed_checkpoint_as_base() -> None:
    world = running_world(orders_graph(checkpoint=CheckpointConfig(interval_ms=200)))
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 3)
    triggers = world.commands(TriggerCheckpoint)
    assert [t.base for t in triggers] == [t.checkpoint - 1 for t in triggers]


def test_concurrent_checkpoints_complete_in_order_and_subsume_older_ones() -> None:
    graph = orders_graph(checkpoint=CheckpointConfig(interval_ms=0, max_concurrent=3))
    world = running_world(graph)
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    requests = [leader.trigger(JOB) for _ in range(3)]
    world.run(4 * STEP_MS)
    assert [t.checkpoint for t in world.commands(TriggerCheckpoint)] == [1, 2, 3]
    acknowledge_all(world, CheckpointId(2))
    world.run(2 * STEP_MS)
    first, second, third = (leader.replies.get(request) for request in requests)
    assert isinstance(first, CheckpointFailed)
    assert first.reason is CheckpointFailureReason.SUBSUMED
    assert isinstance(second, CheckpointDone)
    assert third is None
    acknowledge_all(world, CheckpointId(1))
    acknowledge_all(world, CheckpointId(3))
    world.run(2 * STEP_MS)
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [2, 3]
    assert [n.checkpoint for n in world.commands(NotifyCheckpointComplete)] == [2, 3]


def test_fates_follow_every_heartbeat(world: World) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(CONFIG.heartbeat_interval_ms * 2)
    fates = last_fates(world)
    assert (fates.last_id, fates.pending, fates.completed) == (1, (1,), ())
    world.workers[0].decline(JOB, ATTEMPT, SubtaskId(TOTALS, 0), FIRST)
    world.run(CONFIG.heartbeat_interval_ms * 2)
    fates = last_fates(world)
    assert (fates.last_id, fates.pending, fates.completed, fates.complete_from) == (1, (), (), 1)


def test_requests_that_wait_are_answered_when_the_job_fails() -> None:
    graph = orders_graph(
        checkpoint=CheckpointConfig(interval_ms=0), restart=RestartConfig(strategy="none", initial_delay_ms=0)
    )
    world = running_world(graph)
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    running, waiting = leader.trigger(JOB), leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.workers[0].report(JOB, ATTEMPT, SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run(2 * STEP_MS)
    for request in (running, waiting):
        reply = leader.replies[request]
        assert isinstance(reply, CheckpointFailed)
        assert reply.reason is CheckpointFailureReason.JOB_STOPPED
    assert len(leader.noticed(CheckpointAborted)) == 2
