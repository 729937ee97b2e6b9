"""`moorage registry rebuild`, on the twins of registry and storage."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import JOB, orders_graph
from tests.unit.cluster.world import World, running_world, runs

from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import JobId
from moorage_cli.rebuilding import NotRebuiltError, rebuild_under_lease

GRAPH = orders_graph(checkpoint=CheckpointConfig(interval_ms=200, retained=2))


@pytest.fixture
def world() -> World:
    """Everything is down, Redis is empty; the storage has what the checkpoints refer to."""
    world = running_world(GRAPH)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 3)
    leader.is_paused = True
    for worker in world.workers:
        worker.is_alive = False
    for record in world.registry.checkpoints(JOB):
        for subtask in ("orders-0", "orders-1", "totals-0", "totals-1"):
            path = f"orders/chk-{record.checkpoint}/{subtask}-a1-state"
            if path not in world.storage.paths():
                world.storage.write(path, bytes(100))
    world.registry.lose_data()
    return world


def test_the_next_coordinator_starts_the_job_again(world: World) -> None:
    history = rebuild_under_lease(world.registry, world.storage, JOB)
    assert world.registry.lease() is None
    coordinator = world.add_coordinator()
    for number in (3, 4):
        world.add_worker(f"w{number}")
    world.run_until(lambda: coordinator.leads and runs(coordinator, GRAPH))
    view = coordinator.job(JOB)
    assert view.attempt == history.last_attempt + 1
    (record,) = world.registry.jobs()
    assert record.restored_checkpoint == history.checkpoints[-1].checkpoint


def test_it_says_why_it_was_not_done(world: World) -> None:
    with pytest.raises(NotRebuiltError, match="no checkpoint of job other"):
        rebuild_under_lease(world.registry, world.storage, JobId("other"))
    rebuild_under_lease(world.registry, world.storage, JOB)
    lease = world.registry.acquire_lease("coordinator-1", 60_000)
    assert lease is not None
    with pytest.raises(NotRebuiltError, match="coordinator-1 leads"):
        rebuild_under_lease(world.registry, world.storage, JOB)
