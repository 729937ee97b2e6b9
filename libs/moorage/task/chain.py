"""A vertex's operators at work, batch by batch.

Each stage takes a batch, calls user code in one tight loop, and pushes what comes out to the stages behind it. An error
of user code becomes a RecordError which names operator and record, with the user's own error as its cause; which record
it was follows from what is left of the iterator, so the loop itself pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from moorage.api.functions import CheckpointedFunction, is_checkpointed
from moorage.api.keyed_state import KeyedState
from moorage.api.operators import (
    BroadcastOperator,
    FilterOperator,
    FlatMapOperator,
    KeyByOperator,
    MapOperator,
    MergeOperator,
    Operator,
    ProcessOperator,
    RebalanceOperator,
    SinkOperator,
)
from moorage.backends.keyed import KeyedBackend
from moorage.exchange.result_partition import ResultPartition
from moorage.graph.job_graph import JobVertex, OperatorKind
from moorage.ids import ExchangeId, OperatorUid
from moorage.ports import TransactionalWriter
from moorage.serde.frames import Columns
from moorage.task.batch import Batch
from moorage.task.process_stage import ProcessStage
from moorage.task.stage import InputHead, Stage, blame, call_each


class _Fork:
    """Sends a batch to every stage behind."""

    __slots__ = ("behind",)

    def __init__(self, behind: Sequence[Stage]) -> None:
        self.behind = behind

    def push(self, batch: Batch) -> None:
        for stage in self.behind:
            stage.push(batch)


class _MapStage:
    def __init__(self, operator: MapOperator, behind: Stage) -> None:
        self._uid = operator.uid
        self._function = operator.function
        self._behind = behind

    def push(self, batch: Batch) -> None:
        values = call_each(self._uid, self._function, batch.values)
        self._behind.push(Batch(batch.group, values, batch.timestamps_ms))


class _FilterStage:
    def __init__(self, operator: FilterOperator, behind: Stage) -> None:
        self._uid = operator.uid
        self._predicate = operator.predicate
        self._behind = behind

    def push(self, batch: Batch) -> None:
        keep = call_each(self._uid, self._predicate, batch.values)
        values = [value for value, kept in zip(batch.values, keep, strict=True) if kept]
        if values:
            timestamps = [t for t, kept in zip(batch.timestamps_ms, keep, strict=True) if kept]
            self._behind.push(Batch(batch.group, values, timestamps))


class _FlatMapStage:
    def __init__(self, operator: FlatMapOperator, behind: Stage) -> None:
        self._uid = operator.uid
        self._function = operator.function
        self._behind = behind

    def push(self, batch: Batch) -> None:
        rest = iter(batch.values)
        function = self._function
        values: list[Any] = []
        timestamps: list[int] = []
        try:
            for value, timestamp in zip(rest, batch.timestamps_ms, strict=True):
                before = len(values)
                values += function(value)
                timestamps += [timestamp] * (len(values) - before)
        except Exception as error:
            raise blame(self._uid, batch.values, rest, error) from error
        if values:
            self._behind.push(Batch(batch.group, values, timestamps))


class _KeyByStage:
    """Last stage before a keyed exchange."""

    def __init__(self, operator: KeyByOperator, output: ResultPartition) -> None:
        self._uid = operator.uid
        self._select = operator.select
        self._output = output

    def push(self, batch: Batch) -> None:
        keys = call_each(self._uid, self._select, batch.values)
        self._output.emit_keyed(keys, batch.values, batch.timestamps_ms)


class _RebalanceStage:
    """Last stage before an exchange that spreads records."""

    def __init__(self, output: ResultPartition) -> None:
        self._output = output

    def push(self, batch: Batch) -> None:
        self._output.emit_rebalanced(batch.values, batch.timestamps_ms)


class _BroadcastStage:
    """Last stage before an exchange that every subtask reads whole."""

    def __init__(self, output: ResultPartition) -> None:
        self._output = output

    def push(self, batch: Batch) -> None:
        self._output.emit_forward(0, [None] * len(batch.values), batch.values, batch.timestamps_ms)


class _BroadcastHead:
    """Keeps what a broadcast stream brings."""

    def __init__(self, uid: OperatorUid, function: Callable[[Any], Any]) -> None:
        self._uid = uid
        self._function = function

    def push_columns(self, _partition: int, columns: Columns[Any, Any], /) -> None:
        call_each(self._uid, self._function, columns.values)


class _MergeHead:
    """First stage of a vertex that reads such exchanges: what a partition brings goes on as it is."""

    def __init__(self, behind: Stage) -> None:
        self._behind = behind

    def push_columns(self, partition: int, columns: Columns[Any, Any], /) -> None:
        self._behind.push(Batch(partition, columns.values, columns.timestamps_ms))


class RecordEncoder:
    """Output records of a sink: key and value as bytes."""

    def __init__(self, operator: SinkOperator) -> None:
        self._uid = operator.uid
        self._select = operator.select_key
        self._encode = operator.sink.value.encoder()
        self._json = msgspec.json.Encoder(order="deterministic").encode

    def encode(self, values: Sequence[Any]) -> tuple[list[bytes | None], list[bytes]]:
        encoded = call_each(self._uid, self._encode, values)
        if self._select is None:
            return [None] * len(encoded), encoded
        selected = call_each(self._uid, self._select, values)
        encode_key = str.encode if set(map(type, selected)) == {str} else self._key
        return call_each(self._uid, encode_key, selected), encoded

    def _key(self, key: Any) -> bytes | None:
        if key is None or isinstance(key, bytes):
            return key
        return key.encode() if isinstance(key, str) else self._json(key)


class _SinkEncoderStage:
    """Last stage before an exactly-once sink: what lies in the exchange is what will be written."""

    def __init__(self, operator: SinkOperator, output: ResultPartition) -> None:
        self._encoder = RecordEncoder(operator)
        self._output = output

    def push(self, batch: Batch) -> None:
        keys, values = self._encoder.encode(batch.values)
        self._output.emit_forward(batch.group, keys, values, batch.timestamps_ms)


class _SinkWriterStage:
    """An at-least-once sink: writes at once, flushes before the checkpoint is acknowledged."""

    def __init__(self, operator: SinkOperator, writer: TransactionalWriter) -> None:
        self._encoder = RecordEncoder(operator)
        self._topic = operator.sink.topic
        self._writer = writer

    def push(self, batch: Batch) -> None:
        keys, values = self._encoder.encode(batch.values)
        self._writer.append_records(self._topic, keys, values, batch.timestamps_ms, None)


class Chain:
    """The stages of one subtask. A source pushes batches into ``head``; a subtask with inputs has one of ``heads`` for
    each."""

    def __init__(
        self,
        vertex: JobVertex,
        operators: Mapping[OperatorUid, Operator],
        outputs: Mapping[OperatorUid, ResultPartition],
        new_writer: Callable[[SinkOperator], TransactionalWriter],
        new_backend: Callable[[ProcessOperator], KeyedBackend[Any, KeyedState]],
        wall_ms: Callable[[], int],
        broadcasts: Collection[ExchangeId] = (),
    ) -> None:
        """``outputs``: by the uid of the operator whose results they take. ``broadcasts``: those inputs that every
        subtask reads whole."""
        self.writers: list[TransactionalWriter] = []
        self.heads: dict[ExchangeId, InputHead] = {}
        self.backends: dict[OperatorUid, KeyedBackend[Any, KeyedState]] = {}
        """Keyed state of the operators that have some."""
        self.functions: dict[OperatorUid, CheckpointedFunction] = {}
        """Functions of operators that have state without keys."""
        self._vertex = vertex
        self._operators = operators
        self._outputs = outputs
        self._new_writer = new_writer
        self._new_backend = new_backend
        head = vertex.operators[0]
        if head.kind is OperatorKind.SOURCE:
            self.head: Stage = self._behind(head.uid)
        else:
            self.head = self._behind(head.uid)
            self.heads = dict.fromkeys(vertex.inputs, self._input_head(head.uid, wall_ms))
            self.heads |= dict.fromkeys(broadcasts, self._broadcast_head(head.uid)) if broadcasts else {}

    def poll(self) -> None:
        """Serve the reports of at-least-once sinks; raises the error of a record that was not stored."""
        for writer in self.writers:
            writer.poll()

    @property
    def pending_records(self) -> int:
        """Records of at-least-once sinks that are not confirmed."""
        return sum(writer.pending_records for writer in self.writers)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
        for backend in self.backends.values():
            backend.close()

    def _input_head(self, uid: OperatorUid, wall_ms: Callable[[], int]) -> InputHead:
        operator = self._operators[uid]
        match operator:
            case ProcessOperator():
                backend = self.backends[uid] = self._new_backend(operator)
                if operator.broadcast is not None:
                    known = self.functions[operator.broadcast.uid] = operator.broadcast.function()
                    backend.context.broadcast = known
                return ProcessStage(operator, backend, self.head, wall_ms)
            case MergeOperator():
                return _MergeHead(self.head)
            case _:
                raise TypeError(f"vertex {self._vertex.vertex} can't begin with {type(operator).__name__}")

    def _broadcast_head(self, uid: OperatorUid) -> InputHead:
        operator = self._operators[uid]
        if not isinstance(operator, ProcessOperator) or operator.broadcast is None:
            raise TypeError(f"{uid} takes no broadcast stream")
        kept = operator.broadcast.uid
        return _BroadcastHead(kept, self.functions[kept])

    def _behind(self, uid: OperatorUid) -> Stage:
        stages = [self._stage(node.uid) for node in self._vertex.operators if node.upstream == uid]
        return stages[0] if len(stages) == 1 else _Fork(stages)

    def _function(self, uid: OperatorUid, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The user's function; one that has state is made anew for each subtask."""
        if not is_checkpointed(function):
            return function
        made = self.functions[uid] = function()
        return made

    def _stage(self, uid: OperatorUid) -> Stage:
        operator = self._operators[uid]
        match operator:
            case MapOperator():
                return _MapStage(replace(operator, function=self._function(uid, operator.function)), self._behind(uid))
            case FilterOperator():
                predicate = self._function(uid, operator.predicate)
                return _FilterStage(replace(operator, predicate=predicate), self._behind(uid))
            case FlatMapOperator():
                function = self._function(uid, operator.function)
                return _FlatMapStage(replace(operator, function=function), self._behind(uid))
            case KeyByOperator():
                return _KeyByStage(operator, self._outputs[uid])
            case RebalanceOperator():
                return _RebalanceStage(self._outputs[uid])
            case BroadcastOperator():
                return _BroadcastStage(self._outputs[uid])
            case SinkOperator():
                if uid in self._outputs:
                    return _SinkEncoderStage(operator, self._outputs[uid])
                writer = self._new_writer(operator)
                self.writers.append(writer)
                return _SinkWriterStage(operator, writer)
            case _:
                raise TypeError(f"{type(operator).__name__} {uid} can't be chained")
