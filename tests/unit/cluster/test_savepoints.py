"""Savepoints: taken by hand, stopped with, started from, disposed of."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from tests.unit.cluster.graphs import JOB, SOURCE, TOTALS, orders_graph
from tests.unit.cluster.world import STEP_MS, TestCoordinator, World, running_world, runs

from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.cluster.protocol import (
    DisposeSavepointRequested,
    JobAccepted,
    Refusal,
    Refused,
    RescaleRequested,
    RestoreFrom,
    SavepointDisposed,
    SavepointRequested,
    StopWithSavepointRequested,
    SubmitJob,
)
from moorage.cluster.submission import resumable
from moorage.coordinator_process.origin import origin_of, seal, with_origin
from moorage.effects import JobHistory
from moorage.graph.job_graph import CheckpointConfig, JobGraph, RestartConfig
from moorage.ids import Attempt, JobId, OperatorId, OperatorUid, SubtaskId
from moorage.messages.barriers import Alignment, SnapshotKind
from moorage.messages.commands import DeployJob, TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus
from moorage.naming import metadata_of, with_checksum
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.state.handles import FileHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import OperatorSubtaskState

GRAPH = orders_graph(
    checkpoint=CheckpointConfig(interval_ms=200, timeout_ms=5_000, unaligned=True),
    restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=100, max_attempts=1_000),
)


@pytest.fixture
def world() -> World:
    world = running_world(GRAPH)
    world.run_until(lambda: world.coordinators[0].completed(JOB) >= 2)
    return world


@pytest.fixture
def leader(world: World) -> TestCoordinator:
    return world.coordinators[0]


def answer(world: World, leader: TestCoordinator, request: int) -> object:
    world.run_until(lambda: request in leader.replies)
    return leader.replies[request]


def savepoint(world: World, leader: TestCoordinator, location: str | None = None) -> CheckpointDone:
    request = leader.ask(lambda number: SavepointRequested(request=number, job=JOB, location=location))
    done = answer(world, leader, request)
    assert isinstance(done, CheckpointDone), done
    return done


def stop(leader: TestCoordinator, *, drain: bool = False, cancel: bool = False) -> int:
    return leader.ask(lambda number: StopWithSavepointRequested(request=number, job=JOB, drain=drain, cancel=cancel))


def test_a_savepoint_is_aligned_full_and_apart_from_checkpoints(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader, "mine")
    assert done.path.startswith("mine/savepoint-")
    trigger = next(t for t in world.commands(TriggerCheckpoint) if t.checkpoint == done.checkpoint)
    assert trigger.options.kind is SnapshotKind.SAVEPOINT
    assert trigger.options.alignment is Alignment.ALIGNED
    assert trigger.base == 0
    metadata = decode_metadata(world.storage.read(metadata_of(done.path)))
    assert metadata.savepoint
    world.run(1_000)
    retained = world.registry.checkpoints(JOB)
    assert [record.kind for record in retained if record.checkpoint == done.checkpoint] == ["savepoint"]
    assert sum(record.kind == "checkpoint" for record in retained) == GRAPH.checkpoint.retained
    later = [t for t in world.commands(TriggerCheckpoint) if t.checkpoint > done.checkpoint]
    assert later
    assert done.checkpoint not in {t.base for t in later}


def test_a_failure_after_a_savepoint_restarts_from_a_checkpoint(world: World, leader: TestCoordinator) -> None:
    for worker in world.workers:
        worker.acknowledges = True
    done = savepoint(world, leader)
    newest = max(r.checkpoint for r in world.registry.checkpoints(JOB) if r.kind == "checkpoint")
    world.workers[0].report(JOB, Attempt(1), SubtaskId(SOURCE, 0), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, GRAPH))
    restored = world.commands(DeployJob)[-1].restore_checkpoint
    assert restored is not None
    assert restored >= newest
    assert restored != done.checkpoint


@pytest.mark.parametrize(("cancel", "status"), [(False, JobStatus.FINISHED), (True, JobStatus.CANCELED)])
def test_a_job_stops_with_a_savepoint(world: World, leader: TestCoordinator, cancel: bool, status: JobStatus) -> None:
    done = answer(world, leader, stop(leader, cancel=cancel))
    assert isinstance(done, CheckpointDone)
    assert leader.job(JOB).status is status
    record = next(r for r in world.registry.checkpoints(JOB) if r.checkpoint == done.checkpoint)
    assert record.kind == "savepoint"
    assert record.ends_as is status
    assert max(t.checkpoint for t in world.commands(TriggerCheckpoint)) == done.checkpoint


def test_draining_is_said_to_the_subtasks(world: World, leader: TestCoordinator) -> None:
    answer(world, leader, stop(leader, drain=True))
    assert world.commands(TriggerCheckpoint)[-1].options.kind is SnapshotKind.TERMINATE


def test_a_failed_stop_leaves_the_job_running(world: World, leader: TestCoordinator) -> None:
    for worker in world.workers:
        worker.acknowledges = False
    request = stop(leader)
    refused = leader.replies[stop(leader)]
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert isinstance(answer(world, leader, request), CheckpointFailed)
    for worker in world.workers:
        worker.acknowledges = True
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    assert leader.job(JOB).status is JobStatus.RUNNING


def test_an_attempt_that_fails_behind_the_stop_only_commits_and_ends(world: World, leader: TestCoordinator) -> None:
    world.workers[1].commits = False  # it neither commits nor finishes
    request = stop(leader)
    world.run_until(lambda: any(r.ends_as is not None for r in world.registry.checkpoints(JOB)))
    world.run(4 * STEP_MS)
    number = next(r.checkpoint for r in world.registry.checkpoints(JOB) if r.ends_as is not None)
    rescaling = leader.replies[leader.ask(lambda number: RescaleRequested(request=number, job=JOB, parallelism=1))]
    assert isinstance(rescaling, Refused)
    world.workers[1].report(JOB, Attempt(1), SubtaskId(SOURCE, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: world.commands(DeployJob)[-1].attempt == 2)
    deploy = world.commands(DeployJob)[-1]
    assert deploy.finishing
    assert deploy.restore_checkpoint == number
    assert [(s.attempt, s.end) for s in deploy.lineage] == [(1, number), (2, None)]
    assert isinstance(answer(world, leader, request), CheckpointDone)
    assert leader.job(JOB).status is JobStatus.FINISHED


def test_a_new_leader_ends_what_was_stopped(world: World, leader: TestCoordinator) -> None:
    world.workers[1].commits = False
    stop(leader)
    world.run_until(lambda: any(r.ends_as is not None for r in world.registry.checkpoints(JOB)))
    leader.kill()
    second = world.add_coordinator("coordinator-2")
    world.run_until(lambda: second.leads)
    world.run(10 * STEP_MS)
    world.workers[1].report(JOB, Attempt(1), SubtaskId(SOURCE, 1), SubtaskState.FAILED, "boom")
    world.run_until(lambda: second.job(JOB).status is JobStatus.FINISHED)
    assert world.commands(DeployJob)[-1].finishing


# --- starting from one -----------------------------------------------------------------------------------------------


def copy_of(graph: JobGraph) -> JobGraph:
    return msgspec.structs.replace(graph, job=JobId("copy"))


def submit(leader: TestCoordinator, graph: JobGraph, path: str, *, allow_non_restored: bool = False) -> int:
    restore = RestoreFrom(path=path, allow_non_restored=allow_non_restored)
    return leader.ask(lambda number: SubmitJob(number, graph, restore))


def test_another_job_starts_from_a_savepoint(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    world.add_worker("w3", slots=2)
    request = submit(leader, copy_of(GRAPH), done.path)
    assert answer(world, leader, request) == JobAccepted(JobId("copy"))
    world.run_until(lambda: any(deploy.job == "copy" for deploy in world.commands(DeployJob)))
    deploy = next(deploy for deploy in world.commands(DeployJob) if deploy.job == "copy")
    assert deploy.restore_checkpoint is None
    assert deploy.restore_path == metadata_of(done.path)
    assert deploy.restore_checksum is not None
    assert [segment.end for segment in deploy.lineage] == [None]
    world.run_until(lambda: any(t.job == "copy" for t in world.commands(TriggerCheckpoint)))
    first = next(t for t in world.commands(TriggerCheckpoint) if t.job == "copy")
    assert first.options.kind is SnapshotKind.FULL_CHECKPOINT  # the savepoint's files are not the job's


def test_state_without_a_home_is_refused_unless_allowed(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    world.add_worker("w3", slots=2)
    graph = copy_of(GRAPH)
    totals = graph.vertices[1]
    renamed = msgspec.structs.replace(totals.operators[0], operator_id=OperatorId("f" * 32), uid=OperatorUid("other"))
    vertices = (
        graph.vertices[0],
        msgspec.structs.replace(totals, operators=(renamed, *totals.operators[1:])),
        *graph.vertices[2:],
    )
    changed = msgspec.structs.replace(graph, vertices=vertices)
    refused = answer(world, leader, submit(leader, changed, done.path))
    assert isinstance(refused, Refused)
    assert "--allow-non-restored" in refused.message
    assert totals.operators[0].uid in refused.message
    assert answer(world, leader, submit(leader, changed, done.path, allow_non_restored=True)) == JobAccepted(
        JobId("copy")
    )


def test_another_number_of_key_groups_is_refused(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    changed = msgspec.structs.replace(copy_of(GRAPH), max_parallelism=16)
    refused = answer(world, leader, submit(leader, changed, done.path))
    assert isinstance(refused, Refused)
    assert "max_parallelism" in refused.message


def test_no_savepoint_no_job(world: World, leader: TestCoordinator) -> None:
    refused = answer(world, leader, submit(leader, copy_of(GRAPH), "nowhere/savepoint-1"))
    assert isinstance(refused, Refused)
    assert "nowhere/savepoint-1/_metadata" in refused.message


def test_a_savepoint_that_names_a_file_elsewhere_is_refused(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    metadata = decode_metadata(world.storage.read(metadata_of(done.path)))
    stray = KeyGroupsHandle(KeyGroupRange(0, 0), (0,), FileHandle("http://127.0.0.1/latest", 5))
    first, *others = metadata.operators
    hostile = msgspec.structs.replace(first, subtasks={0: OperatorSubtaskState(managed_keyed=(stray,))})
    changed = msgspec.structs.replace(metadata, operators=(hostile, *others))
    origin = origin_of(metadata)
    assert origin is not None
    changed = with_origin(msgspec.structs.replace(changed, master_states=metadata.hook_states), origin)
    world.storage.write("handed/in/_metadata", seal(encode_metadata(changed)))
    refused = answer(world, leader, submit(leader, copy_of(GRAPH), "handed/in", allow_non_restored=True))
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert f"operator {str(first.uid)!r}: its state is said to lie in 'http://127.0.0.1/latest'" in refused.message
    assert all(record.job == JOB for record in world.registry.jobs())


# --- disposal --------------------------------------------------------------------------------------------------------


def dispose(world: World, leader: TestCoordinator, path: str) -> object:
    return answer(world, leader, leader.ask(lambda number: DisposeSavepointRequested(request=number, path=path)))


def test_a_savepoint_is_disposed_of(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    assert dispose(world, leader, done.path) == SavepointDisposed(metadata_of(done.path))
    assert all(record.checkpoint != done.checkpoint for record in world.registry.checkpoints(JOB))
    assert not list(world.storage.list(f"{done.path}/"))
    again = dispose(world, leader, done.path)
    assert isinstance(again, Refused)
    assert again.refusal is Refusal.NOT_FOUND


def test_a_checkpoint_is_not_disposed_of(world: World, leader: TestCoordinator) -> None:
    path = world.registry.checkpoints(JOB)[-1].metadata_path
    refused = dispose(world, leader, path)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert world.storage.read(path)


def test_a_savepoint_that_a_job_needs_is_not_disposed_of(world: World, leader: TestCoordinator) -> None:
    done = savepoint(world, leader)
    world.add_worker("w3", slots=2)
    graph = msgspec.structs.replace(copy_of(GRAPH), checkpoint=CheckpointConfig(interval_ms=0))
    answer(world, leader, submit(leader, graph, done.path))
    refused = dispose(world, leader, done.path)
    assert isinstance(refused, Refused)
    assert "starts from it" in refused.message


# --- going on with a former life -------------------------------------------------------------------------------------


def _cancelled_world(graph: JobGraph, finished: Sequence[SubtaskId] = ()) -> tuple[World, str]:
    """The job was cancelled, its newest checkpoint is retained, and its sinks had not committed with it."""
    world = running_world(graph)
    for subtask in finished:
        world.workers[subtask.subtask].report(JOB, Attempt(1), subtask, SubtaskState.FINISHED)
    leader = world.coordinators[0]
    world.run_until(lambda: leader.completed(JOB) >= 2)
    for worker in world.workers:
        worker.commits = False
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)
    return world, world.registry.checkpoints(JOB)[-1].metadata_path


ALIGNED = orders_graph(checkpoint=CheckpointConfig(interval_ms=200))


def test_the_newest_checkpoint_of_a_cancelled_job_is_gone_on_from_as_after_a_failure() -> None:
    world, path = _cancelled_world(ALIGNED)
    leader = world.coordinators[0]
    wider = ALIGNED.with_parallelism(dict.fromkeys(ALIGNED.parallelism(), 1))
    assert answer(world, leader, submit(leader, wider, path)) == JobAccepted(JOB)
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, wider))
    deploy = world.commands(DeployJob)[-1]
    assert deploy.restore_path == path
    assert deploy.restore_checkpoint is not None
    assert deploy.base_checkpoint_id == 0, "markers of the former life count: sinks commit what is missing"
    assert [(segment.attempt, segment.end) for segment in deploy.lineage] == [(1, deploy.restore_checkpoint), (2, None)]
    assert set(deploy.graph.parallelism().values()) == {1}
    before = leader.completed(JOB)
    world.run_until(lambda: leader.completed(JOB) > before)


def test_a_vertex_that_had_partly_finished_when_the_job_was_cancelled_keeps_its_parallelism() -> None:
    world, path = _cancelled_world(ALIGNED, finished=[SubtaskId(SOURCE, 0), SubtaskId(SOURCE, 1), SubtaskId(TOTALS, 0)])
    leader = world.coordinators[0]
    wider = ALIGNED.with_parallelism({TOTALS: 1})
    refused = answer(world, leader, submit(leader, wider, path))
    assert isinstance(refused, Refused)
    assert "about to finish when it ended: some subtasks of totals have done so already" in refused.message
    assert answer(world, leader, submit(leader, ALIGNED, path)) == JobAccepted(JOB)


def test_an_older_checkpoint_or_another_pipeline_begins_a_new_life() -> None:
    world, newest = _cancelled_world(ALIGNED)
    leader = world.coordinators[0]
    older = world.registry.checkpoints(JOB)[-2].metadata_path
    assert answer(world, leader, submit(leader, ALIGNED, older)) == JobAccepted(JOB)
    world.run_until(lambda: leader.job(JOB).attempt == 2 and runs(leader, ALIGNED))
    deploy = world.commands(DeployJob)[-1]
    assert deploy.restore_checkpoint is None
    assert deploy.restore_path == older
    assert deploy.base_checkpoint_id > 0

    other, path = _cancelled_world(ALIGNED)
    changed = msgspec.structs.replace(ALIGNED, fingerprint="changed")
    assert answer(other, other.coordinators[0], submit(other.coordinators[0], changed, path)) == JobAccepted(JOB)
    other.run_until(lambda: other.commands(DeployJob)[-1].attempt == 2)
    assert other.commands(DeployJob)[-1].restore_checkpoint is None
    assert newest != older


def test_a_life_whose_retention_discards_its_checkpoints_is_not_gone_on_with() -> None:
    world, path = _cancelled_world(ALIGNED)
    retained = tuple(world.registry.checkpoints(JOB))
    (former,) = world.registry.jobs()
    assert resumable(JobHistory(record=former, checkpoints=retained), ALIGNED, path) is former
    config = msgspec.structs.replace(ALIGNED.checkpoint, retention="retain_on_failure")
    graph = msgspec.structs.replace(former.graph, checkpoint=config)
    former = msgspec.structs.replace(former, graph=graph)
    assert resumable(JobHistory(record=former, checkpoints=retained), ALIGNED, path) is None
    failed = msgspec.structs.replace(former, status=JobStatus.FAILED)
    assert resumable(JobHistory(record=failed, checkpoints=retained), ALIGNED, path) is failed


def test_a_savepoint_that_is_acknowledged_after_its_attempt_leaves_no_files(
    world: World, leader: TestCoordinator
) -> None:
    for worker in world.workers:
        worker.acknowledges = False
    leader.ask(lambda number: SavepointRequested(request=number, job=JOB, location="mine"))
    world.run_until(lambda: any(t.options.location for t in world.commands(TriggerCheckpoint)))
    trigger = next(t for t in world.commands(TriggerCheckpoint) if t.options.location)
    world.workers[0].report(JOB, trigger.attempt, SubtaskId(SOURCE, 0), SubtaskState.FAILED, "boom")
    world.run_until(lambda: leader.job(JOB).attempt == trigger.attempt + 1)
    late = f"{trigger.options.location}/{with_checksum(f'{SOURCE}-0-a1-late', 7)}"
    world.storage.write(late, b"state")
    world.workers[0].acknowledge(
        JOB, trigger.attempt, SubtaskId(SOURCE, 0), trigger.checkpoint, trigger.options.location
    )
    world.run(3_000)
    assert not list(world.storage.list("mine/"))


def test_what_the_settings_name_is_submitted_once_in_a_lifetime() -> None:
    world, _ = _cancelled_world(ALIGNED)
    leader = world.coordinators[0]
    again = leader.ask(lambda number: SubmitJob(number, ALIGNED, first_only=True))
    refused = answer(world, leader, again)
    assert isinstance(refused, Refused)
    assert refused.refusal is Refusal.CONFLICT
    assert "ran before and has ended" in refused.message
    other = copy_of(ALIGNED)
    assert answer(world, leader, leader.ask(lambda n: SubmitJob(n, other, first_only=True))) == JobAccepted(other.job)
