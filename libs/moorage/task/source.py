"""A source subtask: reads input, runs its chain, starts barriers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from moorage.backends.pieces import StatePiece
from moorage.errors import CorruptDataError, MoorageError, RecordError
from moorage.ids import CheckpointId, OperatorUid
from moorage.messages.barriers import SnapshotKind
from moorage.messages.commands import CheckpointFate, TriggerCheckpoint
from moorage.messages.events import CheckpointMetrics, SubtaskState
from moorage.state.assignment import SubtaskShare, assign
from moorage.state.handles import DistributionMode, OperatorStreamHandle, StateMetaInfo, StreamHandle
from moorage.state.operator_state import OperatorSubtaskState
from moorage.task.batch import Batch
from moorage.task.chain import Chain
from moorage.task.chained import ChainedSubtask, barrier_of, decline_not_running
from moorage.task.context import TaskContext
from moorage.task.ending import finished_parts
from moorage.task.operator_states import Restored
from moorage.task.outputs import Outputs
from moorage.task.pace import Pace
from moorage.task.snapshots import StatePart

SOURCE_OFFSETS = "source-offsets"
"""Name of the list state that holds a source's positions."""


class SourceReader(Protocol):
    """A connector's reading side in one subtask; its methods are called by the subtask's loop."""

    def find(self, restored: Sequence[bytes] | None) -> Any:
        """*Blocking.* Find what to read. ``restored``: what ``snapshot`` gave in all former subtasks; None when no
        checkpoint knows the source."""
        ...

    def open(self, found: Any) -> None:
        """Begin to read what ``find`` found."""
        ...

    def poll(self, now_ms: int, max_records: int) -> Sequence[Batch]:
        """Decoded records that have arrived; never waits. RecordError for one that can't be decoded."""
        ...

    @property
    def has_ended(self) -> bool:
        """Everything was read that the source was asked for; never true of an unbounded one."""
        ...

    def snapshot(self) -> Sequence[bytes]:
        """The position behind everything that ``poll`` has returned, one element per split."""
        ...

    def flush(self) -> Callable[[], None] | None:
        """*Blocking* call that must succeed before a checkpoint is acknowledged (dead letters)."""
        ...

    def operator_event(self, payload: bytes) -> None:
        """The source's coordinator speaks; it may do so before ``open``."""
        ...

    def completed(self, elements: Sequence[bytes]) -> None:
        """The checkpoint with this snapshot is completed."""
        ...

    def close(self) -> None: ...


class SourceSubtask(ChainedSubtask):
    def __init__(
        self,
        context: TaskContext,
        new_reader: Callable[[TaskContext], SourceReader],
        new_chain: Callable[[TaskContext, Outputs], Chain],
    ) -> None:
        super().__init__(context, new_chain)
        self._reader = new_reader(context)
        self._pace = Pace(context.settings.max_poll_records, context.settings.max_step_ms)
        self._positions: dict[CheckpointId, Sequence[bytes]] = {}
        """What each undecided checkpoint holds."""
        self._last_triggered = CheckpointId(0)
        self._stopping: TriggerCheckpoint | None = None
        """The savepoint behind which nothing is read, unless it is aborted."""

    def start(self) -> None:
        if self._starts_finished():
            return
        context = self.context
        head = context.vertex.operators[0]
        share: SubtaskShare | None = None
        if context.metadata is not None and context.metadata.operator(head.operator_id) is not None:
            share = assign(
                context.metadata,
                head.operator_id,
                head.uid,
                context.deploy.graph.max_parallelism,
                context.parallelism,
                context.subtask,
            )

        def find() -> tuple[Any, Restored]:
            return find_input(), self._operator_states.load()

        def find_input() -> Any:
            if share is None:
                return self._reader.find(None)
            elements = [e for h in share.union for e in read_elements(h, context.read_stream(h.stream))]
            try:
                return self._reader.find(elements)
            except CorruptDataError as error:
                raise CorruptDataError(f"source {head.uid!r} in checkpoint {context.restored}: {error}") from error

        def found(result: tuple[Any, Restored]) -> None:
            what, states = result
            self._operator_states.adopt(states)
            self._reader.open(what)
            self.running()

        self.call(find, found)

    def _read(self, now_ms: int) -> bool:
        if self.data_ended or self._stopping is not None:
            return False
        context, pace = self.context, self._pace
        started_ms, records_before = context.clock.monotonic_ms(), context.counters.records_in
        batches = self._reader.poll(now_ms, pace.records)
        for batch in batches:
            context.counters.records_in += len(batch.values)
            try:
                self._chain.head.push(batch)
            except RecordError as error:
                raise self._located(batch, error) from error.__cause__
        if self._reader.has_ended:
            self._end_data()
        pace.took(context.counters.records_in - records_before, context.clock.monotonic_ms() - started_ms)
        return bool(batches)

    def _located(self, batch: Batch, error: RecordError) -> RecordError:
        """The error with the place of its record in the input. Which one it was is found by pushing them once more, one
        by one: the attempt is over anyway, so nothing of that counts."""
        origin = batch.origin
        if origin is None:
            return error
        topic, partition = origin.partition
        for offset, value, timestamp in zip(origin.offsets, batch.values, batch.timestamps_ms, strict=True):
            try:
                self._chain.head.push(Batch(batch.group, [value], [timestamp]))
            except RecordError:
                return RecordError(f"{error}, from {topic}[{partition}] offset {offset}")
        first, last = origin.offsets[0], origin.offsets[-1]
        return RecordError(
            f"{error}, from one of {topic}[{partition}] offsets {first} to {last}; it did not fail again"
        )

    def _housekeeping(self, now_ms: int) -> None:
        stopping = self._stopping
        if stopping is None or self.context.fates.fate(stopping.checkpoint) is not CheckpointFate.ABORTED:
            return
        self._stopping = None
        if stopping.options.kind is SnapshotKind.TERMINATE:
            # Those behind were told that no data follows.
            raise MoorageError(f"savepoint {stopping.checkpoint}, which was to end the job, has failed")

    def trigger(self, command: TriggerCheckpoint) -> None:
        context = self.context
        if self._ending.is_leaving:
            return  # finished, or about to be: the coordinator will know
        if self.state is not SubtaskState.RUNNING:
            decline_not_running(self, command.checkpoint)
            return
        if command.checkpoint <= self._last_triggered:
            return  # said twice: a second barrier of the same checkpoint would cut the stream at another place
        self._last_triggered = command.checkpoint
        started = context.clock.monotonic_ms()
        data_ended = self.data_ended
        if command.options.kind.stops and not data_ended:
            self._stopping = command
            if command.options.kind is SnapshotKind.TERMINATE:
                self._end_data()
        epochs = self._outputs.barrier(barrier_of(command))
        is_final = self._ending.snapshot_taken(command.checkpoint, command.options, data_ended=data_ended)
        context.failpoint("after-barrier-before-snapshot")
        elements = list(self._reader.snapshot())
        self._positions[command.checkpoint] = elements
        parts = finished_parts(context.vertex.operators) if is_final else self._parts(elements)
        flushes = self._flushes()
        metrics = CheckpointMetrics(
            start_delay_ms=max(0, context.clock.wall_ms() - command.triggered_ms),
            sync_ms=context.clock.monotonic_ms() - started,
        )
        self._snapshots.begin(
            command.checkpoint, command.triggered_ms, parts, epochs, flushes, metrics, command.options.location
        )

    def _flushes(self) -> list[Callable[[], None]]:
        reader_flush = self._reader.flush()
        return super()._flushes() if reader_flush is None else [*super()._flushes(), reader_flush]

    def _parts(self, elements: Sequence[bytes]) -> list[StatePart]:
        operators, states = self.context.vertex.operators, self._operator_states
        return [self._part(elements), *(states.part(node) for node in operators if node.uid in states)]

    def _part(self, elements: Sequence[bytes]) -> StatePart:
        head = self.context.vertex.operators[0]
        return StatePart(
            operator=head.operator_id,
            encode=lambda: [StatePiece(head.uid, False, b"".join(elements))] if elements else [],
            finish=lambda streams: _state_of(elements, streams),
        )

    def operator_event(self, operator: OperatorUid, payload: bytes) -> None:
        if operator == self.context.vertex.operators[0].uid:
            self._reader.operator_event(payload)

    def completed(self, checkpoint: CheckpointId) -> None:
        elements = self._positions.pop(checkpoint, None)
        if elements is not None:
            self._reader.completed(elements)
        self._positions = {n: e for n, e in self._positions.items() if n > checkpoint}

    def aborted(self, checkpoint: CheckpointId) -> None:
        super().aborted(checkpoint)
        self._positions.pop(checkpoint, None)

    def close(self) -> None:
        super().close()
        self._reader.close()


def _state_of(elements: Sequence[bytes], streams: Sequence[StreamHandle]) -> OperatorSubtaskState:
    if not streams:
        return OperatorSubtaskState()
    offsets: list[int] = []
    position = 0
    for element in elements:
        offsets.append(position)
        position += len(element)
    states = {SOURCE_OFFSETS: StateMetaInfo(tuple(offsets), DistributionMode.UNION)}
    return OperatorSubtaskState(managed_operator=(OperatorStreamHandle(states, streams[0]),))


def read_elements(handle: OperatorStreamHandle, data: bytes) -> list[bytes]:
    """The elements of a source's state, as ``SourceReader.snapshot`` gave them."""
    info = handle.states.get(SOURCE_OFFSETS)
    if info is None or not info.offsets:
        return []
    ends = (*info.offsets[1:], len(data))
    return [data[start:end] for start, end in zip(info.offsets, ends, strict=True)]
