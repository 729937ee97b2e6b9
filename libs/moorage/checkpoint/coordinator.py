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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from moorage.checkpoint.asking import Asking
from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.checkpoint.completion import Completion
from moorage.checkpoint.decider import CheckpointRequest, CheckpointRequestDecider
from moorage.checkpoint.discards import Discards
from moorage.checkpoint.failure_manager import CheckpointFailureManager
from moorage.checkpoint.fates import Fates
from moorage.checkpoint.notices import (
    CheckpointAborted,
    CheckpointCompleted,
    CheckpointDone,
    CheckpointFailed,
    CheckpointTriggered,
)
from moorage.checkpoint.operator_coordinators import NO_KINDS, Kinds, OperatorCoordinators
from moorage.checkpoint.options import snapshot_options
from moorage.checkpoint.pending import AcknowledgeOutcome, PendingCheckpoint, PendingState, paths_of_message
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import reason_of_decline
from moorage.checkpoint.rebuild import encode_record
from moorage.checkpoint.sink_commits import SinkCommits
from moorage.checkpoint.stats import CheckpointStats
from moorage.checkpoint.stats_tracker import HISTORY_SIZE, CheckpointStatsTracker
from moorage.effects import AddCheckpoint, CallError, Effects, JobHistory, NextCheckpointId
from moorage.graph.checkpoint_plan import CheckpointPlan, checkpoint_plan, find_not_running
from moorage.graph.execution import Execution
from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, OperatorUid, SubtaskId
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
from moorage.naming import savepoint_folder
from moorage.state.operator_state import CheckpointOrigin
from moorage.state.shared_registry import SharedStateRegistry

_ABORTABLE = (PendingState.HOOKS, PendingState.ACKNOWLEDGING, PendingState.WRITING)

_OUTCOME_OF_DECIDED = {
    CheckpointFate.COMPLETED: AcknowledgeOutcome.DUPLICATE,
    CheckpointFate.ABORTED: AcknowledgeOutcome.DISCARDED,
    CheckpointFate.UNKNOWN: AcknowledgeOutcome.UNKNOWN,
}


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
        self.completed = CompletedCheckpoints(history.checkpoints, base)
        self.sink_commits = SinkCommits(graph)
        self._effects = effects
        self._random = random
        self._graph = graph
        self._job = graph.job
        self._config = graph.checkpoint
        self._fail_job = fail_job
        self._fates = Fates(graph.job, base, history.completed_ids, history.last_checkpoint_id)
        self._decider = CheckpointRequestDecider(graph.checkpoint)
        self._failures = CheckpointFailureManager(graph.checkpoint.tolerable_failures)
        self._execution: Execution | None = None
        """The running attempt; None: no checkpoints now."""
        self._plan: CheckpointPlan | None = None
        self._planned_version = 0
        """Of the execution."""
        self._input_has_ended = False
        self._base = CheckpointId(0)
        """What increments build on: the newest completed checkpoint in the running attempt's own history."""
        self._must_be_full = False
        """The next checkpoint may refer to no file of an earlier one: the job runs on files that are not its own."""
        self._record = b""
        """The job as stored, for the origin of its checkpoints."""
        self._stop: CheckpointRequest | None = None
        """The request to stop with a savepoint that is not decided."""
        self._triggering: CheckpointRequest | None = None
        """Waits for its id."""
        self._pending: dict[CheckpointId, PendingCheckpoint] = {}
        self._shared = SharedStateRegistry(graph.job)
        self._discards = Discards(effects, graph.job, self._shared)
        self._completion = Completion(
            effects,
            graph.job,
            graph.checkpoint.retained,
            self._pending,
            waits=lambda: self._triggering is not None,
            completed=self._completed,
            failed=self._abort,
            late=self._discards.aborted,
        )
        self._operators = OperatorCoordinators(effects, graph, kinds, self._set_backlog, fail_job)
        self._asking = Asking(
            effects,
            graph.job,
            self._operators,
            hook_timeout_ms,
            acknowledged=self._coordinator_acknowledged,
            asked=self._complete_if_acknowledged,
            failed=self._abort_if_open,
        )

    # --- life of an attempt ------------------------------------------------------------------------------------------

    def start(self, execution: Execution, record: JobRecord) -> None:
        """An attempt runs, as ``record`` says: checkpoints are taken as soon as its subtasks run."""
        self._execution = execution
        self._graph = execution.graph
        self._plan = None
        self._input_has_ended = False
        self._record = encode_record(record)
        newest = self.completed.newest_of(execution.attempt, record.restored_checkpoint)
        # A savepoint's files are not the job's: increments build on none.
        self._base = newest.checkpoint if newest is not None and newest.kind == "checkpoint" else CheckpointId(0)
        restore = record.restore if newest is None else None
        self._must_be_full = restore is not None and restore.mode is RestoreMode.NO_CLAIM
        if record.restore is not None and record.restore.mode is RestoreMode.CLAIM:
            self._shared.claim(record.restore.path)  # Later checkpoints may still refer to it.
        delay_ms = round(abs(self._random()) * self._config.initial_delay_max_ms)
        self._decider.start(self._effects.now_ms, delay_ms)
        self._decider.stopping(self.completed.stop is not None)
        self._failures.reset()
        self.sink_commits.restarted(execution.graph)
        if newest is not None:
            self._operators.start(execution, newest.checkpoint, newest.metadata_path, newest.metadata_checksum)
        elif restore is not None:
            self._operators.start(execution, None, restore.path, restore.checksum)
        else:
            self._operators.start(execution, None, None, 0)

    def suspend(self, reason: Reason) -> None:
        """The attempt ends: abort what is pending, but for what the registry was asked to add."""
        self._execution = None
        self._operators.stop()
        for request in self._decider.stop():
            self._refuse(request, reason, "")
        for pending in list(self._pending.values()):
            if pending.state in _ABORTABLE:
                self._abort(pending, reason)

    @property
    def is_stopping(self) -> bool:
        """The job is being stopped with a savepoint, or was: nothing else is triggered."""
        return self._stop is not None or self.completed.stop is not None

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
        if self.is_stopping:
            self._refuse(request, Reason.STOPPING, "")
        elif self._execution is None:
            self._refuse(request, Reason.JOB_NOT_RUNNING, "")
        elif blocker := find_not_running(self._execution):
            self._refuse(request, Reason.NOT_ALL_REQUIRED_TASKS_RUNNING, str(blocker))
        elif not self._decider.request(request):
            self._refuse(request, Reason.TOO_MANY_REQUESTS, "")
        else:
            if request.kind.stops:
                self._stop = request
                self._decider.stopping(True)
            self._trigger_next()

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
        if self._execution is not None and self._execution.input_has_ended != self._input_has_ended:
            self._input_has_ended = self._execution.input_has_ended
            if self._input_has_ended:
                self._decider.input_ended(now_ms)
        self._trigger_next()

    def _trigger_next(self) -> None:
        if self._execution is None or not self._execution.can_checkpoint:
            return
        if self._asking.hooks_hang:
            while request := self._decider.choose(
                self._effects.now_ms, in_progress=0, savepoints=0, is_triggering=False
            ):
                self._refuse(request, Reason.HOOK_TIMEOUT, "they have not answered since")
            return
        # While the registry adds one it is not known what the next can build on.
        if not self._asking.is_possible or self.has_unknown_outcome:
            return
        request = self._decider.choose(
            self._effects.now_ms,
            in_progress=len(self._pending),
            savepoints=sum(pending.is_savepoint for pending in self._pending.values()),
            is_triggering=self._triggering is not None,
        )
        if request is None:
            return
        self._triggering = request
        attempt = self._execution.attempt
        self._effects.call(
            NextCheckpointId(epoch=self._effects.epoch, job=self._job),
            partial(self._triggered, request, attempt),
            partial(self._no_id, request),
        )

    def _no_id(self, request: CheckpointRequest, error: CallError) -> None:
        self._triggering = None
        self._refuse(request, Reason.ID_NOT_AVAILABLE, error.detail)
        self._completion.register_next()

    def _triggered(self, request: CheckpointRequest, attempt: Attempt, checkpoint: CheckpointId) -> None:
        self._triggering = None
        self._begin(request, attempt, checkpoint)
        self._completion.register_next()

    def _begin(self, request: CheckpointRequest, attempt: Attempt, checkpoint: CheckpointId) -> None:
        effects = self._effects
        if self._execution is None or self._execution.attempt != attempt:
            self._refuse(request, Reason.JOB_FAILOVER, "")
            return
        if blocker := find_not_running(self._execution):
            self._refuse(request, Reason.NOT_ALL_REQUIRED_TASKS_RUNNING, str(blocker))
            return
        plan = self._present_plan(self._execution)
        folder = (
            savepoint_folder(request.location, self._job, checkpoint, effects.wall_ms)
            if request.kind.is_savepoint
            else None
        )
        options = snapshot_options(self._config, request, folder, must_be_full=self._must_be_full)
        pending = PendingCheckpoint(
            checkpoint,
            attempt,
            plan,
            self._graph.max_parallelism,
            base=CheckpointId(0) if options.is_full else self._base,
            triggered_ms=effects.wall_ms,
            deadline_ms=effects.now_ms + self._config.timeout_ms,
            request=request,
            options=options,
            operators=self._operators.uids(),
        )
        self._pending[checkpoint] = pending
        self._fates.triggered(checkpoint)
        self.stats.triggered(checkpoint, pending.triggered_ms, plan, options)
        effects.report(CheckpointTriggered(job=self._job, attempt=attempt, checkpoint=checkpoint))
        self._asking.begin(pending)

    def _present_plan(self, execution: Execution) -> CheckpointPlan:
        if self._plan is None or self._planned_version != execution.version:
            self._plan, self._planned_version = checkpoint_plan(execution), execution.version
        return self._plan

    # --- acknowledgements --------------------------------------------------------------------------------------------

    def acknowledge(self, message: AcknowledgeCheckpoint) -> AcknowledgeOutcome:
        self._check_references(message)
        pending = self._pending.get(message.checkpoint)
        outcome = pending.acknowledge(message) if pending else self._outcome_of_decided(message.checkpoint)
        match outcome:
            case AcknowledgeOutcome.SUCCESS:
                assert pending is not None
                self.stats.acknowledged(message, self._effects.wall_ms)
                self._complete_if_acknowledged(pending)
            case AcknowledgeOutcome.UNKNOWN | AcknowledgeOutcome.DISCARDED:
                self._discards.acknowledged_in_vain(message, self._fates.fate(message.checkpoint))
            case AcknowledgeOutcome.DUPLICATE:
                pass  # The same files as before: they are part of the checkpoint.
        return outcome

    def acknowledged_in_a_former_attempt(self, message: AcknowledgeCheckpoint) -> None:
        """Nobody waits for it, but it brings files."""
        if self._outcome_of_decided(message.checkpoint) is AcknowledgeOutcome.DISCARDED:
            self._discards.acknowledged_in_vain(message, CheckpointFate.ABORTED)

    def _check_references(self, message: AcknowledgeCheckpoint) -> None:
        """A checkpoint that refers to a file which may be gone tomorrow must not be completed."""
        pending = self._pending.get(message.checkpoint)
        subtask = SubtaskId(message.vertex, message.subtask)
        if pending is None or not pending.waits_for(subtask):
            return
        foreign = self._shared.foreign(
            paths_of_message(message), pending.checkpoint, pending.base, pending.options.location
        )
        if foreign:
            whole = "it" if pending.base == 0 else f"it nor is part of checkpoint {pending.base}"
            self._abort_if_open(
                pending,
                Reason.FOREIGN_STATE,
                f"{subtask} on {message.worker}: {foreign[0]} was not written for {whole}",
            )

    def _coordinator_acknowledged(self, pending: PendingCheckpoint, operator: OperatorUid, state: bytes) -> None:
        if pending.coordinator_acknowledged(operator, state) is AcknowledgeOutcome.SUCCESS:
            self._complete_if_acknowledged(pending)

    def subtask_changed(self, subtask: SubtaskId, state: SubtaskState, cause: str = "") -> None:
        """A subtask of the running attempt has another state."""
        match state:
            case SubtaskState.RUNNING:
                self._operators.subtask_ready(subtask)
            case SubtaskState.FAILED | SubtaskState.CANCELED:
                self._operators.subtask_failed(subtask, cause)
            case SubtaskState.FINISHED:
                # Nothing more comes from it: checkpoints that wait for it need not any more.
                for pending in list(self._pending.values()):
                    if pending.finished(subtask):
                        self.stats.finished(pending.checkpoint, subtask)
                        self._complete_if_acknowledged(pending)
            case SubtaskState.INITIALIZING:
                pass

    def operator_event(self, event: OperatorEvent) -> bool:
        """False: nobody is interested."""
        return self._operators.handle_event(event)

    def _set_backlog(self, has_backlog: bool) -> None:
        self._decider.backlog(self._effects.now_ms, has_backlog)

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

    def _outcome_of_decided(self, checkpoint: CheckpointId) -> AcknowledgeOutcome:
        if checkpoint in self.completed:
            return AcknowledgeOutcome.DUPLICATE  # A savepoint that is in the fate of nothing, too.
        return _OUTCOME_OF_DECIDED[self._fates.fate(checkpoint)]

    def decline(self, message: DeclineCheckpoint) -> bool:
        """False: nobody waits for it."""
        pending = self._pending.get(message.checkpoint)
        subtask = SubtaskId(message.vertex, message.subtask)
        if pending is None or not pending.waits_for(subtask):
            return False
        self._abort(pending, reason_of_decline(message.reason), f"{subtask} on {message.worker}: {message.detail}")
        return True

    def sink_committed(self, message: SinkCommitted) -> None:
        sink = SubtaskId(message.vertex, message.subtask)
        if self.sink_commits.committed(sink, message.checkpoint, message.committed_ms):
            self._discards.log_is_longer_than_needed()

    # --- completion --------------------------------------------------------------------------------------------------

    def _completed(
        self, pending: PendingCheckpoint, added: AddCheckpoint, subsumed: Sequence[CheckpointRecord]
    ) -> None:
        effects = self._effects
        record = added.record
        checkpoint = pending.checkpoint
        del self._pending[checkpoint]
        gone = self.completed.add(record, subsumed, retain=added.retain, keep_from=added.keep_from)
        if not pending.is_savepoint:
            self._shared.completed(checkpoint, pending.paths())
            self._shared.subsumed(self.completed.oldest_id)
        stats = self.stats.completed(record)
        self.stats.discarded([old.checkpoint for old in gone])
        self._decider.completed(effects.now_ms)
        if pending.is_part_of_history:
            self._join_history(pending)
        else:
            self._fates.aborted(checkpoint)  # Nothing is committed with it and nothing restarts from it.
        for old in gone:
            self._discards.checkpoint(old.checkpoint)
        if gone:
            self._discards.log_is_longer_than_needed()
        effects.report(
            CheckpointCompleted(
                job=self._job,
                attempt=record.attempt,
                checkpoint=checkpoint,
                completed_ms=record.completed_ms,
                stats=stats,
            )
        )
        self._answer(pending.request, CheckpointDone(checkpoint, pending.options.location or record.metadata_path))

    def _join_history(self, pending: PendingCheckpoint) -> None:
        """The job can restart from it: sinks commit, and what is older is not needed any more."""
        effects = self._effects
        checkpoint = pending.checkpoint
        self._fates.completed(checkpoint)
        self._failures.completed(checkpoint)
        if not pending.is_savepoint and self._execution is not None and self._execution.attempt == pending.attempt:
            self._base = checkpoint
            self._must_be_full = False
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
        self._failed(pending.request, pending.attempt, pending.checkpoint, reason, detail, stats)

    def _refuse(self, request: CheckpointRequest, reason: Reason, detail: str) -> None:
        self.stats.failed_to_trigger()
        attempt = Attempt(0) if self._execution is None else self._execution.attempt
        self._failed(request, attempt, None, reason, detail)

    def _failed(
        self,
        request: CheckpointRequest,
        attempt: Attempt,
        checkpoint: CheckpointId | None,
        reason: Reason,
        detail: str,
        stats: CheckpointStats | None = None,
    ) -> None:
        failed = CheckpointFailed(checkpoint, reason, detail)
        self._effects.report(
            CheckpointAborted(
                job=self._job, attempt=attempt, checkpoint=checkpoint, reason=reason, detail=detail, stats=stats
            )
        )
        self._answer(request, failed)
        if not request.kind.is_savepoint and self._failures.failed(checkpoint, reason):
            tolerable = self._config.tolerable_failures
            self._fail_job(f"more than {tolerable} checkpoints failed in a row, the last one because {failed.message}")

    def _answer(self, request: CheckpointRequest, outcome: CheckpointDone | CheckpointFailed) -> None:
        """Last of all: the listener may end the attempt."""
        if request is self._stop:
            self._stop = None
            self._decider.stopping(self.completed.stop is not None)
        if request.client is not None:
            self._effects.reply(request.client, outcome)
        if request.on_done is not None:
            request.on_done(outcome)

    # -----------------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        for part in (
            self.stats,
            self.completed,
            self.sink_commits,
            self._fates,
            self._decider,
            self._failures,
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
