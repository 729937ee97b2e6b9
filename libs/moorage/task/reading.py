"""A subtask that reads exchanges: any number of them, each with its own head, one input gate for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from moorage.api.operators import BroadcastOperator, KeyByOperator, RebalanceOperator
from moorage.backends.keyed import KeyedSnapshot, SnapshotForm
from moorage.barrier.channels import InFlight
from moorage.barrier.gate import InputGate
from moorage.barrier.pending import Declined
from moorage.barrier.restore import RestoredInputs, check_nothing_in_flight, exchange_positions, restored_inputs
from moorage.graph.job_graph import Exchange, ExchangeKind
from moorage.ids import CheckpointId, OperatorUid, TopicPartition
from moorage.messages.barriers import Barrier, SnapshotOptions
from moorage.messages.commands import TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.naming import exchange_topic
from moorage.ports import OffsetSpec
from moorage.serde.frames import ColumnCodec, Columns
from moorage.serde.positions import decode_positions, encode_positions
from moorage.state.assignment import SubtaskShare, assign
from moorage.state.handles import ByteStreamHandle, InputChannelHandle
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import OperatorSubtaskState
from moorage.state.positions import InputPositions
from moorage.task.chain import Chain
from moorage.task.chained import ChainedSubtask, barrier_of, decline_not_running
from moorage.task.context import TaskContext
from moorage.task.ending import finished_parts
from moorage.task.inputs import ExchangeInput
from moorage.task.operator_states import Restored
from moorage.task.outputs import Outputs
from moorage.task.pace import Pace
from moorage.task.snapshots import StatePart, decline

_NO_BASE = CheckpointId(-1)
"""No checkpoint has this one as its base."""


class ReadingSubtask(ChainedSubtask):
    """``chain.heads`` takes the records of each input, ``chain.backends`` holds the keyed state of its operators."""

    def __init__(self, context: TaskContext, new_chain: Callable[[TaskContext, Outputs], Chain]) -> None:
        super().__init__(context, new_chain)
        graph = context.deploy.graph
        exchanges = [graph.exchange(exchange_id) for exchange_id in context.vertex.inputs]
        self._inputs = {exchange_topic(context.job, e.exchange): (e, partitions_of(e, context)) for e in exchanges}
        self._heads = {topic: self._chain.heads[e.exchange] for topic, (e, _) in self._inputs.items()}
        self._input: ExchangeInput | None = None

    # --- restore -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._starts_finished():
            return
        shares = {uid: self._share(uid) for uid in self._chain.backends}
        positions = self._share(self.context.vertex.operators[0].uid).channels

        def load() -> tuple[dict[OperatorUid, Any], Restored, RestoredInputs]:
            states = {
                uid: self._chain.backends[uid].load(share.keyed, self.context.read_stream)
                for uid, share in shares.items()
                if share.keyed
            }
            return states, self._operator_states.load(), self._restored_inputs(positions)

        def loaded(result: tuple[dict[OperatorUid, Any], Restored, RestoredInputs]) -> None:
            states, operator_states, restored = result
            self._operator_states.adopt(operator_states)
            for uid, backend in self._chain.backends.items():
                if uid in states:
                    # Nothing builds on the files of another life of the job: they are not ours, or may be moved.
                    backend.adopt(states[uid], self.context.restored or _NO_BASE)
            self._open(restored)

        self.call(load, loaded)

    def _share(self, uid: str) -> SubtaskShare:
        context = self.context
        if context.metadata is None:
            return SubtaskShare()
        node = next(node for node in context.vertex.operators if node.uid == uid)
        max_parallelism = context.deploy.graph.max_parallelism
        return assign(context.metadata, node.operator_id, uid, max_parallelism, context.parallelism, context.subtask)

    def _restored_inputs(self, channels: Sequence[InputChannelHandle]) -> RestoredInputs:
        """*Blocking.* Where each partition is read from: the checkpoint's position, else the beginning of the log."""
        context = self.context
        partitions = [TopicPartition(topic, p) for topic, (_, numbers) in self._inputs.items() for p in numbers]
        earliest = context.log.offsets(partitions, OffsetSpec.EARLIEST)
        vectors = {handle.subtask: decode_positions(context.read_stream(handle.stream)) for handle in channels}
        if not context.restored:  # positions of another life of the job mean nothing here
            check_nothing_in_flight(self.context.vertex.vertex, vectors.values())
            vectors = {}
        restored = restored_inputs(self._inputs, vectors, context.subtask)
        return restored._replace(starts={**earliest, **restored.starts})

    def _open(self, restored: RestoredInputs) -> None:
        context = self.context
        gate = InputGate(
            self._inputs,
            context.lineage,
            restored.starts,
            in_flight=restored.in_flight,
            held_bytes_max=context.settings.held_bytes_max,
            alignment_limit_bytes=context.deploy.graph.checkpoint.alignment_limit_bytes,
        )
        self._input = ExchangeInput(
            context,
            {topic: exchange for topic, (exchange, _) in self._inputs.items()},
            {topic: self._codec(exchange) for topic, (exchange, _) in self._inputs.items()},
            context.log.reader(context.name, bulk=True),
            gate,
            restored.starts,
            self,
            pace=Pace(context.settings.max_poll_records, context.settings.max_step_ms),
        )
        self.running()
        self._input.open()

    def _codec(self, exchange: Exchange) -> ColumnCodec[Any, Any]:
        operator = self.context.pipeline.operators[exchange.producer_operator]
        if isinstance(operator, KeyByOperator):
            return ColumnCodec(operator.key_type, operator.value_type)
        if isinstance(operator, RebalanceOperator | BroadcastOperator):
            return ColumnCodec(None, operator.value_type)
        return ColumnCodec()

    # --- work --------------------------------------------------------------------------------------------------------

    def _housekeeping(self, now_ms: int) -> None:
        if self._input is not None:
            self._input.housekeeping(now_ms)

    def _read(self, now_ms: int) -> bool:
        if self._input is None:
            return False
        read = self._input.step()
        self._notice_end_of_data(self._input)
        return read

    def _notice_end_of_data(self, source: ExchangeInput) -> None:
        if not self.data_ended and source.gate.has_data_ended:
            self._end_data()

    def on_records(self, tp: TopicPartition, columns: Columns[Any, Any]) -> None:
        self._heads[tp.topic].push_columns(tp.partition, columns)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def trigger(self, command: TriggerCheckpoint) -> None:
        if self._ending.is_leaving:
            return  # finished, or about to be: the coordinator will know
        if self.state is not SubtaskState.RUNNING or self._input is None:
            decline_not_running(self, command.checkpoint)
        else:
            self._input.announce(barrier_of(command))

    def on_declined(self, declined: Declined) -> None:
        decline(self.context, *declined)

    def on_snapshot(self, barrier: Barrier) -> None:
        context, source = self.context, self._input
        if source is None:
            return
        self._notice_end_of_data(source)
        started = context.clock.monotonic_ms()
        channels = source.gate.snapshot()
        metrics = msgspec.structs.replace(
            source.times.settle(
                barrier,
                started,
                context.clock.wall_ms(),
                source.processed_bytes,
                unaligned=any(channel.until for channel in channels),
            ),
            held_bytes=source.gate.held_bytes,
            persisted_bytes=source.waiting_bytes if any(channel.until for channel in channels) else 0,
        )
        epochs = self._outputs.barrier(barrier)
        is_final = self._ending.snapshot_taken(barrier.checkpoint, barrier.options, data_ended=self.data_ended)
        context.failpoint("after-barrier-before-snapshot")
        parts = finished_parts(context.vertex.operators) if is_final else list(self._parts(barrier, channels))
        metrics = msgspec.structs.replace(metrics, sync_ms=context.clock.monotonic_ms() - started)
        location = barrier.options.location
        self._snapshots.begin(
            barrier.checkpoint, barrier.triggered_ms, parts, epochs, self._flushes(), metrics, location
        )
        source.release()

    def _parts(self, barrier: Barrier, channels: Sequence[InFlight]) -> Iterator[StatePart]:
        """The first operator carries the positions of all inputs. A savepoint has none: it refers to no log."""
        positions = () if barrier.options.kind.is_savepoint else (self._positions(channels),)
        for index, node in enumerate(self.context.vertex.operators):
            backend = self._chain.backends.get(node.uid)
            mine = positions if index == 0 else ()
            if backend is not None:
                # Time goes on without records: what is over now must not be stored for ever.
                backend.context.processing_ms = self.context.clock.wall_ms()
                snapshot = backend.snapshot(barrier.checkpoint, barrier.base, snapshot_form(barrier.options))
                yield StatePart(operator=node.operator_id, encode=snapshot.encode, finish=_keyed_state(snapshot, mine))
            elif node.uid in self._operator_states:
                yield self._operator_states.part(node, mine)
            elif mine:
                yield StatePart(operator=node.operator_id, encode=tuple, finish=_only_positions(mine))

    def _positions(self, channels: Sequence[InFlight]) -> InputChannelHandle:
        parts = tuple(exchange_positions(e.exchange, topic, channels) for topic, (e, _) in self._inputs.items())
        data = encode_positions(InputPositions(parts))
        stream = ByteStreamHandle(f"{self.context.vertex.vertex}-{self.context.subtask}-positions", data)
        return InputChannelHandle(self.context.subtask, 0, 0, (0,), len(data), stream)

    def aborted(self, checkpoint: CheckpointId) -> None:
        super().aborted(checkpoint)
        for backend in self._chain.backends.values():
            backend.aborted(checkpoint)
        if self._input is not None:
            self._input.abort(checkpoint)

    def close(self) -> None:
        super().close()
        if self._input is not None:
            self._input.close()


def partitions_of(exchange: Exchange, context: TaskContext) -> range:
    """The partitions of an input that the subtask reads."""
    if exchange.kind is ExchangeKind.BROADCAST:
        return range(exchange.partitions)
    return key_group_range(exchange.partitions, context.parallelism, context.subtask).groups()


def snapshot_form(options: SnapshotOptions) -> SnapshotForm:
    if not options.is_full:
        return SnapshotForm.INCREMENTAL
    return SnapshotForm.CANONICAL if options.kind.is_savepoint and not options.native else SnapshotForm.FULL


def _keyed_state(snapshot: KeyedSnapshot, channels: tuple[InputChannelHandle, ...]) -> Callable[..., Any]:
    return lambda streams: OperatorSubtaskState(managed_keyed=snapshot.finish(streams), input_channel=channels)


def _only_positions(channels: tuple[InputChannelHandle, ...]) -> Callable[..., Any]:
    return lambda _: OperatorSubtaskState(input_channel=channels)
