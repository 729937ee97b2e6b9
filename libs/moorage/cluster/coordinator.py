"""The coordinator as one pure state machine: ``handle(event) -> actions``.

It composes leadership, workers, slots, jobs and their checkpoints. Everything that it knows of jobs comes from the
registry at the moment it starts to lead, and from the workers' heartbeats after that; it is gone when the lease is.

A new leader reads the registry, follows the events topic from its end, and asks every worker for a report. What was
running goes on running; what stays silent for the adoption time has failed (see ``job``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.operator_coordinators import NO_KINDS, Kinds
from moorage.checkpoint.operator_holders import problem_of
from moorage.cluster.disposal import Disposal
from moorage.cluster.ended_jobs import EndedJobs
from moorage.cluster.job import Job
from moorage.cluster.leader import Leader
from moorage.cluster.lost_jobs import LostJobs
from moorage.cluster.protocol import (
    CallFinished,
    CancelRequested,
    CheckpointRequested,
    ClientRequest,
    ClusterConfig,
    CoreEvent,
    DisposeSavepointRequested,
    DropReason,
    EventsLost,
    JobRequested,
    LeaderState,
    LogReachability,
    LogSilence,
    MessageDropped,
    OverviewRequested,
    Received,
    Refusal,
    Refused,
    RescaleRequested,
    SavepointRequested,
    Stop,
    StopWithSavepointRequested,
    SubmitJob,
    Tick,
    WorkerGone,
    WorkerJoined,
)
from moorage.cluster.scheduler import SlotPool
from moorage.cluster.submission import Submission, claim_problem
from moorage.cluster.views import ClusterCounts, ClusterView, WorkerView
from moorage.cluster.workers import LostWorker, Workers
from moorage.effects import (
    Action,
    CallError,
    CallFailure,
    Effects,
    FollowEvents,
    JobHistory,
    ReadRegistry,
    Reply,
)
from moorage.errors import PipelineError
from moorage.graph.check import check_graph
from moorage.ids import Attempt, Epoch, JobId
from moorage.messages.barriers import SnapshotKind
from moorage.messages.commands import CancelJob, CoordinatorHeartbeat, ReportStatus
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    DeclineCheckpoint,
    Event,
    OperatorEvent,
    SinkCommitted,
    SubtaskStateChanged,
    WorkerHeartbeat,
    WorkerLost,
)


class CoordinatorCore:
    """See the module. ``holder`` names this process in the lease; ``jitter`` gives a random number between -1 and 1;
    ``kinds`` are the operator coordinators that there are."""

    def __init__(
        self, holder: str, config: ClusterConfig, jitter: Callable[[], float], kinds: Kinds = NO_KINDS
    ) -> None:
        self._config = config
        self._jitter = jitter
        self._kinds = kinds
        self._effects = Effects(config.storage_id)
        self._leader = Leader(
            self._effects, holder, config.lease_ttl_ms, elected=self._elected, lost=self._forget_everything
        )
        self._unanswered: set[int] = set()
        self._is_log_reachable = True
        self._forget_everything()

    def handle(self, event: CoreEvent) -> list[Action]:
        """One step. Actions are to be carried out in their order."""
        match event:
            case Tick(now_ms, wall_ms):
                self._tick(now_ms, wall_ms)
            case Received(message):
                if drop := self._receive(message):
                    self._effects.report(MessageDropped(kind=type(message).__name__, reason=drop))
            case CallFinished():
                self._call_finished(event)
            case LogSilence(silence_ms):
                # Well before the workers, whom this coordinator can't hear then, would count as lost.
                self._log_reachable(silence_ms < self._config.worker_timeout_ms // 3)
            case EventsLost(detail):
                self._leader.lose(f"events were lost: {detail}")
            case Stop():
                self._leader.stop()
            case _:
                self._unanswered.add(event.request)
                self._client_request(event)
        if self._effects.step_down_reason is not None:
            reason, self._effects.step_down_reason = self._effects.step_down_reason, None
            self._leader.lose(reason)
        actions = self._effects.drain()
        self._unanswered.difference_update(action.request for action in actions if isinstance(action, Reply))
        return actions

    @property
    def state(self) -> LeaderState:
        return self._leader.state

    @property
    def is_stopped(self) -> bool:
        """Nothing is left to do for this process."""
        return self._leader.released

    @property
    def epoch(self) -> Epoch:
        """Of the present or the last leadership; 0: there was none."""
        return self._effects.epoch

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this coordinator knows."""
        return self._leader.holder if self._leader.leads else self._leader.other_holder

    # --- time --------------------------------------------------------------------------------------------------------

    def _tick(self, now_ms: int, wall_ms: int) -> None:
        effects = self._effects
        was_paused = now_ms - effects.now_ms >= self._config.worker_timeout_ms // 2
        effects.now_ms, effects.wall_ms = now_ms, wall_ms
        self._leader.tick()
        effects.repeat_calls()
        if self._leader.state is not LeaderState.LEADING:
            return
        if was_paused or not self._is_log_reachable:
            self._grace()
        for lost in self._workers.expire(now_ms):
            self._worker_lost(lost)
        for job in self._jobs.values():
            job.tick()
        self._lost_jobs.tick()
        self._ended_jobs.tick()
        if now_ms >= self._heartbeat_at_ms:
            self._heartbeat()

    def _grace(self) -> None:
        """Silence that may be this coordinator's own fault is held against nobody."""
        self._workers.grace(self._effects.now_ms)
        for job in self._jobs.values():
            job.grace()

    def _log_reachable(self, reachable: bool) -> None:
        if reachable == self._is_log_reachable:
            return
        self._is_log_reachable = reachable
        self._effects.report(LogReachability(reachable=reachable))
        if reachable:
            self._grace()

    def _heartbeat(self) -> None:
        effects = self._effects
        fates = tuple(job.checkpoints.fates(job.attempt) for job in self._jobs.values() if job.is_deployed)
        effects.broadcast(CoordinatorHeartbeat(epoch=effects.epoch, sent_ms=effects.wall_ms, jobs=fates))
        # Heartbeats also show whether Kafka answers (LogSilence): often enough to find out before workers are lost.
        interval_ms = min(self._config.heartbeat_interval_ms, self._config.worker_timeout_ms // 3)
        self._heartbeat_at_ms = effects.now_ms + interval_ms

    # --- leadership --------------------------------------------------------------------------------------------------

    def _elected(self) -> None:
        self._effects.call(ReadRegistry(), self._registry_read, self._cannot_lead, repeats=True)

    def _registry_read(self, histories: tuple[JobHistory, ...]) -> None:
        self._effects.call(FollowEvents(), partial(self._following, histories), self._cannot_lead, repeats=True)

    def _following(self, histories: tuple[JobHistory, ...], _: None) -> None:
        self._leader.loaded()
        self._effects.broadcast(ReportStatus(epoch=self._effects.epoch))
        for history in histories:
            self._add_job(history)
        self._heartbeat()

    def _cannot_lead(self, error: CallError) -> None:
        self._leader.lose(error.detail)

    def _forget_everything(self) -> None:
        self._workers = Workers(self._config.worker_timeout_ms)
        self._pool = SlotPool(self._workers, self._config.worker_timeout_ms // 5)
        self._jobs: dict[JobId, Job] = {}
        self._ended_jobs = EndedJobs(self._effects, self._jobs, self._config.purged_interval_ms)
        self._submitting: set[JobId] = set()
        # A worker that missed ReportStatus says what it runs with its next heartbeat, long before it counts as lost.
        self._lost_jobs = LostJobs(self._effects, self._config.worker_timeout_ms // 2, self._add_job)
        self._stray_told_ms: dict[tuple[JobId, Attempt], int] = {}
        """Only those who need not be told again yet."""
        self._heartbeat_at_ms = 0
        for request in sorted(self._unanswered):
            self._effects.reply(request, self._not_leader())

    def _call_finished(self, event: CallFinished) -> None:
        if not self._effects.is_open(event.call):
            return
        if event.error is not None and event.error.failure is CallFailure.FENCED:
            self._leader.lose(event.error.detail)
        if self._effects.is_open(event.call):
            self._effects.finish_call(event.call, event.result, event.error)
            for job in list(self._jobs.values()):
                job.advance()

    # --- messages from workers ---------------------------------------------------------------------------------------

    def _receive(self, message: Event) -> DropReason | None:
        if self._leader.state is not LeaderState.LEADING:
            return DropReason.NOT_LEADER
        if isinstance(message, WorkerHeartbeat):
            return self._worker_heartbeat(message)
        if isinstance(message, WorkerLost):
            return self._worker_ended(message)
        job = self._jobs.get(message.job)
        if job is None:
            return DropReason.UNKNOWN_JOB
        match message:
            case AcknowledgeCheckpoint():
                return job.acknowledge(message)
            case DeclineCheckpoint():
                return job.decline(message)
            case SubtaskStateChanged():
                return job.subtask_changed(message)
            case SinkCommitted():
                return job.sink_committed(message)
            case OperatorEvent():
                return job.operator_event(message)

    def _worker_heartbeat(self, message: WorkerHeartbeat) -> DropReason | None:
        self._leader.saw_epoch(message.epoch)
        if self._leader.state is not LeaderState.LEADING:
            return DropReason.NOT_LEADER
        result = self._workers.heartbeat(message, self._effects.now_ms)
        if not result.accepted:
            return DropReason.REPLACED_WORKER
        for lost in result.lost:
            self._worker_lost(lost)
        if result.joined:
            self._effects.report(WorkerJoined(worker=message.worker, slots=message.slots))
            for job in self._jobs.values():
                job.worker_joined(message.worker)
        if message.busy_ms:
            for job in self._jobs.values():
                job.worker_busy(message.worker)
            return None
        if not result.is_newest:
            return DropReason.LATE
        if not message.leaving:
            for job in self._jobs.values():
                job.heartbeat(message)
                job.advance()
            self._stop_strays(message)
            self._lost_jobs.heartbeat(message, self._knows)
        return None

    def _knows(self, job: JobId) -> bool:
        return job in self._jobs or job in self._submitting

    def _worker_ended(self, message: WorkerLost) -> DropReason | None:
        ago_ms = max(0, self._effects.wall_ms - message.ended_ms) if message.ended_ms else 0
        lost = self._workers.ended(message.worker, message.reason, ago_ms)
        if lost is None:
            return DropReason.REPLACED_WORKER
        self._worker_lost(lost)
        return None

    def _worker_lost(self, lost: LostWorker) -> None:
        self._effects.report(WorkerGone(worker=lost.worker, reason=lost.reason))
        for job in self._jobs.values():
            job.worker_lost(lost.worker, lost.reason, lost.silence_ms)

    def _stop_strays(self, message: WorkerHeartbeat) -> None:
        """A worker still runs what has ended, because it has missed the news. A job that the registry does not know is
        left alone: it may be another cluster's."""
        now_ms = self._effects.now_ms
        repeated_ms = now_ms - self._config.repeat_interval_ms
        self._stray_told_ms = {stray: told for stray, told in self._stray_told_ms.items() if told > repeated_ms}
        for running in message.subtasks:
            job, name = self._jobs.get(running.job), running.job
            if job is None or not job.is_stray(running.vertex, running.attempt):
                continue
            attempt = job.stopped_attempt
            if (name, attempt) not in self._stray_told_ms:
                self._stray_told_ms[name, attempt] = now_ms
                self._effects.broadcast(CancelJob(epoch=self._effects.epoch, job=name, attempt=attempt))

    # --- clients -----------------------------------------------------------------------------------------------------

    def _client_request(self, request: ClientRequest) -> None:
        if self._leader.state is not LeaderState.LEADING:
            self._effects.reply(request.request, self._not_leader())
            return
        match request:
            case SubmitJob():
                self._submit(request)
            case CancelRequested():
                if job := self._find_running(request.request, request.job):
                    job.cancel(request.request)
            case CheckpointRequested():
                if job := self._find_running(request.request, request.job):
                    kind = SnapshotKind.FULL_CHECKPOINT if request.full else SnapshotKind.CHECKPOINT
                    job.checkpoints.request(CheckpointRequest(kind=kind, client=request.request))
            case SavepointRequested():
                if job := self._find_running(request.request, request.job):
                    job.checkpoints.request(
                        CheckpointRequest(
                            client=request.request,
                            kind=SnapshotKind.SAVEPOINT,
                            location=request.location,
                            native=request.native,
                        )
                    )
            case StopWithSavepointRequested():
                if job := self._find_running(request.request, request.job):
                    job.stop_with_savepoint(request)
            case DisposeSavepointRequested():
                jobs = [(job.record, job.checkpoints.completed.retained()) for job in self._jobs.values()]
                Disposal(self._effects, request, jobs)
            case RescaleRequested():
                if job := self._find_running(request.request, request.job):
                    job.rescale(request)
            case OverviewRequested():
                self._effects.reply(request.request, self._view())
            case JobRequested():
                if job := self._find(request.request, request.job):
                    self._effects.reply(request.request, job.view())

    def _submit(self, request: SubmitJob) -> None:
        name = request.graph.job
        try:
            check_graph(request.graph)
        except PipelineError as error:
            self._effects.reply(request.request, Refused(Refusal.INVALID, str(error)))
            return
        if problem := problem_of(request.graph, self._kinds) or claim_problem(request):
            self._effects.reply(request.request, Refused(Refusal.INVALID, f"job {name} can't be run: {problem}"))
            return
        present = self._jobs.get(name)
        if name in self._submitting or (present is not None and not present.status.is_terminal):
            self._effects.reply(
                request.request,
                Refused(Refusal.CONFLICT, f"job {name} exists already: cancel it first or use another name"),
            )
            return
        self._submitting.add(name)
        self._lost_jobs.forget(name)
        Submission(self._effects, request, stored=self._add_job, ended=self._submitting.discard)

    def _add_job(self, history: JobHistory) -> None:
        job = Job(self._effects, self._config, self._pool, history, self._jitter, self._kinds)
        self._jobs[job.job] = job
        for worker in self._workers.all():
            job.worker_joined(worker.worker)

    def _find(self, request: int, name: JobId) -> Job | None:
        """The job, if there is one; else the request is answered."""
        job = self._jobs.get(name)
        if job is None:
            self._effects.reply(request, Refused(Refusal.NOT_FOUND, f"there is no job {name}"))
        return job

    def _find_running(self, request: int, name: JobId) -> Job | None:
        """The job, if it has not ended; else the request is answered."""
        job = self._find(request, name)
        if job is not None and job.status.is_terminal:
            self._effects.reply(request, Refused(Refusal.CONFLICT, f"job {name} has ended: it is {job.status.value}"))
            return None
        return job

    def _not_leader(self) -> Refused:
        leader = self.leader
        where = "no leader is known" if leader is None else f"the leader is {leader}"
        return Refused(Refusal.NOT_LEADER, f"this coordinator does not lead, {where}")

    def _view(self) -> ClusterView:
        effects = self._effects
        free = self._pool.free()
        workers = tuple(
            WorkerView(
                worker=worker.worker,
                slots=worker.slots,
                free_slots=free[worker.worker],
                last_heartbeat_ms=effects.wall_ms - (effects.now_ms - worker.last_seen_ms),
                host=worker.heartbeat.host,
                metrics_port=worker.heartbeat.metrics_port,
                cpu_cores=worker.heartbeat.cpu_cores,
                memory_bytes=worker.heartbeat.memory_bytes,
            )
            for worker in self._workers.all()
        )
        jobs = tuple(job.view() for job in self._jobs.values())
        return ClusterView(now_ms=effects.wall_ms, epoch=effects.epoch, jobs=jobs, workers=workers)

    def counts(self) -> ClusterCounts:
        """For gauges; cheap."""
        free = self._pool.free()
        return ClusterCounts(
            workers=len(free),
            slots=sum(worker.slots for worker in self._workers.all()),
            free_slots=sum(free.values()),
            silence_ms=max((self._effects.now_ms - worker.last_seen_ms for worker in self._workers.all()), default=0),
            jobs=Counter(job.status for job in self._jobs.values()),
            live_jobs={name: job.counts() for name, job in self._jobs.items() if not job.status.is_terminal},
        )

    def validate(self) -> None:
        """Hold every invariant against the whole state; for tests, between any two events."""
        self._leader.validate()
        self._workers.validate()
        self._pool.validate()
        for name, job in self._jobs.items():
            assert name == job.job
            job.validate()
        if not self._leader.leads:
            assert not self._jobs
            assert not self._unanswered
