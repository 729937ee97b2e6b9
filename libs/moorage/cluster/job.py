"""The life of one job (Flink: JobMaster, ExecutionGraph, and the part of the scheduler that restarts).

==========  =============================================  =========================================================
status      means                                          left to
==========  =============================================  =========================================================
CREATED     stored, never deployed                         RUNNING; CANCELLING; FAILING
RUNNING     an attempt is deployed                         RESTARTING, FAILING: it failed; CANCELLING; FINISHED;
                                                           CANCELED: with a savepoint
RESTARTING  waits for what the next attempt needs; parts   RUNNING; RESTARTING: more of it; CANCELLING; FAILING
            of the job may go on meanwhile
FAILING     gives up; its subtasks stop                    FAILED
CANCELLING  was cancelled; its subtasks stop               CANCELED
FINISHED, CANCELED, FAILED                                 (ended)
==========  =============================================  =========================================================

A new attempt needs: the end of the back-off, a definite outcome of every checkpoint that the registry was asked to add,
a retained checkpoint that can be read (if there is any), enough slots, and the registry's word (``start_attempt``),
after which no checkpoint of an older attempt can be added. ``advance`` looks at these facts in this order and asks for
the first that is missing.

An adopted attempt (another leader deployed it) is a RUNNING one whose subtasks have not reported to this leader yet.
DeployJob is repeated while subtasks are silent: a worker runs an attempt of a job once, however often it is told.

A failure need not restart all vertices (``failover.regions``). Those that go on are what they were while the job is
RESTARTING, and in the attempt that follows; their subtasks keep the attempt in which they were started. Whenever that
can't be, all restart: see ``_hinders_going_on`` and ``_must_be_whole``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from functools import partial

import msgspec

from moorage.barrier.lineage import next_lineage
from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.coordinator import CheckpointCoordinator
from moorage.checkpoint.hook_restore import HookRestore, HooksState
from moorage.checkpoint.operator_coordinators import NO_KINDS, Kinds
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.cluster.failures import Failures
from moorage.cluster.protocol import (
    AttemptFailed,
    AttemptRunning,
    AttemptStarted,
    ClusterConfig,
    DropReason,
    JobAccepted,
    JobStatusChanged,
    JobWaiting,
    RescaleRequested,
    SinksCommitted,
    StopWithSavepointRequested,
)
from moorage.cluster.recovery import Recovery
from moorage.cluster.rescale import Scaling, with_former
from moorage.cluster.restore import RestoreChoice, RestoreState
from moorage.cluster.scheduler import SlotPool
from moorage.cluster.stopping import Stopping
from moorage.cluster.views import JobCounts, JobView, SubtaskView
from moorage.effects import CallError, Effects, JobHistory, SaveJob, StartAttempt
from moorage.failover.regions import vertices_to_restart
from moorage.failover.strategies import GiveUp, RestartAfter
from moorage.graph.execution import Execution, ExecutionState, UpdateOutcome
from moorage.graph.job_graph import JobGraph
from moorage.graph.lineage import lineage_of, running_attempts
from moorage.graph.regions import regions
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId, VertexId, WorkerId, worker_name
from moorage.messages.commands import CancelJob, DeployJob
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    DeclineCheckpoint,
    OperatorEvent,
    RunningSubtask,
    SinkCommitted,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
)
from moorage.messages.registry import CheckpointRecord, JobFailure, JobRecord, JobStatus

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.CREATED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.FAILING}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.RESTARTING, JobStatus.CANCELLING, JobStatus.FAILING, JobStatus.FINISHED, JobStatus.CANCELED}
    ),
    JobStatus.RESTARTING: frozenset({JobStatus.RUNNING, JobStatus.RESTARTING, JobStatus.CANCELLING, JobStatus.FAILING}),
    JobStatus.FAILING: frozenset({JobStatus.FAILED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELED}),
    JobStatus.FINISHED: frozenset(),
    JobStatus.CANCELED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.SUSPENDED: frozenset(),
}


class Job:
    """See the module. ``history.record`` is the job as stored: one just submitted, or one that an earlier leader left.

    ``jitter`` gives a random number between -1 and 1 at each call; ``kinds`` are the operator coordinators that there
    are.
    """

    def __init__(
        self,
        effects: Effects,
        config: ClusterConfig,
        pool: SlotPool,
        history: JobHistory,
        jitter: Callable[[], float],
        kinds: Kinds = NO_KINDS,
    ) -> None:
        assert history.record is not None
        self.record: JobRecord = history.record
        """What the registry holds."""
        self.status = self.record.status
        self.checkpoints = CheckpointCoordinator(
            effects,
            self.record.graph,
            self.record.base_checkpoint_id,
            history,
            self.fail,
            random=jitter,
            history_size=config.checkpoint_history,
            kinds=kinds,
            hook_timeout_ms=config.master_hook_timeout_ms,
        )
        self._effects = effects
        self._config = config
        self._pool = pool
        self._failures = Failures(effects, self.record, jitter)
        self._execution: Execution | None = None
        self._restored: CheckpointRecord | None = None
        """What the running attempt started from."""
        self._status_since_ms = {JobStatus.CREATED: self.record.submitted_ms}
        if self.record.ended_ms is not None:
            self._status_since_ms[self.status] = self.record.ended_ms
        self._failure = self.record.failure
        # What a new attempt waits for.
        self._restart_at_ms = 0
        has_hooks = config.master_hook_timeout_ms is not None and self.record.graph.checkpoint.enabled
        self._hooks = HookRestore(effects, self.record.job, has_hooks=has_hooks, changed=self.advance)
        self._restore = RestoreChoice(effects, self.record.job, self.checkpoints.completed, self.advance)
        self._scaling = Scaling(effects, pool, self.job, self.checkpoints, self._restart_if_running)
        self._stopping = Stopping(effects, self.job, self.checkpoints)
        self._has_reported_waiting = False
        self._is_storing = False
        """The registry was asked to change the record: one such call at a time."""
        # While an attempt is deployed or stops.
        self._deadline_ms = 0
        self._repeat_at_ms = 0
        self._recovery = Recovery(effects, self.record.job)
        self._is_adopted = False
        self._cancel_requests: list[int] = []
        self._is_cancel_stored = False
        # While a part of the job restarts.
        self._attempts = running_attempts(self.record.lineage)
        self._started_ms: dict[VertexId, int] = {}
        self._reported: dict[SubtaskId, RunningSubtask] = {}
        """What the last heartbeats said; also of subtasks of former attempts."""
        self._ended_as: Mapping[VertexId, Mapping[ExecutionState, int]] = {}
        self._goes_on: frozenset[VertexId] = frozenset()
        """RESTARTING: vertices that don't."""
        self._overlooked: Callable[[], None] | None = None
        """A failure of one of them, or of everything, while the registry is waited for."""
        if self.status is JobStatus.RUNNING:
            self._adopt()
        elif self.status is JobStatus.CANCELLING:
            self._is_cancel_stored = True
            if self.record.slots:
                self._execution = self._new_execution(ExecutionState.RECONCILING)
                self._stop_subtasks()

    @property
    def job(self) -> JobId:
        return self.record.job

    @property
    def attempt(self) -> Attempt:
        return self.record.attempt

    # --- what happens ------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self.checkpoints.tick()
        self.advance()

    def advance(self) -> None:
        """Do what can be done now."""
        match self.status:
            case JobStatus.CREATED | JobStatus.RESTARTING:
                self._advance_start()
            case JobStatus.RUNNING:
                self._advance_running()
            case JobStatus.CANCELLING | JobStatus.FAILING:
                self._advance_stop()
            case JobStatus.FINISHED | JobStatus.CANCELED | JobStatus.FAILED | JobStatus.SUSPENDED:
                pass

    def subtask_changed(self, message: SubtaskStateChanged) -> DropReason | None:
        """None: it had an effect, or said what was known."""
        subtask = SubtaskId(message.vertex, message.subtask)
        execution = self._execution
        if execution is None or message.attempt != execution.attempt_of(message.vertex):
            return DropReason.OLD_ATTEMPT
        if execution.state(subtask) is None or execution.worker(subtask) != message.worker:
            return DropReason.UNKNOWN_SUBTASK
        match execution.update(subtask, message.state, data_ended=message.data_ended):
            case UpdateOutcome.APPLIED:
                self._subtask_went_on(subtask, message)
            case UpdateOutcome.LATE:
                return DropReason.LATE
            case UpdateOutcome.UNCHANGED | UpdateOutcome.UNKNOWN:
                pass
        return None

    def heartbeat(self, message: WorkerHeartbeat) -> None:
        """What a worker says it runs: heals reports that were lost, and tells a new leader what there is."""
        execution = self._execution
        if execution is None:
            return
        listed = {
            SubtaskId(running.vertex, running.subtask): running
            for running in message.subtasks
            if running.job == self.job and running.attempt == execution.attempt_of(running.vertex)
        }
        self._reported.update(listed)
        for subtask, _ in list(execution.on_worker(message.worker)):
            if self._execution is not execution:
                return  # One of them has ended the attempt.
            state = execution.state(subtask)
            if running := listed.get(subtask):
                self.subtask_changed(_as_change(message.worker, running))
            elif self.status is not JobStatus.RUNNING and subtask.vertex not in self._goes_on:
                execution.update(subtask, SubtaskState.CANCELED)
            elif state is not None and not state.is_unreported and not state.has_ended:
                self.fail(f"{subtask} is gone from {message.worker}", subtask, message.worker)

    def acknowledge(self, message: AcknowledgeCheckpoint) -> DropReason | None:
        if message.attempt != self._attempt_of(message.vertex):
            self.checkpoints.acknowledged_in_a_former_attempt(message)
            return DropReason.OLD_ATTEMPT
        match self.checkpoints.acknowledge(message):
            case AcknowledgeOutcome.SUCCESS:
                return None
            case AcknowledgeOutcome.UNKNOWN:
                return DropReason.UNKNOWN_SUBTASK
            case AcknowledgeOutcome.DUPLICATE:
                return DropReason.DUPLICATE
            case AcknowledgeOutcome.DISCARDED:
                return DropReason.LATE

    def decline(self, message: DeclineCheckpoint) -> DropReason | None:
        if message.attempt != self._attempt_of(message.vertex):
            return DropReason.OLD_ATTEMPT
        return None if self.checkpoints.decline(message) else DropReason.LATE

    def sink_committed(self, message: SinkCommitted) -> DropReason | None:
        if message.attempt != self._attempt_of(message.vertex):
            return DropReason.OLD_ATTEMPT
        self.checkpoints.sink_committed(message)
        self._recovery.committed(self.checkpoints.sink_commits.floor)
        self._effects.report(SinksCommitted(job=self.job, committed_ms=message.committed_ms))
        return None

    def operator_event(self, message: OperatorEvent) -> DropReason | None:
        if message.attempt != self._attempt_of(message.vertex):
            return DropReason.OLD_ATTEMPT
        return None if self.checkpoints.operator_event(message) else DropReason.UNKNOWN_SUBTASK

    def _attempt_of(self, vertex: VertexId) -> Attempt:
        """What the subtasks of a vertex call theirs."""
        return self._attempts.get(vertex, self.attempt)

    @property
    def is_deployed(self) -> bool:
        """There are subtasks that run, and that should."""
        return self.status is JobStatus.RUNNING or bool(self._goes_on)

    def is_stray(self, vertex: VertexId, attempt: Attempt) -> bool:
        """Must subtasks of the vertex that were started in this attempt be told to stop?"""
        return attempt < self._attempt_of(vertex) or (attempt <= self.attempt and self._execution is None)

    @property
    def stopped_attempt(self) -> Attempt:
        """No worker whose newest deployment is this one or older has anything to run."""
        return self.attempt if self._execution is None else Attempt(self.attempt - 1)

    def worker_joined(self, worker: WorkerId) -> None:
        """Slots of another incarnation of the same name are dead."""
        for owner in self._owners():
            if owner != worker and worker_name(owner) == worker_name(worker):
                self.worker_lost(owner, f"it was replaced by {worker}")

    def worker_lost(self, worker: WorkerId, reason: str, silence_ms: int = 0) -> None:
        """``silence_ms``: since its last sign of life."""
        execution = self._execution
        if execution is None or worker not in execution.slots:
            return
        self.fail(f"worker {worker} is lost: {reason}", worker=worker, silence_ms=silence_ms)
        if self._execution is not execution:
            return
        for subtask, _ in list(execution.on_worker(worker)):
            execution.update(subtask, SubtaskState.CANCELED)  # The job stops: nothing more comes from there.
        self.advance()

    def worker_busy(self, worker: WorkerId) -> None:
        """It lives, but can't say anything of its subtasks for now."""
        execution = self._execution
        if execution is not None and any(execution.worker(subtask) == worker for subtask in execution.unreported()):
            self.grace()

    def grace(self) -> None:
        """Silence up to now counts for nothing: the coordinator itself was paused or cut off, or a worker is busy."""
        if self._execution is not None and self._execution.has_unreported:
            self._deadline_ms = max(self._deadline_ms, self._effects.now_ms + self._silence_allowed_ms())

    def cancel(self, request: int) -> None:
        """Answers once the intent is stored."""
        ends_anyway = self.status is JobStatus.FAILING or (self.status is JobStatus.RUNNING and self._is_storing)
        if self._is_cancel_stored or ends_anyway:
            self._effects.reply(request, JobAccepted(self.job))
            return
        self._cancel_requests.append(request)
        if self.status is not JobStatus.CANCELLING:
            self._goes_on = frozenset()
            self._set_status(JobStatus.CANCELLING, "cancelled by a client")
            self.checkpoints.suspend(CheckpointFailureReason.JOB_STOPPED)
            self.advance()

    def rescale(self, request: RescaleRequested) -> None:
        """Answers once an attempt with the new parallelism is stored."""
        self._scaling.request(request, self.record.graph, self.status)
        self.advance()

    def stop_with_savepoint(self, request: StopWithSavepointRequested) -> None:
        """Answers once the job has ended."""
        self._stopping.request(request, self.status)

    def fail(
        self,
        cause: str,
        subtask: SubtaskId | None = None,
        worker: WorkerId | None = None,
        trace: str | None = None,
        *,
        permanent: bool = False,
        silence_ms: int = 0,
    ) -> None:
        """The running attempt has failed, or a part of it; its first failure is the root cause, what follows from it is
        ignored. ``subtask``, ``worker``: where; neither: everywhere.

        ``permanent``: every other attempt would fail alike, so there is none. ``silence_ms``: how long ago it was last
        known to be well.
        """
        if self.status is not JobStatus.RUNNING and not self._goes_on:
            return
        if self._is_storing:
            if self._goes_on and (self._overlooked is None or (subtask is None and worker is None)):
                again = partial(self.fail, cause, subtask, worker, trace, permanent=permanent, silence_ms=silence_ms)
                self._overlooked = again
            return
        execution = self._execution
        assert execution is not None
        vertices = vertices_to_restart(execution, subtask, worker)
        if self._goes_on and vertices.isdisjoint(self._goes_on):
            return  # They restart already.
        effects = self._effects
        self._failure = cause
        failure = JobFailure(
            failed_ms=effects.wall_ms,
            attempt=self.attempt,
            cause=cause,
            trace=trace,
            subtask=subtask,
            worker=worker,
        )
        effects.report(
            AttemptFailed(job=self.job, attempt=self.attempt, cause=cause, trace=trace, subtask=subtask, worker=worker)
        )
        self._recovery.failed(silence_ms)
        match self._failures.failed(failure, permanent=permanent):
            case RestartAfter(delay_ms):
                goes_on = frozenset(self.record.graph.parallelism()) - vertices
                self._restart(delay_ms, cause, frozenset() if self._hinders_going_on() else goes_on)
            case GiveUp(reason):
                self._give_up(f"{cause} (not restarted: {reason})")

    def _hinders_going_on(self) -> bool:
        """Must everything restart, whatever failed?"""
        is_rescaled = self._scaling.next_graph(self.record.graph) is not self.record.graph
        # What is being drained has ended its data for good, and fails with the savepoint.
        return is_rescaled or self.checkpoints.is_stopping or not (self._goes_on or self.checkpoints.can_go_on)

    def _restart(self, delay_ms: int, reason: str, goes_on: frozenset[VertexId] = frozenset()) -> None:
        self._restart_at_ms = self._effects.now_ms + delay_ms
        self._restore.reset()
        self._hooks.reset()
        self._has_reported_waiting = False
        restarted = [v.vertex for v in self.record.graph.vertices if v.vertex not in goes_on]
        what = f"{', '.join(restarted)} restart" if goes_on else "restarts"
        self._set_status(JobStatus.RESTARTING, f"{what} in {delay_ms} ms: {reason}")
        self._goes_on = goes_on
        self._is_storing = True  # What fails while checkpoints are aborted is looked at when that is done.
        self.checkpoints.suspend(CheckpointFailureReason.JOB_FAILOVER, goes_on)
        if goes_on:
            self._stop_subtasks(restarted)
        else:
            self._stop_all()
        self._store(self._failures.stored_with(msgspec.structs.replace(self.record, status=self.status)), self._heed)

    def _stop_all(self) -> None:
        self._stop_subtasks()
        self._execution = None
        self._pool.release(self.job)

    def _heed(self) -> None:
        """Look at the failure that came while the registry was waited for."""
        overlooked, self._overlooked = self._overlooked, None
        if overlooked is not None:
            overlooked()
        self.advance()

    def _restart_if_running(self, delay_ms: int, reason: str) -> None:
        """An attempt that ends already makes way for the next one by itself."""
        if self.status is JobStatus.RUNNING and not self._is_storing:
            self._restart(delay_ms, reason)

    def _must_be_whole(self, restored: CheckpointRecord | None, graph: JobGraph) -> str | None:
        """Why nothing can go on after all; None: it can."""
        if self._restore.unreadable:
            return "the newest checkpoint can't be read"
        if restored != self.checkpoints.completed.newest_of(self.attempt, self.record.restored_checkpoint):
            return "the newest checkpoint can be read again"  # What goes on started from an older one.
        if restored is not None and restored.ends_as is not None:
            return "it was stopped with a savepoint"
        return "it was rescaled" if graph is not self.record.graph else None

    # --- start -------------------------------------------------------------------------------------------------------

    def _advance_start(self) -> None:
        waits = self._effects.now_ms < self._restart_at_ms or self.checkpoints.has_unknown_outcome
        if waits or self._is_storing:
            return
        match self._restore.decide():
            case RestoreState.CHECKING:
                return
            case RestoreState.UNREADABLE:
                tried = ", ".join(str(checkpoint) for checkpoint in self._restore.unreadable)
                self._give_up(f"{self._failure} (not restarted: no retained checkpoint can be read, tried {tried})")
                return
            case RestoreState.READY:
                pass
        restored = self._restore.checkpoint
        checkpoint = None if restored is None else restored.checkpoint
        self._scaling.restores(self.record.graph, self._restore.partly_finished)
        graph = self._scaling.next_graph(self.record.graph)
        if self._goes_on and (reason := self._must_be_whole(restored, graph)) is not None:
            self._goes_on = frozenset()
            self._set_status(JobStatus.RESTARTING, f"restarts as a whole: {reason}")
            self.checkpoints.suspend(CheckpointFailureReason.JOB_FAILOVER)
            self._stop_all()
        # Hooks go back with the job, and not with a part of it.
        match (
            HooksState.READY
            if self._goes_on
            else self._hooks.decide(
                Attempt(self.attempt + 1), checkpoint, self._restore.hook_states, self.record.restore
            )
        ):
            case HooksState.WAITING:
                return
            case HooksState.REFUSED:
                self._give_up(f"{self._hooks.problem} (not restarted)")
                return
            case HooksState.READY:
                pass
        slots = (
            self._pool.refill(self.record.slots)
            if self._goes_on
            else self._pool.offer(graph.slots, self.record.slots, self._effects.now_ms)
        )
        if slots is None:
            self._report_waiting()
            self._scaling.tick(self.record, self.status)
            return
        attempt = Attempt(self.attempt + 1)
        record = msgspec.structs.replace(
            self.record,
            graph=graph,
            status=JobStatus.RUNNING,
            attempt=attempt,
            slots=slots,
            lineage=next_lineage(
                self.record.lineage,
                None if restored is None else (restored.checkpoint, restored.attempt),
                attempt,
                graph.parallelism(),
                self._needed_after(restored),
                self._goes_on,
            ),
            restored_checkpoint=None if restored is None else restored.checkpoint,
            failure=self._failure,
            former_parallelism=with_former(self.record.former_parallelism, graph.parallelism()),
            automatic_parallelism=self._scaling.is_automatic(self.record.automatic_parallelism),
        )
        self._pool.hold(self.job, slots)
        self._is_storing = True
        self._effects.call(
            StartAttempt(epoch=self._effects.epoch, record=record, latest=self.checkpoints.completed.newest_id),
            lambda _: self._started(record, restored),
            self._registry_refused,
            repeats=True,
        )

    def _needed_after(self, restored: CheckpointRecord | None) -> CheckpointId:
        """Segments of the lineage that end here or before are needed by nobody."""
        commits = self.checkpoints.sink_commits
        if restored is None or commits.has_sinks:
            return commits.floor or CheckpointId(0)
        return restored.checkpoint

    def _started(self, record: JobRecord, restored: CheckpointRecord | None) -> None:
        self._is_storing = False
        self.record = record
        self._attempts = running_attempts(record.lineage)
        self._goes_on, former = frozenset(), self._execution
        if self.status is JobStatus.CANCELLING:
            if former is None:
                self._pool.release(self.job)
            else:
                self._execution = self._new_execution(ExecutionState.CANCELED, former)
            self.advance()
            return
        effects = self._effects
        self._scaling.started()
        self._recovery.started(record.attempt, self.checkpoints.completed.newest_id)
        self._set_status(JobStatus.RUNNING, "deployed")
        self._is_adopted = False
        self._execution = execution = self._new_execution(ExecutionState.DEPLOYING, former)
        started = tuple(v.vertex for v in record.graph.vertices if v.vertex not in execution.goes_on)
        self._started_ms.update(dict.fromkeys(started, effects.wall_ms))
        self._restored = restored
        if restored is not None:
            self.checkpoints.stats.restored(restored, effects.wall_ms)
        elif record.restore is not None:
            self.checkpoints.stats.restored_from(record.restore, effects.wall_ms)
        self.checkpoints.start(execution, record)
        if self.status is not JobStatus.RUNNING:
            return  # It has failed already: whoever hears of it now would start what is cancelled.
        self._deploy()
        self._deadline_ms = effects.now_ms + self._silence_allowed_ms()
        effects.report(
            AttemptStarted(
                job=self.job,
                attempt=self.attempt,
                restored=record.restored_checkpoint,
                restored_from=None if restored is not None or record.restore is None else record.restore.path,
                vertices=started if execution.goes_on else (),
            )
        )
        for worker in self._owners():
            if not self._pool.knows(worker):
                self.worker_lost(worker, "it was lost while the attempt was started")
        self._heed()

    def _deploy(self) -> None:
        record, restored = self.record, self._restored
        foreign = record.restore if restored is None else None
        path, checksum = (
            (restored.metadata_path, restored.metadata_checksum)
            if restored is not None
            else (foreign.path, foreign.checksum)
            if foreign is not None
            else (None, None)
        )
        self._effects.broadcast(
            DeployJob(
                epoch=self._effects.epoch,
                job=self.job,
                attempt=record.attempt,
                graph=record.graph,
                slots=record.slots,
                lineage=record.lineage,
                restore_checkpoint=None if restored is None else restored.checkpoint,
                restore_path=path,
                restore_checksum=checksum,
                base_checkpoint_id=record.base_checkpoint_id,
                allow_non_restored=record.restore is not None and record.restore.allow_non_restored,
                finishing=restored is not None and restored.ends_as is not None,
                former_parallelism=record.former_parallelism,
                allow_duplicates=record.graph.checkpoint.allow_duplicates_on_fallback,
                storage_id=self._effects.storage_id,
            )
        )
        self._repeat_at_ms = self._effects.now_ms + self._config.repeat_interval_ms

    # --- running -----------------------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        self._is_adopted = True
        retained = self.checkpoints.completed.retained()
        self._restored = next((r for r in retained if r.checkpoint == self.record.restored_checkpoint), None)
        self._execution = self._new_execution(ExecutionState.RECONCILING)
        self._pool.hold(self.job, self.record.slots)
        self._status_since_ms[JobStatus.RUNNING] = self._effects.wall_ms
        self._started_ms = dict.fromkeys(self.record.graph.parallelism(), self._effects.wall_ms)
        self.checkpoints.start(self._execution, self.record)
        if self.status is not JobStatus.RUNNING:
            return  # An operator coordinator has failed.
        self._deadline_ms = self._effects.now_ms + self._silence_allowed_ms()
        # First ask; then tell those who may not have heard the earlier leader's DeployJob.
        self._repeat_at_ms = self._effects.now_ms + self._config.heartbeat_interval_ms

    def _advance_running(self) -> None:
        execution = self._execution
        if execution is None or self._is_storing:
            return
        if execution.all_finished:
            if not self.checkpoints.has_unknown_outcome:
                self._end(self._stopping.ends_as)
            return
        self._scaling.tick(self.record, self.status)
        if not execution.has_unreported:
            return
        now_ms = self._effects.now_ms
        if now_ms >= self._deadline_ms:
            silent = execution.unreported()
            some = ", ".join(f"{subtask} on {execution.worker(subtask)}" for subtask in silent[:3])
            self.fail(
                f"{len(silent)} subtasks did not report within {self._silence_allowed_ms()} ms: {some}",
                silent[0],
                execution.worker(silent[0]),
            )
        elif now_ms >= self._repeat_at_ms and self._knows_restored():
            self._deploy()

    def _subtask_went_on(self, subtask: SubtaskId, message: SubtaskStateChanged) -> None:
        execution = self._execution
        assert execution is not None
        if self.status is not JobStatus.RUNNING and subtask.vertex not in self._goes_on:
            return
        self.checkpoints.subtask_changed(subtask, message.state, message.failure or "")
        if self._execution is not execution:
            return  # An operator coordinator has failed, and the attempt with it.
        match message.state:
            case SubtaskState.FAILED:
                cause = message.failure or "no cause was reported"
                self.fail(
                    f"{subtask} on {message.worker} failed: {cause}",
                    subtask,
                    message.worker,
                    message.trace,
                    permanent=message.permanent,
                )
            case SubtaskState.CANCELED:
                self.fail(f"{subtask} was stopped by {message.worker}", subtask, message.worker)
            case SubtaskState.RUNNING if execution.all_running:
                self._all_running()
                self._recovery.progressed(execution)
            case SubtaskState.FINISHED:
                if execution.all_finished:
                    self.advance()
            case SubtaskState.INITIALIZING | SubtaskState.RUNNING:
                self._recovery.progressed(execution)

    def _all_running(self) -> None:
        self._effects.report(
            AttemptRunning(
                job=self.job,
                attempt=self.attempt,
                adopted=self._is_adopted,
                recovery_ms=self._recovery.since_failure_ms,
            )
        )

    def _knows_restored(self) -> bool:
        """An adopted attempt may have gone on so far that its first checkpoint is not retained any more: then all its
        subtasks were running once, and nobody must start it again from elsewhere."""
        restored = None if self._restored is None else self._restored.checkpoint
        return restored == self.record.restored_checkpoint

    def _silence_allowed_ms(self) -> int:
        return self._config.adoption_timeout_ms if self._is_adopted else self._config.deploy_timeout_ms

    def _new_execution(self, initial: ExecutionState, former: Execution | None = None) -> Execution:
        """``former``: the one before, if a part of it goes on."""
        record = self.record
        return Execution(record.graph, record.attempt, record.slots, initial, self._attempts, former)

    # --- stop --------------------------------------------------------------------------------------------------------

    def _give_up(self, failure: str) -> None:
        self._goes_on = frozenset()
        self._failure = failure
        self._set_status(JobStatus.FAILING, failure)
        self.checkpoints.suspend(CheckpointFailureReason.JOB_STOPPED)
        self._stop_subtasks()
        self.advance()

    def _stop_subtasks(self, vertices: Collection[VertexId] = ()) -> None:
        """Of these vertices; none: of all."""
        effects = self._effects
        command = CancelJob(epoch=effects.epoch, job=self.job, attempt=self.attempt, vertices=tuple(vertices))
        effects.broadcast(command)
        if self._execution is not None:
            self._execution.cancel(vertices)
        self._deadline_ms = effects.now_ms + self._config.stop_timeout_ms
        self._repeat_at_ms = effects.now_ms + self._config.repeat_interval_ms

    def _advance_stop(self) -> None:
        if self._is_storing:
            return
        if self.status is JobStatus.CANCELLING and not self._is_cancel_stored:
            self._store(msgspec.structs.replace(self.record, status=JobStatus.CANCELLING), self._cancel_stored)
            return
        execution = self._execution
        now_ms = self._effects.now_ms
        if execution is not None and not execution.all_ended and now_ms < self._deadline_ms:
            if now_ms >= self._repeat_at_ms:
                deadline_ms = self._deadline_ms
                self._stop_subtasks()
                self._deadline_ms = deadline_ms
        elif not self.checkpoints.has_unknown_outcome:
            self._end(JobStatus.CANCELED if self.status is JobStatus.CANCELLING else JobStatus.FAILED)

    def _cancel_stored(self) -> None:
        self._is_cancel_stored = True
        for request in self._cancel_requests:
            self._effects.reply(request, JobAccepted(self.job))
        self._cancel_requests.clear()
        self._stop_subtasks()
        self.advance()

    def _end(self, status: JobStatus) -> None:
        self.checkpoints.suspend(CheckpointFailureReason.JOB_STOPPED)
        failure = self._failure if status is JobStatus.FAILED else None
        record = msgspec.structs.replace(
            self.record, status=status, slots=(), failure=failure, ended_ms=self._effects.wall_ms
        )
        self._store(self._failures.stored_with(record), partial(self._ended, status))

    def _ended(self, status: JobStatus) -> None:
        if self._execution is not None:
            counts: defaultdict[VertexId, Counter[ExecutionState]] = defaultdict(Counter)
            for subtask, state in self._execution.states():
                counts[subtask.vertex][state] += 1
            self._ended_as = counts
        self._execution = None
        self._reported.clear()
        self._pool.release(self.job)
        self._hooks.close(self.attempt)
        self._set_status(status, self.record.failure or "")
        assert self.record.ended_ms is not None
        self._status_since_ms[status] = self.record.ended_ms  # As every later leader will say.
        self._scaling.ended(status)
        self._stopping.ended(status)

    # -----------------------------------------------------------------------------------------------------------------

    def _store(self, record: JobRecord, done: Callable[[], None]) -> None:
        def stored(_: None) -> None:
            self._is_storing = False
            self.record = record
            done()

        self._is_storing = True
        self._effects.call(
            SaveJob(epoch=self._effects.epoch, record=record), stored, self._registry_refused, repeats=True
        )

    def _registry_refused(self, error: CallError) -> None:
        self._effects.step_down(f"the registry refused a change of job {self.job}: {error.detail}")

    def _set_status(self, status: JobStatus, reason: str) -> None:
        if status not in TRANSITIONS[self.status]:
            raise AssertionError(f"job {self.job} can't go from {self.status.value} to {status.value}")
        self.status = status
        self._status_since_ms[status] = self._effects.wall_ms
        self._effects.report(JobStatusChanged(job=self.job, attempt=self.attempt, status=status, reason=reason))

    def _owners(self) -> list[WorkerId]:
        """The workers of the attempt."""
        return [] if self._execution is None else list(dict.fromkeys(self._execution.slots))

    def _report_waiting(self) -> None:
        """Once per start: people may have to add workers."""
        if not self._has_reported_waiting and self._free_slots() < self._needed_slots():
            self._has_reported_waiting = True
            self._effects.report(JobWaiting(job=self.job, waiting_for=self.waiting_for() or ""))

    def _free_slots(self) -> int:
        return sum(self._pool.free().values())

    def _needed_slots(self) -> int:
        """Besides those that it holds."""
        if not self._goes_on:
            return self.record.graph.slots
        return sum(not self._pool.knows(worker) for worker in self.record.slots)

    def waiting_for(self) -> str | None:
        """What a job that should run waits for, in words."""
        if self.status not in (JobStatus.CREATED, JobStatus.RESTARTING):
            return None
        if self._effects.now_ms < self._restart_at_ms:
            return f"the back-off, {self._restart_at_ms - self._effects.now_ms} ms more"
        if self.checkpoints.has_unknown_outcome:
            return "the registry, which has not answered whether a checkpoint is complete"
        if self._restore.is_checking:
            return "the checkpoint storage, to read the latest checkpoint"
        if self._hooks.is_waiting:
            return "the master hooks, to go back to the checkpoint"
        if self._is_storing:
            return "the registry, to start the attempt"
        free, needed = self._free_slots(), self._needed_slots()
        return f"slots: it needs {needed}, {free} are free" if free < needed else "more workers: some are just joining"

    def view(self) -> JobView:
        subtasks = (
            ()
            if self._execution is None
            else tuple(
                SubtaskView(subtask=subtask, state=state, worker=self._execution.worker(subtask))
                for subtask, state in self._execution.states()
            )
        )
        return JobView(
            now_ms=self._effects.wall_ms,
            job=self.job,
            graph=self.record.graph,
            status=self.status,
            attempt=self.attempt,
            submitted_ms=self.record.submitted_ms,
            status_since_ms=dict(self._status_since_ms),
            waiting_for=self.waiting_for(),
            failure=self._failure,
            attempts=self._attempts,
            started_ms=dict(self._started_ms),
            subtasks=subtasks,
            ended_as=self._ended_as,
            reported={
                subtask: reported
                for subtask in (view.subtask for view in subtasks)
                if (reported := self._reported.get(subtask)) is not None
                and reported.attempt == self._attempt_of(subtask.vertex)
            },
            failures=self._failures.history,
            checkpoints=self.checkpoints.stats.snapshot(),
            retained=tuple(self.checkpoints.completed.retained()),
            unreadable=tuple(self._restore.unreadable),
        )

    def counts(self) -> JobCounts:
        config = self.record.graph.checkpoint
        stats = self.checkpoints.stats
        latest = self.checkpoints.completed.latest
        return JobCounts(
            checkpoint_interval_ms=config.interval_ms if config.enabled else 0,
            checkpoint_timeout_ms=config.timeout_ms,
            in_progress=stats.counts.in_progress,
            last_completed=latest,
            completed_ms=self.record.submitted_ms if latest is None else latest.completed_ms,
            restored=stats.latest_restored,
            failed=stats.latest_failed,
            savepoint=stats.latest_savepoint,
            summary=stats.summary,
        )

    def validate(self) -> None:
        self.checkpoints.validate()
        if self._execution is not None:
            self._execution.validate()
            assert self._execution.attempt == self.attempt
        if self.status is JobStatus.RUNNING:
            assert self._execution is not None
            assert max(self._attempts.values()) == self.attempt
            assert self._attempts.keys() == self.record.graph.parallelism().keys()
            assert self._pool.holds(self.job)
            assert not self._goes_on
        if self.status in (JobStatus.CREATED, JobStatus.RESTARTING) or self.status.is_terminal:
            assert (self._execution is not None) == bool(self._goes_on)
        if self._goes_on:
            assert self.status is JobStatus.RESTARTING
            assert self._pool.holds(self.job)
        if self.status.is_terminal:
            assert not self._pool.holds(self.job)
            assert not self._cancel_requests
        assert self._attempts == running_attempts(self.record.lineage)
        for vertex in self._attempts:
            attempts = [segment.attempt for segment in lineage_of(self.record.lineage, vertex)]
            assert attempts == sorted(set(attempts))
        for region in regions(self.record.graph):
            assert len({self._attempt_of(vertex) for vertex in region}) == 1


def _as_change(worker: WorkerId, running: RunningSubtask) -> SubtaskStateChanged:
    return SubtaskStateChanged(
        worker=worker,
        job=running.job,
        attempt=running.attempt,
        vertex=running.vertex,
        subtask=running.subtask,
        state=running.state,
        data_ended=running.data_ended,
    )
