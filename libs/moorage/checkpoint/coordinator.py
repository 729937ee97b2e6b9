"""The checkpoint coordinator of one job (Flink: CheckpointCoordinator, without its locks).

Theory of operation
-------------------
``tick`` asks the decider; a request that may run takes an id from the registry and becomes a pending checkpoint. Master
hooks are asked first; then, in one step, operator coordinators take their snapshots and TriggerCheckpoint is broadcast.
When the coordinators and all subtasks of the plan have acknowledged, ``_metadata`` is written, then the registry adds
the checkpoint: that is the commit point. Then everybody is notified, and the cleaner is told of what was subsumed.
Timeout, decline, a failing hook or a failed write abort it with a reason.

While the registry has not answered, the checkpoint is neither completed nor aborted, whatever else happens: sinks
commit by what they are told here. ``has_unknown_outcome`` keeps the job from starting another attempt meanwhile.

What each step decides stands beside it: ``triggering``, ``new_checkpoints``, ``asking``, ``acknowledging``,
``completion``, ``outcomes``. Here they meet: the checkpoints in progress, and what follows when one ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.acknowledging import Acknowledging
from moorage.checkpoint.asking import Asking
from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.completion import Completion
from moorage.checkpoint.deactivated import DeactivatedCheckpoints, DeactivatedTriggering
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.discards import Discards
from moorage.checkpoint.fates import Fates
from moorage.checkpoint.new_checkpoints import NewCheckpoints
from moorage.checkpoint.notices import CheckpointTriggered
from moorage.checkpoint.operator_coordinators import NO_KINDS, Kinds
from moorage.checkpoint.operator_holders import OperatorCoordinators
from moorage.checkpoint.outcomes import Outcomes
from moorage.checkpoint.pending import PendingCheckpoint, PendingState
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import reason_of_decline
from moorage.checkpoint.rebuild import encode_record
from moorage.checkpoint.sink_commits import SinkCommits
from moorage.checkpoint.stats_tracker import HISTORY_SIZE, CheckpointStatsTracker
from moorage.checkpoint.triggering import Triggering
from moorage.effects import AddCheckpoint, Effects, JobHistory
from moorage.graph.execution import Execution
from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, SubtaskId, VertexId
from moorage.messages.commands import (
    CheckpointFate,
    JobFates,
    NotifyCheckpointAborted,
    NotifyCheckpointComplete,
)
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    DeclineCheckpoint,
    OperatorEvent,
    SinkCommitted,
    SubtaskState,
)
from moorage.messages.registry import CheckpointRecord, JobRecord, RestoreMode
from moorage.state.operator_state import CheckpointOrigin
from moorage.state.shared_registry import SharedStateRegistry

_ABORTABLE = (PendingState.HOOKS, PendingState.ACKNOWLEDGING, PendingState.WRITING)


class CheckpointCoordinator:
    """See the module. ``fail_job`` is called with the cause when too many checkpoints have failed; ``random`` gives a
    number between -1 and 1 at each call. ``kinds``: of operator coordinators. ``hook_timeout_ms``: how long master
    hooks may take; None: there are none."""

    def __init__(
        self,
        effects: Effects,
        graph: JobGraph,
        base: CheckpointId,
        history: JobHistory,
        fail_job: Callable[[str], None],
        random: Callable[[], float] = lambda: 0.0,
        history_size: int = HISTORY_SIZE,
        kinds: Kinds = NO_KINDS,
        hook_timeout_ms: int | None = None,
    ) -> None:
        self.stats = CheckpointStatsTracker(history, base, history_size)
        store, triggering = (
            (CompletedCheckpoints, Triggering)
            if graph.checkpoint.enabled
            else (DeactivatedCheckpoints, DeactivatedTriggering)
        )
        self.completed: CompletedCheckpoints = store(history.checkpoints, base)
        self.sink_commits = SinkCommits(graph)
        self._effects = effects
        self._random = random
        self._job = graph.job
        self._config = graph.checkpoint
        self._fates = Fates(graph.job, base, history.completed_ids, history.last_checkpoint_id)
        self._execution: Execution | None = None
        """The running attempt; None: no checkpoints now."""
        self._record = b""
        """The job as stored, for the origin of its checkpoints."""
        self._pending: dict[CheckpointId, PendingCheckpoint] = {}
        self._shared = SharedStateRegistry(graph.job)
        self._discards = Discards(effects, graph.job, self._shared)
        self._acknowledging = Acknowledging(
            effects,
            self._pending,
            self.completed,
            self._fates,
            self._shared,
            self._discards,
            self.stats,
            acknowledged=self._complete_if_acknowledged,
            failed=self._abort_if_open,
        )
        self._completion = Completion(
            effects,
            graph.job,
            graph.checkpoint.retained,
            self._pending,
            waits=lambda: self._triggering.waits_for_id,
            completed=self._completed,
            failed=self._abort,
            late=self._discards.aborted,
        )
        self._operators = OperatorCoordinators(
            effects, graph, kinds, lambda has_backlog: self._triggering.backlog(has_backlog), fail_job
        )
        self._asking = Asking(
            effects,
            graph.job,
            self._operators,
            hook_timeout_ms,
            hooks_asked=self.stats.hooks_asked,
            hooks_acknowledged=self._acknowledging.hooks,
            acknowledged=self._acknowledging.operator_coordinator,
            asked=self._complete_if_acknowledged,
            failed=self._abort_if_open,
        )
        self._new_checkpoints = NewCheckpoints(effects, graph.job, graph.checkpoint, self._operators.uids())
        self._triggering: Triggering = triggering(
            effects,
            graph.job,
            graph.checkpoint,
            self._pending,
            self.completed,
            self._completion,
            self._asking,
            begin=self._begin,
            refused=self._refuse,
        )
        self._outcomes = Outcomes(
            effects,
            graph.job,
            graph.checkpoint.tolerable_failures,
            decided=self._triggering.decided,
            fail_job=fail_job,
        )

    # --- life of an attempt ------------------------------------------------------------------------------------------

    def start(self, execution: Execution, record: JobRecord) -> None:
        """An attempt runs, as ``record`` says: checkpoints are taken as soon as its subtasks run. Vertices that go on
        in it have done so since ``suspend``."""
        self._execution = execution
        self._record = encode_record(record)
        newest = self.completed.newest_of(execution.attempt, record.restored_checkpoint)
        restore = record.restore if newest is None else None
        self._new_checkpoints.start(newest, restore)
        if record.restore is not None and record.restore.mode is RestoreMode.CLAIM:
            self._shared.claim(record.restore.path)  # Later checkpoints may still refer to it.
        self._triggering.start(execution, round(abs(self._random()) * self._config.initial_delay_max_ms))
        self._outcomes.restarted()
        self.sink_commits.restarted(execution.graph, execution.goes_on)
        if newest is not None:
            self._operators.start(execution, newest.checkpoint, newest.metadata_path, newest.metadata_checksum)
        elif restore is not None:
            self._operators.start(execution, None, restore.path, restore.checksum)
        else:
            self._operators.start(execution, None, None, 0)

    def suspend(self, reason: Reason, goes_on: Collection[VertexId] = ()) -> None:
        """The attempt ends: abort what is pending, but for what the registry was asked to add. Vertices that go on
        hear nothing but that."""
        self._execution = None
        self._operators.stop(goes_on)
        self._triggering.suspend(reason)
        for pending in list(self._pending.values()):
            self._abort_if_open(pending, reason, "")

    @property
    def is_stopping(self) -> bool:
        """The job is being stopped with a savepoint, or was: nothing else is triggered."""
        return self._triggering.is_stopping

    @property
    def can_go_on(self) -> bool:
        """A part of the job may go on while another one restarts: no operator coordinator waits for its state."""
        return self._operators.is_ready

    @property
    def has_unknown_outcome(self) -> bool:
        """The registry was asked to add a checkpoint and has not answered."""
        return self._completion.has_unknown_outcome

    def fates(self, attempt: Attempt) -> JobFates:
        committed = self.sink_commits.floor if self.sink_commits.has_sinks else self._fates.last_id
        return self._fates.message(attempt, committed)

    # --- trigger -----------------------------------------------------------------------------------------------------

    def request(self, request: CheckpointRequest) -> None:
        """A checkpoint or savepoint by hand; whoever the request names hears of CheckpointDone or CheckpointFailed."""
        self._triggering.request(request)

    def tick(self) -> None:
        """Also while no attempt runs."""
        now_ms = self._effects.now_ms
        self._discards.tick()
        self._operators.tick()
        for pending in list(self._pending.values()):
            # Aborting one may end the attempt, and with it the others.
            if pending.state is PendingState.HOOKS and now_ms >= pending.hooks_deadline_ms:
                self._abort(pending, Reason.HOOK_TIMEOUT)
            elif pending.state in _ABORTABLE and now_ms >= pending.deadline_ms:
                self._abort(pending, Reason.EXPIRED, pending.describe_missing())
        self._triggering.tick()

    def _begin(self, request: CheckpointRequest, execution: Execution, checkpoint: CheckpointId) -> None:
        pending = self._new_checkpoints.make(request, execution, checkpoint)
        self._pending[checkpoint] = pending
        self._fates.triggered(checkpoint)
        self.stats.triggered(checkpoint, pending.triggered_ms, pending.plan, pending.options, self._operators.uids())
        self._effects.report(CheckpointTriggered(job=self._job, attempt=pending.attempt, checkpoint=checkpoint))
        self._asking.begin(pending)

    # --- what comes from subtasks ------------------------------------------------------------------------------------

    def acknowledge(self, message: AcknowledgeCheckpoint) -> AcknowledgeOutcome:
        return self._acknowledging.subtask(message)

    def acknowledged_in_a_former_attempt(self, message: AcknowledgeCheckpoint) -> None:
        """Nobody waits for it, but it brings files."""
        self._acknowledging.subtask_of_a_former_attempt(message)

    def decline(self, message: DeclineCheckpoint) -> bool:
        """False: nobody waits for it."""
        pending = self._pending.get(message.checkpoint)
        subtask = SubtaskId(message.vertex, message.subtask)
        if pending is None or not pending.waits_for(subtask):
            return False
        self._abort(pending, reason_of_decline(message.reason), f"{subtask} on {message.worker}: {message.detail}")
        return True

    def subtask_changed(self, subtask: SubtaskId, state: SubtaskState, cause: str = "") -> None:
        """A subtask of the running attempt has another state."""
        match state:
            case SubtaskState.RUNNING:
                self._operators.subtask_ready(subtask)
            case SubtaskState.FAILED | SubtaskState.CANCELED:
                self._operators.subtask_failed(subtask, cause)
            case SubtaskState.FINISHED:
                self._acknowledging.finished(subtask)
                self._triggering.subtask_finished()
            case SubtaskState.INITIALIZING:
                pass

    def operator_event(self, event: OperatorEvent) -> bool:
        """False: nobody is interested."""
        return self._operators.handle_event(event)

    def sink_committed(self, message: SinkCommitted) -> None:
        sink = SubtaskId(message.vertex, message.subtask)
        if self.sink_commits.committed(sink, message.checkpoint, message.committed_ms):
            self._discards.log_is_longer_than_needed()

    # --- completion --------------------------------------------------------------------------------------------------

    def _complete_if_acknowledged(self, pending: PendingCheckpoint) -> None:
        if pending.state is not PendingState.ACKNOWLEDGING or not pending.is_fully_acknowledged:
            return
        if operator := pending.partly_finished_union():
            self._abort(pending, Reason.PARTLY_FINISHED_UNION, f"operator {operator}")
        else:
            origin = CheckpointOrigin(
                job=self._job,
                attempt=pending.attempt,
                triggered_ms=pending.triggered_ms,
                record=self._record,
                completed=self._fates.completed_ids(),
            )
            self._completion.begin(pending, origin)

    def _completed(
        self, pending: PendingCheckpoint, added: AddCheckpoint, subsumed: Sequence[CheckpointRecord]
    ) -> None:
        record = added.record
        checkpoint = pending.checkpoint
        del self._pending[checkpoint]
        gone = self.completed.add(record, subsumed, retain=added.retain, keep_from=added.keep_from)
        if not pending.is_savepoint:
            self._shared.completed(checkpoint, pending.paths())
            self._shared.subsumed(self.completed.oldest_id)
        stats = self.stats.completed(record)
        self.stats.discarded([old.checkpoint for old in gone])
        self._triggering.completed()
        if pending.is_part_of_history:
            self._join_history(pending)
        else:
            self._fates.aborted(checkpoint)  # Nothing is committed with it and nothing restarts from it.
        for old in gone:
            self._discards.checkpoint(old.checkpoint)
        if gone:
            self._discards.log_is_longer_than_needed()
        self._outcomes.completed(pending, record, stats)

    def _join_history(self, pending: PendingCheckpoint) -> None:
        """The job can restart from it: sinks commit, and what is older is not needed any more."""
        effects = self._effects
        checkpoint = pending.checkpoint
        self._fates.completed(checkpoint)
        self._outcomes.joined_history(checkpoint)
        if not pending.is_savepoint and self._execution is not None and self._execution.attempt == pending.attempt:
            self._new_checkpoints.completed(checkpoint)
        effects.broadcast(
            NotifyCheckpointComplete(epoch=effects.epoch, job=self._job, attempt=pending.attempt, checkpoint=checkpoint)
        )
        self._operators.completed(checkpoint)
        for older in [p for p in self._pending.values() if p.checkpoint < checkpoint and p.is_part_of_history]:
            self._abort_if_open(older, Reason.SUBSUMED, "")  # Aborting one may end the attempt, and with it the others.

    # --- failure -----------------------------------------------------------------------------------------------------

    def _abort_if_open(self, pending: PendingCheckpoint, reason: Reason, detail: str) -> None:
        if pending.state in _ABORTABLE:
            self._abort(pending, reason, detail)

    def _abort(self, pending: PendingCheckpoint, reason: Reason, detail: str = "") -> None:
        effects = self._effects
        pending.go(PendingState.ABORTED)
        del self._pending[pending.checkpoint]
        self._fates.aborted(pending.checkpoint)
        stats = self.stats.failed(pending.checkpoint, effects.wall_ms, reason, detail)
        effects.broadcast(
            NotifyCheckpointAborted(
                epoch=effects.epoch, job=self._job, attempt=pending.attempt, checkpoint=pending.checkpoint
            )
        )
        self._operators.aborted(pending.checkpoint)
        self._discards.aborted(pending)
        self._outcomes.failed(pending.request, pending.attempt, pending.checkpoint, reason, detail, stats)

    def _refuse(self, request: CheckpointRequest, reason: Reason, detail: str) -> None:
        self.stats.failed_to_trigger()
        attempt = Attempt(0) if self._execution is None else self._execution.attempt
        self._outcomes.failed(request, attempt, None, reason, detail)

    # -----------------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        for part in (
            self.stats,
            self.completed,
            self.sink_commits,
            self._fates,
            self._triggering,
            self._outcomes,
            self._shared,
        ):
            part.validate()
        for checkpoint, pending in self._pending.items():
            pending.validate()
            assert checkpoint == pending.checkpoint
            assert pending.state not in (PendingState.COMPLETED, PendingState.ABORTED)
            assert self._fates.fate(checkpoint) is CheckpointFate.UNKNOWN
            assert checkpoint not in self.completed
            assert self._execution is not None or pending.state is PendingState.REGISTERING
        assert sum(p.state is PendingState.REGISTERING for p in self._pending.values()) <= 1
        for record in self.completed.retained():
            assert not record.is_part_of_history or self._fates.fate(record.checkpoint) is not CheckpointFate.ABORTED
