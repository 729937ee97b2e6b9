"""Subtasks come to their end: bounded input, stop with a savepoint, restarts in between."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.task.harness import SETTINGS, Harness, Order, RunningTotal, copy_pipeline, orders_pipeline

import moorage as mo
from moorage.errors import LogUnavailableError
from moorage.exchange.result_partition import ExchangeLimits
from moorage.ids import CheckpointId
from moorage.messages.barriers import Alignment, SnapshotKind
from moorage.messages.events import AcknowledgeCheckpoint, SubtaskState, SubtaskStateChanged
from moorage.serde.metadata import decode_metadata
from moorage.state.operator_state import CheckpointMetadata

ORDERS = [(f"user-{n % 7}", float(n)) for n in range(90)]
ENDS = {("orders", partition): 30 for partition in range(3)}
ALL = {"orders": 2, "totals": 2, "results": 2}


def expected(orders: list[tuple[str, float]] = ORDERS) -> dict[str, list[int]]:
    users = [user for user, _ in orders]
    return {user: list(range(1, users.count(user) + 1)) for user in dict.fromkeys(users)}


def counts(harness: Harness) -> dict[str, list[int]]:
    return {user: sorted(numbers) for user, numbers in harness.counts().items()}


def bounded(ends: dict[tuple[str, int], int] | None = None, **options: Any) -> Harness:
    harness = Harness(orders_pipeline(until=ends or ENDS), **options)
    harness.started()
    return harness


def ended(harness: Harness) -> set[str]:
    """Vertices of which some subtask says that its data has ended."""
    return {
        e.vertex
        for e in harness.of(SubtaskStateChanged)
        if e.attempt == harness.attempt and e.data_ended and e.state is SubtaskState.RUNNING
    }


def metadata(harness: Harness, checkpoint: CheckpointId) -> CheckpointMetadata:
    return decode_metadata(harness.storage.read(f"orders/chk-{checkpoint}/_metadata"))


# --- bounded input ---------------------------------------------------------------------------------------------------


def test_a_bounded_job_ends_with_the_checkpoint_behind_its_last_record() -> None:
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    assert ended(harness) == {"orders", "totals"}
    assert harness.finished() == {}, "nothing is committed yet"
    assert harness.counts() == {}
    checkpoint = harness.checkpoint_now()
    assert harness.finished() == ALL
    assert counts(harness) == expected()
    operators = metadata(harness, checkpoint).operators
    assert {operator.uid for operator in operators if operator.fully_finished} >= {"orders", "totals"}


def test_before_its_end_a_checkpoint_is_like_any_other() -> None:
    harness = bounded()
    harness.produce(ORDERS[:60])
    harness.run(40)
    harness.checkpoint_now()
    assert harness.finished() == {}
    harness.produce(ORDERS[60:])
    harness.run(40)
    harness.checkpoint_now()
    assert harness.finished() == ALL
    assert counts(harness) == expected()


def test_an_aborted_checkpoint_ends_nothing() -> None:
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    aborted = harness.trigger()
    harness.run(30)
    harness.abort(aborted)
    harness.run(30)
    assert harness.finished() == {}
    harness.checkpoint_now()
    assert harness.finished() == ALL
    assert counts(harness) == expected()


def test_a_savepoint_that_sinks_pass_over_ends_nothing() -> None:
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    savepoint = harness.trigger(SnapshotKind.SAVEPOINT)
    harness.run(30)
    harness.finalize(savepoint)
    harness.run(30)
    assert harness.finished() == {}
    assert harness.counts() == {}
    harness.checkpoint_now()
    assert harness.finished() == ALL


def test_a_job_that_crashes_at_its_end_commits_what_is_missing() -> None:
    """The final checkpoint is complete, nobody has heard of it."""
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    checkpoint = harness.trigger()
    harness.run(30)
    harness.finalize(checkpoint, notify=False)
    harness.deploy()
    harness.run(60)
    assert harness.finished() == ALL
    assert counts(harness) == expected()
    harness.deploy()
    harness.run(60)
    assert harness.finished() == ALL, "and again, where everything is committed"
    assert counts(harness) == expected()


def test_one_source_subtask_may_end_long_before_the_others() -> None:
    harness = bounded({("orders", 0): 30, ("orders", 1): 60, ("orders", 2): 30})
    harness.produce(ORDERS)
    harness.run(60)
    first = harness.checkpoint_now()
    assert harness.finished() == {"orders": 1}
    assert harness.committed() == {first}
    more = [(f"user-{n % 7}", float(n)) for n in range(30)]
    for user, amount in more:
        harness.append("orders", 1, b'{"user":"%s","amount":%f}' % (user.encode(), amount))
    harness.run(40)
    second = harness.trigger()
    harness.run(30)
    harness.finalize(second, notify=False)
    harness.deploy()
    harness.run(60)
    assert harness.finished() == ALL
    assert counts(harness) == expected(ORDERS + more)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_a_partly_finished_source_goes_on_with_another_parallelism(parallelism: int) -> None:
    ends = {("orders", 0): 30, ("orders", 1): 60, ("orders", 2): 30}
    harness = Harness(orders_pipeline(until=ends), workers=3)
    harness.started()
    harness.produce(ORDERS)
    harness.run(60)
    harness.checkpoint_now()
    assert harness.finished() == {"orders": 1}
    harness.deploy(pipeline=orders_pipeline(parallelism, until=ends))
    harness.run(40)
    more = [(f"user-{n % 7}", float(n)) for n in range(30)]
    for user, amount in more:
        harness.append("orders", 1, b'{"user":"%s","amount":%f}' % (user.encode(), amount))
    harness.run(60)
    harness.checkpoint_now()
    assert harness.finished() == dict.fromkeys(ALL, parallelism)
    assert counts(harness) == expected(ORDERS + more)


def test_at_least_once_sinks_are_flushed_at_the_end() -> None:
    harness = Harness(copy_pipeline(until={("orders", 0): 3}))
    harness.append("orders", 0, b"1", b"2", b"3")
    harness.started()
    harness.run(30)
    harness.checkpoint_now()
    assert harness.finished() == {"orders": 1}
    assert harness.values() == [b"1", b"2", b"3"]


def test_an_unaligned_final_checkpoint_may_leave_the_last_records_in_flight() -> None:
    """Consumers may not have seen the end when it is taken: they end with a later one."""
    limits = ExchangeLimits(frame_max_records=2)
    harness = bounded(settings=SETTINGS.__class__(limits=limits, max_poll_records=1, max_poll_frames=1))
    harness.produce(ORDERS)
    for _ in range(6):
        harness.run(20)
        checkpoint = harness.trigger(alignment=Alignment.UNALIGNED)
        harness.run(20)
        harness.finalize(checkpoint)
        harness.deploy()
    for _ in range(40):
        if harness.finished() == ALL:
            break
        harness.run(30)
        if harness.finished() != ALL:
            checkpoint = harness.trigger(alignment=Alignment.UNALIGNED)
            harness.run(30)
            harness.finalize(checkpoint)
    assert harness.finished() == ALL
    assert counts(harness) == expected()


# --- stop with a savepoint -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SnapshotKind.SUSPEND, SnapshotKind.TERMINATE])
def test_a_job_is_stopped_with_a_savepoint(kind: SnapshotKind) -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(60)
    savepoint = harness.trigger(kind)
    harness.run(30)
    harness.produce([("user-0", 1.0)])
    harness.run(30)
    assert harness.finished() == {}
    harness.finalize(savepoint)
    harness.run(40)
    assert harness.finished() == ALL
    assert counts(harness) == expected(), "nothing behind the savepoint is read"
    assert harness.committed() == {savepoint}
    states = [s for operator in metadata(harness, savepoint).operators for s in operator.subtasks.values()]
    assert not any(state.finished for state in states), "its state is what a restore goes on with"
    assert not any(state.input_channel for state in states), "it refers to no log"


def test_when_the_savepoint_fails_a_suspended_job_goes_on() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS[:60])
    harness.run(60)
    savepoint = harness.trigger(SnapshotKind.SUSPEND)
    harness.run(30)
    harness.produce(ORDERS[60:])
    harness.abort(savepoint)
    harness.run(40)
    harness.checkpoint_now()
    assert counts(harness) == expected()
    assert harness.finished() == {}


def test_a_drained_subtask_that_had_ended_by_itself_has_finished() -> None:
    """It may not know yet that the checkpoint behind its end is completed, while those behind it know and have
    finished: a savepoint in which it had not would be refused."""
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    harness.trigger()
    harness.run(30)
    savepoint = harness.trigger(SnapshotKind.TERMINATE)
    harness.run(30)
    acks = harness.acks(savepoint)
    assert {ack.vertex for ack in acks} == {"orders", "totals"}
    assert all(operator.state.finished for ack in acks for operator in ack.operators)


def test_a_drained_subtask_that_would_have_gone_on_keeps_its_state() -> None:
    harness = bounded()
    harness.produce(ORDERS[:60])
    harness.run(40)
    harness.trigger()
    harness.run(30)
    savepoint = harness.trigger(SnapshotKind.TERMINATE)
    harness.run(30)
    acks = harness.acks(savepoint)
    assert {ack.vertex for ack in acks} == {"orders", "totals"}
    assert not any(operator.state.finished for ack in acks for operator in ack.operators)


def test_when_the_savepoint_fails_a_drained_job_fails_over() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(60)
    savepoint = harness.trigger(SnapshotKind.TERMINATE)
    harness.run(30)
    harness.abort(savepoint)
    harness.run(30)
    failures = harness.failures()
    assert {e.vertex for e in failures} == {"orders"}
    assert failures[0].failure == f"savepoint {savepoint}, which was to end the job, has failed"
    assert not failures[0].permanent


def test_a_stopped_job_that_crashes_only_commits_and_ends() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(60)
    savepoint = harness.trigger(SnapshotKind.SUSPEND)
    harness.run(30)
    harness.finalize(savepoint, notify=False)
    harness.produce([("user-0", 1.0)])
    harness.deploy(finishing=True)
    harness.run(60)
    assert harness.finished() == ALL
    assert counts(harness) == expected()


def test_a_finished_subtask_declines_nothing() -> None:
    harness = bounded()
    harness.produce(ORDERS)
    harness.run(60)
    harness.checkpoint_now()
    harness.trigger()
    harness.run(20)
    assert harness.declined() == []


# --- without checkpoints ---------------------------------------------------------------------------------------------


def unchecked_pipeline() -> mo.Pipeline:
    """Orders through an exchange to an at-least-once sink; no checkpoint is ever taken."""
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8, checkpoint=mo.CheckpointConfig(enabled=False))
    (
        pipeline.source("orders", mo.KafkaSource("orders", value=mo.Json(Order), until=ENDS))
        .key_by("user")
        .process("totals", RunningTotal)
        .sink("results", mo.KafkaSink("totals", key="user", guarantee="at_least_once"))
    )
    return pipeline


def test_without_checkpoints_a_bounded_job_ends_by_itself() -> None:
    harness = Harness(unchecked_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(80)
    assert harness.finished() == {"orders": 2, "totals": 2}
    assert counts(harness) == expected()
    assert harness.of(AcknowledgeCheckpoint) == []


def test_without_checkpoints_a_subtask_whose_sink_could_not_write_has_failed() -> None:
    harness = Harness(unchecked_pipeline())
    harness.started()
    harness.produce(ORDERS)
    for _, _, log in harness.workers:
        log.faults.fail_next("commit", LogUnavailableError("Kafka does not answer"))
    harness.run(80)
    assert harness.finished() == {"orders": 2}
    assert {(e.vertex, e.failure) for e in harness.failures()} == {("totals", "Kafka does not answer")}


def test_without_checkpoints_another_attempt_begins_anew() -> None:
    harness = Harness(unchecked_pipeline())
    harness.started()
    harness.produce(ORDERS[:60])
    harness.run(40)
    assert len(harness.output()) == 60
    harness.started()
    harness.produce(ORDERS[60:])
    harness.run(80)
    assert harness.finished() == {"orders": 2, "totals": 2}
    whole = [count for numbers in counts(harness).values() for count in numbers]
    assert len(whole) == 60 + 90, "what the first attempt wrote is written again"
    assert {user: sorted(set(numbers)) for user, numbers in harness.counts().items()} == expected()
