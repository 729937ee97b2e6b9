"""The cleaner's loop."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from moorage.cleaner.classify import Deletion, JobFacts, SweepPlan
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.trim import trim_offsets
from moorage.cleaner_process import calls
from moorage.cleaner_process.calls import Manifest
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.runs import Blocking, Pause, Run, blocking, pause
from moorage.errors import CorruptDataError, MoorageError, ObjectMissingError, RegistryError
from moorage.ids import CheckpointId, JobId, TopicPartition
from moorage.messages.cleanup import CleanupRequest, DiscardCheckpoint, DiscardState, PurgeJob, TrimExchange
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.ports import CheckpointStorage, Clock, Executor, Log, LogReader, Registry
from moorage.serde import control

logger = logging.getLogger(__name__)

_MAX_MESSAGES = 500
"""Messages of the cleanup topic that one step takes."""


class _JobState(msgspec.Struct):
    """What the cleaner remembers of a job. Losing it costs time, nothing else."""

    swept_ms: int | None = None
    """When the last full run began: all manifests read anew, all files listed. None: that is due now."""
    ran_ms: int = 0
    """When the last run of any kind began."""
    sweep_asked: bool = False
    trim_asked: bool = False
    failures: int = 0
    """Runs in a row that ended with an error."""
    retry_ms: int = 0
    discarded: set[CheckpointId] = msgspec.field(default_factory=set)
    manifests: dict[CheckpointRecord, Manifest] = msgspec.field(default_factory=dict)
    """Of the retained checkpoints. A manifest never changes."""
    trimmed: Mapping[TopicPartition, int] = msgspec.field(default_factory=dict)
    """What the logs are known to be cut to."""
    purge: PurgeJob | None = None
    purged_ms: int | None = None
    """When a pass of the purge last found something to delete."""
    backlog_files: int = 0
    backlog_bytes: int = 0
    oldest_ms: int | None = None
    """Of the files that the last plan wanted gone, as long as some are there."""


class CleanerProcess:
    """One cleaner. Any number of them may run; see ``moorage.cleaner`` for why they do no harm.

    ``step`` never blocks: what blocks goes to ``executor``, one call at a time. The process holds nothing that counts
    and may be dropped between any two steps.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        storage: CheckpointStorage,
        log: Log,
        executor: Executor,
        clock: Clock,
        options: CleanerOptions,
        observer: CleanerObserver | None = None,
    ) -> None:
        self._registry = registry
        self._storage = storage
        self._log = log
        self._executor = executor
        self._clock = clock
        self._options = options
        self._observer = observer or CleanerObserver()
        self._jobs: dict[JobId, _JobState] = {}
        self._look_ms = 0
        """When to ask the registry next which jobs there are."""
        self._look_failures = 0
        self._reader: LogReader | None = None
        self._follow_ms = 0
        """When to try next to open the cleanup topic, while there is no reader."""
        self._follow_failures = 0
        self._run: Run[None] | None = None
        self._waits = False
        """A call of the run is under way."""
        self._outcome: tuple[object, Exception | None] = (None, None)
        self._paused_until_ms = 0

    # --- the loop ----------------------------------------------------------------------------------------------------

    def step(self, now_ms: int) -> bool:
        """Take messages in, then take the work one call further. ``now_ms`` is the clock's monotonic time.

        False: there is nothing to do right now. Raises what is not a MoorageError: a bug, nothing to go on from.
        """
        has_read = self._read_messages(now_ms)
        if self._waits or now_ms < self._paused_until_ms:
            return has_read
        if self._run is None:
            self._run = self._next_run(now_ms)
        if self._run is None:
            return has_read
        self._resume(self._run, now_ms)
        return True

    @property
    def is_idle(self) -> bool:
        """Between two runs."""
        return self._run is None

    def sweep_now(self) -> None:
        """Clean everything from scratch as soon as possible (``moorage clean --now``)."""
        self._look_ms = 0
        for state in self._jobs.values():
            state.swept_ms = None

    def close(self) -> None:
        """Stop where it is. The result of a call that is under way is dropped."""
        if self._run is not None:
            self._run.close()
            self._run = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _resume(self, run: Run[None], now_ms: int) -> None:
        result, error = self._outcome
        self._outcome = (None, None)
        try:
            wanted = run.send(result) if error is None else run.throw(error)
        except StopIteration:
            self._run = None
            return
        if isinstance(wanted, Pause):
            self._paused_until_ms = now_ms + wanted.ms
        else:
            self._submit(run, wanted)

    def _submit(self, run: Run[None], call: Blocking) -> None:
        def done(result: object, error: Exception | None) -> None:
            if self._run is run:
                self._waits = False
                self._outcome = (result, error)

        self._waits = True
        self._executor.submit(call, done)

    # --- what to do next ---------------------------------------------------------------------------------------------

    def _next_run(self, now_ms: int) -> Run[None] | None:
        if self._reader is None and now_ms >= self._follow_ms:
            return self._follow(now_ms)
        if now_ms >= self._look_ms:
            return self._look(now_ms)
        if not self._jobs:
            return None
        due_ms, job = min((self._due_ms(state), job) for job, state in self._jobs.items())
        return self._clean(job, self._jobs[job], now_ms) if now_ms >= due_ms else None

    def _due_ms(self, state: _JobState) -> int:
        """When the job is to be cleaned next."""
        options = self._options
        if state.failures:
            return state.retry_ms
        if state.swept_ms is None:
            return 0
        due_ms = state.swept_ms + options.sweep_interval_ms
        if state.sweep_asked or state.trim_asked or (state.purge is not None and state.purged_ms is None):
            due_ms = min(due_ms, state.ran_ms + options.prompt_interval_ms)
        if state.purged_ms is not None:
            due_ms = min(due_ms, state.purged_ms + options.purge_hold_ms)
        return due_ms

    def _job(self, job: JobId) -> _JobState:
        return self._jobs.setdefault(job, _JobState())

    # --- messages ----------------------------------------------------------------------------------------------------

    def _follow(self, now_ms: int) -> Run[None]:
        """Read the cleanup topic from its beginning: a purge may have been asked for while no cleaner ran."""
        try:
            starts = yield from blocking(partial(calls.cleanup_starts, self._log))
        except MoorageError as error:
            self._stop_following(now_ms, error)
            return
        self._reader = self._log.reader("cleaner")
        self._reader.assign(starts)

    def _stop_following(self, now_ms: int, error: MoorageError) -> None:
        self._follow_failures += 1
        self._follow_ms = now_ms + self._options.retry_pause_ms(self._follow_failures)
        self._tell_failed("read the cleanup messages", error)

    def _read_messages(self, now_ms: int) -> bool:
        if self._reader is None:
            return False
        try:
            messages = self._reader.poll(_MAX_MESSAGES)
        except MoorageError as error:
            # Retention has overtaken the reader, or the topic was made anew: begin at its beginning again.
            self._reader.close()
            self._reader = None
            self._stop_following(now_ms, error)
            return True
        self._follow_failures = 0
        for message in messages:
            try:
                request = control.decode(message.value, control.CLEANUP)
            except MoorageError as error:
                logger.error("Skipped message %s/%d@%d: %s", message.topic, message.partition, message.offset, error)
                self._observer.message_rejected(error)
            else:
                self._take(request)
        return bool(messages)

    def _take(self, request: CleanupRequest) -> None:
        # The epoch is no fence here: what a message states stays true, whoever sent it and however late it comes.
        state = self._job(request.job)
        match request:
            case DiscardCheckpoint():
                state.discarded.add(request.checkpoint)
                state.sweep_asked = True
            case DiscardState():
                state.sweep_asked = True
            case TrimExchange():
                state.trim_asked = True
            case PurgeJob():
                state.purge = request

    # --- runs --------------------------------------------------------------------------------------------------------

    def _look(self, now_ms: int) -> Run[None]:
        """Find the jobs that no message has told of."""
        try:
            records = yield from blocking(self._registry.jobs)
        except MoorageError as error:
            self._look_failures += 1
            self._look_ms = now_ms + self._options.retry_pause_ms(self._look_failures)
            self._tell_failed("look for jobs", error)
            return
        self._look_failures = 0
        self._look_ms = now_ms + self._options.sweep_interval_ms
        for record in records:
            self._job(record.job)
        self._tell_swept()

    def _clean(self, job: JobId, state: _JobState, now_ms: int) -> Run[None]:
        """Do whatever is due for a job; an error leaves it alone for a while."""
        is_full = state.swept_ms is None or now_ms >= state.swept_ms + self._options.sweep_interval_ms
        lists = is_full or state.sweep_asked
        state.sweep_asked = state.trim_asked = False
        state.ran_ms = now_ms
        if is_full:
            state.manifests.clear()
            state.trimmed = {}
        try:
            if state.purge is None:
                is_known = yield from self._clean_job(job, state, lists)
            else:
                is_known = yield from self._purge_job(job, state, state.purge)
        except MoorageError as error:
            state.failures += 1
            state.retry_ms = now_ms + self._options.retry_pause_ms(state.failures)
            state.swept_ms = None
            logger.error("Can't clean job %s, it is left alone until that works again: %s", job, error)
            self._observer.job_failed(job, error)
            return
        if not is_known:
            del self._jobs[job]
            self._tell_backlog()
            self._tell_swept()  # perhaps only this one was missing
            return
        state.failures = 0
        if is_full:
            state.swept_ms = now_ms
            self._tell_swept()
        self._observer.job_cleaned(job, self._clock.monotonic_ms() - now_ms)

    def _clean_job(self, job: JobId, state: _JobState, lists: bool) -> Run[bool]:
        """False: the registry does not know the job (any more)."""
        facts = yield from self._observe(job, state)
        if facts is None:
            return False
        facts = yield from self._mark(facts, state)
        if lists:
            yield from self._sweep(facts, state)
        yield from self._trim(facts, state)
        return True

    def _observe(self, job: JobId, state: _JobState) -> Run[JobFacts | None]:
        facts = yield from blocking(partial(calls.observe, self._registry, job, frozenset(state.discarded)))
        if facts is not None:
            state.discarded = {checkpoint for checkpoint in state.discarded if checkpoint > facts.newest}
        return facts

    def _mark(self, facts: JobFacts, state: _JobState) -> Run[JobFacts]:
        """Read the manifests of the retained checkpoints, as far as they are not known; the facts they belong to."""
        known = state.manifests
        state.manifests = {record: known[record] for record in facts.retained if record in known}
        for record in facts.retained:
            if record in state.manifests:
                continue
            try:
                state.manifests[record] = yield from blocking(partial(calls.read_manifest, self._storage, record))
            except (CorruptDataError, ObjectMissingError) as error:
                fresh = yield from self._observe(facts.record.job, state)
                if fresh is None or record in fresh.retained:
                    raise CorruptDataError(
                        f"checkpoint {record.checkpoint} is retained, but its metadata can't be read: {error}"
                    ) from error
                # It was subsumed meanwhile, and another cleaner has deleted it.
                return (yield from self._mark(fresh, state))
        return facts

    def _sweep(self, facts: JobFacts, state: _JobState, *, purge: bool = False) -> Run[int]:
        """Classify everything, then delete; how many files went."""
        plan = yield from blocking(
            partial(
                calls.list_and_plan,
                self._storage,
                facts,
                tuple(state.manifests.values()),
                now_ms=self._clock.wall_ms(),
                grace_age_ms=self._options.grace_age_ms,
                purge=purge,
            )
        )
        self._check_registered(plan)
        deletions = plan.deletions
        state.backlog_files = len(deletions)
        state.backlog_bytes = sum(deletion.size_bytes for deletion in deletions)
        state.oldest_ms = min((deletion.modified_ms for deletion in deletions), default=None)
        self._tell_backlog()
        if self._options.dry_run:
            self._log_plan(facts.record.job, deletions)
            return 0
        for batch in plan.batches(self._options.delete_batch_files):
            yield from blocking(partial(self._storage.delete, [deletion.path for deletion in batch]))
            self._tell_deleted(batch)
            state.backlog_files -= len(batch)
            state.backlog_bytes -= sum(deletion.size_bytes for deletion in batch)
            state.oldest_ms = state.oldest_ms if state.backlog_files else None
            self._tell_backlog()
            yield from pause(self._options.delete_pause_ms(len(batch)))
        return len(deletions)

    def _check_registered(self, plan: SweepPlan) -> None:
        """A ``_metadata`` that the registry does not know is usual for a moment: it is written first."""
        oldest = min(plan.unregistered, key=lambda item: item.modified_ms, default=None)
        if oldest is not None and self._clock.wall_ms() - oldest.modified_ms >= self._options.grace_age_ms:
            raise RegistryError(
                f"the registry remembers no checkpoint, but the storage holds {oldest.path}; if the registry has lost"
                " its data, restore it; else this ends with the next completed checkpoint"
            )

    def _trim(self, facts: JobFacts, state: _JobState) -> Run[None]:
        starts = [manifest.starts for record, manifest in state.manifests.items() if record.kind == "checkpoint"]
        if not starts:
            return
        record = facts.record
        markers = yield from blocking(partial(calls.read_markers, self._log, record.job, record.graph))
        needed = trim_offsets(facts, starts, markers)
        if needed == state.trimmed:
            return
        if self._options.dry_run:
            cuts = ", ".join(f"{tp.topic}/{tp.partition} to {offset}" for tp, offset in needed.items())
            logger.info("Dry run: would cut %s", cuts)
            state.trimmed = needed
            return
        offsets = yield from blocking(partial(calls.trim, self._registry, self._log, record, needed))
        state.trimmed = needed
        self._observer.log_trimmed(offsets)

    def _purge_job(self, job: JobId, state: _JobState, request: PurgeJob) -> Run[bool]:
        """One pass. The registry forgets the job when a pass, some time after the last deletion, finds nothing more.

        False: the registry does not know the job (any more).
        """
        epoch = yield from blocking(partial(calls.present_epoch, self._registry, request.epoch))
        facts = yield from self._observe(job, state)
        if facts is None:
            return False
        if not _is_meant(request, facts.record):
            logger.info("Ignored a purge of job %s that was meant for an earlier life of it", job)
            self._end_purge(state, request)
            return True
        if self._options.dry_run:
            logger.info("Dry run: would purge job %s", job)
            self._end_purge(state, request)
            return True
        yield from blocking(partial(calls.remove_checkpoints, self._registry, epoch, facts))
        savepoints = tuple(record for record in facts.retained if record.kind == "savepoint")
        facts = yield from self._mark(msgspec.structs.replace(facts, retained=savepoints), state)
        files = yield from self._sweep(facts, state, purge=True)
        topics = yield from blocking(partial(calls.delete_topics, self._registry, self._log, facts.record))
        self._observer.topics_deleted(topics)
        if savepoints:
            kept = ", ".join(str(record.checkpoint) for record in savepoints)
            logger.warning("Purged job %s but for its savepoints %s: dispose of them, then purge it again", job, kept)
            self._end_purge(state, request)
            return True
        now_ms = self._clock.monotonic_ms()
        if files or topics or state.purged_ms is None:
            state.purged_ms = now_ms
        elif now_ms >= state.purged_ms + self._options.purge_hold_ms:
            yield from blocking(partial(calls.forget_job, self._registry, epoch, facts.record))
            logger.info("Purged job %s", job)
            return False
        return True

    def _end_purge(self, state: _JobState, request: PurgeJob) -> None:
        if state.purge is request:  # and was not asked for again meanwhile
            state.purge = state.purged_ms = None

    # --- for those who watch -----------------------------------------------------------------------------------------

    def _log_plan(self, job: JobId, deletions: Sequence[Deletion]) -> None:
        for deletion in deletions:
            logger.debug("Dry run: would delete %s (%s)", deletion.path, deletion.verdict.reason)
        for verdict, files in Counter(deletion.verdict for deletion in deletions).items():
            logger.info("Dry run: would delete %d files of job %s (%s)", files, job, verdict.reason)

    def _tell_failed(self, what: str, error: MoorageError) -> None:
        logger.error("Can't %s: %s", what, error)
        self._observer.failed(error)

    def _tell_deleted(self, batch: Sequence[Deletion]) -> None:
        for verdict, files in Counter(deletion.verdict for deletion in batch).items():
            size_bytes = sum(deletion.size_bytes for deletion in batch if deletion.verdict is verdict)
            self._observer.files_deleted(verdict, files, size_bytes)

    def _tell_backlog(self) -> None:
        states = self._jobs.values()
        self._observer.backlog_changed(
            sum(state.backlog_files for state in states),
            sum(state.backlog_bytes for state in states),
            min((state.oldest_ms for state in states if state.oldest_ms is not None), default=None),
        )

    def _tell_swept(self) -> None:
        """Since when every job that is known has been cleaned from scratch."""
        now_ms = self._clock.monotonic_ms()
        swept = [state.swept_ms for state in self._jobs.values() if state.swept_ms is not None]
        if len(swept) == len(self._jobs):
            self._observer.all_swept(self._clock.wall_ms() - now_ms + min(swept, default=now_ms))


def _is_meant(request: PurgeJob, record: JobRecord) -> bool:
    """Old messages are read again at every start: one that was sent for an earlier life of the name must do nothing."""
    return record.status.is_terminal and record.submitted_ms == request.submitted_ms
