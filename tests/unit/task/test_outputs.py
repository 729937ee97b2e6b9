"""When buffered records are sent, and which key group an input partition's records belong to."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.task.contexts import TaskWorld
from tests.unit.task.harness import SETTINGS

from moorage.exchange.result_partition import ExchangeLimits
from moorage.ids import CheckpointId, ExchangeId
from moorage.messages.barriers import Barrier
from moorage.messages.events import ExchangeProgress
from moorage.naming import exchange_topic
from moorage.task.outputs import Outputs


class Lingering:
    def __init__(self) -> None:
        self.world = TaskWorld()
        limits = ExchangeLimits(frame_max_records=10)
        settings = replace(SETTINGS, limits=limits, linger_ms=100, idle_linger_ms=5)
        self.context = self.world.context("orders", settings=settings)
        self.outputs = Outputs(self.context)
        self.topic = exchange_topic(self.context.job, ExchangeId("orders--totals"))

    def emit(self, count: int = 1) -> None:
        self.outputs.partitions[0].emit_keyed(["user"] * count, [{}] * count, [0] * count)

    def frames(self) -> int:
        self.context.writer.poll()
        return len(self.world.cluster.records(self.topic))


def test_records_wait_for_more_while_input_keeps_coming() -> None:
    output = Lingering()
    output.emit()
    for now_ms in (1_000, 1_050, 1_099):
        output.outputs.flush_due(now_ms, idle=False)
        assert output.frames() == 0
        output.emit()
    output.outputs.flush_due(1_100, idle=False)
    assert output.frames() == 1
    output.emit()
    output.outputs.flush_due(1_150, idle=False)
    assert output.frames() == 1, "the wait begins anew"


def test_they_wait_for_a_moment_only_when_nothing_comes() -> None:
    output = Lingering()
    output.emit()
    output.outputs.flush_due(1_000, idle=True)
    assert output.frames() == 0
    output.outputs.flush_due(1_005, idle=True)
    assert output.frames() == 1


def test_full_frames_do_not_wait() -> None:
    output = Lingering()
    output.emit(10)
    output.outputs.flush_due(1_000, idle=False)
    assert output.frames() == 1


def test_a_barrier_waits_for_nothing() -> None:
    output = Lingering()
    output.emit()
    assert output.outputs.barrier(Barrier(checkpoint=CheckpointId(1), triggered_ms=0)) == {0: 0}
    assert output.frames() == 1 + 8


def test_only_reports_on_own_channels_count() -> None:
    output = Lingering()
    output.emit(10)
    output.outputs.flush_due(0, idle=True)
    output.frames()
    (frame,) = output.world.cluster.records(output.topic)

    def processed(producer: int, exchange: str = "orders--totals") -> None:
        output.outputs.progress(
            ExchangeProgress(
                job=output.context.job,
                attempt=output.context.attempt,
                exchange=ExchangeId(exchange),
                consumer=0,
                partitions=(frame.partition,),
                producers=(producer,),
                positions=(1,),
            )
        )
        output.outputs.count()

    processed(1)
    processed(0, "orders--others")
    assert output.context.counters.lag_frames == 1
    processed(0)
    assert (output.context.counters.lag_frames, output.context.counters.lag_bytes) == (0, 0)
