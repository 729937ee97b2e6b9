"""The exactly-once sink: whatever breaks, every result is committed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.task.harness import EPOCH, Harness, orders_pipeline
from tests.unit.task.test_main_path import ORDERS, expected

from moorage.errors import LogUnavailableError
from moorage.ids import Attempt, CheckpointId, JobId, OperatorUid
from moorage.messages.commands import CoordinatorHeartbeat, JobFates
from moorage.messages.events import SubtaskState
from moorage.naming import commits_topic, transactional_id
from moorage.ports import TransactionalWriter
from moorage.serde.positions import decode_commit, encode_marker, marker_key
from moorage.state.positions import CommitClaim, CommitMarker
from moorage.task.committer import CommitterSubtask, Phase
from moorage.testing.memory_log import MemoryLog

JOB, SINK = JobId("orders"), OperatorUid("results")


def with_output(parallelism: int = 1, orders: Sequence[tuple[str, float]] = ORDERS[:100]) -> Harness:
    harness = Harness(orders_pipeline(parallelism), workers=1)
    harness.started()
    harness.produce(orders)
    harness.run(30)
    return harness


def sinks(harness: Harness) -> list[CommitterSubtask]:
    return [
        s
        for worker, _, _ in harness.workers
        for d in worker._deployments.values()
        for s in d.subtasks
        if isinstance(s, CommitterSubtask)
    ]


def holder(harness: Harness, subtask: int = 0, parallelism: int = 1) -> TransactionalWriter:
    """Another process with the same transactional id."""
    log = MemoryLog(harness.cluster, "elsewhere")
    return log.transactional_writer(transactional_id(JOB, SINK, parallelism, subtask), transaction_timeout_ms=60_000)


def marker(checkpoint: int, *, attempt: int = 1, group: int = 0, sink: str = SINK) -> bytes:
    return encode_marker(
        CommitMarker(
            sink=OperatorUid(sink),
            key_group=group,
            checkpoint=CheckpointId(checkpoint),
            attempt=Attempt(attempt),
            producers=(0,),
            offsets=(0,),
        )
    )


def write_markers(harness: Harness, checkpoint: int, **options: Any) -> None:
    for group in range(8):
        key = marker_key(SINK, group)
        harness.append(commits_topic(JOB), group, marker(checkpoint, group=group, **options), key=key)


# --- the producer breaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["before it took effect", "after it took effect"])
def test_a_commit_that_breaks_loses_and_doubles_nothing(after: bool) -> None:
    harness = with_output()
    harness.workers[0][2].faults.fail_next("commit", LogUnavailableError("Kafka does not answer"), after=after)
    harness.checkpoint_now()
    assert (harness.output() != []) is after
    harness.run(40)
    assert harness.counts() == expected(ORDERS[:100])
    assert harness.contexts()[-1].counters.broken_transactions == 1
    assert harness.warnings == ["sink 'results' begins its transaction anew: Kafka does not answer"]
    harness.produce(ORDERS[100:])
    harness.run(30)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)
    assert not harness.failures()


def test_a_record_that_is_not_stored_breaks_the_transaction() -> None:
    harness = with_output(orders=[])
    worker, _, log = harness.workers[0]
    log.immediate = False
    harness.produce(ORDERS[:100])
    for _ in range(30):
        worker.step()
        harness.clock.advance(5)
        for queue in log.pending():
            while queue and queue.partition.topic != "totals":
                queue.deliver_one()
    log.faults.fail_next("append", LogUnavailableError("lost"))
    next(queue for queue in log.pending() if queue.partition.topic == "totals").deliver_one()
    log.immediate = True
    harness.run(60)
    assert harness.contexts()[-1].counters.broken_transactions == 1
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS[:100])
    assert not harness.failures()


def test_opening_is_tried_again_with_longer_and_longer_pauses() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    faults = harness.workers[0][2].faults
    for _ in range(3):
        faults.fail_next("init", LogUnavailableError("Kafka does not answer"))
    harness.deploy()
    harness.run(20)
    (sink,) = sinks(harness)
    assert sink.phase is Phase.BROKEN
    assert sink.state is SubtaskState.INITIALIZING
    harness.run(200)
    assert sink.phase is Phase.WRITING
    assert sink.state is SubtaskState.RUNNING
    assert harness.warnings == ["sink 'results' begins its transaction anew: Kafka does not answer"] * 3
    assert harness.clock.monotonic_ms() >= 100 + 200 + 400
    harness.produce(ORDERS)
    harness.run(30)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)


def test_a_fenced_sink_fails_and_never_takes_its_id_back() -> None:
    harness = with_output()
    checkpoint = harness.trigger()
    harness.run(30)
    newer = holder(harness)
    newer.init()
    harness.finalize(checkpoint)
    harness.run(60)
    (failure,) = harness.failures()
    assert failure.vertex == "results"
    assert "has a newer holder" in (failure.failure or "")
    newer.begin()
    newer.append(commits_topic(JOB), 0, b"k", marker(1))
    newer.commit()
    assert harness.output() == []


# --- whom it believes ------------------------------------------------------------------------------------------------


def test_a_sink_that_has_committed_beyond_the_restored_checkpoint_fails() -> None:
    harness = with_output()
    harness.checkpoint_now()
    first = harness.latest
    harness.produce(ORDERS[100:])
    harness.run(30)
    harness.checkpoint_now()
    harness.latest = first
    harness.deploy()
    harness.run(30)
    (failure,) = harness.failures()
    assert failure.failure == (
        "sink 'results' has committed its output up to checkpoint 2, but the job goes back to checkpoint 1: running on"
        " would write the output in between twice. Set checkpoint.allow_duplicates_on_fallback to accept that"
    )
    assert failure.permanent, "another attempt would fail alike"
    assert harness.counts() == expected(ORDERS)


def test_where_duplicates_are_allowed_it_goes_on_all_the_same() -> None:
    harness = with_output()
    harness.checkpoint_now()
    first = harness.latest
    more = ORDERS[100:]
    harness.produce(more)
    harness.run(30)
    harness.checkpoint_now()
    before = len(harness.output())
    harness.latest = first
    harness.deploy(allow_duplicates=True)
    harness.run(30)
    harness.checkpoint_now()
    assert not harness.failures()
    assert len(harness.output()) == before + len(more), "what lies in between comes twice, nothing else does"
    harness.deploy()
    harness.run(30)
    harness.produce([("user-0", 1.0)])
    harness.run(20)
    harness.checkpoint_now()
    assert not harness.failures(), "once is enough"
    assert len(harness.output()) == before + len(more) + 1


def test_markers_of_an_earlier_life_are_ignored() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    write_markers(harness, 7, attempt=3)
    harness.checkpoint = 7
    harness.attempt = 3
    harness.deploy(base=7)
    harness.run(20)
    harness.produce(ORDERS)
    harness.run(30)
    assert 7 not in harness.committed()
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)
    assert harness.committed() == {8}


def test_markers_of_other_sinks_are_ignored() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    write_markers(harness, 7, attempt=3, sink="another")
    harness.started()
    harness.produce(ORDERS)
    harness.run(30)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)


def test_a_sink_that_finds_the_markers_of_a_newer_attempt_is_a_zombie() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    write_markers(harness, 3, attempt=2)
    harness.deploy()
    harness.run(20)
    (failure,) = harness.failures()
    assert failure.failure == "sink 'results': attempt 2 has committed, this is 1"


def test_a_lineage_that_does_not_reach_back_to_a_marker_is_refused() -> None:
    harness = with_output()
    harness.checkpoint_now()
    harness.produce(ORDERS[100:])
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(30)
    harness.finalize(checkpoint, notify=False)
    harness.lineage = ()
    harness.deploy()
    harness.run(30)
    (failure,) = harness.failures()
    assert "key group 0 is committed up to checkpoint 1 only, and the job's lineage does not tell what to replay" in (
        failure.failure or ""
    )


def test_a_marker_that_can_not_be_read_is_named() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    harness.append(commits_topic(JOB), 3, b"nonsense", key=b"results/3")
    harness.deploy()
    harness.run(20)
    (failure,) = harness.failures()
    assert failure.failure == "moorage.orders.commits[3] offset 0: commit marker: unknown version 6e"


def test_markers_are_not_believed_while_another_sinks_transaction_hides_some() -> None:
    """It died between its markers and its commit. Ours lie behind them, and can't be seen."""
    harness = with_output()
    other = MemoryLog(harness.cluster, "elsewhere").transactional_writer("another sink", transaction_timeout_ms=60_000)
    other.init()
    other.begin()
    other.append(commits_topic(JOB), 3, b"another/3", marker(1, group=3, sink="another"))
    harness.checkpoint_now()
    harness.deploy()
    harness.run(60)
    (sink,) = sinks(harness)
    assert sink.state is SubtaskState.INITIALIZING
    assert "an open transaction hides the commit markers in" in harness.warnings[0]
    assert harness.cluster.expire_transactions("another sink")
    harness.run(60)
    assert sink.state is SubtaskState.RUNNING
    harness.produce(ORDERS[100:])
    harness.run(30)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)


def test_a_call_that_waited_until_its_sink_was_closed_does_not_fence_the_next_one() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    worker, executor, _ = harness.workers[0]
    harness.deploy()
    worker.step()
    executor.run_one()  # loaded: the sink is opening, and its call waits
    waiting = executor.calls
    harness.deploy()
    worker.step()
    while executor.calls > waiting:
        executor.run_one(waiting)
    harness.run(30)
    assert [s.state for s in sinks(harness)] == [SubtaskState.RUNNING]
    harness.produce(ORDERS)
    harness.run(30)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)
    assert not harness.failures()


# --- fates -----------------------------------------------------------------------------------------------------------


def test_the_coordinators_heartbeat_is_enough_to_commit() -> None:
    harness = with_output()
    checkpoint = harness.trigger()
    harness.run(30)
    harness.finalize(checkpoint, notify=False)
    harness.run(20)
    assert harness.output() == []

    def heartbeat(pending: tuple[int, ...], completed: tuple[int, ...]) -> None:
        fates = JobFates(
            job=JOB,
            attempt=Attempt(1),
            last_id=checkpoint,
            pending=tuple(map(CheckpointId, pending)),
            completed=tuple(map(CheckpointId, completed)),
            complete_from=CheckpointId(1),
        )
        harness.send(CoordinatorHeartbeat(epoch=EPOCH, sent_ms=0, jobs=(fates,)))
        harness.run(20)

    heartbeat((1,), ())
    assert harness.output() == []
    heartbeat((), (1,))
    assert harness.counts() == expected(ORDERS[:100])


def test_a_sink_that_is_told_twice_commits_once() -> None:
    harness = with_output()
    checkpoint = harness.checkpoint_now()
    harness.notify(checkpoint)
    harness.abort(checkpoint)
    harness.run(20)
    assert harness.contexts()[-1].counters.commits == 1
    assert harness.counts() == expected(ORDERS[:100])


def test_a_sink_may_be_checkpoints_behind() -> None:
    """Its transaction breaks, and goes on breaking, while the job completes checkpoints. It catches up with one commit
    for all that are complete."""
    harness = with_output()
    faults = harness.workers[0][2].faults
    for _ in range(3):
        faults.fail_next("init", LogUnavailableError("Kafka does not answer"))
    faults.fail_next("commit", LogUnavailableError("Kafka does not answer"))
    for start in (100, 130, 160):
        checkpoint = harness.trigger()
        harness.run(20)
        harness.finalize(checkpoint)
        harness.produce(ORDERS[start : start + 30])
        harness.run(10)
    aborted = harness.trigger()
    harness.run(20)
    harness.abort(aborted)
    harness.produce(ORDERS[190:])
    harness.run(300)
    harness.checkpoint_now()
    assert harness.counts() == expected(ORDERS)
    assert harness.committed() == {3, 5}


# --- rescaling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["committed", "transactions lost"])
@pytest.mark.parametrize("steps", [(1, 3, 2), (3, 1, 3), (2, 3, 2, 1)])
def test_a_job_that_is_rescaled_loses_and_doubles_nothing(steps: tuple[int, ...], lost: bool) -> None:
    harness = Harness(orders_pipeline(steps[0]), workers=2)
    orders: list[tuple[str, float]] = []
    for number, parallelism in enumerate(steps):
        if number:
            harness.deploy(pipeline=orders_pipeline(parallelism))
            harness.run(40)
        else:
            harness.started()
        more = [(f"user-{i % 11}", float(number * 100 + i)) for i in range(60)]
        orders += more
        harness.produce(more)
        harness.run(30)
        checkpoint = harness.trigger()
        harness.run(30)
        harness.finalize(checkpoint, notify=not lost)
        harness.run(20)
        rest = [(f"user-{i % 11}", 1.0) for i in range(20)]  # read again by the next attempt
        orders += rest
        harness.produce(rest)
        harness.run(15)
    harness.deploy()
    harness.run(40)
    harness.checkpoint_now()
    assert not harness.failures()
    assert harness.counts() == expected(orders)
    totals: dict[str, float] = {}
    for user, amount in orders:
        totals[user] = totals.get(user, 0.0) + amount
    last = {row["user"]: row["total"] for row in harness.output()}
    assert last == totals


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_former_owner_that_wakes_up_after_a_rescale_can_not_commit(parallelism: int) -> None:
    """It was stopped right before its commit; the new sinks have replayed what it holds."""
    harness = Harness(orders_pipeline(3), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(30)
    harness.finalize(checkpoint)
    worker, executor, _ = harness.workers.pop(0)
    for _ in range(4):
        worker.step()
    assert executor.calls == 3, "three commits wait for their thread"
    harness.add_worker()
    harness.deploy(slots=[1] * parallelism, pipeline=orders_pipeline(parallelism))
    harness.run(60)
    assert harness.counts() == expected(ORDERS)
    executor.run_all()
    assert harness.counts() == expected(ORDERS)
    assert not [i for i in harness.cluster.open_transactions() if i.endswith("-of-3")]


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_former_owner_that_opens_after_a_rescale_sees_that_it_is_late(parallelism: int) -> None:
    """It was stopped before it opened, so nobody could fence it; its transaction was lost, and it would replay it."""
    harness = Harness(orders_pipeline(3), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(30)
    checkpoint = harness.trigger()
    harness.run(30)
    harness.finalize(checkpoint, notify=False)
    zombie, executor, _ = harness.workers[0]
    harness.deploy()
    zombie.step()
    while not [s for d in zombie._deployments.values() for s in d.subtasks]:  # load the deployment, open nothing
        executor.call_one()
        executor.serve_one()
    harness.workers.pop(0)
    harness.add_worker()
    harness.deploy(slots=[1] * parallelism, pipeline=orders_pipeline(parallelism))
    harness.run(60)
    assert harness.counts() == expected(ORDERS)
    for _ in range(60):
        executor.run_all()
        zombie.step()
        harness.clock.advance(20)
    assert harness.counts() == expected(ORDERS)
    harness._read_events()
    late = [e.failure for e in harness.failures() if e.vertex == "results" and e.attempt == 2]
    assert late == ["sink 'results': attempt 3 owns it, this is 2"] * 3
    assert not [e for e in harness.failures() if e.attempt == 3]


def test_a_sink_that_was_never_rescaled_claims_nothing() -> None:
    harness = with_output()
    harness.checkpoint_now()
    harness.deploy()
    harness.run(40)
    keys = {record.key for record in harness.cluster.records(commits_topic(JOB))}
    assert keys == {marker_key(OperatorUid("results"), group) for group in range(8)}


def test_a_sink_that_opens_again_has_claimed_already() -> None:
    harness = Harness(orders_pipeline(1), workers=1)
    harness.started()
    harness.checkpoint_now()
    harness.deploy(pipeline=orders_pipeline(2))
    harness.run(40)
    harness.workers[0][2].faults.fail_next("commit", LogUnavailableError("Kafka does not answer"))
    harness.produce(ORDERS)
    harness.run(30)
    harness.checkpoint_now()
    harness.run(100)
    assert harness.counts() == expected(ORDERS)
    values = [decode_commit(record.value or b"") for record in harness.cluster.records(commits_topic(JOB))]
    claims = [(c.key_group, c.parallelism, c.attempt) for c in values if isinstance(c, CommitClaim)]
    assert sorted(claims) == [(group, 2, 2) for group in range(8)]
