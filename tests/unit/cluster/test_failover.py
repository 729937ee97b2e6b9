"""What goes wrong while a job runs, and how it goes on."""

from __future__ import annotations

from functools import partial

import pytest
from tests.unit.cluster.graphs import JOB, SINK, SOURCE, TOTALS, orders_graph
from tests.unit.cluster.world import CONFIG, EVENTS, STEP_MS, World, running_world, runs

from moorage.cluster.protocol import (
    AttemptFailed,
    AttemptRunning,
    CheckpointUnreadable,
    DropReason,
    JobWaiting,
    LogReachability,
    MessageDropped,
    WorkerGone,
)
from moorage.coordinator_process.process import MalformedMessage, MessageLost
from moorage.errors import LogError, LogUnavailableError, RegistryUnavailableError, StorageError
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, SubtaskId, WorkerId
from moorage.messages.commands import CancelJob, DeployJob, ReportStatus, TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus
from moorage.naming import metadata_path

OFTEN = CheckpointConfig(interval_ms=200)
QUICK = RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000)
GRAPH = orders_graph(checkpoint=OFTEN, restart=QUICK)


@pytest.fixture
def world() -> World:
    """The job runs on two workers with a slot to spare each, and has completed checkpoints."""
    world = running_world(GRAPH)
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 2)
    return world


def newest_deploy(world: World) -> DeployJob:
    return world.commands(DeployJob)[-1]


def recovered(world: World, attempt: int) -> bool:
    leader = world.coordinators[0]
    return leader.job(JOB).attempt == attempt and runs(leader, GRAPH)


def test_a_failed_subtask_restarts_the_job_from_the_latest_checkpoint(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.commits = False
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    latest = world.registry.checkpoints(JOB)[-1]
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "ValueError: no amount")
    world.run_until(lambda: recovered(world, 2))
    deploy = newest_deploy(world)
    assert deploy.restore_checkpoint == latest.checkpoint
    assert deploy.restore_path == metadata_path(JOB, latest.checkpoint)
    assert deploy.restore_checksum == latest.metadata_checksum
    assert [(s.attempt, s.end) for s in deploy.lineage] == [(1, latest.checkpoint), (2, None)]
    view = leader.job(JOB)
    assert view.failure == "totals/1 on w2/1 failed: ValueError: no amount"
    assert view.checkpoints.counts.restored == 1
    failure = view.failures[0]
    assert (failure.subtask, failure.worker, failure.attempt) == (SubtaskId(TOTALS, 1), "w2/1", 1)
    assert failure.trace == "Traceback: ValueError: no amount"


def test_the_first_failure_of_an_attempt_is_its_root_cause(world: World) -> None:
    leader = world.coordinators[0]
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "the cause")
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "a consequence")
    world.run_until(lambda: recovered(world, 2))
    assert [n.cause for n in leader.noticed(AttemptFailed)] == ["totals/1 on w2/1 failed: the cause"]
    assert len(leader.job(JOB).failures) == 1


def test_the_old_attempt_is_stopped_at_once(world: World) -> None:
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run(2 * STEP_MS)
    assert [c.attempt for c in world.commands(CancelJob)] == [1]
    assert all(key[1] != 1 for worker in world.workers for key in worker.running)


def test_slots_of_a_lost_worker_go_to_others(world: World) -> None:
    leader = world.coordinators[0]
    dead, alive = world.workers
    dead.is_alive = False
    world.run_until(lambda: recovered(world, 2))
    assert newest_deploy(world).slots == (alive.worker, alive.worker)
    (gone,) = leader.noticed(WorkerGone)
    assert gone.worker == dead.worker
    assert "no heartbeat" in gone.reason
    (running,) = [n for n in leader.noticed(AttemptRunning) if n.attempt == 2]
    assert running.recovery_ms is not None
    assert 100 <= running.recovery_ms <= 500


def test_a_new_incarnation_of_a_worker_means_that_the_old_one_is_dead_at_once(world: World) -> None:
    dead = world.workers[0]
    dead.is_alive = False
    replacement = world.add_worker("w1", "2")
    started_ms = world.clock.monotonic_ms()
    world.run_until(lambda: recovered(world, 2))
    assert world.clock.monotonic_ms() - started_ms < CONFIG.worker_timeout_ms // 4
    assert newest_deploy(world).slots == (replacement.worker, world.workers[1].worker)


def test_a_zombie_does_not_replace_its_successor(world: World) -> None:
    leader = world.coordinators[0]
    zombie = world.workers[0]
    world.add_worker("w1", "2")
    world.run_until(lambda: recovered(world, 2))
    zombie.heartbeat()
    world.run(1_000)
    assert recovered(world, 2)
    reasons = [n.reason for n in leader.noticed(MessageDropped) if n.kind == "WorkerHeartbeat"]
    assert reasons[-1] is DropReason.REPLACED_WORKER


def test_a_leaving_worker_frees_its_slots_at_once(world: World) -> None:
    leaving = world.workers[0]
    leaving.heartbeat(leaving=True)
    leaving.is_alive = False
    started_ms = world.clock.monotonic_ms()
    world.run_until(lambda: recovered(world, 2))
    assert world.clock.monotonic_ms() - started_ms < 500
    assert [w.worker for w in world.coordinators[0].view().workers] == [world.workers[1].worker]


def test_a_job_waits_for_slots() -> None:
    world = running_world(orders_graph(checkpoint=OFTEN, restart=QUICK), slots=1)
    leader = world.coordinators[0]
    world.workers[0].is_alive = False
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    world.run(2_000)
    assert leader.job(JOB).waiting_for == "slots: it needs 2, 1 are free"
    assert len(leader.noticed(JobWaiting)) == 1
    world.add_worker("w3", slots=1)
    world.run_until(lambda: recovered(world, 2))


def test_a_subtask_that_is_gone_without_a_word_restarts_the_job(world: World) -> None:
    worker = world.workers[0]
    del worker.running[JOB, Attempt(1)][SubtaskId(SOURCE, 0)]
    world.run_until(lambda: recovered(world, 2))
    assert world.coordinators[0].job(JOB).failures[0].cause == "orders/0 is gone from w1/1"


def test_an_old_heartbeat_that_comes_again_proves_nothing(world: World) -> None:
    """A heartbeat from before the deployment lists no subtask; delivered twice it must not look like a loss."""
    leader = world.coordinators[0]
    records = world.cluster.records("moorage.control.events")
    for record in records[:2]:
        assert record.value is not None
        world.cluster.append(EVENTS, record.value)
    world.run(4 * STEP_MS)
    assert leader.job(JOB).attempt == 1
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_a_worker_that_was_late_with_a_stop_is_told_again(world: World) -> None:
    stray = world.add_worker("w3")
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 2))
    before = len(world.commands(CancelJob))
    stray.deployed[JOB] = Attempt(1)
    stray.running = {(JOB, Attempt(1)): {SubtaskId(TOTALS, 0): SubtaskState.RUNNING}}
    stray.heartbeat()
    world.run(4 * STEP_MS)
    assert [c.attempt for c in world.commands(CancelJob)[before:]] == [1]
    assert not stray.running


def test_without_a_checkpoint_the_job_starts_anew() -> None:
    world = running_world(orders_graph(checkpoint=CheckpointConfig(interval_ms=0), restart=QUICK))
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 2))
    deploy = newest_deploy(world)
    assert (deploy.restore_checkpoint, deploy.restore_path) == (None, None)
    assert [(s.attempt, s.end) for s in deploy.lineage] == [(2, None)]


def test_the_lineage_reaches_back_to_the_slowest_sink(world: World) -> None:
    for worker in world.workers:
        worker.commits = False
    ends = []
    for attempt in (1, 2, 3):
        world.run(1_000)
        world.workers[1].report(JOB, Attempt(attempt), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
        world.run_until(partial(recovered, world, attempt + 1))
        ends.append(newest_deploy(world).restore_checkpoint)
    assert [(s.attempt, s.end) for s in newest_deploy(world).lineage] == [
        (1, ends[0]),
        (2, ends[1]),
        (3, ends[2]),
        (4, None),
    ]
    for worker in world.workers:
        worker.commits = True
    world.run(1_000)
    world.workers[1].report(JOB, Attempt(4), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 5))
    assert [s.attempt for s in newest_deploy(world).lineage][-1] == 5
    assert len(newest_deploy(world).lineage) <= 2


def test_a_corrupt_newest_checkpoint_makes_way_for_the_next_older(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    older, newest = [record.checkpoint for record in world.registry.checkpoints(JOB)][-2:]
    world.storage.corrupt(metadata_path(JOB, newest))
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 2))
    assert newest_deploy(world).restore_checkpoint == older
    assert [(s.attempt, s.end) for s in newest_deploy(world).lineage][-1] == (2, None)
    (unreadable,) = leader.noticed(CheckpointUnreadable)
    assert unreadable.checkpoint == newest
    assert "checksum" in unreadable.detail
    assert leader.job(JOB).unreadable == (newest,)
    # What was restored is what increments build on, not the newest that is retained.
    for worker in world.workers:
        worker.acknowledges = True
    triggered = len(world.commands(TriggerCheckpoint))
    world.run_until(lambda: world.registry.checkpoints(JOB)[-1].checkpoint > newest)
    assert world.commands(TriggerCheckpoint)[triggered].base == older
    assert world.registry.checkpoints(JOB)[-1].base == older


def test_a_job_none_of_whose_checkpoints_can_be_read_fails_and_says_so(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    for record in world.registry.checkpoints(JOB):
        world.storage.delete([record.metadata_path])
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).status is JobStatus.FAILED)
    failure = leader.job(JOB).failure or ""
    assert failure.startswith("totals/1 on w2/1 failed: boom (not restarted: no retained checkpoint can be read")
    assert world.registry.jobs()[0].failure == failure


def test_a_storage_that_is_gone_for_a_while_only_delays_the_restart(world: World) -> None:
    leader = world.coordinators[0]
    world.storage.available = False
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run(2_000)
    assert leader.job(JOB).status is JobStatus.RESTARTING
    assert "storage" in (leader.job(JOB).waiting_for or "")
    world.storage.available = True
    world.run_until(lambda: recovered(world, 2))
    assert newest_deploy(world).restore_checkpoint is not None


def test_the_strategy_decides_when_it_is_enough() -> None:
    graph = orders_graph(restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=50, max_attempts=1))
    world = running_world(graph)
    leader = world.coordinators[0]
    for attempt in (1, 2):
        world.run_until(partial(recovered, world, attempt))
        world.workers[1].report(JOB, Attempt(attempt), SubtaskId(TOTALS, 1), SubtaskState.FAILED, f"boom {attempt}")
        world.run(2 * STEP_MS)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.FAILED)
    failure = leader.job(JOB).failure or ""
    assert failure.startswith("totals/1 on w2/1 failed: boom 2 (not restarted: it was restarted once")
    (stored,) = world.registry.jobs()
    assert (stored.status, stored.failure, stored.slots) == (JobStatus.FAILED, failure, ())
    (shown,) = leader.job(JOB).failures
    assert (shown.cause, shown.times) == ("totals/1 on w2/1 failed: boom 2", 2)
    assert all(not worker.subtasks(JOB) for worker in world.workers)
    assert [worker.free_slots for worker in leader.view().workers] == [2, 2]


def test_a_lost_worker_does_not_hold_up_the_end_of_a_failing_job() -> None:
    graph = orders_graph(restart=RestartConfig(strategy="none"))
    world = running_world(graph)
    leader = world.coordinators[0]
    world.workers[0].is_alive = False
    world.run_until(lambda: leader.job(JOB).status is JobStatus.FAILING)
    world.run(4 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.FAILED
    assert "w1/1 is lost" in (leader.job(JOB).failure or "")


def test_a_registry_outage_during_the_restart_only_delays_it(world: World) -> None:
    leader = world.coordinators[0]
    world.registry.faults.fail_next("start_attempt", RegistryUnavailableError("connection lost"), after=True)
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 2))
    assert leader.leads
    assert [d.attempt for d in world.commands(DeployJob)] == [1, 2]


def test_a_job_whose_subtasks_all_finish_is_finished(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        for subtask in worker.subtasks(JOB):
            worker.report(JOB, Attempt(1), subtask, SubtaskState.FINISHED)
    world.run(2 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.FINISHED
    assert world.registry.jobs()[0].status is JobStatus.FINISHED
    assert [worker.free_slots for worker in leader.view().workers] == [2, 2]


def test_while_kafka_is_gone_nobody_is_lost(world: World) -> None:
    leader = world.coordinators[0]
    world.cluster.available = False
    world.run(CONFIG.worker_timeout_ms * 3)
    assert [n.reachable for n in leader.noticed(LogReachability)] == [False]
    world.cluster.available = True
    world.run(CONFIG.worker_timeout_ms * 2)
    assert leader.noticed(WorkerGone) == []
    assert [n.reachable for n in leader.noticed(LogReachability)] == [False, True]
    assert leader.job(JOB).attempt == 1
    assert runs(leader, GRAPH)


def test_heartbeats_do_not_pile_up_while_kafka_is_gone(world: World) -> None:
    leader = world.coordinators[0]
    world.cluster.available = False
    before = len(world.cluster.topics["moorage.control.commands"][0].entries)
    world.run(20_000)
    world.cluster.available = True
    world.run(4 * STEP_MS)
    after = len(world.cluster.topics["moorage.control.commands"][0].entries)
    assert after - before < 10
    assert leader.leads


def test_a_failed_delivery_is_sent_again_in_order(world: World) -> None:
    leader = world.coordinators[0]
    leader.log.faults.fail_next("append", LogUnavailableError("broker went away"))
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: recovered(world, 2))


def test_a_command_that_kafka_will_never_take_is_given_up(world: World) -> None:
    leader = world.coordinators[0]
    leader.log.faults.fail_next("append", LogError("message too large"))
    world.run(CONFIG.heartbeat_interval_ms * 4)
    assert [n.detail for n in leader.noticed(MessageLost)] == ["message too large"]
    world.run(1_000)
    assert runs(leader, GRAPH)


def test_a_pause_of_the_coordinator_is_held_against_nobody(world: World) -> None:
    leader = world.coordinators[0]
    leader.is_paused = True
    for worker in world.workers:
        worker.is_silent = True
    world.run(CONFIG.worker_timeout_ms * 2)
    leader.is_paused = False
    for worker in world.workers:
        worker.is_silent = False
    world.run(CONFIG.worker_timeout_ms)
    # The lease ran out meanwhile: it leads again, and has adopted what runs.
    assert leader.leads
    assert runs(leader, GRAPH)
    assert leader.job(JOB).attempt == 1


def test_messages_that_can_not_be_read_are_skipped(world: World) -> None:
    leader = world.coordinators[0]
    end = world.end_of(EVENTS)
    world.cluster.append(EVENTS, b"garbage")
    world.cluster.append(EVENTS, b"\xc3\x01" + bytes(8) + b"body")
    world.run(1_000)
    assert [n.offset for n in leader.noticed(MalformedMessage)] == [end, end + 1]
    assert leader.leads
    assert runs(leader, GRAPH)


def test_lost_events_are_made_good_by_asking_again(world: World) -> None:
    leader = world.coordinators[0]
    leader.log.faults.fail_next("fetch", LogError("offset out of range"))
    asked = len(world.commands(ReportStatus))
    world.run_until(lambda: len(world.commands(ReportStatus)) > asked)
    world.run_until(lambda: runs(leader, GRAPH))
    assert leader.job(JOB).attempt == 1


def test_a_failed_sink_restarts_the_job(world: World) -> None:
    world.workers[0].report(JOB, Attempt(1), SubtaskId(SINK, 0), SubtaskState.FAILED, "fenced")
    world.run_until(lambda: recovered(world, 2))
    assert newest_deploy(world).restore_checkpoint is not None


def test_a_report_about_a_subtask_of_another_worker_is_dropped(world: World) -> None:
    leader = world.coordinators[0]
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "not mine")
    world.run(2 * STEP_MS)
    assert leader.job(JOB).attempt == 1
    assert leader.noticed(MessageDropped)[-1].reason is DropReason.UNKNOWN_SUBTASK


def test_metadata_that_can_not_be_written_never_restarts_the_job_which_could_not_help_it() -> None:
    graph = orders_graph(checkpoint=CheckpointConfig(interval_ms=200, tolerable_failures=2), restart=QUICK)
    world = running_world(graph)
    leader = world.coordinators[0]
    for _ in range(5):
        world.storage.faults.fail_next("write", StorageError("disk full"))
    world.run_until(lambda: leader.job(JOB).checkpoints.counts.failed == 5)
    world.run_until(lambda: leader.completed(JOB) >= 1)
    assert leader.job(JOB).attempt == 1


def test_worker_ids_without_a_name_are_workers_too() -> None:
    world = World()
    leader = world.add_coordinator()
    world.run_until(lambda: leader.leads)
    worker = world.add_worker("solo")
    worker.worker = WorkerId("solo")
    world.run(2 * STEP_MS)
    assert [w.worker for w in leader.view().workers] == ["solo"]


def test_a_worker_in_a_long_call_of_user_code_is_not_lost() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    attempt = leader.job(JOB).attempt
    world.workers[0].busy_ms = 500
    world.run(2 * CONFIG.worker_timeout_ms)
    assert leader.job(JOB).status is JobStatus.RUNNING
    assert leader.job(JOB).attempt == attempt
    world.workers[0].busy_ms = 0
    world.run(CONFIG.worker_timeout_ms)
    assert leader.job(JOB).attempt == attempt


def test_an_attempt_waits_for_subtasks_of_a_busy_worker() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.workers[0].busy_ms = 500
    running = next(iter(world.workers[1].running))
    world.workers[1].report(*running, next(iter(world.workers[1].running[running])), SubtaskState.FAILED, "broken")
    world.run_until(lambda: leader.job(JOB).attempt == running[1] + 1)
    attempt = leader.job(JOB).attempt
    world.run(2 * CONFIG.deploy_timeout_ms)
    assert leader.job(JOB).attempt == attempt, "nobody knows better than to wait"
    world.workers[0].busy_ms = 0
    world.run_until(lambda: all(s.state.name == "RUNNING" for s in leader.job(JOB).subtasks))
    assert leader.job(JOB).attempt == attempt
