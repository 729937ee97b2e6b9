"""All that a subtask writes to exchanges: partitions of results, lingering, barriers, flow control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moorage.api.operators import BroadcastOperator, KeyByOperator, RebalanceOperator
from moorage.exchange.result_partition import ResultPartition
from moorage.ids import OperatorUid
from moorage.messages.barriers import Barrier
from moorage.messages.events import ExchangeProgress
from moorage.naming import exchange_topic
from moorage.serde import control
from moorage.serde.frames import ColumnCodec
from moorage.task.context import TaskContext


class Outputs:
    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._first_pending_ms: int | None = None
        self.partitions: list[ResultPartition] = []
        self.by_operator: Mapping[OperatorUid, ResultPartition] = {}
        by_operator: dict[OperatorUid, ResultPartition] = {}
        for exchange_id in context.vertex.outputs:
            exchange = context.deploy.graph.exchange(exchange_id)
            operator = context.pipeline.operators[exchange.producer_operator]
            key_type = operator.key_type if isinstance(operator, KeyByOperator) else None
            value_type = (
                operator.value_type
                if isinstance(operator, KeyByOperator | RebalanceOperator | BroadcastOperator)
                else bytes
            )
            partition = ResultPartition(
                exchange,
                exchange_topic(context.job, exchange_id),
                context.attempt,
                context.subtask,
                context.parallelism,
                context.writer,
                ColumnCodec(),
                context.settings.limits,
                consumers=context.deploy.graph.vertex(exchange.consumer).parallelism,
                typed_keys=key_type is not Any,
                typed_values=value_type is not Any,
            )
            self.partitions.append(partition)
            by_operator[exchange.producer_operator] = partition
        self.by_operator = by_operator

    @property
    def blocked(self) -> bool:
        """The subtask must not read input: a consumer lags too far behind, or the broker does."""
        return (
            any(p.blocked for p in self.partitions)
            or self._context.writer.pending_bytes > self._context.settings.pending_bytes_max
        )

    def check(self) -> None:
        for partition in self.partitions:
            partition.check()

    def flush_due(self, now_ms: int, *, idle: bool) -> None:
        """Send full frames, and everything when it has waited long enough: longer while input keeps coming, because
        larger frames cost the broker less."""
        pending = 0
        for partition in self.partitions:
            partition.flush_full()
            pending += partition.pending_records
        if not pending:
            self._first_pending_ms = None
            return
        if self._first_pending_ms is None:
            self._first_pending_ms = now_ms
        settings = self._context.settings
        if now_ms - self._first_pending_ms >= (settings.idle_linger_ms if idle else settings.linger_ms):
            self.flush()

    def flush(self) -> None:
        self._first_pending_ms = None
        for partition in self.partitions:
            partition.flush()

    def barrier(self, barrier: Barrier) -> dict[int, int]:
        """Send the barrier into every partition of every exchange; returns the epoch that it closes, by output."""
        self._first_pending_ms = None
        payload = control.encode(barrier)
        return {index: partition.barrier(payload) for index, partition in enumerate(self.partitions)}

    def end_of_data(self) -> None:
        self._first_pending_ms = None
        for partition in self.partitions:
            partition.end_of_data()

    def end_of_partition(self) -> dict[int, int]:
        """Nothing follows; returns the epoch that it closes, by output."""
        self._first_pending_ms = None
        return {index: partition.end_of_partition() for index, partition in enumerate(self.partitions)}

    def are_confirmed(self, epochs: Mapping[int, int]) -> bool:
        """Every frame up to these epochs is stored."""
        return all(self.partitions[index].confirmed(epoch) for index, epoch in epochs.items())

    def progress(self, message: ExchangeProgress) -> None:
        subtask = self._context.subtask
        for partition in self.partitions:
            if partition.exchange.exchange == message.exchange:
                columns = zip(message.partitions, message.producers, message.positions, strict=True)
                for number, producer, position in columns:
                    if producer == subtask:
                        partition.progress(number, position, message.consumer)

    def count(self) -> None:
        """Bring the context's counters up to date."""
        counters = self._context.counters
        records_out = bytes_out = lag_frames = lag_bytes = 0
        for partition in self.partitions:
            frames, size = partition.lag()
            records_out += partition.records_out
            bytes_out += partition.bytes_out
            lag_frames += frames
            lag_bytes += size
        counters.records_out, counters.bytes_out = records_out, bytes_out
        counters.lag_frames, counters.lag_bytes = lag_frames, lag_bytes
