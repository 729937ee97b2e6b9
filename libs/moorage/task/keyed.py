"""A keyed subtask: reads an exchange, processes records with keyed state, takes aligned snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from moorage.api.operators import KeyByOperator
from moorage.barrier.gate import InputGate, Verdict
from moorage.errors import RecordError
from moorage.ids import Attempt, CheckpointId, ExchangeId, TopicPartition
from moorage.messages.barriers import Barrier
from moorage.messages.events import CheckpointMetrics, DeclineReason
from moorage.naming import exchange_topic
from moorage.ports import OffsetSpec
from moorage.serde.frames import ColumnCodec, Columns
from moorage.serde.positions import decode_positions, encode_positions
from moorage.state.assignment import SubtaskShare, assign
from moorage.state.handles import ByteStreamHandle, InputChannelHandle
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import OperatorSubtaskState
from moorage.state.positions import ExchangePositions, InputPositions
from moorage.task.chain import Chain
from moorage.task.chained import ChainedSubtask
from moorage.task.context import TaskContext
from moorage.task.inputs import ExchangeInput
from moorage.task.outputs import Outputs
from moorage.task.snapshots import StatePart, decline


class KeyedSubtask(ChainedSubtask):
    def __init__(self, context: TaskContext, new_chain: Callable[[TaskContext, Outputs], Chain]) -> None:
        super().__init__(context, new_chain)
        if self._chain.process is None:
            raise TypeError(f"vertex {context.vertex.vertex} has no process operator at its head")
        self._process = self._chain.process
        (exchange_id,) = context.vertex.inputs
        self._exchange = context.deploy.graph.exchange(exchange_id)
        self._topic = exchange_topic(context.job, exchange_id)
        self._partitions = key_group_range(self._exchange.partitions, context.parallelism, context.subtask).groups()
        self._input: ExchangeInput | None = None
        self._aligning_since_ms: int | None = None

    # --- restore -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        context, backend = self.context, self._process.backend
        head = context.vertex.operators[0]
        share = SubtaskShare()
        if context.metadata is not None:
            share = assign(
                context.metadata,
                head.operator_id,
                head.uid,
                context.deploy.graph.max_parallelism,
                context.parallelism,
                context.subtask,
            )

        def load() -> tuple[Any, dict[TopicPartition, int]]:
            state = backend.load(share.keyed, context.read_stream) if share.keyed else None
            return state, self._starts(share.channels)

        def loaded(result: tuple[Any, dict[TopicPartition, int]]) -> None:
            state, starts = result
            if state is not None:
                backend.adopt(state, context.restored)
            self._open(starts)

        self.call(load, loaded)

    def _starts(self, channels: Sequence[InputChannelHandle]) -> dict[TopicPartition, int]:
        """*Blocking.* Where each partition is read from: the checkpoint's position, else the beginning of the log."""
        starts = self.context.log.offsets(
            [TopicPartition(self._topic, p) for p in self._partitions], OffsetSpec.EARLIEST
        )
        starts = dict(starts)
        for handle in channels:
            for positions in decode_positions(self.context.read_stream(handle.stream)).exchanges:
                if positions.exchange != self._exchange.exchange:
                    continue
                for number, offset in positions.start_offsets().items():
                    if number in self._partitions:
                        starts[TopicPartition(self._topic, number)] = offset
        return starts

    def _open(self, starts: dict[TopicPartition, int]) -> None:
        context = self.context
        operator = context.pipeline.operators[self._exchange.producer_operator]
        codec: ColumnCodec[Any, Any] = ColumnCodec()
        if isinstance(operator, KeyByOperator):
            codec = ColumnCodec(operator.key_type, operator.value_type)
        gate = InputGate(
            {self._topic: (self._exchange, self._partitions)},
            context.deploy.lineage,
            starts,
            held_bytes_max=context.settings.held_bytes_max,
        )
        self._input = ExchangeInput(
            context,
            {self._topic: self._exchange},
            {self._topic: codec},
            context.log.reader(context.name, bulk=True),
            gate,
            starts,
        )
        self.running()

    # --- work --------------------------------------------------------------------------------------------------------

    def _housekeeping(self, now_ms: int) -> None:
        if self._input is not None:
            self._input.housekeeping(now_ms)

    def _read(self, now_ms: int) -> bool:
        if self._input is None:
            return False
        read = self._input.step(self._on_records, self._on_barrier)
        if self._input.gate.aligning is None:
            self._aligning_since_ms = None
        elif self._aligning_since_ms is None:
            self._aligning_since_ms = now_ms
        return read

    def _on_records(self, tp: TopicPartition, columns: Columns[Any, Any]) -> None:
        try:
            self._process.push_keyed(tp.partition, columns)
        except RecordError as error:
            where = f"(a record of {len(columns)} in {tp.topic}[{tp.partition}], keys {columns.keys[0]!r:.60}...)"
            raise RecordError(f"{error} {where}") from error.__cause__

    def _on_barrier(self, verdict: Verdict, barrier: Barrier) -> None:
        if self._input is None:
            return
        if verdict is Verdict.ALIGNED:
            self._snapshot(barrier, self._input)
            self._input.release()
        elif self._input.gate.abandoned is not None:
            decline(
                self.context,
                self._input.gate.abandoned,
                DeclineReason.ALIGNMENT_ABANDONED,
                f"barrier {barrier.checkpoint} came first",
            )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _snapshot(self, barrier: Barrier, source: ExchangeInput) -> None:
        context, backend = self.context, self._process.backend
        started = context.clock.monotonic_ms()
        epochs = self._outputs.barrier(barrier)
        context.failpoint("after-barrier-before-snapshot")
        snapshot = backend.snapshot(barrier.checkpoint, barrier.base)
        positions = self._positions(source)
        head = context.vertex.operators[0]
        part = StatePart(
            operator=head.operator_id,
            encode=snapshot.encode,
            finish=lambda streams: OperatorSubtaskState(
                managed_keyed=snapshot.finish(streams), input_channel=(positions,)
            ),
        )
        ended = context.clock.monotonic_ms()
        aligning_since = started if self._aligning_since_ms is None else self._aligning_since_ms
        metrics = CheckpointMetrics(
            start_delay_ms=max(0, context.clock.wall_ms() - barrier.triggered_ms - (started - aligning_since)),
            alignment_ms=max(0, started - aligning_since),
            sync_ms=ended - started,
            held_bytes=source.gate.held_bytes,
        )
        flushes = [writer.commit for writer in self._chain.writers]
        self._snapshots.begin(barrier.checkpoint, barrier.triggered_ms, [part], epochs, flushes, metrics)

    def _positions(self, source: ExchangeInput) -> InputChannelHandle:
        channels = source.gate.positions()
        data = encode_positions(
            InputPositions((positions_of(self._exchange.exchange, self.context.attempt, channels),))
        )
        stream = ByteStreamHandle(f"{self.context.vertex.vertex}-{self.context.subtask}-positions", data)
        return InputChannelHandle(self.context.subtask, 0, 0, (0,), len(data), stream)

    def aborted(self, checkpoint: CheckpointId) -> None:
        super().aborted(checkpoint)
        self._process.backend.aborted(checkpoint)
        if self._input is not None:
            self._input.abort(checkpoint)

    def close(self) -> None:
        super().close()
        if self._input is not None:
            self._input.close()


def positions_of(exchange: ExchangeId, attempt: Attempt, channels: Sequence[Any]) -> ExchangePositions:
    return ExchangePositions(
        exchange,
        tuple(c.partition.partition for c in channels),
        (attempt,) * len(channels),
        tuple(c.producer for c in channels),
        tuple(c.offset for c in channels),
        (False,) * len(channels),
    )
