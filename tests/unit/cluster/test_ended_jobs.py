"""What a leader keeps of jobs that have ended, and of workers' talk of jobs that it does not know."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import JOB, TOTALS, orders_graph
from tests.unit.cluster.world import CONFIG, TestCoordinator, World, running_world, runs

from moorage.cluster.ended_jobs import EndedJobs
from moorage.cluster.job import Job
from moorage.cluster.lost_jobs import LostJobs
from moorage.cluster.protocol import JobUnknown
from moorage.cluster.scheduler import SlotPool
from moorage.cluster.workers import Workers
from moorage.effects import Call, Effects, JobHistory, ReadJobNames, Report
from moorage.errors import RegistryUnavailableError
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import Attempt, Epoch, JobId, SubtaskId, WorkerId
from moorage.messages.commands import CancelJob
from moorage.messages.events import RunningSubtask, SubtaskState, WorkerHeartbeat
from moorage.messages.registry import JobRecord, JobStatus

GRAPH = orders_graph(checkpoint=CheckpointConfig(interval_ms=200))


@pytest.fixture
def world() -> World:
    return running_world(GRAPH)


@pytest.fixture
def leader(world: World) -> TestCoordinator:
    return world.coordinators[0]


def cancel(world: World, leader: TestCoordinator) -> None:
    leader.cancel(JOB)
    world.run_until(lambda: leader.job(JOB).status is JobStatus.CANCELED)


def purge(world: World) -> None:
    """As the cleaner does it."""
    (record,) = world.registry.jobs()
    assert world.registry.remove_checkpoints(JOB, record.submitted_ms)
    assert world.registry.begin_purge(JOB, record.submitted_ms)
    world.registry.purge_job(JOB, record.submitted_ms)


def test_a_job_that_has_ended_is_shown_until_it_is_purged(world: World, leader: TestCoordinator) -> None:
    cancel(world, leader)
    world.run(3 * CONFIG.purged_interval_ms)
    assert leader.job(JOB).status is JobStatus.CANCELED
    purge(world)
    world.run(CONFIG.purged_interval_ms + 1_000)
    assert not leader.view().jobs
    assert leader.leads


def test_a_registry_that_does_not_answer_is_asked_again(world: World, leader: TestCoordinator) -> None:
    cancel(world, leader)
    purge(world)
    world.registry.faults.fail_next("jobs", RegistryUnavailableError("away"))
    world.run(CONFIG.purged_interval_ms + 1_000)
    assert not leader.view().jobs


def test_its_name_can_be_used_again_before_the_leader_has_noticed(world: World, leader: TestCoordinator) -> None:
    cancel(world, leader)
    purge(world)
    leader.submit(GRAPH)
    world.run_until(lambda: runs(leader, GRAPH))
    world.run(CONFIG.purged_interval_ms + 1_000)
    assert runs(leader, GRAPH)


def test_what_was_read_before_a_new_submission_does_not_touch_it(world: World, leader: TestCoordinator) -> None:
    cancel(world, leader)
    (record,) = world.registry.jobs()
    effects = Effects()
    jobs = {JOB: job_of(effects, record)}
    ended = EndedJobs(effects, jobs, interval_ms=1_000)
    ended.tick()
    assert effects.drain() == []
    effects.now_ms = 1_000
    ended.tick()
    (call,) = effects.drain()
    assert call == Call(1, ReadJobNames())
    anew = jobs[JOB] = job_of(effects, record)
    effects.now_ms = 2_000
    ended.tick()
    assert effects.drain() == []  # One look at a time.
    effects.finish_call(1, frozenset(), None)
    assert jobs == {JOB: anew}
    ended.tick()
    effects.finish_call(2, frozenset(), None)
    assert jobs == {}
    effects.now_ms = 3_000
    effects.drain()
    ended.tick()
    assert effects.drain() == []  # There is nothing to look for.


def job_of(effects: Effects, record: JobRecord) -> Job:
    workers = Workers(CONFIG.worker_timeout_ms)
    return Job(effects, CONFIG, SlotPool(workers, 0), JobHistory(record=record), lambda: 0.0)


def test_an_unknown_job_is_forgotten_when_no_worker_runs_it_any_more() -> None:
    effects = Effects()
    lost = LostJobs(effects, 1_000, found=lambda _: None)

    def hear(at_ms: int, *jobs: JobId) -> None:
        effects.now_ms = at_ms
        subtasks = tuple(
            RunningSubtask(job=job, attempt=Attempt(1), vertex=TOTALS, subtask=0, state=SubtaskState.RUNNING)
            for job in jobs
        )
        heartbeat = WorkerHeartbeat(
            worker=WorkerId("w1/1"), epoch=Epoch(1), slots=1, subtasks=subtasks, sent_ms=at_ms, host="", metrics_port=1
        )
        lost.heartbeat(heartbeat, lambda _: False)
        lost.tick()

    def said() -> list[type]:
        return [type(action.notice if isinstance(action, Report) else action) for action in effects.drain()]

    hear(0, JOB)
    hear(1_000, JOB)
    assert said() == [Call]
    effects.finish_call(1, None, None)
    assert said() == [JobUnknown]
    for at_ms in range(2_000, 10_000, 1_000):
        hear(at_ms, JOB)
    hear(10_000)
    hear(10_500, JOB)
    assert said() == []  # Said once, while workers run it.
    hear(13_000)
    hear(13_000, JOB)
    hear(14_000, JOB)
    assert said() == [Call]


def test_a_stray_is_told_again_only_after_a_while(world: World, leader: TestCoordinator) -> None:
    cancel(world, leader)
    worker = world.workers[0]
    before = len(world.commands(CancelJob))

    def say(attempt: int) -> int:
        worker.running[JOB, Attempt(attempt)] = {SubtaskId(TOTALS, 0): SubtaskState.RUNNING}
        worker.heartbeat()
        leader.step(world.clock.monotonic_ms())
        return len(world.commands(CancelJob)) - before

    assert say(1) == 1
    assert say(1) == 1
    world.run(CONFIG.repeat_interval_ms)
    assert say(1) == 2
