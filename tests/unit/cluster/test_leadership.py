"""Leaders come and go; what runs goes on."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import COMMANDS, CONFIG, STEP_MS, TestCoordinator, World, running_world, runs

from moorage.cluster.protocol import AttemptRunning, LeadershipChanged, LeaderState, Refusal, Refused
from moorage.errors import LogUnavailableError, RegistryUnavailableError
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, CheckpointId, Epoch, SubtaskId
from moorage.messages.commands import (
    CancelJob,
    CoordinatorHeartbeat,
    DeployJob,
    NotifyCheckpointComplete,
    ReportStatus,
    TriggerCheckpoint,
)
from moorage.messages.events import SubtaskState, WorkerHeartbeat
from moorage.messages.registry import JobStatus
from moorage.naming import COMMANDS_TOPIC
from moorage.serde import control

GRAPH = orders_graph(
    checkpoint=CheckpointConfig(interval_ms=200),
    restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000),
)


@pytest.fixture
def world() -> World:
    world = running_world(GRAPH)
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 2)
    return world


def take_over(world: World, name: str = "coordinator-2") -> TestCoordinator:
    """Kill the leader; another one takes over."""
    world.coordinators[-1].kill()
    heir = world.add_coordinator(name)
    world.run_until(lambda: heir.leads)
    return heir


def test_a_standby_waits_and_names_the_leader(world: World) -> None:
    standby = world.add_coordinator("coordinator-2")
    world.run(CONFIG.lease_ttl_ms * 2)
    assert standby.core.state is LeaderState.STANDBY
    request = standby.submit(GRAPH)
    reply = standby.replies[request]
    assert isinstance(reply, Refused)
    assert reply.refusal is Refusal.NOT_LEADER
    assert "the leader is coordinator-1" in reply.message


def test_a_new_leader_adopts_what_runs(world: World) -> None:
    completed = [record.checkpoint for record in world.registry.checkpoints(JOB)]
    heir = take_over(world)
    world.run_until(lambda: runs(heir, GRAPH))
    assert heir.job(JOB).attempt == 1
    assert len(world.commands(DeployJob)) == 1
    (running,) = heir.noticed(AttemptRunning)
    assert running.adopted
    world.run_until(lambda: heir.completed(JOB) >= 2)
    assert [d.attempt for d in world.commands(DeployJob)] == [1]
    assert min(record.checkpoint for record in world.registry.checkpoints(JOB)) > min(completed)


def test_pending_checkpoints_of_the_old_leader_are_aborted(world: World) -> None:
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    pending = world.commands(TriggerCheckpoint)[-1].checkpoint
    heir = take_over(world)
    world.run(STEP_MS)
    fates = world.commands(CoordinatorHeartbeat)[-1].jobs[0]
    assert fates.last_id >= pending
    assert pending not in fates.pending
    assert pending not in fates.completed
    assert fates.complete_from <= pending
    for worker in world.workers:
        for subtask in worker.subtasks(JOB):
            worker.acknowledge(JOB, Attempt(1), subtask, pending)
    world.run(4 * STEP_MS)
    assert pending not in [record.checkpoint for record in world.registry.checkpoints(JOB)]
    assert heir.job(JOB).status is JobStatus.RUNNING


def test_a_checkpoint_that_the_old_leader_completed_without_a_word_is_complete(world: World) -> None:
    leader = world.coordinators[0]
    leader.runs_calls = False
    before = world.registry.checkpoints(JOB)[-1].checkpoint
    # The registry adds the checkpoint, but the leader dies before it hears of it.
    for _ in range(400):
        world.step()
        while leader.executor.calls:
            leader.executor.call_one()
        if world.registry.checkpoints(JOB)[-1].checkpoint > before:
            break
        while leader.executor.results:
            leader.executor.serve_one()
    added = world.registry.checkpoints(JOB)[-1].checkpoint
    assert added > before
    assert added not in [n.checkpoint for n in world.commands(NotifyCheckpointComplete)]
    take_over(world)
    world.run(STEP_MS)
    assert added in world.commands(CoordinatorHeartbeat)[-1].jobs[0].completed


def test_subtasks_that_do_not_report_restart_the_job(world: World) -> None:
    lost = world.workers[0]
    lost.is_alive = False
    heir = take_over(world)
    world.run_until(lambda: heir.job(JOB).attempt == 2 and runs(heir, GRAPH))
    assert "3 subtasks did not report within 2000 ms" in heir.job(JOB).failures[0].cause
    assert world.commands(DeployJob)[-1].slots == (world.workers[1].worker,) * 2


def test_when_everything_died_the_job_goes_on_as_soon_as_workers_are_back(world: World) -> None:
    for worker in world.workers:
        worker.is_alive = False
    world.coordinators[0].kill()
    latest = world.registry.checkpoints(JOB)[-1].checkpoint
    world.run(10_000)
    heir = world.add_coordinator("coordinator-1")
    world.add_worker("w1", "2")
    world.add_worker("w2", "2")
    world.run_until(lambda: heir.leads)
    started_ms = world.clock.monotonic_ms()
    world.run_until(lambda: runs(heir, GRAPH))
    assert world.clock.monotonic_ms() - started_ms < CONFIG.adoption_timeout_ms
    deploy = world.commands(DeployJob)[-1]
    assert (deploy.attempt, deploy.restore_checkpoint) == (2, latest)
    assert deploy.slots == ("w1/2", "w2/2")


def test_a_deployment_that_nobody_heard_is_repeated_by_the_next_leader() -> None:
    world = World()
    first = world.add_coordinator("coordinator-1")
    world.run_until(lambda: first.leads)
    world.add_worker("w1")
    world.run(2 * STEP_MS)
    first.submit(orders_graph())
    # The leader dies between the registry's word and the broadcast.
    first.runs_calls = False
    for _ in range(100):
        world.step()
        while first.executor.calls:
            first.executor.call_one()
        if any(record.attempt == 1 for record in world.registry.jobs()):
            break
        while first.executor.results:
            first.executor.serve_one()
    heir = take_over(world)
    world.run_until(lambda: runs(heir, orders_graph()))
    assert heir.job(JOB).attempt == 1
    assert {d.attempt for d in world.commands(DeployJob)} == {1}


def test_a_paused_leader_that_wakes_does_nothing_any_more(world: World) -> None:
    old = world.coordinators[0]
    old.is_paused = True
    heir = world.add_coordinator("coordinator-2")
    world.run_until(lambda: heir.leads and runs(heir, GRAPH))
    said = len(world.cluster.records(COMMANDS_TOPIC))
    old.is_paused = False
    old.step(world.clock.monotonic_ms())
    assert old.core.state is LeaderState.STANDBY
    assert len(world.cluster.records(COMMANDS_TOPIC)) == said
    world.run(2_000)
    assert heir.leads
    assert not old.leads
    assert heir.job(JOB).attempt == 1


def test_a_leader_that_does_not_know_that_it_was_replaced_is_fenced(world: World) -> None:
    """Its lease was taken although its own clock says that it holds: the registry refuses, and it stops."""
    old = world.coordinators[0]
    world.registry.release_lease("coordinator-1", old.core.epoch)
    lease = world.registry.acquire_lease("coordinator-2", CONFIG.lease_ttl_ms)
    assert lease is not None
    world.run_until(lambda: not old.leads, within_ms=CONFIG.lease_ttl_ms)
    (record,) = world.registry.jobs()
    assert record.attempt == 1
    lost = [n for n in old.noticed(LeadershipChanged) if n.state is LeaderState.STANDBY]
    assert lost


def test_workers_ignore_a_replaced_leader(world: World) -> None:
    former = world.coordinators[0].core.epoch
    heir = take_over(world)
    world.run_until(lambda: runs(heir, GRAPH))
    assert heir.core.epoch > former
    late = CancelJob(epoch=former, job=JOB, attempt=Attempt(1))
    world.cluster.append(COMMANDS, control.encode(late))
    world.run(1_000)
    assert runs(heir, GRAPH)
    assert heir.job(JOB).attempt == 1


def test_a_leader_that_can_not_renew_its_lease_stops_and_adopts_when_the_registry_is_back(world: World) -> None:
    leader = world.coordinators[0]
    completed = world.registry.checkpoints(JOB)[-1].checkpoint
    world.registry.available = False
    world.run(CONFIG.lease_ttl_ms + 500)
    assert not leader.leads
    assert all(worker.subtasks(JOB) for worker in world.workers)
    world.registry.available = True
    world.run_until(lambda: leader.leads and runs(leader, GRAPH))
    assert leader.job(JOB).attempt == 1
    world.run_until(lambda: world.registry.checkpoints(JOB)[-1].checkpoint > completed)


def test_a_short_outage_of_the_registry_costs_no_leadership(world: World) -> None:
    leader = world.coordinators[0]
    world.registry.available = False
    world.run(CONFIG.lease_ttl_ms // 2)
    world.registry.available = True
    world.run(2_000)
    assert leader.leads
    assert [n.state for n in leader.noticed(LeadershipChanged)] == [LeaderState.LOADING, LeaderState.LEADING]


def test_an_epoch_above_ours_means_that_the_registry_has_lost_its_data(world: World) -> None:
    leader = world.coordinators[0]
    seen = Epoch(leader.core.epoch + 3_600_000)
    world.registry.lose_data()
    world.registry.acquire_lease("coordinator-1", CONFIG.lease_ttl_ms)
    worker = world.workers[0]
    worker.say(WorkerHeartbeat(worker=worker.worker, epoch=seen, slots=2, subtasks=(), sent_ms=world.next_stamp_ms()))
    world.run_until(lambda: leader.noticed(LeadershipChanged)[-1].epoch > seen)
    assert leader.leads or leader.core.state is LeaderState.LOADING
    assert worker.subtasks(JOB), "a job that the registry does not know is left alone"


def test_a_stopped_leader_gives_the_lease_back(world: World) -> None:
    leader = world.coordinators[0]
    heir = world.add_coordinator("coordinator-2")
    leader.process.stop()
    assert not leader.process.is_stopped
    world.run(STEP_MS)
    assert leader.process.is_stopped
    world.run_until(lambda: heir.leads, within_ms=CONFIG.lease_ttl_ms // 2)
    world.run_until(lambda: runs(heir, GRAPH))
    assert heir.job(JOB).attempt == 1


def test_a_stopped_standby_has_nothing_to_give_back(world: World) -> None:
    standby = world.add_coordinator("coordinator-2")
    world.run(STEP_MS)
    standby.process.stop()
    assert standby.process.is_stopped


def test_requests_that_are_under_way_are_answered_when_the_lease_is_lost(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    request = leader.trigger(JOB)
    world.run(STEP_MS)
    world.registry.available = False
    world.run(CONFIG.lease_ttl_ms + 500)
    reply = leader.replies[request]
    assert isinstance(reply, Refused)
    assert reply.refusal is Refusal.NOT_LEADER


def test_a_leader_starts_only_when_it_could_read_everything() -> None:
    world = World()
    leader = world.add_coordinator()
    world.registry.faults.fail_next("jobs", RegistryUnavailableError("connection lost"))
    leader.log.faults.fail_next("offsets", LogUnavailableError("no broker answers"))
    world.run_until(lambda: leader.leads)
    assert len(world.commands(ReportStatus)) == 1


def test_a_job_that_was_being_cancelled_is_cancelled_by_the_next_leader(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.is_silent = True
    leader.cancel(JOB)
    world.run(4 * STEP_MS)
    assert world.registry.jobs()[0].status is JobStatus.CANCELLING
    for worker in world.workers:
        worker.is_silent = False
    former = leader.core.epoch
    heir = take_over(world)
    world.run_until(lambda: heir.job(JOB).status is JobStatus.CANCELED)
    assert {c.epoch for c in world.commands(CancelJob)} == {former, heir.core.epoch}


def test_every_leader_knows_when_a_job_has_ended(world: World) -> None:
    leader = world.coordinators[0]
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    ended_ms = leader.job(JOB).status_since_ms[JobStatus.CANCELED]
    heir = take_over(world)
    assert heir.job(JOB).status_since_ms[JobStatus.CANCELED] == ended_ms < heir.job(JOB).now_ms
    heir.submit(GRAPH)
    world.run_until(lambda: runs(heir, GRAPH))
    assert world.registry.jobs()[0].ended_ms is None


def test_an_adopted_job_whose_first_checkpoint_is_gone_is_not_deployed_again(world: World) -> None:
    """Its DeployJob can't be repeated: who started from it now would start from nothing."""
    leader = world.coordinators[0]
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, GRAPH))
    restored = world.commands(DeployJob)[-1].restore_checkpoint
    assert restored is not None
    world.run_until(lambda: world.registry.checkpoints(JOB)[0].checkpoint > restored)
    world.workers[0].is_silent = True
    deployed = len(world.commands(DeployJob))
    heir = take_over(world)
    world.run(CONFIG.adoption_timeout_ms - 200)
    assert len(world.commands(DeployJob)) == deployed
    assert heir.job(JOB).attempt == 2
    world.workers[0].is_silent = False
    world.run_until(lambda: heir.job(JOB).attempt == 3 and runs(heir, GRAPH))


def test_the_lineage_survives_a_change_of_leaders(world: World) -> None:
    for worker in world.workers:
        worker.commits = False
    world.run(500)
    heir = take_over(world)
    world.run_until(lambda: runs(heir, GRAPH))
    world.run(500)
    world.workers[1].report(JOB, Attempt(1), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: heir.job(JOB).attempt == 2 and runs(heir, GRAPH))
    deploy = world.commands(DeployJob)[-1]
    assert [(s.attempt, s.end) for s in deploy.lineage] == [(1, deploy.restore_checkpoint), (2, None)]
    assert deploy.lineage[0].parallelism == msgspec.to_builtins(GRAPH.parallelism())
    assert deploy.restore_checkpoint is not None
    assert deploy.restore_checkpoint > CheckpointId(2)


def test_statistics_survive_a_change_of_leader(world: World) -> None:
    before = world.coordinators[0].job(JOB).checkpoints
    heir = take_over(world)
    world.run_until(lambda: runs(heir, GRAPH))
    after = heir.job(JOB).checkpoints
    assert after.counts.completed >= before.counts.completed > 0
    assert after.counts.total >= before.counts.total
    assert before.latest_completed is not None
    assert after.find(before.latest_completed.checkpoint) is not None
