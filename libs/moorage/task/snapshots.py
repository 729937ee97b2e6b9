"""The asynchronous half of a snapshot: upload, wait for the broker, acknowledge.

A checkpoint is acknowledged only when the subtask's state is durable **and** every frame up to its barrier is confirmed
(design, section 6). Whatever fails on the way declines the checkpoint; it never fails the subtask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from moorage.backends.pieces import StatePiece
from moorage.errors import MoorageError, ObjectExistsError, StorageError
from moorage.exchange.result_partition import ResultPartition
from moorage.ids import CheckpointId, OperatorId
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    OperatorSnapshot,
)
from moorage.naming import exclusive_state_path, shared_state_path
from moorage.ports import CheckpointStorage
from moorage.state.handles import ByteStreamHandle, FileHandle, StreamHandle
from moorage.state.operator_state import OperatorSubtaskState
from moorage.task.context import TaskContext


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePart:
    """The second half of an operator's snapshot."""

    operator: OperatorId
    encode: Callable[[], Sequence[StatePiece]]
    """*Blocking*, called in a thread: it must touch nothing that the loop changes. What is new; nothing, if nothing
    is."""
    finish: Callable[[Sequence[StreamHandle]], OperatorSubtaskState]
    """Called in the loop: the state of the operator, once it is known where each of the pieces lies."""


@dataclass(slots=True, kw_only=True)
class _Pending:
    checkpoint: CheckpointId
    triggered_ms: int
    epochs: Mapping[int, int]
    """Index of the output -> epoch that the barrier closed."""
    parts: Sequence[StatePart]
    started_ms: int
    metrics: CheckpointMetrics
    calls: int = 0
    streams: dict[int, list[StreamHandle]] = field(default_factory=dict)
    """Index of the part -> where its pieces lie."""
    written_bytes: int = 0
    failure: tuple[DeclineReason, str] | None = None


class Snapshots:
    """Snapshots of one subtask that are under way."""

    def __init__(self, context: TaskContext, outputs: Sequence[ResultPartition]) -> None:
        self._context = context
        self._outputs = outputs
        self._pending: list[_Pending] = []
        self._flushes = 0

    def begin(
        self,
        checkpoint: CheckpointId,
        triggered_ms: int,
        parts: Sequence[StatePart],
        epochs: Mapping[int, int],
        flushes: Sequence[Callable[[], None]],
        metrics: CheckpointMetrics,
    ) -> None:
        """Start the asynchronous phase. ``flushes``: blocking calls that must have succeeded too."""
        context = self._context
        pending = _Pending(
            checkpoint=checkpoint,
            triggered_ms=triggered_ms,
            epochs=epochs,
            parts=parts,
            started_ms=context.clock.monotonic_ms(),
            metrics=metrics,
        )
        self._pending.append(pending)
        context.failpoint("after-snapshot-before-upload")
        for index, part in enumerate(parts):
            self._call(pending, partial(self._write, pending, index, part), DeclineReason.STORAGE)
        for flush in flushes:
            self._flushes += 1
            self._call(pending, flush, DeclineReason.LOG, self._flushed)
        self.poll()

    @property
    def flushing(self) -> bool:
        """A flush is under way, of an aborted checkpoint perhaps; it ends only when nothing is added meanwhile."""
        return self._flushes > 0

    def _flushed(self) -> None:
        self._flushes -= 1

    def _write(self, pending: _Pending, index: int, part: StatePart) -> None:
        """*Blocking.* Encode a part and make it durable."""
        pieces = part.encode()
        pending.streams[index] = [self._store(pending.checkpoint, piece) for piece in pieces]
        pending.written_bytes += sum(piece.size_bytes for piece in pieces)

    def _store(self, checkpoint: CheckpointId, piece: StatePiece) -> StreamHandle:
        context = self._context
        data = piece.data if isinstance(piece.data, bytes) else piece.data.read_bytes()
        if len(data) <= context.settings.inline_state_max_bytes:
            return ByteStreamHandle(f"{context.vertex.vertex}-{context.subtask}-{piece.name}-{checkpoint}", data)
        path_of = shared_state_path if piece.shared else exclusive_state_path
        path = path_of(context.job, checkpoint, context.attempt, context.vertex.vertex, context.subtask, piece.name)
        write_once(context.storage, path, data)
        return FileHandle(path, len(data))

    def _call(
        self,
        pending: _Pending,
        call: Callable[[], None],
        reason: DeclineReason,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        pending.calls += 1

        def done(_: None, error: Exception | None) -> None:
            ended()
            pending.calls -= 1
            if error is not None and pending.failure is None:
                kind = reason if isinstance(error, MoorageError) else DeclineReason.INTERNAL
                pending.failure = (kind, f"{type(error).__name__}: {error}")

        self._context.executor.submit(call, done)

    def poll(self) -> bool:
        """Acknowledge or decline what is ready, oldest first; True when something was."""
        progressed = False
        while self._pending:
            pending = self._pending[0]
            if pending.failure is not None:
                self._decline(pending)
            elif pending.calls or not all(self._outputs[i].confirmed(e) for i, e in pending.epochs.items()):
                break
            else:
                self._acknowledge(pending)
            self._pending.pop(0)
            progressed = True
        return progressed

    def abort(self, checkpoint: CheckpointId) -> None:
        """The coordinator has given the checkpoint up: nothing will be said of it any more."""
        self._pending = [p for p in self._pending if p.checkpoint != checkpoint]

    def _acknowledge(self, pending: _Pending) -> None:
        context = self._context
        context.failpoint("after-flush-before-ack")
        states = [(part.operator, part.finish(pending.streams[i])) for i, part in enumerate(pending.parts)]
        metrics = msgspec.structs.replace(
            pending.metrics,
            async_ms=context.clock.monotonic_ms() - pending.started_ms,
            written_bytes=pending.written_bytes,
            state_bytes=sum(state.size_bytes for _, state in states),
        )
        context.counters.acknowledged_checkpoint = pending.checkpoint
        context.counters.snapshot = metrics
        context.report(
            AcknowledgeCheckpoint(
                worker=context.worker,
                job=context.job,
                attempt=context.attempt,
                vertex=context.vertex.vertex,
                subtask=context.subtask,
                checkpoint=pending.checkpoint,
                metrics=metrics,
                operators=tuple(OperatorSnapshot(operator=operator, state=state) for operator, state in states),
            )
        )

    def _decline(self, pending: _Pending) -> None:
        if pending.failure is not None:
            decline(self._context, pending.checkpoint, *pending.failure)


def decline(context: TaskContext, checkpoint: CheckpointId, reason: DeclineReason, detail: str) -> None:
    context.report(
        DeclineCheckpoint(
            worker=context.worker,
            job=context.job,
            attempt=context.attempt,
            vertex=context.vertex.vertex,
            subtask=context.subtask,
            checkpoint=checkpoint,
            reason=reason,
            detail=detail,
        )
    )


def write_once(storage: CheckpointStorage, path: str, data: bytes) -> None:
    """*Blocking.* Create the object. The path names attempt, subtask and checkpoint, so what is there already can only
    be the result of a try whose answer was lost."""
    try:
        storage.write(path, data)
    except ObjectExistsError:
        if storage.read(path) != data:
            raise StorageError(f"{path} exists with other content") from None
