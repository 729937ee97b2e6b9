"""A subtask that reads exchanges: any number of them, each with its own head, one input gate for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from moorage.api.operators import KeyByOperator
from moorage.backends.keyed import KeyedBackend, KeyedSnapshot
from moorage.barrier.gate import InputGate, Verdict
from moorage.errors import RecordError
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid, TopicPartition
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


class ReadingSubtask(ChainedSubtask):
    """``chain.heads`` takes the records of each input, ``chain.backends`` holds the keyed state of its operators."""

    def __init__(self, context: TaskContext, new_chain: Callable[[TaskContext, Outputs], Chain]) -> None:
        super().__init__(context, new_chain)
        graph = context.deploy.graph
        self._exchanges = {
            exchange_topic(context.job, exchange_id): graph.exchange(exchange_id)
            for exchange_id in context.vertex.inputs
        }
        self._heads = {topic: self._chain.heads[e.exchange] for topic, e in self._exchanges.items()}
        self._partitions = {topic: partitions_of(e, context) for topic, e in self._exchanges.items()}
        self._input: ExchangeInput | None = None
        self._aligning_since_ms: int | None = None

    # --- restore -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        shares = {uid: self._share(uid) for uid in self._chain.backends}
        positions = self._share(self.context.vertex.operators[0].uid).channels

        def load() -> tuple[dict[OperatorUid, Any], dict[TopicPartition, int]]:
            states = {
                uid: self._chain.backends[uid].load(share.keyed, self.context.read_stream)
                for uid, share in shares.items()
                if share.keyed
            }
            return states, self._starts(positions)

        def loaded(result: tuple[dict[OperatorUid, Any], dict[TopicPartition, int]]) -> None:
            states, starts = result
            for uid, backend in self._chain.backends.items():
                if uid in states:
                    backend.adopt(states[uid], self.context.restored)
            self._open(starts)

        self.call(load, loaded)

    def _share(self, uid: str) -> SubtaskShare:
        context = self.context
        if context.metadata is None:
            return SubtaskShare()
        node = next(node for node in context.vertex.operators if node.uid == uid)
        max_parallelism = context.deploy.graph.max_parallelism
        return assign(context.metadata, node.operator_id, uid, max_parallelism, context.parallelism, context.subtask)

    def _starts(self, channels: Sequence[InputChannelHandle]) -> dict[TopicPartition, int]:
        """*Blocking.* Where each partition is read from: the checkpoint's position, else the beginning of the log."""
        mine = [TopicPartition(topic, p) for topic, partitions in self._partitions.items() for p in partitions]
        starts = dict(self.context.log.offsets(mine, OffsetSpec.EARLIEST))
        for handle in channels:
            for positions in decode_positions(self.context.read_stream(handle.stream)).exchanges:
                topic = exchange_topic(self.context.job, positions.exchange)
                for number, offset in positions.start_offsets().items():
                    if (tp := TopicPartition(topic, number)) in starts:
                        starts[tp] = offset
        return starts

    def _open(self, starts: dict[TopicPartition, int]) -> None:
        context = self.context
        gate = InputGate(
            {topic: (exchange, self._partitions[topic]) for topic, exchange in self._exchanges.items()},
            context.deploy.lineage,
            starts,
            held_bytes_max=context.settings.held_bytes_max,
        )
        self._input = ExchangeInput(
            context,
            self._exchanges,
            {topic: self._codec(exchange) for topic, exchange in self._exchanges.items()},
            context.log.reader(context.name, bulk=True),
            gate,
            starts,
        )
        self.running()

    def _codec(self, exchange: Exchange) -> ColumnCodec[Any, Any]:
        operator = self.context.pipeline.operators[exchange.producer_operator]
        if isinstance(operator, KeyByOperator):
            return ColumnCodec(operator.key_type, operator.value_type)
        return ColumnCodec()

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
            self._heads[tp.topic].push_columns(tp.partition, columns)
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
        context = self.context
        started = context.clock.monotonic_ms()
        epochs = self._outputs.barrier(barrier)
        context.failpoint("after-barrier-before-snapshot")
        parts = list(self._parts(barrier, self._positions(source)))
        ended = context.clock.monotonic_ms()
        aligning_since = started if self._aligning_since_ms is None else self._aligning_since_ms
        metrics = CheckpointMetrics(
            start_delay_ms=max(0, context.clock.wall_ms() - barrier.triggered_ms - (started - aligning_since)),
            alignment_ms=max(0, started - aligning_since),
            sync_ms=ended - started,
            held_bytes=source.gate.held_bytes,
        )
        flushes = [writer.commit for writer in self._chain.writers]
        self._snapshots.begin(barrier.checkpoint, barrier.triggered_ms, parts, epochs, flushes, metrics)

    def _parts(self, barrier: Barrier, positions: InputChannelHandle) -> Iterator[StatePart]:
        """The first operator carries the positions of all inputs."""
        for index, node in enumerate(self.context.vertex.operators):
            backend = self._chain.backends.get(node.uid)
            channels = (positions,) if index == 0 else ()
            if backend is not None:
                snapshot = backend.snapshot(barrier.checkpoint, barrier.base)
                yield StatePart(
                    operator=node.operator_id, encode=snapshot.encode, finish=_keyed_state(snapshot, channels)
                )
            elif channels:
                yield StatePart(operator=node.operator_id, encode=tuple, finish=_only_positions(channels))

    def _positions(self, source: ExchangeInput) -> InputChannelHandle:
        channels = source.gate.positions()
        parts = tuple(
            positions_of(exchange.exchange, self.context.attempt, [c for c in channels if c.partition.topic == topic])
            for topic, exchange in self._exchanges.items()
        )
        data = encode_positions(InputPositions(parts))
        stream = ByteStreamHandle(f"{self.context.vertex.vertex}-{self.context.subtask}-positions", data)
        return InputChannelHandle(self.context.subtask, 0, 0, (0,), len(data), stream)

    def aborted(self, checkpoint: CheckpointId) -> None:
        super().aborted(checkpoint)
        backends: Sequence[KeyedBackend[Any, Any]] = list(self._chain.backends.values())
        for backend in backends:
            backend.aborted(checkpoint)
        if self._input is not None:
            self._input.abort(checkpoint)

    def close(self) -> None:
        super().close()
        if self._input is not None:
            self._input.close()


def partitions_of(exchange: Exchange, context: TaskContext) -> Sequence[int]:
    """The partitions of an input that the subtask reads."""
    if exchange.kind is ExchangeKind.BROADCAST:
        return range(exchange.partitions)
    return key_group_range(exchange.partitions, context.parallelism, context.subtask).groups()


def positions_of(exchange: ExchangeId, attempt: Attempt, channels: Sequence[Any]) -> ExchangePositions:
    return ExchangePositions(
        exchange,
        tuple(c.partition.partition for c in channels),
        (attempt,) * len(channels),
        tuple(c.producer for c in channels),
        tuple(c.offset for c in channels),
        (False,) * len(channels),
    )


def _keyed_state(snapshot: KeyedSnapshot, channels: tuple[InputChannelHandle, ...]) -> Callable[..., Any]:
    return lambda streams: OperatorSubtaskState(managed_keyed=snapshot.finish(streams), input_channel=channels)


def _only_positions(channels: tuple[InputChannelHandle, ...]) -> Callable[..., Any]:
    return lambda _: OperatorSubtaskState(input_channel=channels)
