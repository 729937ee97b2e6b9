"""The registry has lost its data while jobs run."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import JOB, orders_graph
from tests.unit.cluster.world import TestCoordinator, World, running_world, runs

from moorage.cluster.protocol import JobRebuilt, JobUnknown
from moorage.graph.job_graph import CheckpointConfig
from moorage.messages.commands import CancelJob, DeployJob
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
