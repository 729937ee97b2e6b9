"""Snapshots that don't wait: in flight is what lies in the log, and whoever restores works it off first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.task.harness import SETTINGS, Harness, orders_pipeline

import moorage as mo
from moorage.exchange.result_partition import ExchangeLimits
from moorage.ids import CheckpointId
from moorage.messages.barriers import Alignment, SnapshotKind
from moorage.messages.events import AcknowledgeCheckpoint, DeclineReason
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import decode_positions
from moorage.state.handles import ByteStreamHandle, InputChannelHandle
from moorage.state.positions import ExchangePositions

SLOW = replace(SETTINGS, limits=ExchangeLimits(frame_max_records=5), max_poll_records=5, max_poll_frames=1)
ORDERS = [(f"user-{n % 7}", float(n)) for n in range(240)]


def expected(count: int = len(ORDERS)) -> dict[str, list[int]]:
    users = [user for user, _ in ORDERS[:count]]
    return {user: list(range(1, users.count(user) + 1)) for user in dict.fromkeys(users)}


def behind(parallelism: int = 2) -> Harness:
    """A job whose keyed subtasks lag behind its sources: exchanges are full of frames."""
    harness = Harness(orders_pipeline(parallelism), workers=3, settings=SLOW)
    harness.started()
    harness.produce(ORDERS)
    harness.run(25)
    return harness


def acknowledged(harness: Harness, checkpoint: CheckpointId) -> dict[tuple[str, int], AcknowledgeCheckpoint]:
    return {(ack.vertex, ack.subtask): ack for ack in harness.acks(checkpoint)}


def positions(harness: Harness, checkpoint: CheckpointId) -> list[ExchangePositions]:
    metadata = decode_metadata(harness.storage.read(f"orders/chk-{checkpoint}/_metadata"))
    handles = [
        handle
        for operator in metadata.operators
        for state in operator.subtasks.values()
        for handle in state.input_channel
    ]
    vectors = [
        decode_positions(handle.stream.data)
        for handle in handles
        if isinstance(handle, InputChannelHandle) and isinstance(handle.stream, ByteStreamHandle)
    ]
    return [part for vector in vectors for part in vector.exchanges]


def work_off(harness: Harness) -> None:
    harness.run(200)
    harness.checkpoint_now()
    assert not harness.failures()
    assert {user: sorted(counts) for user, counts in harness.counts().items()} == expected()


def test_an_unaligned_checkpoint_does_not_wait_for_the_backlog() -> None:
    harness = behind()
    checkpoint = harness.trigger(alignment=Alignment.UNALIGNED)
    harness.run(4)
    acks = acknowledged(harness, checkpoint)
    assert set(acks) == {("orders", 0), ("orders", 1), ("totals", 0), ("totals", 1)}
    assert acks["totals", 0].metrics.unaligned
    assert not acks["orders", 0].metrics.unaligned
    harness.finalize(checkpoint)
    assert any(until == checkpoint for part in positions(harness, checkpoint) for until in part.until)
    work_off(harness)


def test_an_aligned_one_does() -> None:
    harness = behind()
    checkpoint = harness.trigger()
    harness.run(4)
    assert {vertex for vertex, _ in acknowledged(harness, checkpoint)} == {"orders"}
    harness.run(200)
    harness.finalize(checkpoint)
    assert all(not any(part.until) for part in positions(harness, checkpoint)), "nothing is in flight"
    processed = {ack.metrics.processed_bytes for ack in harness.acks(checkpoint) if ack.vertex == "totals"}
    assert min(processed) > 0, "partitions without a barrier yet went on"
    work_off(harness)


@pytest.mark.parametrize("steps", [(2, 2, 2), (2, 3, 1, 3), (3, 1, 2)])
def test_in_flight_frames_survive_restarts_and_rescales(steps: tuple[int, ...]) -> None:
    """Each attempt goes on from an unaligned checkpoint that was taken while it still worked off the ones before."""
    harness = behind(steps[0])
    generations = set()
    for parallelism in steps[1:]:
        checkpoint = harness.trigger(alignment=Alignment.UNALIGNED)
        harness.run(4)
        harness.finalize(checkpoint, notify=False)
        generations |= {
            a for part in positions(harness, checkpoint) for a, u in zip(part.attempts, part.until, strict=True) if u
        }
        harness.deploy(pipeline=orders_pipeline(parallelism))
        harness.run(14)
    assert generations >= {1, 2}, "frames of several attempts were in flight"
    work_off(harness)


def test_a_checkpoint_that_does_not_align_in_time_stops_waiting() -> None:
    harness = behind()
    checkpoint = harness.trigger(alignment=Alignment.TIMEOUT, timeout_ms=50)
    harness.run(6)
    assert {vertex for vertex, _ in acknowledged(harness, checkpoint)} == {"orders"}
    harness.run(10)
    acks = acknowledged(harness, checkpoint)
    assert len(acks) == 4
    assert acks["totals", 0].metrics.unaligned
    harness.finalize(checkpoint)
    harness.deploy()
    work_off(harness)


def test_a_checkpoint_that_aligns_in_time_has_nothing_in_flight() -> None:
    harness = Harness(orders_pipeline())
    harness.started()
    harness.produce(ORDERS)
    harness.run(60)
    checkpoint = harness.trigger(alignment=Alignment.TIMEOUT, timeout_ms=10_000)
    harness.run(30)
    harness.finalize(checkpoint)
    assert not any(ack.metrics.unaligned for ack in harness.acks(checkpoint))
    assert {ack.metrics.processed_bytes for ack in harness.acks(checkpoint)} == {0}, "barriers are no input"
    assert all(not any(part.until) for part in positions(harness, checkpoint))


def test_several_checkpoints_may_be_under_way() -> None:
    harness = behind()
    checkpoints = [harness.trigger(alignment=Alignment.UNALIGNED)]
    for _ in range(2):
        harness.run(2)
        checkpoints.append(harness.trigger(alignment=Alignment.UNALIGNED))
    harness.run(6)
    assert [len(harness.acks(checkpoint)) for checkpoint in checkpoints] == [4, 4, 4]
    harness.finalize(checkpoints[1])
    harness.deploy()
    work_off(harness)


def test_at_least_once_a_restart_may_count_twice_but_loses_nothing() -> None:
    harness = behind()
    checkpoint = harness.trigger(alignment=Alignment.AT_LEAST_ONCE)
    harness.run(60)
    assert len(harness.acks(checkpoint)) == 4
    harness.finalize(checkpoint, notify=False)
    harness.deploy()
    harness.run(200)
    harness.checkpoint_now()
    for user, counts in expected().items():
        assert max(harness.counts()[user]) >= len(counts)


def test_a_savepoint_of_an_unaligned_job_aligns_and_refers_to_no_log() -> None:
    harness = behind()
    savepoint = harness.trigger(SnapshotKind.SAVEPOINT)
    checkpoint = harness.trigger(alignment=Alignment.UNALIGNED)
    harness.run(200)
    assert [len(harness.acks(savepoint)), len(harness.acks(checkpoint))] == [4, 4]
    harness.finalize(checkpoint, notify=False)
    harness.finalize(savepoint, notify=False)
    assert positions(harness, savepoint) == []
    assert positions(harness, checkpoint) != []


def test_an_alignment_that_holds_too_much_back_is_declined() -> None:
    pipeline = orders_pipeline()
    pipeline.checkpoint = mo.CheckpointConfig(alignment_limit_bytes=100)
    harness = Harness(pipeline, settings=SLOW)
    harness.started()
    checkpoint = harness.trigger()
    harness.produce(ORDERS)
    worker, executor, _ = harness.workers[0]
    for _ in range(40):  # the other one, with a source of its own, is paused
        worker.step()
        executor.run_all()
        harness.clock.advance(5)
    harness._read_events()
    (decline,) = harness.declined()
    assert (decline.vertex, decline.reason) == ("totals", DeclineReason.ALIGNMENT_LIMIT)
    assert decline.detail == "more than 100 bytes would have to be held back"
    harness.abort(checkpoint)
    work_off(harness)
