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
after a rescale the ids of former subtasks that owned one of these key groups are fenced too; and while the transaction
of another sink, of a dead process perhaps, hides the end of a partition of the commits topic, opening is tried again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from moorage.api.operators import SinkOperator
from moorage.barrier.channels import ChannelPosition
from moorage.barrier.gate import Declined, InputGate
from moorage.errors import (
    CorruptDataError,
    FencedError,
    LogError,
    LogUnavailableError,
    MoorageError,
    OffsetOutOfRangeError,
)
from moorage.ids import Attempt, CheckpointId, OperatorUid, TopicPartition
from moorage.messages.barriers import Alignment, Barrier, SnapshotKind, SnapshotOptions
from moorage.messages.commands import CheckpointFate
from moorage.messages.events import SinkCommitted, SubtaskState
from moorage.naming import commits_topic, exchange_topic, transactional_id
from moorage.ports import LogMessage, OffsetSpec, Partitioner, TransactionalWriter
from moorage.serde.frames import ColumnCodec, Columns
from moorage.serde.positions import decode_marker, encode_marker, marker_key
from moorage.state.key_groups import key_group_range
from moorage.state.positions import CommitMarker
from moorage.task.context import TaskContext
from moorage.task.inputs import ExchangeInput
from moorage.task.subtask import Subtask

_RETRY_MIN_MS = 100
_RETRY_MAX_MS = 10_000


class Phase(Enum):
    OPENING = "opening"
    WRITING = "writing"
    AWAITING = "awaiting"
    COMMITTING = "committing"
    BROKEN = "broken"


class _Opened(NamedTuple):
    """What the thread found behind the fence."""

    markers: Sequence[CommitMarker]
    earliest: dict[TopicPartition, int]


class Resume(NamedTuple):
    """Where a sink goes on: decided by markers, lineage and the restored checkpoint alone."""

    starts: dict[TopicPartition, int]
    first_live: dict[TopicPartition, int]
    positions: list[tuple[Any, ChannelPosition]]
    replay_until: CheckpointId | None
    committed: CheckpointId
    """Every key group is committed at least up to here; 0 when one is not."""


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
        self._range = key_group_range(self._exchange.partitions, context.parallelism, context.subtask)
        self._groups = self._range.groups()
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
        writer = self._writer = self._new_writer(context.parallelism, context.subtask)

        def opened(result: _Opened | None, error: Exception | None) -> None:
            if incarnation != self._incarnation:
                return
            try:
                if result is None:
                    raise error or MoorageError("the sink was not opened")
                self._resume(result)
            except Exception as failure:  # noqa: BLE001 - whatever it is, it ends this producer or the subtask
                self._broken(failure)

        context.executor.submit(lambda: self._open(writer), opened)

    def _new_writer(self, parallelism: int, subtask: int) -> TransactionalWriter:
        context = self.context
        return context.log.transactional_writer(
            transactional_id(context.job, self._uid, parallelism, subtask),
            transaction_timeout_ms=context.settings.transaction_timeout_ms,
            partitioner=Partitioner(self._sink.partitioner),
        )

    def _open(self, writer: TransactionalWriter) -> _Opened:
        """*Blocking.* Fence first: what is read afterwards can't change any more but by this sink."""
        log = self.context.log
        writer.init()  # raises, before anybody is fenced, when the sink was closed while this call waited
        for parallelism, subtask in self._former_owners():
            former = self._new_writer(parallelism, subtask)
            try:
                former.init()
            except FencedError:
                pass  # by another subtask that took over from it
            finally:
                former.close()
        self.context.failpoint("after-fence-before-markers")
        commits = [TopicPartition(self._commits_topic, group) for group in self._groups]
        stable = log.offsets(commits, OffsetSpec.LATEST)
        hidden = [tp for tp, end in log.offsets(commits, OffsetSpec.END).items() if end > stable[tp]]
        if hidden:
            raise LogUnavailableError(f"an open transaction hides the commit markers in {hidden[0]}")
        markers = newest_markers(log.read_to_end(commits, read_committed=True), self._uid)
        earliest = log.offsets([TopicPartition(self._topic, group) for group in self._groups], OffsetSpec.EARLIEST)
        return _Opened(markers, dict(earliest))

    def _former_owners(self) -> Iterator[tuple[int, int]]:
        """Parallelism and number of subtasks that owned some of the key groups before the sink was rescaled."""
        vertex = self.context.vertex.vertex
        former = {segment.parallelism.get(vertex, 0) for segment in self.context.deploy.lineage}
        for parallelism in sorted(former - {0, self.context.parallelism}):
            for subtask in range(parallelism):
                if len(key_group_range(self._exchange.partitions, parallelism, subtask).intersection(self._range)):
                    yield parallelism, subtask

    def _resume(self, opened: _Opened) -> None:
        context = self.context
        resume = self._where_to_resume(opened)
        gate = InputGate(
            {self._topic: (self._exchange, self._groups)},
            context.deploy.lineage,
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

    def _where_to_resume(self, opened: _Opened) -> Resume:
        deploy = self.context.deploy
        lineage, restored = deploy.lineage, self.context.restored
        running = len(lineage) - 1
        markers = {m.key_group: m for m in opened.markers if m.checkpoint > deploy.base_checkpoint_id}
        replayable = any(s.end == restored and self._exchange.consumer in s.parallelism for s in lineage[:-1])
        starts: dict[TopicPartition, int] = {}
        first_live: dict[TopicPartition, int] = {}
        positions: list[tuple[Any, ChannelPosition]] = []
        replay = False
        for group in self._groups:
            tp = TopicPartition(self._topic, group)
            marker = markers.get(group)
            if marker is None:
                starts[tp] = opened.earliest[tp]
                first_live[tp] = 0
                replay = replay or replayable
                continue
            if marker.attempt > deploy.attempt:
                raise FencedError(
                    f"sink {self._uid!r}: attempt {marker.attempt} has committed, this is {deploy.attempt}"
                )
            if marker.checkpoint > restored and marker.attempt < deploy.attempt:
                raise MoorageError(
                    f"sink {self._uid!r} has committed its output up to checkpoint {marker.checkpoint}, but the job"
                    f" goes back to checkpoint {restored}: running on would write the output in between twice"
                )
            starts[tp] = marker.start_offset
            offsets = dict(zip(marker.producers, marker.offsets, strict=True))
            positions += [
                (marker.attempt, ChannelPosition(tp, producer, offsets.get(producer, 0), producer in marker.finished))
                for producer in {*offsets, *marker.finished}
            ]
            if marker.checkpoint >= restored:
                first_live[tp] = running
                continue
            if not replayable:
                raise MoorageError(
                    f"sink {self._uid!r}: key group {group} is committed up to checkpoint {marker.checkpoint} only, and"
                    f" the job's lineage does not tell what to replay up to checkpoint {restored}"
                )
            first_live[tp] = next(i for i, s in enumerate(lineage) if s.end is not None and s.end > marker.checkpoint)
            replay = True
        committed = min((m.checkpoint for m in markers.values()), default=CheckpointId(0))
        return Resume(
            starts,
            first_live,
            positions,
            restored if replay else None,
            committed if len(markers) == len(self._groups) else CheckpointId(0),
        )

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
        self._markers = self._markers_at(gate, barrier.checkpoint)
        if gate.replay_until is not None:
            self._commit()  # the job was restored from this checkpoint: it is completed
        else:
            self.phase = Phase.AWAITING
            self._ask_for_fate(self._input)

    def _markers_at(self, gate: InputGate, checkpoint: CheckpointId) -> list[CommitMarker]:
        by_group: dict[int, list[ChannelPosition]] = {}
        for position in gate.positions():
            by_group.setdefault(position.partition.partition, []).append(position)
        return [_marker(self._uid, group, checkpoint, gate.attempt, channels) for group, channels in by_group.items()]

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


def _marker(
    sink: OperatorUid, group: int, checkpoint: CheckpointId, attempt: Attempt, channels: Sequence[ChannelPosition]
) -> CommitMarker:
    """Finished channels would hold up the cleaner, so their positions are left out, unless there are no others."""
    finished = [c for c in channels if c.has_finished]
    others = [c for c in channels if not c.has_finished] or [max(finished, key=lambda c: c.offset)]
    return CommitMarker(
        sink=sink,
        key_group=group,
        checkpoint=checkpoint,
        attempt=attempt,
        producers=tuple(c.producer for c in others),
        offsets=tuple(c.offset for c in others),
        finished=tuple(c.producer for c in finished),
    )


def _alignment_of(options: SnapshotOptions) -> Alignment | None:
    """A sink's exchange is a pure log: waiting costs nothing but time. Nothing restarts from a savepoint by itself, so
    nothing is committed with it, unless the job stops there."""
    return None if options.kind is SnapshotKind.SAVEPOINT else Alignment.ALIGNED


def newest_markers(messages: Sequence[LogMessage], sink: OperatorUid) -> list[CommitMarker]:
    """Of each key group the marker with the highest checkpoint; other sinks' markers are left out."""
    newest: dict[int, CommitMarker] = {}
    for message in messages:
        try:
            marker = decode_marker(message.value)
        except CorruptDataError as error:
            raise CorruptDataError(f"{message.topic}[{message.partition}] offset {message.offset}: {error}") from error
        known = newest.get(marker.key_group)
        if marker.sink == sink and (known is None or marker.checkpoint >= known.checkpoint):
            newest[marker.key_group] = marker
    return list(newest.values())
