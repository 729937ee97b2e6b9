"""The asynchronous half of a snapshot: upload, wait for the broker, acknowledge.

A checkpoint is acknowledged only when the subtask's state is durable **and** every frame up to its barrier is confirmed
(design, section 6). Whatever fails on the way declines the checkpoint; it never fails the subtask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec

from moorage.backends.pieces import StatePiece
from moorage.errors import MoorageError, StateStoreError
from moorage.exchange.result_partition import ResultPartition
from moorage.ids import CheckpointId, OperatorId, SubtaskId
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    OperatorSnapshot,
)
from moorage.state.handles import StreamHandle, streams_of
from moorage.state.operator_state import OperatorSubtaskState
from moorage.task.context import TaskContext
from moorage.task.merged_space import SpaceUser
from moorage.task.state_writer import SnapshotId

_HELD_BYTES = 8 << 20
"""State of one subtask that waits in memory to be stored with that of others; what is more is stored by the thread that
has encoded it, before it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePart:
    """The second half of an operator's snapshot."""

    operator: OperatorId
    encode: Callable[[], Iterable[StatePiece]]
    """*Blocking*, called in a thread, and so is what it gives: it must touch nothing that the loop changes. What is
    new; nothing, if nothing is."""
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
    location: str | None
    """Of a savepoint."""
    calls: int = 0
    pieces: Sequence[Sequence[StatePiece]] = ()
    """By part."""
    streams: Sequence[StreamHandle] = ()
    """Where all of them lie."""
    failure: tuple[DeclineReason, str] | None = None


class Snapshots:
    """Snapshots of one subtask that are under way."""

    def __init__(self, context: TaskContext, outputs: Sequence[ResultPartition]) -> None:
        self._context = context
        self._outputs = outputs
        self._pending: list[_Pending] = []
        self._flushes = 0
        self._closed = False
        context.state_writer.join(context.job, context.attempt)

    def close(self) -> None:
        """No snapshot follows, and what is under way is nobody's any more."""
        if not self._closed:
            self._closed = True
            self._pending.clear()
            self._context.state_writer.leave(self._context.job, self._context.attempt)

    def begin(
        self,
        checkpoint: CheckpointId,
        triggered_ms: int,
        parts: Sequence[StatePart],
        epochs: Mapping[int, int],
        flushes: Sequence[Callable[[], None]],
        metrics: CheckpointMetrics,
        location: str | None = None,
    ) -> None:
        """Start the asynchronous phase. ``flushes``: blocking calls that must have succeeded too; ``location``: the
        folder of a savepoint."""
        context = self._context
        pending = _Pending(
            checkpoint=checkpoint,
            triggered_ms=triggered_ms,
            epochs=epochs,
            parts=parts,
            started_ms=context.clock.monotonic_ms(),
            metrics=metrics,
            location=location,
        )
        self._pending.append(pending)
        context.failpoint("after-snapshot-before-upload")
        self._encode(pending)
        for flush in flushes:
            self._flush(pending, flush)
        self.poll()

    @property
    def flushing(self) -> bool:
        """A flush is under way, of an aborted checkpoint perhaps; it ends only when nothing is added meanwhile."""
        return self._flushes > 0

    def _encode(self, pending: _Pending) -> None:
        """Encode the parts in a thread, then have the pieces of all of them stored at once."""

        context = self._context
        snapshot = SnapshotId(context.job, context.attempt, pending.checkpoint)
        subtask = SubtaskId(context.vertex.vertex, context.subtask)

        def encode() -> list[list[StatePiece]]:
            held_bytes, small_bytes = 0, context.state_writer.limits.merged_piece_max_bytes

            def held_or_stored(piece: StatePiece) -> StatePiece:
                nonlocal held_bytes
                if not isinstance(piece.data, bytes) or len(piece.data) <= small_bytes:
                    return piece
                if held_bytes + len(piece.data) > _HELD_BYTES:
                    return context.state_writer.stored(snapshot, subtask, piece, pending.location)
                held_bytes += len(piece.data)
                return piece

            return [[held_or_stored(self._read_small(piece)) for piece in part.encode()] for part in pending.parts]

        def encoded(parts: list[list[StatePiece]] | None, error: Exception | None) -> None:
            if all(pending is not other for other in self._pending):
                return  # aborted meanwhile
            if parts is None:
                is_disk = isinstance(error, StateStoreError)
                self._ended(pending, DeclineReason.STORAGE if is_disk else DeclineReason.INTERNAL, error)
                return
            pending.pieces = parts
            context.state_writer.store(
                snapshot,
                subtask,
                [piece for pieces in parts for piece in pieces],
                stored,
                pending.location,
            )

        def stored(streams: Sequence[StreamHandle] | None, error: Exception | None) -> None:
            if streams is not None:
                pending.streams = streams
            self._ended(pending, DeclineReason.STORAGE, error)

        pending.calls += 1
        self._context.executor.submit(encode, encoded)

    def _read_small(self, piece: StatePiece) -> StatePiece:
        """*Blocking.* A small local file can be merged with others."""
        limits = self._context.state_writer.limits
        if isinstance(piece.data, Path) and piece.size_bytes <= limits.merged_piece_max_bytes:
            return replace(piece, data=piece.data.read_bytes(), inline=False)
        return piece

    def _flush(self, pending: _Pending, flush: Callable[[], None]) -> None:
        self._flushes += 1
        pending.calls += 1

        def flushed(_: None, error: Exception | None) -> None:
            self._flushes -= 1
            self._ended(pending, DeclineReason.LOG, error)

        self._context.executor.submit(flush, flushed)

    def _ended(self, pending: _Pending, reason: DeclineReason, error: Exception | None) -> None:
        pending.calls -= 1
        if error is not None and pending.failure is None:
            kind = reason if isinstance(error, MoorageError) else DeclineReason.INTERNAL
            pending.failure = (kind, f"{type(error).__name__}: {error}")

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
        context = self._context
        context.state_writer.abort(SnapshotId(context.job, context.attempt, checkpoint))

    def _acknowledge(self, pending: _Pending) -> None:
        context = self._context
        context.failpoint("after-flush-before-ack")
        streams = iter(pending.streams)
        states = [
            (part.operator, part.finish(list(islice(streams, len(pieces)))))
            for part, pieces in zip(pending.parts, pending.pieces, strict=True)
        ]
        metrics = msgspec.structs.replace(
            pending.metrics,
            async_ms=context.clock.monotonic_ms() - pending.started_ms,
            written_bytes=sum(stream.size_bytes for stream in pending.streams),
            state_bytes=sum(state.size_bytes for _, state in states),
        )
        context.counters.acknowledged_checkpoint = pending.checkpoint
        context.counters.acknowledged_ms = context.clock.wall_ms()
        context.counters.snapshot = metrics
        if context.local is not None:
            paths = (path for _, state in states for path in state.paths())
            context.local.acknowledged(context.job, pending.checkpoint, paths)
        if pending.location is None:
            context.state_writer.space.uses(
                SpaceUser(context.job, context.attempt, SubtaskId(context.vertex.vertex, context.subtask)),
                (stream for _, state in states for handle in state.handles() for stream in streams_of(handle)),
            )
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
