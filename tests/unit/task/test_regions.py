"""A worker runs subtasks of several attempts of a job: what restarts, and what goes on beside it."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.task.harness import EPOCH, Harness, Order, RunningTotal

import moorage as mo
from moorage.ids import Attempt, CheckpointId, JobId, OperatorUid, VertexId
from moorage.messages.commands import CancelJob, CoordinatorHeartbeat, JobFates, OperatorCommand
from moorage.messages.events import RunningSubtask, SubtaskState, WorkerHeartbeat
from moorage.messages.registry import LineageSegment
from moorage.naming import EVENTS_TOPIC
from moorage.serde import control
from moorage.task.committer import CommitterSubtask
from moorage.task.subtask import Subtask

JOB = JobId("orders")
FIRST = ("orders", "totals", "results")
OTHER = ("others", "other-totals", "other-results")


def two_parts(parallelism: int = 1) -> mo.Pipeline:
    pipeline = mo.Pipeline("orders", parallelism=parallelism, max_parallelism=8)
    for source, totals, results, topic in ((*FIRST, "totals"), (*OTHER, "more")):
        (
            pipeline.source(source, mo.KafkaSource("orders", value=mo.Json(Order)))
            .key_by("user")
            .process(totals, RunningTotal)
            .sink(results, mo.KafkaSink(topic, key="user"))
        )
    return pipeline


@pytest.fixture
def harness() -> Harness:
    """Both parts have processed and committed something on one worker."""
    harness = Harness(two_parts(), workers=1, topics={"more": 1})
    harness.started()
    harness.produce([("ann", 1.0), ("bob", 2.0), ("ann", 3.0)])
    harness.run(20)
    harness.checkpoint_now()
    return harness


def subtasks(harness: Harness) -> dict[str, Subtask]:
    return {subtask.context.vertex.vertex: subtask for subtask in harness.workers[0][0].subtasks()}


def attempts(harness: Harness) -> dict[str, int]:
    return {vertex: subtask.context.attempt for vertex, subtask in subtasks(harness).items()}


def listed(harness: Harness) -> list[RunningSubtask]:
    """In the newest heartbeat."""
    events = [control.decode(r.value or b"", control.EVENTS) for r in harness.cluster.records(EVENTS_TOPIC)]
    return list([event for event in events if isinstance(event, WorkerHeartbeat)][-1].subtasks)


def counts(harness: Harness, topic: str) -> list[tuple[str, int]]:
    rows = [msgspec.json.decode(record.value or b"") for record in harness.cluster.records(topic)]
    return sorted((row["user"], row["count"]) for row in rows)


def test_what_goes_on_is_not_touched(harness: Harness) -> None:
    harness.produce([("ann", 4.0)])
    harness.run(20)
    before = subtasks(harness)
    sink = before["other-results"]
    assert isinstance(sink, CommitterSubtask)
    harness.deploy(goes_on=OTHER)
    harness.run(130)
    after = subtasks(harness)
    assert all(after[vertex] is before[vertex] for vertex in OTHER)
    assert all(after[vertex] is not before[vertex] for vertex in FIRST)
    assert attempts(harness) == {**dict.fromkeys(FIRST, 2), **dict.fromkeys(OTHER, 1)}
    assert {(s.vertex, s.attempt, s.deployed, s.state) for s in listed(harness)} == {
        *((VertexId(vertex), 2, 2, SubtaskState.RUNNING) for vertex in FIRST),
        *((VertexId(vertex), 1, 2, SubtaskState.RUNNING) for vertex in OTHER),
    }
    harness.checkpoint_now()
    assert counts(harness, "totals") == counts(harness, "more") == [("ann", 1), ("ann", 2), ("ann", 3), ("bob", 1)]
    assert sink.context.counters.commits == 2
    harness.deploy()
    harness.produce([("bob", 5.0)])
    harness.run(40)
    harness.checkpoint_now()
    assert counts(harness, "more") == counts(harness, "totals")
    assert counts(harness, "more")[-1] == ("bob", 2)
    assert not harness.failures()


def test_what_is_aborted_meanwhile_is_aborted_for_what_goes_on(harness: Harness) -> None:
    harness.produce([("ann", 4.0)])
    harness.run(20)
    aborted = harness.trigger()
    harness.run(2)
    harness.abort(aborted)
    harness.deploy(goes_on=OTHER)
    harness.run(30)
    harness.checkpoint_now()
    assert counts(harness, "totals") == counts(harness, "more") == [("ann", 1), ("ann", 2), ("ann", 3), ("bob", 1)]


def test_a_part_can_be_stopped_on_its_own(harness: Harness) -> None:
    vertices = tuple(VertexId(vertex) for vertex in FIRST)
    harness.send(CancelJob(epoch=EPOCH, job=JOB, attempt=Attempt(1), vertices=vertices))
    harness.run(5)
    assert attempts(harness) == dict.fromkeys(OTHER, 1)
    assert harness.state("totals", 0) is SubtaskState.CANCELED
    assert harness.state("other-totals", 0) is SubtaskState.RUNNING
    harness.deploy(goes_on=OTHER)
    harness.run(30)
    assert attempts(harness) == {**dict.fromkeys(FIRST, 2), **dict.fromkeys(OTHER, 1)}


def test_what_should_go_on_and_does_not_run_has_failed() -> None:
    """The DeployJob that started it never came: nobody may start it from elsewhere."""
    harness = Harness(two_parts(), workers=1, topics={"more": 1})
    harness.attempt = 1
    harness.lineage = (LineageSegment(Attempt(1), None, harness.compiled.graph.parallelism()),)
    harness.deploy(goes_on=OTHER)
    harness.run(130)
    assert attempts(harness) == dict.fromkeys(FIRST, 2)
    assert {(f.vertex, f.attempt) for f in harness.failures()} == {(vertex, 1) for vertex in OTHER}
    assert "attempt 1 of it does not run on this worker" in str(harness.failures()[0].failure)
    assert {(s.vertex, s.attempt) for s in listed(harness) if s.state is SubtaskState.FAILED} == {
        (vertex, 1) for vertex in OTHER
    }
    harness.deploy()
    harness.run(30)
    assert attempts(harness) == dict.fromkeys((*FIRST, *OTHER), 3)


def test_what_is_not_loaded_yet_goes_on_loading() -> None:
    harness = Harness(two_parts(), workers=1, topics={"more": 1})
    worker = harness.workers[0][0]
    harness.deploy()
    worker.step()
    harness.deploy(goes_on=OTHER)
    worker.step()
    assert not subtasks(harness)
    harness.run(30)
    assert attempts(harness) == {**dict.fromkeys(FIRST, 2), **dict.fromkeys(OTHER, 1)}
    assert not harness.failures()
    harness.produce([("ann", 1.0)])
    harness.run(20)
    harness.checkpoint_now()
    assert counts(harness, "totals") == counts(harness, "more") == [("ann", 1)]


def test_a_worker_that_missed_a_restart_stops_everything(harness: Harness) -> None:
    """It can't know what goes on; what should have is missed then, and restarts."""
    fates = JobFates(
        job=JOB,
        attempt=Attempt(2),
        last_id=CheckpointId(1),
        pending=(),
        completed=(CheckpointId(1),),
        complete_from=CheckpointId(1),
    )
    harness.send(CoordinatorHeartbeat(epoch=EPOCH, sent_ms=0, jobs=(fates,)))
    harness.run(5)
    assert not subtasks(harness)
    harness.deploy(goes_on=OTHER)
    harness.run(30)
    assert attempts(harness) == dict.fromkeys(FIRST, 2)
    assert {f.vertex for f in harness.failures()} == set(OTHER)


def test_triggers_of_an_older_attempt_start_nothing(harness: Harness) -> None:
    harness.deploy(goes_on=OTHER)
    harness.run(30)
    harness.attempt = 1
    checkpoint = harness.trigger()
    harness.run(20)
    assert not harness.acks(checkpoint)


def test_coordinators_of_operators_speak_to_the_attempt_of_their_vertex(harness: Harness) -> None:
    worker = harness.workers[0][0]
    harness.deploy(goes_on=OTHER)
    harness.run(30)

    def speak(vertex: str, attempt: int) -> None:
        harness.send(
            OperatorCommand(
                epoch=EPOCH,
                job=JOB,
                attempt=Attempt(attempt),
                vertex=VertexId(vertex),
                operator=OperatorUid(vertex),
                subtask=None,
                payload=b"nonsense",
            )
        )
        harness.run(5)

    before = worker.counters.stale_commands
    speak("others", 2)
    assert worker.counters.stale_commands == before + 1
    assert not harness.failures()
    speak("others", 1)
    assert [f.vertex for f in harness.failures()] == ["others"]
