"""The cleaner's loop: which job to clean when."""

from __future__ import annotations

import logging
from functools import partial

import msgspec

from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner_process import calls
from moorage.cleaner_process.job_cleaning import JobCleaner, Tools
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.runs import Blocking, Pause, Run, blocking
from moorage.errors import MoorageError
from moorage.ids import JobId
from moorage.messages.cleanup import CleanupRequest, DiscardCheckpoint, DiscardState, PurgeJob, TrimExchange
from moorage.ports import CheckpointStorage, Clock, Executor, Log, LogReader, Registry
from moorage.serde import control

logger = logging.getLogger(__name__)

_MAX_MESSAGES = 500
"""Messages of the cleanup topic that one step takes."""


class _Schedule(msgspec.Struct):
    """When a job is cleaned."""

    cleaner: JobCleaner
    swept_ms: int | None = None
    """When the last full run began: all manifests read anew, all files listed. None: that is due now."""
    ran_ms: int = 0
    """When the last run of any kind began."""
    is_elsewhere: bool = False
    """Another cleaner had it at the last look."""
    sweep_asked: bool = False
    trim_asked: bool = False
    failures: int = 0
    """Runs in a row that ended with an error."""
    retry_ms: int = 0


class CleanerProcess:
    """One cleaner. Any number of them may run; see ``moorage.cleaner`` for why they do no harm.

    ``step`` never blocks: what blocks goes to ``executor``, one call at a time. The process holds nothing that counts
    and may be dropped between any two steps.

    Cleaners with a ``holder``, a name of their own, divide the jobs among them by claims. One without cleans what it is
    asked to, whoever else may be at it. ``only``: the one job that it looks at.
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
        holder: str | None = None,
        only: JobId | None = None,
    ) -> None:
        self._registry = registry
        self._log = log
        self._executor = executor
        self._clock = clock
        self._options = options
        self._observer = observer or CleanerObserver()
        self._holder = holder
        self._only = only
        self._tools = Tools(registry, storage, log, clock, options, self._observer, self._tell_backlog)
        self._jobs: dict[JobId, _Schedule] = {}
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
        for job in self._jobs.values():
            job.swept_ms = None

    def is_purging(self, job: JobId) -> bool:
        """It was asked to and has not come to the end."""
        known = self._jobs.get(job)
        return known is not None and (known.cleaner.purge is not None or known.cleaner.held_since_ms is not None)

    def purge_held_ms(self, job: JobId, now_ms: int) -> int | None:
        """How long a purge will only wait from now on, if it finds nothing more. None: it still deletes."""
        known = self._jobs.get(job)
        if known is None or known.cleaner.held_since_ms is None:
            return None
        return max(0, known.cleaner.held_since_ms + self._options.purge_hold_ms - now_ms)

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
        due_ms, job = min((self._due_ms(schedule), job) for job, schedule in self._jobs.items())
        return self._clean(self._jobs[job], now_ms) if now_ms >= due_ms else None

    def _due_ms(self, job: _Schedule) -> int:
        """When the job is to be cleaned next."""
        options, cleaner = self._options, job.cleaner
        if job.failures:
            return job.retry_ms
        if job.swept_ms is None:
            return 0
        due_ms = job.swept_ms + options.sweep_interval_ms
        if job.is_elsewhere:
            return due_ms
        if job.sweep_asked or job.trim_asked or (cleaner.purge is not None and cleaner.held_since_ms is None):
            due_ms = min(due_ms, job.ran_ms + options.prompt_interval_ms)
        if cleaner.held_since_ms is not None:
            due_ms = min(due_ms, cleaner.held_since_ms + options.purge_hold_ms)
        return due_ms

    def _job(self, job: JobId) -> _Schedule:
        return self._jobs.setdefault(job, _Schedule(JobCleaner(job, self._tools)))

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
        if self._only not in (None, request.job):
            return
        job = self._job(request.job)
        match request:
            case DiscardCheckpoint():
                job.cleaner.discarded.add(request.checkpoint)
                job.sweep_asked = True
            case DiscardState():
                job.sweep_asked = True
            case TrimExchange():
                job.trim_asked = True
            case PurgeJob():
                job.cleaner.purge = request

    def purge(self, request: PurgeJob) -> None:
        """As if the message had come."""
        self._take(request)

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
            if self._only in (None, record.job):
                self._job(record.job)
        self._tell_swept()

    def _clean(self, job: _Schedule, now_ms: int) -> Run[None]:
        """Do whatever is due for a job; an error leaves it alone for a while."""
        name = job.cleaner.job
        is_full = job.swept_ms is None or now_ms >= job.swept_ms + self._options.sweep_interval_ms
        lists = is_full or job.sweep_asked
        job.sweep_asked = job.trim_asked = False
        job.ran_ms = now_ms
        try:
            if not (yield from self._claim(name)):
                self._leave(job, now_ms)
                return
            job.is_elsewhere = False
            is_known = yield from job.cleaner.clean(is_full=is_full, lists=lists)
        except MoorageError as error:
            job.failures += 1
            job.retry_ms = now_ms + self._options.retry_pause_ms(job.failures)
            job.swept_ms = None
            logger.error("Can't clean job %s, it is left alone until that works again: %s", name, error)
            self._observer.job_failed(name, error)
            return
        if not is_known:
            del self._jobs[name]
            self._tell_backlog()
            self._tell_swept()  # perhaps only this one was missing
            return
        job.failures = 0
        if is_full:
            job.swept_ms = now_ms
            self._tell_swept()
        self._observer.job_cleaned(name, self._clock.monotonic_ms() - now_ms)

    def _claim(self, job: JobId) -> Run[bool]:
        if self._holder is None:
            return True
        claim = partial(self._registry.claim, f"clean:{job}", self._holder, self._options.claim_ttl_ms)
        return (yield from blocking(claim))

    def _leave(self, job: _Schedule, now_ms: int) -> None:
        """To the cleaner that has it; ask again when that one may be gone."""
        job.is_elsewhere = True
        job.failures = 0
        job.swept_ms = now_ms
        job.cleaner.forget()
        self._tell_backlog()
        self._tell_swept()

    # --- for those who watch -----------------------------------------------------------------------------------------

    def _tell_failed(self, what: str, error: MoorageError) -> None:
        logger.error("Can't %s: %s", what, error)
        self._observer.failed(error)

    def _tell_backlog(self) -> None:
        backlogs = [job.cleaner.backlog for job in self._jobs.values()]
        self._observer.backlog_changed(
            sum(backlog.files for backlog in backlogs),
            sum(backlog.size_bytes for backlog in backlogs),
            min((backlog.oldest_ms for backlog in backlogs if backlog.oldest_ms is not None), default=None),
        )

    def _tell_swept(self) -> None:
        """Since when every job that is known, and not another cleaner's, has been cleaned from scratch."""
        now_ms = self._clock.monotonic_ms()
        swept = [job.swept_ms for job in self._jobs.values() if not job.is_elsewhere]
        if None not in swept:
            since_ms = min((since_ms for since_ms in swept if since_ms is not None), default=now_ms)
            self._observer.all_swept(self._clock.wall_ms() - now_ms + since_ms)
