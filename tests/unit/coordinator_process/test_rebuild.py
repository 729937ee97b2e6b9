"""Jobs come back from their checkpoints after the registry has lost everything."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import JOB, orders_graph
from tests.unit.cluster.world import World, running_world

from moorage.checkpoint.rebuild import ATTEMPTS_SKIPPED, IDS_SKIPPED
from moorage.coordinator_process.rebuild import rebuild_job
from moorage.effects import RebuildJob
from moorage.errors import FencedError, StaleAttemptError
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, Epoch
from moorage.messages.registry import JobStatus
from moorage.naming import metadata_path

EPOCH = Epoch(9)


def lose_data(world: World) -> None:
    """A new leader finds nothing."""
    world.registry.lose_data()
    lease = world.registry.acquire_lease("another", 60_000, above=Epoch(EPOCH - 1))
    assert lease is not None
    assert lease.epoch == EPOCH


@pytest.fixture
def world() -> World:
    """Its coordinator is gone, its registry is empty; the storage has the retained checkpoints with their files."""
    world = running_world(orders_graph(checkpoint=CheckpointConfig(interval_ms=200, retained=2)))
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 3)
    leader.is_paused = True
    for record in world.registry.checkpoints(JOB):
        for subtask in ("orders-0", "orders-1", "totals-0", "totals-1"):
            world.storage.write(f"orders/chk-{record.checkpoint}/{subtask}-a1-state", bytes(100))
    return world


def rebuild(world: World, running: int = 0) -> RebuildJob:
    return RebuildJob(epoch=EPOCH, job=JOB, running=Attempt(running))


def test_the_registry_holds_again_what_it_held(world: World) -> None:
    (record,) = world.registry.jobs()
    checkpoints = world.registry.checkpoints(JOB)
    completed = world.registry.completed_ids(JOB)
    last = world.registry.last_checkpoint_id(JOB)
    lose_data(world)
    history = rebuild_job(world.registry, world.storage, rebuild(world, running=1))
    assert history is not None
    assert world.registry.jobs() == [record]
    again = world.registry.checkpoints(JOB)
    assert [(r.checkpoint, r.metadata_checksum, r.attempt) for r in again] == [
        (r.checkpoint, r.metadata_checksum, r.attempt) for r in checkpoints
    ]
    assert world.registry.completed_ids(JOB) == completed
    assert world.registry.last_checkpoint_id(JOB) >= last + IDS_SKIPPED - 1
    assert world.registry.last_attempt(JOB) == 1


def test_a_checkpoint_that_misses_a_file_or_is_damaged_is_left_out(world: World) -> None:
    older, newer = world.registry.checkpoints(JOB)
    lose_data(world)
    world.storage.delete([f"orders/chk-{newer.checkpoint}/totals-1-a1-state"])
    history = rebuild_job(world.registry, world.storage, rebuild(world))
    assert history is not None
    assert [r.checkpoint for r in history.checkpoints] == [older.checkpoint]
    assert history.record is not None
    assert (history.record.status, history.record.attempt) == (JobStatus.RESTARTING, 1 + ATTEMPTS_SKIPPED)
    lose_data(world)
    path = metadata_path(JOB, older.checkpoint)
    world.storage.corrupt(path)
    assert rebuild_job(world.registry, world.storage, rebuild(world)) is None
    assert world.registry.jobs() == []


def test_a_job_that_is_known_is_not_touched(world: World) -> None:
    before = world.registry.checkpoints(JOB)
    lease = world.registry.lease()
    assert lease is not None
    known = RebuildJob(epoch=lease.epoch, job=JOB, running=Attempt(0))
    with pytest.raises(StaleAttemptError, match="it is known"):
        rebuild_job(world.registry, world.storage, known)
    assert world.registry.checkpoints(JOB) == before


def test_a_former_leader_rebuilds_nothing(world: World) -> None:
    world.registry.lose_data()
    world.registry.acquire_lease("another", 1_000, above=EPOCH)
    with pytest.raises(FencedError):
        rebuild_job(world.registry, world.storage, rebuild(world))
