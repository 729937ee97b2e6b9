"""The exactly-once Kafka sink: transactions that follow the fate of checkpoints (design, section 7).

Theory of operation
-------------------
What lies in the sink's exchange is already encoded, so what is written is a pure function of the log, and the sink
keeps no state in the checkpoint. Its state is the *commit marker* of each key group, written in the same transaction as
the output: "everything up to the barrier of checkpoint n is committed, go on at these offsets".

=============  ==============================================================  ===========================
phase          what happens                                                    left by
=============  ==============================================================  ===========================
OPENING        in a thread: fence the transactional ids, read the markers      -> WRITING
WRITING        frames go into the open transaction up to barrier n of all      all barriers n -> AWAITING
               channels                                                        (replay: -> COMMITTING)
AWAITING       nothing is read; the transaction waits for the fate of n        completed -> COMMITTING; but WRITING
                                                                               when a newer one is known to be, too
                                                                               aborted -> WRITING
COMMITTING     in a thread: markers into the transaction, commit               done -> WRITING
BROKEN         any error of the producer: it is thrown away; after a pause     -> OPENING
               a new one is made, which fences, then reads the markers, then
               redoes or skips
=============  ==============================================================  ===========================

*A lost transaction* (crash between the completion of a checkpoint and the commit, or expiry while everything was down)
shows as a marker older than the restored checkpoint. The sink then reads from the marker to the barriers of the
restored checkpoint (``InputGate``: replay), commits that at once, and goes on. Markers decide everything: whatever this
object believed is forgotten with it.

*Fenced* means that a newer owner of the transactional id exists; the subtask fails and never takes the id back.

*Markers are believed* when nobody but this sink can write to its key groups any more, and when they can all be seen:
``sink_opening`` sees to that; ``sink_resume`` decides what follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from moorage.api.operators import SinkOperator
from moorage.barrier.gate import InputGate
from moorage.barrier.pending import Declined
from moorage.errors import (
    FencedError,
    LogError,
    MoorageError,
    OffsetOutOfRangeError,
)
from moorage.ids import CheckpointId, OperatorUid, TopicPartition
from moorage.messages.barriers import Alignment, Barrier, SnapshotKind, SnapshotOptions
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import SinkCommitted, SubtaskState
from moorage.naming import commits_topic, exchange_topic
from moorage.ports import Partitioner, TransactionalWriter
from moorage.serde.frames import ColumnCodec, Columns
from moorage.serde.positions import encode_marker, marker_key
from moorage.state.key_groups import key_group_range
from moorage.state.positions import CommitMarker
from moorage.task.context import TaskContext
from moorage.task.inputs import ExchangeInput
from moorage.task.sink_opening import Opened, SinkOpening
from moorage.task.sink_resume import markers_at, where_to_resume
from moorage.task.subtask import Subtask

_RETRY_MIN_MS = 100
_RETRY_MAX_MS = 10_000


class Phase(Enum):
    OPENING = "opening"
    WRITING = "writing"
    AWAITING = "awaiting"
    COMMITTING = "committing"
    BROKEN = "broken"


class CommitterSubtask(Subtask):
    def __init__(self, context: TaskContext) -> None:
        super().__init__(context)
        (node,) = context.vertex.operators
        operator = context.pipeline.operators[node.uid]
        if not isinstance(operator, SinkOperator):
            raise TypeError(f"{node.uid} is not a sink")
        self._uid: OperatorUid = operator.uid
        self._sink = operator.sink
        (exchange_id,) = context.vertex.inputs
        self._exchange = context.deploy.graph.exchange(exchange_id)
        self._topic = exchange_topic(context.job, exchange_id)
        self._commits_topic = commits_topic(context.job)
        self._groups = key_group_range(self._exchange.partitions, context.parallelism, context.subtask).groups()
        self._opening = SinkOpening(context, self._uid, self._exchange, Partitioner(self._sink.partitioner))
        self._codec: ColumnCodec[bytes | None, bytes | None] = ColumnCodec(bytes | None, bytes | None)
        self.phase = Phase.OPENING
        self._incarnation = 0
        """Results of threads that belong to an earlier producer are ignored."""
        self._writer: TransactionalWriter | None = None
        self._input: ExchangeInput | None = None
        self._checkpoint = CheckpointId(0)
        """AWAITING, COMMITTING: the checkpoint whose output is in the transaction."""
        self._markers: Sequence[CommitMarker] = ()
        self._commit_from = CheckpointId(0)
        """The sink lags: it doesn't commit before this completed checkpoint. 0: nothing is decided yet."""
        self._passed: tuple[CheckpointId, Sequence[CommitMarker]] | None = None
        """The completed checkpoint that was not committed for that, with its markers."""
        self._has_output = False
        """Something was written since the last commit."""
        self._retry_at_ms = 0
        self._retry_delay_ms = _RETRY_MIN_MS

    # --- opening -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._begin_opening()

    def _begin_opening(self) -> None:
        context = self.context
        self.phase = Phase.OPENING
        self._incarnation += 1
        incarnation = self._incarnation
        writer = self._writer = self._opening.new_writer()

        def opened(result: Opened | None, error: Exception | None) -> None:
            if incarnation != self._incarnation:
                return
            try:
                if result is None:
                    raise error or MoorageError("the sink was not opened")
                self._resume(result)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it ends this producer or the subtask
                self._broken(failure)

        context.executor.submit(lambda: self._opening.open(writer), opened)

    def _resume(self, opened: Opened) -> None:
        context = self.context
        resume = where_to_resume(self._uid, self._exchange, self._groups, context.deploy, opened)
        gate = InputGate(
            {self._topic: (self._exchange, self._groups)},
            context.lineage,
            resume.starts,
            positions=resume.positions,
            first_live=resume.first_live,
            replay_until=resume.replay_until,
            held_bytes_max=context.settings.held_bytes_max,
            alignment_of=_alignment_of,
        )
        self._input = ExchangeInput(
            context,
            {self._topic: self._exchange},
            {self._topic: self._codec},
            context.log.reader(context.name, bulk=True),
            gate,
            resume.starts,
            self,
            resumed={p.partition for attempt, p in resume.positions if attempt == context.attempt},
        )
        if resume.replay_until is not None:
            context.counters.transactions_replayed += 1
        if resume.committed:
            self._report_committed(resume.committed)
        if self._writer is not None:
            self._writer.begin()
        self.phase = Phase.WRITING
        self.running()
        self._input.open()

    # --- work --------------------------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> bool:
        try:
            return self._step(now_ms)
        except (FencedError, OffsetOutOfRangeError):
            raise  # neither heals by a new producer
        except LogError as error:
            self._broken(error)
            return True

    def _step(self, now_ms: int) -> bool:
        if self.phase is Phase.BROKEN and self._retry_at_ms == 0:
            self._retry_at_ms = now_ms + self._retry_delay_ms
            self._retry_delay_ms = min(2 * self._retry_delay_ms, _RETRY_MAX_MS)
        if self.phase is Phase.BROKEN and now_ms >= self._retry_at_ms:
            self._begin_opening()
            return True
        if self._writer is None or self._input is None or self.phase in (Phase.OPENING, Phase.BROKEN):
            return False
        if self.phase is Phase.COMMITTING:
            return False
        self._writer.poll()
        self._input.housekeeping(now_ms)
        if self.phase is Phase.AWAITING:
            return self._ask_for_fate(self._input)
        if self._writer.pending_records > self.context.settings.max_unsent_records:
            self.context.counters.blocked_steps += 1
            return False
        worked = self._input.step()
        if self.phase is Phase.WRITING and self._input.gate.has_ended:
            self._finish_writing()
            return True
        return worked

    def _finish_writing(self) -> None:
        """Nothing more comes. The last output lies before the barrier of a completed checkpoint: that is what let its
        producers end."""
        if self._passed is not None:
            self._checkpoint, self._markers = self._passed
            self._commit()
        elif self._has_output:
            raise MoorageError(f"sink {self._uid!r}: its input ended behind output that no checkpoint covers")
        else:
            self._drop()
            self.finish()

    def on_records(self, _: TopicPartition, columns: Columns[bytes | None, bytes | None]) -> None:
        if self._writer is not None:
            self._has_output = True
            self._writer.append_records(
                self._sink.topic, columns.keys, columns.values, columns.timestamps_ms, columns.headers
            )
            self.context.counters.records_out += len(columns)

    def on_declined(self, _: Declined) -> None:
        """The sink takes no part in checkpoints: it follows their fate."""

    def on_snapshot(self, barrier: Barrier) -> None:
        if self._input is None:
            return
        gate = self._input.gate
        self._checkpoint = barrier.checkpoint
        self._markers = markers_at(self._uid, barrier.checkpoint, gate.attempt, gate.positions())
        if gate.replay_until is not None:
            self._commit()  # the job was restored from this checkpoint: it is completed
        else:
            self.phase = Phase.AWAITING
            self._ask_for_fate(self._input)

    def _ask_for_fate(self, source: ExchangeInput) -> bool:
        match self.context.fates.fate(self._checkpoint):
            case CheckpointFate.UNKNOWN:
                return False
            case CheckpointFate.COMPLETED:
                self._commit_from = self._commit_from or self.context.fates.newest_completed
                if self._checkpoint >= self._commit_from:
                    self._commit()
                else:  # the barriers of that one are in the log already: one commit for all of them
                    self._passed = (self._checkpoint, self._markers)
                    self.phase = Phase.WRITING
                    source.release()
            case CheckpointFate.ABORTED:
                self.phase = Phase.WRITING
                source.release()
        return True

    # --- commit ------------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        writer = self._writer
        if writer is None:
            return
        self.phase = Phase.COMMITTING
        incarnation = self._incarnation
        self.context.failpoint("before-sink-commit")
        for marker in self._markers:
            writer.append(
                self._commits_topic, marker.key_group, marker_key(self._uid, marker.key_group), encode_marker(marker)
            )

        def committed(_: None, error: Exception | None) -> None:
            if incarnation != self._incarnation or self._input is None:
                return
            try:
                if error is not None:
                    raise error
                self.context.failpoint("after-sink-commit")
                self._retry_delay_ms = _RETRY_MIN_MS
                self.context.counters.commits += 1
                self._forget_output()
                self._report_committed(self._checkpoint)
                writer.begin()
                self.phase = Phase.WRITING
                self._input.release()
            except Exception as failure:  # noqa: BLE001 - as in opened
                self._broken(failure)

        self.context.executor.submit(writer.commit, committed)

    def _report_committed(self, checkpoint: CheckpointId) -> None:
        context = self.context
        now = context.clock.wall_ms()
        context.counters.committed_checkpoint = checkpoint
        context.counters.committed_ms = now
        context.report(
            SinkCommitted(
                worker=context.worker,
                job=context.job,
                attempt=context.attempt,
                vertex=context.vertex.vertex,
                subtask=context.subtask,
                sink=self._uid,
                checkpoint=checkpoint,
                committed_ms=now,
            )
        )

    # --- trouble -----------------------------------------------------------------------------------------------------

    def _broken(self, error: Exception) -> None:
        """Throw the producer and everything that was believed away; ``step`` makes a new one after a pause."""
        if self.state in (SubtaskState.FAILED, SubtaskState.CANCELED):
            return
        self._drop()
        if isinstance(error, OffsetOutOfRangeError) or not isinstance(error, LogError):
            self.fail(error)
            return
        self.context.counters.broken_transactions += 1
        self.context.warn(f"sink {self._uid!r} begins its transaction anew: {error}")
        self.phase = Phase.BROKEN
        self._retry_at_ms = 0

    def _drop(self) -> None:
        self._incarnation += 1
        self._forget_output()
        if self._writer is not None:
            self._writer.close()
        if self._input is not None:
            self._input.close()
        self._writer = None
        self._input = None

    def _forget_output(self) -> None:
        self._commit_from = CheckpointId(0)
        self._passed = None
        self._has_output = False

    def aborted(self, checkpoint: CheckpointId) -> None:
        if self._input is not None and self.phase is Phase.WRITING:
            self._input.abort(checkpoint)

    def close(self) -> None:
        self._drop()


def _alignment_of(options: SnapshotOptions) -> Alignment | None:
    """A sink's exchange is a pure log: waiting costs nothing but time. Nothing restarts from a savepoint by itself, so
    nothing is committed with it, unless the job stops there."""
    return None if options.kind is SnapshotKind.SAVEPOINT else Alignment.ALIGNED
