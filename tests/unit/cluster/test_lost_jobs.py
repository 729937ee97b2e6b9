"""The registry has lost its data while jobs run."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, graph_of_two_parts, orders_graph
from tests.unit.cluster.world import TestCoordinator, World, running_world, runs

from moorage.cluster.protocol import JobRebuilt, JobUnknown
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.commands import CancelJob, DeployJob
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus

GRAPH = orders_graph(checkpoint=CheckpointConfig(interval_ms=200))


@pytest.fixture
def world() -> World:
    world = running_world(GRAPH)
    for worker in world.workers:
        worker.writes_state = True
    return world


@pytest.fixture
def leader(world: World) -> TestCoordinator:
    return world.coordinators[0]


def test_a_job_is_brought_back_without_being_stopped(world: World, leader: TestCoordinator) -> None:
    world.run_until(lambda: leader.completed(JOB) >= 3)
    epoch = leader.core.epoch
    before = world.registry.checkpoints(JOB)[-1].checkpoint
    world.registry.lose_data()
    world.run_until(lambda: bool(leader.noticed(JobRebuilt)))
    world.run_until(lambda: runs(leader, GRAPH))
    assert leader.core.epoch > epoch
    assert leader.job(JOB).attempt == 1
    world.run_until(
        lambda: bool(world.registry.checkpoints(JOB)) and world.registry.checkpoints(JOB)[-1].checkpoint > before
    )
    assert {deploy.attempt for deploy in world.commands(DeployJob)} == {1}
    assert not world.commands(CancelJob)
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_an_attempt_without_a_checkpoint_of_its_own_is_replaced(world: World, leader: TestCoordinator) -> None:
    world.run_until(lambda: leader.completed(JOB) >= 2)
    for worker in world.workers:
        worker.acknowledges = False
    world.workers[0].is_alive = False
    world.add_worker("w1", incarnation="2").writes_state = True
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, GRAPH))
    world.registry.lose_data()
    world.run_until(lambda: bool(leader.noticed(JobRebuilt)))
    for worker in world.workers:
        worker.acknowledges = True
    world.run_until(lambda: leader.job(JOB).attempt > 2 and runs(leader, GRAPH))
    newest = world.commands(DeployJob)[-1]
    assert newest.restore_checkpoint is not None
    assert all(attempt == newest.attempt for worker in world.workers[1:] for _, attempt in worker.running)


def test_a_job_without_checkpoints_is_left_alone(world: World, leader: TestCoordinator) -> None:
    for path in [found.path for found in world.storage.list(f"{JOB}/")]:
        world.storage.delete([path])
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    for path in [found.path for found in world.storage.list(f"{JOB}/")]:
        world.storage.delete([path])
    world.registry.lose_data()
    world.run_until(lambda: bool(leader.noticed(JobUnknown)))
    world.run(5_000)
    assert len(leader.noticed(JobUnknown)) == 1
    assert not leader.view().jobs
    assert all(worker.running for worker in world.workers)


def test_a_job_whose_parts_are_of_different_attempts_is_brought_back_in_the_newest() -> None:
    """A worker that runs only what went on knows of the newest attempt, too."""
    graph = graph_of_two_parts(checkpoint=CheckpointConfig(interval_ms=200))
    world = running_world(graph)
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.writes_state = True
    first = next(w for w in world.workers if SubtaskId(TOTALS, 0) in w.subtasks(JOB))
    first.report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, graph))
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) >= before + 2)
    attempts = leader.job(JOB).attempts
    assert set(attempts.values()) == {1, 2}
    world.registry.lose_data()
    world.run_until(lambda: bool(leader.noticed(JobRebuilt)))
    world.run_until(lambda: runs(leader, graph))
    assert leader.job(JOB).attempt == 2
    assert leader.job(JOB).attempts == attempts
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    assert len(world.commands(CancelJob)) == 1
