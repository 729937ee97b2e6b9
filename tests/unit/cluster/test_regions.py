"""A job with parts that nothing connects: what fails starts again, the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit.cluster.graphs import (
    JOB,
    OTHER_SINK,
    OTHER_SOURCE,
    OTHER_TOTALS,
    SINK,
    SOURCE,
    TOTALS,
    graph_of_two_parts,
)
from tests.unit.cluster.world import CONFIG, STEP_MS, TestCoordinator, TestWorker, World, running_world, runs

from moorage.checkpoint.notices import CheckpointAborted, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.cluster.protocol import (
    AttemptFailed,
    AttemptRunning,
    AttemptStarted,
    DropReason,
    JobStatusChanged,
    MessageDropped,
    RescaleRequested,
    StopWithSavepointRequested,
)
from moorage.errors import RegistryUnavailableError
from moorage.graph.execution import ExecutionState
from moorage.graph.job_graph import CheckpointConfig, JobGraph, RestartConfig
from moorage.ids import Attempt, SubtaskId, VertexId
from moorage.messages.commands import CancelJob, DeployJob, NotifyCheckpointAborted
from moorage.messages.events import SubtaskState, SubtaskStateChanged
from moorage.messages.registry import JobStatus

OFTEN = CheckpointConfig(interval_ms=200)
QUICK = RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000)
GRAPH = graph_of_two_parts(checkpoint=OFTEN, restart=QUICK)
FIRST = {SOURCE, TOTALS, SINK}
OTHER = {OTHER_SOURCE, OTHER_TOTALS, OTHER_SINK}


def checkpointed(graph: JobGraph = GRAPH, workers: int = 2) -> World:
    """The job runs, and has completed checkpoints."""
    world = running_world(graph, workers)
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 2)
    return world


@pytest.fixture
def world() -> World:
    return checkpointed()


def fail(world: World, vertex: VertexId, subtask: int = 0, attempt: int = 1, cause: str = "boom") -> None:
    worker = next(w for w in world.workers if SubtaskId(vertex, subtask) in w.subtasks(JOB))
    worker.report(JOB, Attempt(attempt), SubtaskId(vertex, subtask), SubtaskState.FAILED, cause)


def recovered(world: World, attempt: int, leader: TestCoordinator | None = None) -> bool:
    leader = leader or world.coordinators[0]
    return leader.job(JOB).attempt == attempt and runs(leader, leader.job(JOB).graph)


def keep_the_lineage(world: World) -> None:
    """Sinks lag from now on."""
    for worker in world.workers:
        worker.commits = False
    before = world.coordinators[0].completed(JOB)
    world.run_until(lambda: world.coordinators[0].completed(JOB) > before)


def attempts(world: World, leader: TestCoordinator | None = None) -> tuple[set[int], set[int]]:
    """Of the first part, and of the other one: as the leader says, and as the workers have it."""
    said = (leader or world.coordinators[0]).job(JOB).attempts
    alive = [worker for worker in world.workers if worker.is_alive]
    ran = {s.vertex: attempt for w in alive for (_, attempt), states in w.running.items() for s in states}
    assert ran == {vertex: said[vertex] for vertex in ran}
    return {said[v] for v in FIRST}, {said[v] for v in OTHER}


def segments(deploy: DeployJob) -> Sequence[tuple[int, int | None, set[VertexId]]]:
    return [(s.attempt, s.end, set(s.parallelism)) for s in deploy.lineage]


def test_what_fails_starts_again_and_the_rest_goes_on(world: World) -> None:
    leader = world.coordinators[0]
    keep_the_lineage(world)
    started_ms = leader.job(JOB).started_ms
    fail(world, TOTALS, 1)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    states = {view.subtask: view.state for view in leader.job(JOB).subtasks}
    assert states[SubtaskId(SOURCE, 0)] is ExecutionState.CANCELED
    assert states[SubtaskId(OTHER_TOTALS, 0)] is ExecutionState.RUNNING
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {1})
    (cancel,) = world.commands(CancelJob)
    assert set(cancel.vertices) == FIRST
    deploy = world.commands(DeployJob)[-1]
    newest = deploy.restore_checkpoint
    assert segments(deploy) == [(1, newest, FIRST), (1, None, OTHER), (2, None, FIRST)]
    assert leader.noticed(AttemptStarted)[-1].vertices == (SOURCE, TOTALS, SINK)
    assert leader.noticed(AttemptRunning)[-1].attempt == 2
    assert "orders, totals, results restart in 100 ms: totals/1" in leader.noticed(JobStatusChanged)[-2].reason
    later_ms = leader.job(JOB).started_ms
    assert later_ms[OTHER_SINK] == started_ms[OTHER_SINK]
    assert later_ms[SINK] > started_ms[SINK]
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) >= before + 2)
    assert world.registry.checkpoints(JOB)[-1].attempt == 2


def test_when_a_part_starts_again_what_is_pending_is_aborted_and_what_waits_is_refused(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    world.run_until(lambda: leader.job(JOB).checkpoints.counts.in_progress == 1)
    waits = leader.trigger(JOB)
    world.run(2 * STEP_MS)
    assert waits not in leader.replies
    fail(world, TOTALS)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    reply = leader.replies[waits]
    assert isinstance(reply, CheckpointFailed)
    assert reply.reason is CheckpointFailureReason.JOB_FAILOVER
    aborted = [notice for notice in leader.noticed(CheckpointAborted) if notice.checkpoint is not None]
    assert [notice.reason for notice in aborted] == [CheckpointFailureReason.JOB_FAILOVER]
    assert [n.checkpoint for n in world.commands(NotifyCheckpointAborted)] == [aborted[0].checkpoint]
    for worker in world.workers:
        worker.acknowledges = True
    before = leader.completed(JOB)
    world.run_until(lambda: recovered(world, 2) and leader.completed(JOB) > before)


def test_everything_starts_again_if_that_is_wanted() -> None:
    restart = RestartConfig(strategy="fixed_delay", max_attempts=9, failover="full")
    world = checkpointed(graph_of_two_parts(checkpoint=OFTEN, restart=restart))
    keep_the_lineage(world)
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})
    assert [c.vertices for c in world.commands(CancelJob)] == [()]
    newest = world.commands(DeployJob)[-1].restore_checkpoint
    assert segments(world.commands(DeployJob)[-1]) == [(1, newest, FIRST | OTHER), (2, None, FIRST | OTHER)]


def test_a_lost_worker_takes_down_what_ran_on_it(world: World) -> None:
    """The other part runs in slot 0 only, and slot 0 is on another worker."""
    leader = world.coordinators[0]
    owners = world.registry.jobs()[0].slots
    dead = next(w for w in world.workers if w.worker == owners[1])
    dead.is_alive = False
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {1})
    assert world.registry.jobs()[0].slots == (owners[0], owners[0])
    assert leader.job(JOB).failures[0].worker == dead.worker


def test_a_lost_worker_on_which_everything_ran_takes_everything_down(world: World) -> None:
    owners = world.registry.jobs()[0].slots
    next(w for w in world.workers if w.worker == owners[0]).is_alive = False
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})


def test_parts_that_fail_one_after_the_other_have_attempts_of_their_own(world: World) -> None:
    leader = world.coordinators[0]
    keep_the_lineage(world)
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    first = world.commands(DeployJob)[-1].restore_checkpoint
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    fail(world, OTHER_SOURCE, attempt=1)
    world.run_until(lambda: recovered(world, 3))
    second = world.commands(DeployJob)[-1].restore_checkpoint
    assert attempts(world) == ({2}, {3})
    assert segments(world.commands(DeployJob)[-1]) == [
        (1, first, FIRST),
        (1, second, OTHER),
        (2, None, FIRST),
        (3, None, OTHER),
    ]
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    world.workers[0].is_alive = world.workers[1].is_alive = False
    world.add_worker("w3", slots=4)
    world.run_until(lambda: recovered(world, 4))
    third = world.commands(DeployJob)[-1].restore_checkpoint
    assert first is not None
    assert second is not None
    assert third is not None
    assert first < second < third
    assert segments(world.commands(DeployJob)[-1]) == [
        (1, first, FIRST),
        (1, second, OTHER),
        (2, third, FIRST),
        (3, third, OTHER),
        (4, None, FIRST | OTHER),
    ]


def test_a_part_that_fails_while_another_restarts_restarts_with_it() -> None:
    world = checkpointed(
        graph_of_two_parts(
            checkpoint=OFTEN, restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=1_000, max_attempts=9)
        )
    )
    leader = world.coordinators[0]
    fail(world, TOTALS, 1, cause="the first")
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    fail(world, OTHER_TOTALS, cause="the second")
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})
    assert [n.cause.partition(": ")[2] for n in leader.noticed(AttemptFailed)] == ["the first", "the second"]


def test_a_failure_while_the_registry_is_waited_for_is_not_overlooked(world: World) -> None:
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    world.registry.available = False
    world.run(500)
    assert leader.job(JOB).waiting_for == "the registry, to start the attempt"
    fail(world, OTHER_TOTALS)
    world.run(100)
    world.registry.available = True
    world.run_until(lambda: attempts(world)[1] != {1} and runs(leader, GRAPH))
    assert attempts(world) == ({3}, {3}), "nobody knew yet whether the first part ran"


def test_a_worker_that_is_lost_while_the_registry_is_waited_for_is_not_overlooked(world: World) -> None:
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    owner = world.registry.jobs()[0].slots[0]
    world.registry.faults.fail_next("start_attempt", RegistryUnavailableError("gone"), after=True)
    world.run(150)
    next(w for w in world.workers if w.worker == owner).heartbeat(leaving=True)
    next(w for w in world.workers if w.worker == owner).is_alive = False
    world.run_until(lambda: runs(leader, GRAPH) and owner not in world.registry.jobs()[0].slots)
    assert max(attempts(world)[1]) > 1


def test_a_subtask_that_is_gone_takes_its_part_down(world: World) -> None:
    worker = next(w for w in world.workers if SubtaskId(OTHER_SINK, 0) in w.subtasks(JOB))
    del worker.running[JOB, Attempt(1)][SubtaskId(OTHER_SINK, 0)]
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({1}, {2})


def test_when_the_newest_checkpoint_can_not_be_read_everything_goes_back(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    newest, older = (c for c in reversed(world.registry.checkpoints(JOB)[-2:]))
    world.storage.corrupt(newest.metadata_path)
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})
    deploy = world.commands(DeployJob)[-1]
    assert deploy.restore_checkpoint == older.checkpoint
    reasons = [n.reason for n in leader.noticed(JobStatusChanged)]
    assert "restarts as a whole: the newest checkpoint can't be read" in reasons


def test_what_went_back_further_does_not_mix_with_a_newer_checkpoint(world: World) -> None:
    """It can be read again: but what goes on has started from an older one, and knows nothing of it."""
    for worker in world.workers:
        worker.acknowledges = False
    world.run(500)
    newest = world.registry.checkpoints(JOB)[-1]
    data = world.storage.read(newest.metadata_path)
    world.storage.delete([newest.metadata_path])
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})
    world.storage.write(newest.metadata_path, data)
    fail(world, TOTALS, 1, attempt=2)
    world.run_until(lambda: recovered(world, 3))
    assert attempts(world) == ({3}, {3})
    assert world.commands(DeployJob)[-1].restore_checkpoint == newest.checkpoint


def test_a_rescale_restarts_everything(world: World) -> None:
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    leader.ask(lambda number: RescaleRequested(request=number, job=JOB, parallelism=1))
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})
    assert set(leader.job(JOB).graph.parallelism().values()) == {1}


def test_a_job_that_is_being_stopped_restarts_as_a_whole(world: World) -> None:
    leader = world.coordinators[0]
    for worker in world.workers:
        worker.acknowledges = False
    leader.ask(lambda number: StopWithSavepointRequested(request=number, job=JOB, drain=True))
    world.run(200)
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    assert attempts(world) == ({2}, {2})


@pytest.mark.parametrize("delay_ms", [0, 400])
def test_a_job_can_be_cancelled_while_a_part_of_it_restarts(world: World, delay_ms: int) -> None:
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.RESTARTING)
    world.registry.available = delay_ms == 0
    world.run(delay_ms)
    leader.cancel(JOB)
    world.run(STEP_MS)
    world.registry.available = True
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED, within_ms=CONFIG.stop_timeout_ms // 2)
    assert not any(worker.subtasks(JOB) for worker in world.workers)


def test_a_job_that_gives_up_gives_up_as_a_whole() -> None:
    restart = RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1)
    world = checkpointed(graph_of_two_parts(checkpoint=OFTEN, restart=restart))
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    fail(world, OTHER_TOTALS)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.FAILED)
    assert not any(worker.subtasks(JOB) for worker in world.workers)


def test_a_new_leader_restarts_everything_when_it_finds_a_part_restarting() -> None:
    restart = RestartConfig(strategy="fixed_delay", initial_delay_ms=1_000, max_attempts=9)
    world = checkpointed(graph_of_two_parts(checkpoint=OFTEN, restart=restart))
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: world.registry.jobs()[0].status is JobStatus.RESTARTING)
    leader.kill()
    heir = world.add_coordinator("coordinator-2")
    world.run_until(lambda: heir.leads)
    world.run_until(lambda: recovered(world, 2, heir))
    assert attempts(world, heir) == ({2}, {2})


def test_a_new_leader_adopts_parts_of_different_attempts(world: World) -> None:
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    world.coordinators[0].kill()
    heir = world.add_coordinator("coordinator-2")
    world.run_until(lambda: heir.leads and runs(heir, GRAPH))
    assert attempts(world, heir) == ({2}, {1})
    before = heir.completed(JOB)
    world.run_until(lambda: heir.completed(JOB) > before)
    fail(world, OTHER_SINK, attempt=1)
    world.run_until(lambda: recovered(world, 3, heir))
    assert attempts(world, heir) == ({2}, {3})


def test_what_is_said_in_an_older_attempt_of_a_part_counts_for_nothing(world: World) -> None:
    leader = world.coordinators[0]
    fail(world, TOTALS, 1)
    world.run_until(lambda: recovered(world, 2))
    for worker in world.workers:
        for subtask in [s for s in worker.subtasks(JOB) if s.vertex in FIRST]:
            worker.say(failed(worker, subtask, attempt=1))
    world.run(200)
    assert recovered(world, 2)
    assert len(leader.job(JOB).failures) == 1
    assert {n.reason for n in leader.noticed(MessageDropped)} == {DropReason.OLD_ATTEMPT}


def failed(worker: TestWorker, subtask: SubtaskId, attempt: int) -> SubtaskStateChanged:
    return SubtaskStateChanged(
        worker=worker.worker,
        job=JOB,
        attempt=Attempt(attempt),
        vertex=subtask.vertex,
        subtask=subtask.subtask,
        state=SubtaskState.FAILED,
        failure="said late",
    )
