"""Another parallelism for a job: from a checkpoint, without a failure, as often as one likes."""

from __future__ import annotations

from functools import partial

import pytest
from tests.unit.cluster.graphs import JOB, SINK, SOURCE, TOTALS, orders_graph
from tests.unit.cluster.world import STEP_MS, TestCoordinator, World, running_world, runs

from moorage.checkpoint.notices import CheckpointFailed
from moorage.cluster.protocol import JobAccepted, Refusal, Refused, RescaleRequested
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.commands import DeployJob, TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus

GRAPH = orders_graph(
    checkpoint=CheckpointConfig(interval_ms=200, timeout_ms=5_000),
    restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000),
)


@pytest.fixture
def world() -> World:
    """Two workers with three slots each; the job has parallelism 2."""
    return running_world(GRAPH, slots=3)


@pytest.fixture
def leader(world: World) -> TestCoordinator:
    return world.coordinators[0]


def rescale(leader: TestCoordinator, **wanted: object) -> int:
    return leader.ask(lambda number: RescaleRequested(request=number, job=JOB, **wanted))  # type: ignore[arg-type]


def recovered(leader: TestCoordinator, attempt: int) -> bool:
    return leader.job(JOB).attempt == attempt and runs(leader, GRAPH)


def deployed(world: World) -> DeployJob:
    return world.commands(DeployJob)[-1]


def test_a_rescale_goes_on_from_a_checkpoint_with_the_new_parallelism(world: World, leader: TestCoordinator) -> None:
    request = rescale(leader, parallelism=3)
    world.run_until(partial(recovered, leader, 2))
    assert leader.replies[request] == JobAccepted(JOB)
    deploy = deployed(world)
    assert set(deploy.graph.parallelism().values()) == {3}
    assert len(deploy.slots) == 3
    assert deploy.restore_checkpoint is not None
    assert [(s.attempt, s.end, s.parallelism[TOTALS]) for s in deploy.lineage] == [
        (1, deploy.restore_checkpoint, 2),
        (2, None, 3),
    ]
    assert deploy.former_parallelism[SINK] == (2, 3)
    view = leader.job(JOB)
    assert view.failures == ()
    assert view.failure is None
    world.run_until(lambda: world.registry.checkpoints(JOB)[-1].attempt == 2)


def test_single_vertices_are_rescaled_by_name(world: World, leader: TestCoordinator) -> None:
    rescale(leader, vertices={TOTALS: 5})
    world.run_until(partial(recovered, leader, 2))
    assert deployed(world).graph.parallelism() == {**GRAPH.parallelism(), TOTALS: 5}


def test_down_and_up_again_remembers_every_parallelism(world: World, leader: TestCoordinator) -> None:
    for attempt, parallelism in enumerate((1, 3, 2), start=2):
        rescale(leader, parallelism=parallelism)
        world.run_until(partial(recovered, leader, attempt))
        world.run(300)
    assert deployed(world).former_parallelism[SINK] == (1, 2, 3)
    assert world.registry.jobs()[0].former_parallelism[SINK] == (1, 2, 3)


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({}, "say which parallelism"),
        ({"parallelism": 0}, "must be between 1 and max_parallelism"),
        ({"parallelism": 7}, "7 slots are needed, and there are 6"),
        ({"vertices": {"nobody": 1}}, "has no vertex 'nobody'"),
    ],
)
def test_what_can_t_be_is_refused(
    world: World, leader: TestCoordinator, wanted: dict[str, object], complaint: str
) -> None:
    request = rescale(leader, **wanted)
    refused = leader.replies[request]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.INVALID
    assert complaint in refused.message
    world.run(500)
    assert leader.job(JOB).attempt == 1


def test_one_rescale_at_a_time(world: World, leader: TestCoordinator) -> None:
    for worker in world.workers:
        worker.acknowledges = False
    rescale(leader, parallelism=3)
    refused = leader.replies[rescale(leader, parallelism=1)]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT


def test_without_a_checkpoint_the_job_stays_as_it_is(world: World, leader: TestCoordinator) -> None:
    for worker in world.workers:
        worker.acknowledges = False
    request = rescale(leader, parallelism=3)
    world.run_until(lambda: request in leader.replies)
    assert isinstance(leader.replies[request], CheckpointFailed)
    assert leader.job(JOB).attempt == 1
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_a_vertex_that_has_partly_finished_keeps_its_parallelism(world: World, leader: TestCoordinator) -> None:
    """Nobody could tell what is done of the partitions of a subtask that has finished."""
    world.workers[0].report(JOB, Attempt(1), SubtaskId(TOTALS, 0), SubtaskState.FINISHED)
    request = rescale(leader, parallelism=3)
    world.run_until(partial(recovered, leader, 2))
    refused = leader.replies[request]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert "some subtasks of totals have done so already, and the others go on with parallelism 2" in refused.message
    assert deployed(world).graph.parallelism() == GRAPH.parallelism()


def test_a_source_that_has_partly_finished_is_rescaled(world: World, leader: TestCoordinator) -> None:
    world.workers[0].report(JOB, Attempt(1), SubtaskId(SOURCE, 0), SubtaskState.FINISHED)
    request = rescale(leader, vertices={SOURCE: 3})
    world.run_until(partial(recovered, leader, 2))
    assert leader.replies[request] == JobAccepted(JOB)
    assert deployed(world).graph.parallelism()[SOURCE] == 3


def test_a_failure_meanwhile_does_not_lose_the_rescale(world: World, leader: TestCoordinator) -> None:
    world.run_until(lambda: leader.completed(JOB) > 0)
    for worker in world.workers:
        worker.acknowledges = False
    request = rescale(leader, parallelism=3)
    world.workers[0].report(JOB, Attempt(1), SubtaskId(SOURCE, 0), SubtaskState.FAILED, "boom")
    world.run_until(partial(recovered, leader, 2))
    assert set(deployed(world).graph.parallelism().values()) == {3}
    assert leader.replies[request] == JobAccepted(JOB)


def test_a_failure_while_the_registry_decides_does_not_lose_it_either(world: World, leader: TestCoordinator) -> None:
    """The checkpoint turns out to be complete when the attempt has ended already."""
    triggered = len(world.commands(TriggerCheckpoint))
    request = rescale(leader, parallelism=3)
    world.run_until(lambda: len(world.commands(TriggerCheckpoint)) > triggered)
    world.registry.available = False
    world.run(10 * STEP_MS)
    world.workers[0].report(JOB, Attempt(1), SubtaskId(SOURCE, 0), SubtaskState.FAILED, "boom")
    world.run(2 * STEP_MS)
    assert leader.job(JOB).status is JobStatus.RESTARTING
    world.registry.available = True
    world.run_until(partial(recovered, leader, 2))
    assert set(deployed(world).graph.parallelism().values()) == {3}
    assert leader.replies[request] == JobAccepted(JOB)


def test_automatic_parallelism_follows_the_workers(world: World, leader: TestCoordinator) -> None:
    rescale(leader, automatic=True)
    world.run_until(partial(recovered, leader, 2))
    assert set(deployed(world).graph.parallelism().values()) == {6}
    world.add_worker("w3", slots=2)
    world.run_until(partial(recovered, leader, 3))
    assert set(deployed(world).graph.parallelism().values()) == {8}
    world.workers[2].heartbeat(leaving=True)
    world.workers[2].is_alive = False
    world.run_until(partial(recovered, leader, 4))
    assert set(deployed(world).graph.parallelism().values()) == {6}
    assert world.registry.jobs()[0].automatic_parallelism
    world.run(10 * STEP_MS)
    assert leader.job(JOB).attempt == 4
