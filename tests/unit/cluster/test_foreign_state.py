"""A checkpoint that refers to what it must not refer to is never completed (docs/decisions/0006)."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.test_checkpoints import ATTEMPT, BY_HAND, FIRST, acknowledge_all
from tests.unit.cluster.world import STEP_MS, World, acknowledgement, running_world

from moorage.checkpoint.notices import CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.ids import CheckpointId, JobId, SubtaskId
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.naming import shared_state_path
from moorage.state.handles import FileHandle
from moorage.state.operator_state import OperatorSubtaskState

SECOND = CheckpointId(2)


@pytest.fixture
def world() -> World:
    """As in test_checkpoints: nothing is acknowledged by itself."""
    world = running_world(orders_graph(checkpoint=BY_HAND))
    for worker in world.workers:
        worker.acknowledges = False
    return world


def shared(checkpoint: int, job: str = JOB) -> str:
    return shared_state_path(JobId(job), CheckpointId(checkpoint), ATTEMPT, TOTALS, 0, "rows")


def referring_to(path: str, checkpoint: CheckpointId, world: World) -> AcknowledgeCheckpoint:
    message = acknowledgement(orders_graph(), world.workers[0].worker, ATTEMPT, SubtaskId(TOTALS, 0), checkpoint)
    (snapshot,) = message.operators
    (handle,) = snapshot.state.managed_keyed
    other = msgspec.structs.replace(handle, stream=FileHandle(path, 10))
    state = OperatorSubtaskState(managed_keyed=(handle, other))
    return msgspec.structs.replace(message, operators=(msgspec.structs.replace(snapshot, state=state),))


@pytest.mark.parametrize(
    "path", [shared(1), shared(7), shared(2, job="other"), "s3://bucket/savepoint-1/rows"], ids=lambda path: path[:8]
)
def test_a_reference_that_nothing_explains_aborts_the_checkpoint(world: World, path: str) -> None:
    leader = world.coordinators[0]
    leader.trigger(JOB)
    world.run(2 * STEP_MS)
    acknowledge_all(world, FIRST)
    world.run(2 * STEP_MS)
    request = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    world.workers[0].say(referring_to(path, SECOND, world))
    world.run(2 * STEP_MS)
    reply = leader.replies[request]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason is CheckpointFailureReason.FOREIGN_STATE
    assert f"{path} was not written for it nor is part of checkpoint 1" in reply.message
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [FIRST]


def test_what_the_base_refers_to_may_be_referred_to_again(world: World) -> None:
    leader = world.coordinators[0]
    for checkpoint in (FIRST, SECOND):
        leader.trigger(JOB)
        world.run(2 * STEP_MS)
        world.workers[0].say(referring_to(shared(1), checkpoint, world))
        acknowledge_all(world, checkpoint)
        world.run(2 * STEP_MS)
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == [FIRST, SECOND]
