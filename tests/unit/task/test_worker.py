"""The worker: which commands it follows, which it drops, and what it tells the coordinator."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from tests.unit.task.harness import EPOCH, SETTINGS, Harness, copy_pipeline, orders_pipeline

import moorage as mo
from moorage.api.compiler import compile_pipeline
from moorage.errors import ObjectExistsError, StorageError, UserCodeError
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, VertexId
from moorage.messages.commands import (
    CancelJob,
    CoordinatorHeartbeat,
    JobFates,
    ReportStatus,
    TriggerCheckpoint,
)
from moorage.messages.events import DeclineReason, SubtaskState, SubtaskStateChanged, WorkerHeartbeat
from moorage.naming import COMMANDS_TOPIC, EVENTS_TOPIC, PROGRESS_TOPIC
from moorage.serde import control
from moorage.task.state_writer import StateFileLimits

JOB = JobId("orders")
ORDERS = [(f"user-{i % 7}", float(i)) for i in range(100)]
KEYED, FORWARD = "moorage.orders.orders--totals", "moorage.orders.totals--results"


def heartbeats(harness: Harness) -> list[WorkerHeartbeat]:
    events = [control.decode(r.value or b"", control.EVENTS) for r in harness.cluster.records(EVENTS_TOPIC)]
    return [event for event in events if isinstance(event, WorkerHeartbeat)]


def states(harness: Harness) -> set[SubtaskState]:
    """Of the present attempt, as the newest events say."""
    newest = {(e.vertex, e.subtask): e.state for e in harness.of(SubtaskStateChanged) if e.attempt == harness.attempt}
    return set(newest.values())


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"", "expected a command"),
        (b"nonsense", "expected a command"),
        (b"\xc3\x01" + bytes(8), "written with the unknown schema 0000000000000000"),
        (control.encode(ReportStatus(epoch=EPOCH)) + b"!", "malformed ReportStatus"),
        (
            control.encode(
                SubtaskStateChanged(
                    worker="w/x",  # type: ignore[arg-type]
                    job=JOB,
                    attempt=Attempt(1),
                    vertex=VertexId("v"),
                    subtask=0,
                    state=SubtaskState.RUNNING,
                )
            ),
            "expected a command, got SubtaskStateChanged",
        ),
    ],
)
def test_a_malformed_command_is_skipped_counted_and_warned_of(message: bytes, problem: str) -> None:
    harness = Harness(orders_pipeline(), workers=1)
    harness.append(COMMANDS_TOPIC, 0, message)
    harness.started()
    (warning,) = harness.warnings
    assert warning.startswith(f"{COMMANDS_TOPIC} offset 0 is skipped: ")
    assert problem in warning
    assert harness.workers[0][0].counters.malformed_messages == 1


def test_a_malformed_progress_report_is_skipped_too() -> None:
    harness = Harness(orders_pipeline(), workers=1)
    harness.append(PROGRESS_TOPIC, 0, b"nonsense")
    harness.started()
    assert harness.workers[0][0].counters.malformed_messages == 1
    assert harness.warnings[0].startswith(f"{PROGRESS_TOPIC} offset 0 is skipped")


def trigger(harness: Harness, checkpoint: int, *, epoch: int = 1, attempt: int = 1) -> None:
    harness.send(
        TriggerCheckpoint(
            epoch=Epoch(epoch),
            job=JOB,
            attempt=Attempt(attempt),
            checkpoint=CheckpointId(checkpoint),
            triggered_ms=0,
        )
    )
    harness.run(10)


def test_commands_of_an_older_epoch_and_of_another_attempt_are_dropped() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker = harness.workers[0][0]
    harness.started()
    harness.send(ReportStatus(epoch=Epoch(5)))
    harness.run(5)
    assert worker.epoch == 5
    trigger(harness, 1, epoch=4)
    trigger(harness, 2, epoch=5, attempt=2)
    assert worker.counters.stale_commands == 2
    assert not harness.acks(CheckpointId(1))
    assert not harness.acks(CheckpointId(2))
    trigger(harness, 3, epoch=5)
    assert len(harness.acks(CheckpointId(3))) == 2


def test_a_deployment_that_is_not_newer_is_dropped() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker = harness.workers[0][0]
    harness.started()
    command = next(d.command for d in worker._deployments.values())
    harness.send(command)
    harness.run(10)
    assert worker.counters.stale_commands == 1
    assert worker.counters.deployments == 1


def test_a_trigger_that_is_said_twice_starts_one_checkpoint() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    trigger(harness, 1)
    trigger(harness, 1)
    assert len(harness.acks(CheckpointId(1))) == 2


def test_a_worker_that_is_given_no_slot_runs_nothing_and_ends_the_former_attempt() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=2)
    harness.deploy(slots=[0])
    harness.run(10)
    assert [worker.running_subtasks for worker, _, _ in harness.workers] == [3, 0]
    harness.deploy(slots=[1])
    harness.run(10)
    assert [worker.running_subtasks for worker, _, _ in harness.workers] == [0, 3]


def test_cancelling_stops_everything_up_to_that_attempt() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker = harness.workers[0][0]
    harness.started()
    harness.send(CancelJob(epoch=EPOCH, job=JOB, attempt=Attempt(0)))
    harness.run(5)
    assert states(harness) == {SubtaskState.RUNNING}
    harness.send(CancelJob(epoch=EPOCH, job=JOB, attempt=Attempt(1)))
    harness.send(CancelJob(epoch=EPOCH, job=JOB, attempt=Attempt(1)))
    harness.run(5)
    assert states(harness) == {SubtaskState.CANCELED}
    assert worker.running_subtasks == 0
    harness.attempt = 0
    harness.deploy()
    harness.run(5)
    assert worker.running_subtasks == 0, "an attempt that was cancelled does not come back"


def test_a_coordinator_that_speaks_of_a_newer_attempt_ends_the_older_one() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()

    def heartbeat(attempt: int) -> None:
        fates = JobFates(
            job=JOB,
            attempt=Attempt(attempt),
            last_id=CheckpointId(0),
            pending=(),
            completed=(),
            complete_from=CheckpointId(1),
        )
        harness.send(CoordinatorHeartbeat(epoch=EPOCH, sent_ms=0, jobs=(fates,)))
        harness.run(5)

    heartbeat(1)
    heartbeat(0)
    assert harness.workers[0][0].running_subtasks == 3
    heartbeat(2)
    assert harness.workers[0][0].running_subtasks == 0


# --- what it tells ---------------------------------------------------------------------------------------------------


def test_heartbeats_carry_the_states_of_everything_that_runs() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker, executor, _ = harness.workers[0]
    harness.deploy()
    worker.step()
    beat = heartbeats(harness)[-1]
    assert (beat.worker, beat.slots, beat.epoch, beat.leaving) == ("w0/x", 2, 1, False)
    assert [(s.vertex, s.subtask, s.state) for s in beat.subtasks] == [
        ("orders", 0, SubtaskState.INITIALIZING),
        ("totals", 0, SubtaskState.INITIALIZING),
        ("results", 0, SubtaskState.INITIALIZING),
    ]
    executor.run_all()
    before = len(heartbeats(harness))
    harness.run(220)
    later = heartbeats(harness)[before:]
    assert 2 <= len(later) <= 3, "every 500 ms"
    assert {s.state for s in later[-1].subtasks} == {SubtaskState.RUNNING}
    assert {s.attempt for s in later[-1].subtasks} == {1}


def test_heartbeats_carry_what_subtasks_have_read_and_written_and_what_the_machine_has() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(220)
    beat = heartbeats(harness)[-1]
    assert (beat.cpu_cores, beat.memory_bytes) == (3, 1 << 30)
    orders, totals, results = beat.subtasks
    assert [(s.records_in, s.records_out) for s in beat.subtasks] == [(100, 100)] * 3
    assert (orders.bytes_in, orders.bytes_out, results.bytes_out) == (0, totals.bytes_in, 0)
    assert (orders.bytes_out > 0, results.bytes_in) == (True, totals.bytes_out)


def test_a_new_leader_is_answered_at_once() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    before = len(heartbeats(harness))
    harness.send(ReportStatus(epoch=Epoch(2)))
    harness.workers[0][0].step()
    harness.workers[0][0].step()
    assert [beat.epoch for beat in heartbeats(harness)[before:]] == [2]


def test_a_worker_that_leaves_says_so() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker = harness.workers[0][0]
    harness.started()
    worker.leave()
    worker.step()
    assert heartbeats(harness)[-1].leaving
    assert worker.unsent_bytes == 0
    worker.close()
    assert worker.running_subtasks == 0


def test_a_pipeline_that_can_not_be_loaded_fails_with_the_users_trace() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)

    def load(_: str) -> object:
        try:
            raise KeyError("config")
        except KeyError as error:
            raise UserCodeError("importing flow failed: KeyError: 'config'") from error

    harness.workers[0][0]._hooks = replace(harness.workers[0][0]._hooks, load_pipeline=load)  # type: ignore[arg-type]
    harness.deploy()
    harness.run(10)
    assert {(f.vertex, f.failure) for f in harness.failures()} == {
        (vertex, "importing flow failed: KeyError: 'config'") for vertex in ("orders", "totals", "results")
    }
    assert harness.failures()[0].trace is not None
    assert "UserCodeError" not in (harness.failures()[0].trace or "")
    assert {s.state for s in heartbeats(harness)[-1].subtasks} == {SubtaskState.INITIALIZING}
    harness.run(120)
    assert {s.state for s in heartbeats(harness)[-1].subtasks} == {SubtaskState.FAILED}


def test_a_worker_with_another_pipeline_refuses_to_run_it() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=0)
    harness.add_worker(compile_pipeline(copy_pipeline(), "tests:pipeline"))
    harness.deploy()
    harness.run(10)
    assert "tests:pipeline on this worker is another pipeline than the one that was submitted" in (
        harness.failures()[0].failure or ""
    )


# --- what is not what was written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [KEYED, FORWARD])
def test_a_frame_with_a_wrong_checksum_is_skipped_where_it_is_nobodys(topic: str) -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS[:50])
    harness.run(10)
    record = harness.cluster.records(topic)[0]
    end = len([r for r in harness.cluster.records(topic) if r.partition == record.partition])
    harness.append(topic, record.partition, (record.value or b"")[:-1] + b"\0\0")
    harness.produce(ORDERS[50:])
    harness.run(10)
    checkpoint = harness.trigger()
    harness.run(20)
    harness.finalize(checkpoint)
    harness.run(20)
    sent = Counter(user for user, _ in ORDERS)
    assert harness.counts() == {user: list(range(1, count + 1)) for user, count in sent.items()}
    assert harness.failures() == []
    (warning,) = harness.warnings
    assert warning.startswith(f"{topic}[{record.partition}] offset {end} is skipped: frame checksum is ")


def test_a_missing_frame_fails_the_sink_too() -> None:
    """Opening it again would not heal it."""
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    outputs = [s._outputs.partitions[0] for s in subtasks(harness, "totals")]  # type: ignore[attr-defined]
    outputs[0]._backlogs[3].sent += 1
    harness.trigger()
    harness.run(10)
    (failure,) = harness.failures()
    assert failure.vertex == "results"
    assert "of producer 0 came where" in (failure.failure or "")


def subtasks(harness: Harness, vertex: str) -> list[object]:
    return [
        s
        for worker, _, _ in harness.workers
        for d in worker._deployments.values()
        for s in d.subtasks
        if s.context.vertex.vertex == vertex
    ]


def restored_from_files() -> Harness:
    """A completed checkpoint whose state lies in files."""
    settings = replace(SETTINGS, state_files=StateFileLimits(inline_max_bytes=0))
    harness = Harness(orders_pipeline(parallelism=1), workers=1, settings=settings)
    harness.started()
    harness.produce(ORDERS)
    harness.run(20)
    harness.checkpoint_now()
    return harness


@pytest.mark.parametrize("what", ["_metadata", "orders/shared/1-totals-0-a1-totals", "orders/chk-1/orders-0-a1-orders"])
@pytest.mark.parametrize("damage", ["corrupt", "missing", "cut off"])
def test_a_damaged_checkpoint_is_not_restored(what: str, damage: str) -> None:
    harness = restored_from_files()
    (path,) = [path for path in harness.storage.paths() if what in path]
    data = harness.storage.read(path)
    harness.deploy()
    if damage == "corrupt":
        harness.storage.corrupt(path)
    else:
        harness.storage.delete([path])
        if damage == "cut off":
            harness.storage.write(path, data[:-1])
    harness.run(20)
    assert harness.failures()
    assert path in (harness.failures()[0].failure or "")


def test_a_checkpoint_whose_files_are_whole_is_restored() -> None:
    harness = restored_from_files()
    harness.deploy()
    harness.run(20)
    assert states(harness) == {SubtaskState.RUNNING}


def test_state_of_another_number_of_key_groups_is_refused() -> None:
    harness = restored_from_files()
    pipeline = mo.Pipeline("orders", max_parallelism=4)
    (
        pipeline.source("orders", mo.KafkaSource("orders"))
        .key_by("user")
        .process("totals", harness.compiled.operators["totals"].state_type)  # type: ignore[union-attr, index]
        .sink("results", mo.KafkaSink("totals", key="user"))
    )
    for name in (KEYED, FORWARD):
        harness.cluster.delete_topic(name)
    harness.deploy(pipeline=pipeline)
    harness.run(10)
    assert "written with max_parallelism 8, the pipeline has 4" in (harness.failures()[0].failure or "")


# --- checkpoints that fail -------------------------------------------------------------------------------------------


def test_a_worker_with_another_storage_runs_nothing() -> None:
    """Its state would be nowhere when somebody else has to restore it."""
    harness = Harness(orders_pipeline(), workers=1)
    harness.storage_id = "a folder of its own"
    harness.add_worker()
    harness.deploy()
    harness.run(10)
    failed = [e for e in harness.of(SubtaskStateChanged) if e.state is SubtaskState.FAILED]
    assert {e.worker for e in failed} == {harness.names[1]}
    assert all(
        e.failure and "MOORAGE_CHECKPOINT_DIR must name one that all services share" in e.failure for e in failed
    )
    assert not any(e.permanent for e in failed), "another worker may do"


def test_no_checkpoint_lies_in_two_storages() -> None:
    """A new leader has another storage than the workers."""
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    harness.coordinator_storage_id = "another"
    checkpoint = harness.trigger()
    harness.run(20)
    (decline,) = harness.declined()
    assert decline.reason is DeclineReason.STORAGE
    assert "is not the coordinator's" in decline.detail
    assert harness.acks(checkpoint) == []
    harness.abort(checkpoint)
    harness.coordinator_storage_id = ""
    harness.checkpoint_now()
    assert harness.counts()


def test_a_checkpoint_is_declined_when_the_storage_fails() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    harness.storage.faults.fail_next("write", StorageError("no space left on device"))
    checkpoint = harness.trigger()
    harness.run(20)
    (decline,) = harness.declined()
    assert (decline.vertex, decline.reason) == ("totals", DeclineReason.STORAGE)
    assert decline.detail == "StorageError: no space left on device"
    assert [ack.vertex for ack in harness.acks(checkpoint)] == ["orders"]
    harness.abort(checkpoint)
    harness.checkpoint_now()
    assert sum(len(counts) for counts in harness.counts().values()) == len(ORDERS)


def test_a_write_whose_answer_was_lost_is_no_failure() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    harness.storage.faults.fail_next("write", ObjectExistsError("it exists"), after=True)
    harness.checkpoint_now()
    assert not harness.declined()


def test_a_trigger_before_its_subtasks_run_is_declined() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker, _, _ = harness.workers[0]
    harness.deploy()
    worker.step()
    harness.workers[0][1].call_one()
    harness.workers[0][1].serve_one()
    harness.trigger()
    worker.step()
    harness._read_events()
    declined = {decline.vertex: decline for decline in harness.declined()}
    assert {decline.reason for decline in declined.values()} == {DeclineReason.NOT_RUNNING}
    assert set(declined) == {"orders", "totals"}, "sinks take no part"
    assert declined["orders"].detail == "orders.orders-0.a1 is INITIALIZING"


def test_of_an_aborted_checkpoint_nothing_is_said_any_more() -> None:
    harness = Harness(orders_pipeline(parallelism=1), workers=1)
    worker, executor, _ = harness.workers[0]
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    checkpoint = harness.trigger()
    for _ in range(5):
        worker.step()
    assert executor.calls > 0, "the upload waits"
    harness.abort(checkpoint)
    harness.run(20)
    assert not [ack for ack in harness.acks(checkpoint) if ack.vertex == "totals"]
    (totals,) = subtasks(harness, "totals")
    assert totals._chain.backends["totals"]._undecided == []  # type: ignore[attr-defined]


def test_metrics_of_a_checkpoint_tell_what_it_cost() -> None:
    harness = Harness(orders_pipeline(parallelism=2), workers=1)
    harness.started()
    harness.produce(ORDERS)
    harness.run(10)
    checkpoint = harness.trigger()
    harness.run(20)
    for ack in harness.acks(checkpoint):
        size = sum(snapshot.state.size_bytes for snapshot in ack.operators)
        assert ack.metrics.state_bytes == size > 0
        assert ack.metrics.start_delay_ms >= 0
    written = {ack.vertex: ack.metrics.written_bytes for ack in harness.acks(checkpoint)}
    assert written["totals"] > 0
