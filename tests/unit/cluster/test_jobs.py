"""Submitting and cancelling jobs, as a client sees it."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import CONFIG, STEP_MS, World, running_world, runs

from moorage.cluster.protocol import JobAccepted, JobRequested, Refusal, Refused
from moorage.errors import LogError, LogUnavailableError, RegistryUnavailableError
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, JobId, SubtaskId
from moorage.messages.commands import CancelJob, DeployJob
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus

GRAPH = orders_graph(checkpoint=CheckpointConfig(interval_ms=200))


@pytest.fixture
def world() -> World:
    """A leader without jobs, and one worker that has been there for a while."""
    world = World()
    coordinator = world.add_coordinator()
    world.run_until(lambda: coordinator.leads)
    world.add_worker("w1")
    world.run(1_000)
    return world


def refusal(world: World, request: int) -> Refused:
    reply = world.coordinators[0].replies[request]
    assert isinstance(reply, Refused), reply
    return reply


def test_a_submitted_job_is_stored_before_the_client_hears_of_it(world: World) -> None:
    leader = world.coordinators[0]
    leader.runs_calls = False
    request = leader.submit(GRAPH)
    while not world.registry.jobs():
        assert request not in leader.replies
        leader.executor.run_one()
    assert leader.replies[request] == JobAccepted(JOB)
    (record,) = world.registry.jobs()
    assert (record.status, record.attempt, record.base_checkpoint_id) == (JobStatus.CREATED, 0, 0)


def test_one_job_is_shown_as_among_all(world: World) -> None:
    leader = world.coordinators[0]
    for name in ("orders", "payments"):
        leader.submit(msgspec.structs.replace(GRAPH, job=JobId(name)))
    world.run_until(lambda: len(leader.view().jobs) == 2)
    for shown in leader.view().jobs:
        assert leader.job(shown.job) == shown
    assert refusal(world, leader.ask(lambda number: JobRequested(number, JobId("gone")))) == Refused(
        Refusal.NOT_FOUND, "there is no job gone"
    )


def test_its_topics_are_made_before_it_is_deployed(world: World) -> None:
    world.coordinators[0].submit(GRAPH)
    world.run_until(lambda: bool(world.commands(DeployJob)))
    topics = {name: len(partitions) for name, partitions in world.cluster.topics.items() if "orders" in name}
    assert topics == {
        "moorage.orders.orders--totals": 8,
        "moorage.orders.totals--results": 8,
        "moorage.orders.commits": 8,
    }


def test_slots_are_spread_over_the_workers(world: World) -> None:
    world.add_worker("w2")
    world.run(2 * STEP_MS)
    world.coordinators[0].submit(orders_graph(4))
    world.run_until(lambda: runs(world.coordinators[0], orders_graph(4)))
    assert world.commands(DeployJob)[0].slots == ("w1/1", "w2/1", "w1/1", "w2/1")


def test_a_job_that_runs_can_not_be_submitted_again() -> None:
    world = running_world(GRAPH)
    request = world.coordinators[0].submit(GRAPH)
    assert refusal(world, request).refusal is Refusal.CONFLICT


def test_of_two_at_the_same_time_one_is_refused(world: World) -> None:
    leader = world.coordinators[0]
    first, second = leader.submit(GRAPH), leader.submit(GRAPH)
    world.run(2 * STEP_MS)
    assert leader.replies[first] == JobAccepted(JOB)
    assert refusal(world, second).refusal is Refusal.CONFLICT


def test_a_graph_that_makes_no_sense_is_refused(world: World) -> None:
    request = world.coordinators[0].submit(msgspec.structs.replace(GRAPH, vertices=()))
    assert refusal(world, request).refusal is Refusal.INVALID
    assert "it has no vertices" in refusal(world, request).message


def test_an_exchange_that_exists_with_other_partitions_refuses_the_job(world: World) -> None:
    leader = world.coordinators[0]
    leader.log.faults.fail_next("create_topics", LogError("topic has 4 partitions, not 8"))
    request = leader.submit(GRAPH)
    world.run(2 * STEP_MS)
    assert refusal(world, request).refusal is Refusal.CONFLICT
    assert "topic has 4 partitions, not 8" in refusal(world, request).message
    assert world.registry.jobs() == []


def test_a_kafka_that_does_not_answer_refuses_the_job_for_now(world: World) -> None:
    leader = world.coordinators[0]
    leader.log.faults.fail_next("create_topics", LogUnavailableError("no broker answers"))
    request = leader.submit(GRAPH)
    world.run(2 * STEP_MS)
    assert refusal(world, request).refusal is Refusal.UNAVAILABLE
    again = leader.submit(GRAPH)
    world.run(2 * STEP_MS)
    assert leader.replies[again] == JobAccepted(JOB)


def test_a_registry_that_does_not_answer_delays_the_answer_until_the_job_is_stored(world: World) -> None:
    leader = world.coordinators[0]
    world.registry.faults.fail_next("save_job", RegistryUnavailableError("connection lost"), after=True)
    request = leader.submit(GRAPH)
    world.run(STEP_MS)
    assert request not in leader.replies
    world.run(1_000)
    assert leader.replies[request] == JobAccepted(JOB)


def test_cancel_stops_every_subtask_and_is_answered_once_it_can_not_be_lost() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    request = leader.cancel(JOB)
    assert leader.job(JOB).status is JobStatus.CANCELLING
    assert request not in leader.replies
    world.run(4 * STEP_MS)
    assert leader.replies[request] == JobAccepted(JOB)
    assert leader.job(JOB).status is JobStatus.CANCELED
    assert world.registry.jobs()[0].status is JobStatus.CANCELED
    assert all(not worker.running for worker in world.workers)
    assert [w.free_slots for w in leader.view().workers] == [2, 2]


def test_cancel_while_the_registry_is_away_is_answered_when_it_is_back() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.registry.available = False
    request = leader.cancel(JOB)
    world.run(500)
    assert request not in leader.replies
    assert world.commands(CancelJob) == []
    world.registry.available = True
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    assert leader.replies[request] == JobAccepted(JOB)


def test_cancel_goes_on_without_workers_that_stay_silent() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.workers[0].is_alive = False
    leader.cancel(JOB)
    world.run(500)
    assert leader.job(JOB).status is JobStatus.CANCELLING
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)


def test_cancel_is_repeated_until_the_subtasks_react() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.is_silent = True
    world.step()
    leader.cancel(JOB)
    world.run(CONFIG.repeat_interval_ms * 2)
    assert len(world.commands(CancelJob)) >= 2


def test_a_job_that_waits_for_slots_can_be_cancelled(world: World) -> None:
    leader = world.coordinators[0]
    leader.submit(orders_graph(8))
    world.run(500)
    assert leader.job(JOB).status is JobStatus.CREATED
    assert leader.job(JOB).waiting_for == "slots: it needs 8, 2 are free"
    leader.cancel(JOB)
    world.run(4 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.CANCELED


def test_a_cancel_that_comes_while_the_attempt_is_started_wins(world: World) -> None:
    leader = world.coordinators[0]
    leader.runs_calls = False
    leader.submit(GRAPH)
    while not world.registry.jobs():
        leader.executor.run_one()
    world.step()
    leader.cancel(JOB)
    leader.runs_calls = True
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    assert world.commands(DeployJob) == []
    (record,) = world.registry.jobs()
    assert (record.status, record.attempt) == (JobStatus.CANCELED, 1)


def test_a_job_that_restarts_can_be_cancelled() -> None:
    graph = orders_graph(restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=60_000, max_attempts=1_000))
    world = running_world(graph)
    leader = world.coordinators[0]
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run(2 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.RESTARTING
    assert "back-off" in (leader.job(JOB).waiting_for or "")
    request = leader.cancel(JOB)
    world.run(4 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.CANCELED
    assert leader.replies[request] == JobAccepted(JOB)


def test_two_cancels_are_both_answered() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    requests = [leader.cancel(JOB), leader.cancel(JOB)]
    world.run(4 * STEP_MS)
    assert [leader.replies[request] for request in requests] == [JobAccepted(JOB)] * 2


def test_a_job_that_has_ended_or_never_was_can_not_be_cancelled() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    assert refusal(world, leader.cancel(JobId("other"))).refusal is Refusal.NOT_FOUND
    leader.cancel(JOB)
    world.run(4 * STEP_MS)
    assert refusal(world, leader.cancel(JOB)).refusal is Refusal.CONFLICT


def test_a_later_job_of_the_same_name_starts_empty_with_higher_numbers() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 2)
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    last = world.registry.last_checkpoint_id(JOB)
    leader.submit(GRAPH)
    world.run_until(lambda: runs(leader, GRAPH))
    deploy = world.commands(DeployJob)[-1]
    assert (deploy.attempt, deploy.restore_checkpoint, deploy.base_checkpoint_id) == (2, None, last)
    assert [(s.attempt, s.end) for s in deploy.lineage] == [(2, None)]
    world.run_until(lambda: leader.job(JOB).checkpoints.counts.completed >= 1)
    assert leader.job(JOB).retained[-1].checkpoint > last
    # Its first checkpoint builds on none of the earlier life.
    assert leader.job(JOB).retained[-1].base == 0


def test_a_restart_before_its_first_checkpoint_does_not_restore_the_earlier_life() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 2)
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    by_hand = orders_graph(
        checkpoint=CheckpointConfig(interval_ms=0),
        restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=50, max_attempts=1_000),
    )
    leader.submit(by_hand)
    world.run_until(lambda: runs(leader, by_hand))
    world.workers[0].report(JOB, Attempt(2), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).attempt == 3 and runs(leader, by_hand))
    assert world.commands(DeployJob)[-1].restore_checkpoint is None


def test_a_later_job_of_a_purged_name_goes_on_with_the_attempts() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    submitted_ms = leader.job(JOB).submitted_ms
    assert world.registry.remove_checkpoints(JOB, submitted_ms)
    assert world.registry.begin_purge(JOB, submitted_ms)
    world.registry.purge_job(JOB, submitted_ms)
    leader.submit(GRAPH)
    world.run_until(lambda: runs(leader, GRAPH))
    assert world.commands(DeployJob)[-1].attempt == 2


def test_two_jobs_share_the_workers() -> None:
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    other = msgspec.structs.replace(orders_graph(2), job=JobId("invoices"))
    leader.submit(other)
    world.run_until(lambda: runs(leader, other))
    assert [w.free_slots for w in leader.view().workers] == [0, 0]
    third = msgspec.structs.replace(orders_graph(1), job=JobId("returns"))
    leader.submit(third)
    world.run(1_000)
    assert leader.job(JobId("returns")).status is JobStatus.CREATED
    leader.cancel(JOB)
    world.run_until(lambda: runs(leader, third))
