"""A job without checkpointing from its submission to its end."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.test_savepoints import answer, savepoint
from tests.unit.cluster.world import TestCoordinator, World, running_world, runs

from moorage.checkpoint.notices import CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.cluster.protocol import (
    CheckpointRequested,
    ClientRequest,
    JobAccepted,
    Refusal,
    Refused,
    RescaleRequested,
    RestoreFrom,
    SavepointRequested,
    StopWithSavepointRequested,
    SubmitJob,
)
from moorage.graph.job_graph import CheckpointConfig, RestartConfig
from moorage.ids import Attempt, SubtaskId
from moorage.messages.commands import DeployJob, TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus, RestoreMode

QUICK = RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=10)
GRAPH = orders_graph(checkpoint=CheckpointConfig(enabled=False), restart=QUICK, with_sink=False)
WITH_CHECKPOINTS = msgspec.structs.replace(GRAPH, checkpoint=CheckpointConfig(interval_ms=200))


@pytest.fixture
def world() -> World:
    return running_world(GRAPH)


@pytest.fixture
def leader(world: World) -> TestCoordinator:
    return world.coordinators[0]


def fail(world: World, attempt: int) -> None:
    worker = world.workers[1]
    worker.report(JOB, Attempt(attempt), SubtaskId(TOTALS, 1), SubtaskState.FAILED, "boom")


def is_back(leader: TestCoordinator, attempt: int) -> bool:
    return leader.job(JOB).attempt == attempt and runs(leader, GRAPH)


def test_a_failure_starts_it_from_the_beginning(world: World, leader: TestCoordinator) -> None:
    for attempt in (1, 2):
        world.run(5_000)
        fail(world, attempt)
        world.run_until(partial(is_back, leader, attempt + 1))
    deploy = world.commands(DeployJob)[-1]
    assert (deploy.restore_checkpoint, deploy.restore_path) == (None, None)
    assert [(segment.attempt, segment.end) for segment in deploy.lineage] == [(3, None)]
    assert world.commands(TriggerCheckpoint) == []
    assert world.registry.last_checkpoint_id(JOB) == 0


def test_it_ends_when_its_subtasks_do(world: World, leader: TestCoordinator) -> None:
    for worker in world.workers:
        for subtask in worker.subtasks(JOB):
            worker.report(JOB, Attempt(1), subtask, SubtaskState.FINISHED)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.FINISHED)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: CheckpointRequested(number, JOB),
        lambda number: SavepointRequested(request=number, job=JOB),
        lambda number: StopWithSavepointRequested(request=number, job=JOB),
        lambda number: StopWithSavepointRequested(request=number, job=JOB, cancel=True),
    ],
)
def test_checkpoints_and_savepoints_are_refused(world: World, leader: TestCoordinator, make: object) -> None:
    def ask(number: int) -> ClientRequest:
        return make(number)  # type: ignore[operator,no-any-return]

    assert answer(world, leader, leader.ask(ask)) == CheckpointFailed(None, Reason.DEACTIVATED, "")
    world.run(1_000)
    assert runs(leader, GRAPH)


@pytest.mark.parametrize("automatic", [False, True])
def test_it_is_not_rescaled(world: World, leader: TestCoordinator, automatic: bool) -> None:
    parallelism = None if automatic else 1
    request = leader.ask(
        lambda number: RescaleRequested(request=number, job=JOB, parallelism=parallelism, automatic=automatic)
    )
    refused = answer(world, leader, request)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert "takes no checkpoints" in refused.message
    world.run(1_000)
    assert leader.job(JOB).attempt == 1


def test_a_new_leader_adopts_it(world: World, leader: TestCoordinator) -> None:
    leader.kill()
    other = world.add_coordinator("coordinator-2")
    world.run_until(lambda: other.leads and runs(other, GRAPH))
    assert other.job(JOB).attempt == 1
    fail(world, 1)
    world.run_until(partial(is_back, other, 2))


def test_what_it_was_submitted_to_start_from_is_where_every_attempt_starts() -> None:
    world = running_world(WITH_CHECKPOINTS)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 2)
    path = savepoint(world, leader).path
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    submit_from(world, leader, path)
    fail(world, 2)
    world.run_until(partial(is_back, leader, 3))
    second, third = world.commands(DeployJob)[-2:]
    assert (second.attempt, third.attempt) == (2, 3)
    assert second.restore_path == third.restore_path == f"{path}/_metadata"
    assert second.restore_checkpoint is third.restore_checkpoint is None


def test_it_goes_on_with_no_former_life_but_may_start_from_its_newest_checkpoint() -> None:
    world = running_world(WITH_CHECKPOINTS)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 2)
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    newest = leader.job(JOB).retained[-1]
    submit_from(world, leader, newest.metadata_path)
    deploy = world.commands(DeployJob)[-1]
    assert deploy.restore_path == newest.metadata_path
    assert deploy.restore_checkpoint is None
    assert deploy.base_checkpoint_id >= newest.checkpoint
    assert [(segment.attempt, segment.end) for segment in deploy.lineage] == [(2, None)]


def test_it_can_not_claim_what_it_never_moves_on_from(world: World, leader: TestCoordinator) -> None:
    restore = RestoreFrom(path="orders/savepoints/one", mode=RestoreMode.CLAIM)
    refused = answer(world, leader, leader.ask(lambda number: SubmitJob(number, GRAPH, restore)))
    assert isinstance(refused, Refused)
    assert (refused.refusal, "can't claim" in refused.message) == (Refusal.INVALID, True)


def submit_from(world: World, leader: TestCoordinator, path: str) -> None:
    request = leader.ask(lambda number: SubmitJob(number, GRAPH, RestoreFrom(path=path)))
    assert answer(world, leader, request) == JobAccepted(JOB)
    world.run_until(partial(is_back, leader, 2))
