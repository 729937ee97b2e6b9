"""Cleaning one job: a run from the facts to the last delete call.

A run is a generator that yields what blocks (``runs``); it may be dropped between any two calls. What is remembered
between two runs saves time, nothing else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from moorage.cleaner.classify import Deletion, JobFacts, SweepPlan, Verdict
from moorage.cleaner.leftovers import transactional_ids, void_topics
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.retention import discarded, is_over
from moorage.cleaner.trim import ExchangeStarts, trim_offsets
from moorage.cleaner_process import calls
from moorage.cleaner_process.calls import KnownMarkers, Manifest
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.runs import Run, blocking, pause
from moorage.cleaner_process.sample import sampled_bytes
from moorage.errors import CorruptDataError, ObjectMissingError, RegistryError, StorageError
from moorage.ids import CheckpointId, JobId, TopicPartition
from moorage.messages.cleanup import PurgeJob
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.ports import CheckpointStorage, Clock, Log, Registry

logger = logging.getLogger(__name__)


class Tools(NamedTuple):
    """What a cleaner works with."""

    registry: Registry
    storage: CheckpointStorage
    log: Log
    clock: Clock
    options: CleanerOptions
    observer: CleanerObserver
    backlog_changed: Callable[[], None]


class Backlog(msgspec.Struct):
    """Files that the last plan wanted gone and that are still there."""

    files: int = 0
    size_bytes: int = 0
    oldest_ms: int | None = None

    def shrink(self, batch: Sequence[Deletion]) -> None:
        self.files -= len(batch)
        self.size_bytes -= sum(deletion.size_bytes for deletion in batch)
        self.oldest_ms = self.oldest_ms if self.files else None


class _Over(NamedTuple):
    """Since when nothing is kept of one submission of a job that has ended."""

    submitted_ms: int
    since_ms: int


class JobCleaner:
    """One job, as long as the registry knows it."""

    def __init__(self, job: JobId, tools: Tools) -> None:
        self.job = job
        self.discarded: set[CheckpointId] = set()
        """Ids that a message has named."""
        self.purge: PurgeJob | None = None
        """Somebody has asked for it."""
        self.held_since_ms: int | None = None
        """The purge has begun; when it last found something to delete."""
        self.backlog = Backlog()
        self._tools = tools
        self._manifests: dict[CheckpointRecord | str, Manifest] = {}
        """A manifest never changes."""
        self._trimmed: Mapping[TopicPartition, int] = {}
        """What the logs are known to be cut to."""
        self._markers: KnownMarkers | None = None
        """The commits topic is read once, then what is new. Markers never go back, so one that was read some time ago
        is merely too careful."""
        self._void: Mapping[str, int] = {}
        """Topics that were void when they were last looked at, and their partitions."""
        self._fenced_ms: int | None = None
        """Which submission's transactions were ended."""
        self._over: _Over | None = None
        self._uploads_failed = False
        """That was warned of, and has not worked since."""

    def forget(self) -> None:
        """Another cleaner takes care of it."""
        self.discarded.clear()
        self._manifests.clear()
        self._trimmed, self._void, self._markers = {}, {}, None
        self.backlog = Backlog()

    def clean(self, *, is_full: bool, lists: bool) -> Run[bool]:
        """``is_full``: look at everything anew. ``lists``: look for files, not at the logs only. False: the registry
        does not know the job (any more)."""
        tools = self._tools
        ends: Mapping[TopicPartition, int] = {}
        if is_full:
            self._manifests.clear()
            self._trimmed = {}
            void, self._void = self._void, {}
            if void:
                # Before the facts: what lies below was there when the life of the job that they tell of had begun.
                ends = yield from blocking(partial(calls.ends, tools.log, void))
        facts = yield from self._observe()
        if facts is None:
            return False
        if self.purge is not None and not _is_meant(self.purge, facts.record):
            logger.info("Ignored a purge of job %s: it runs, or an earlier life of it was meant", self.job)
            self._end_purge(self.purge)
        if facts.record.status.has_ended:
            facts = yield from self._end(facts)
            if facts is None:
                return False
        if self._is_purge_due(facts):
            return (yield from self._purge(facts))
        facts = yield from self._mark(facts)
        if lists:
            yield from self._sweep(facts)
        yield from self._trim(facts, ends)
        if is_full:
            yield from self._abort_uploads(facts)
            yield from self._sweep_claimed(facts)
            yield from self._look_for_void_topics(facts)
        return True

    def _observe(self) -> Run[JobFacts | None]:
        observe = partial(calls.observe, self._tools.registry, self.job, frozenset(self.discarded))
        facts = yield from blocking(observe)
        if facts is not None:
            self.discarded = {checkpoint for checkpoint in self.discarded if checkpoint > facts.newest}
        return facts

    # --- files -------------------------------------------------------------------------------------------------------

    def _mark(self, facts: JobFacts) -> Run[JobFacts]:
        """Read the manifests that the facts name, as far as they are not known; the facts they belong to."""
        storage = self._tools.storage
        named: tuple[CheckpointRecord | str, ...] = (*facts.retained, *facts.claimants, *facts.restored)
        self._manifests = {key: manifest for key, manifest in self._manifests.items() if key in named}
        for key in named:
            if key in self._manifests:
                continue
            if isinstance(key, str):
                self._manifests[key] = yield from blocking(partial(calls.read_restored, storage, key))
                continue
            try:
                self._manifests[key] = yield from blocking(partial(calls.read_manifest, storage, key))
            except (CorruptDataError, ObjectMissingError) as error:
                fresh = yield from self._observe()
                if fresh is None or key in (*fresh.retained, *fresh.claimants):
                    raise CorruptDataError(
                        f"checkpoint {key.checkpoint} is retained, but its metadata can't be read: {error}"
                    ) from error
                # It was subsumed meanwhile, and another cleaner has deleted it.
                return (yield from self._mark(fresh))
        return facts

    def _sweep(self, facts: JobFacts, *, purge: bool = False) -> Run[int]:
        """Classify everything, then delete; how many files went."""
        options = self._tools.options
        plan = yield from blocking(
            partial(
                calls.list_and_plan,
                self._tools.storage,
                facts,
                tuple(self._manifests.values()),
                now_ms=self._tools.clock.wall_ms(),
                grace_age_ms=options.grace_age_ms,
                purge=purge,
            )
        )
        self._check_registered(plan)
        deletions = plan.deletions
        self.backlog.files = len(deletions)
        self.backlog.size_bytes = sum(deletion.size_bytes for deletion in deletions)
        self.backlog.oldest_ms = min((deletion.modified_ms for deletion in deletions), default=None)
        self._tools.backlog_changed()
        if options.dry_run:
            self._log_plan(deletions)
            return 0
        for batch in plan.batches(options.delete_batch_files):
            yield from self._delete(batch)
            self.backlog.shrink(batch)
            self._tools.backlog_changed()
        return len(deletions)

    def _abort_uploads(self, facts: JobFacts, *, purge: bool = False) -> Run[int]:
        """Abort the uploads that nobody goes on with; how many. Looked for seldom: they are few. A storage that does
        not show or abort them, though it serves everything else, holds up nothing: they cost space alone."""
        storage, options = self._tools.storage, self._tools.options
        now_ms, grace_age_ms = self._tools.clock.wall_ms(), options.grace_age_ms
        look = partial(calls.list_abandoned, storage, facts, now_ms=now_ms, grace_age_ms=grace_age_ms, purge=purge)
        try:
            uploads = yield from blocking(look)
            if uploads and not options.dry_run:
                yield from blocking(partial(storage.abort_uploads, uploads))
        except StorageError as error:
            self._tools.observer.uploads_failed(self.job, error)
            if not self._uploads_failed:
                logger.warning("Unfinished uploads of job %s stay, the rest of it is cleaned: %s", self.job, error)
            self._uploads_failed = True
            return 0
        self._uploads_failed = False
        if not uploads:
            return 0
        if options.dry_run:
            logger.info("Dry run: would abort %d unfinished uploads of job %s", len(uploads), self.job)
            return 0
        self._tools.observer.files_deleted(Verdict.DELETE_UNFINISHED, len(uploads), 0)
        return len(uploads)

    def _sweep_claimed(self, facts: JobFacts) -> Run[None]:
        storage, manifests = self._tools.storage, tuple(self._manifests.values())
        claimed = yield from blocking(partial(calls.list_claimed, self._tools.registry, storage, facts, manifests))
        if self._tools.options.dry_run:
            self._log_plan(claimed)
        else:
            for start in range(0, len(claimed), self._tools.options.delete_batch_files):
                yield from self._delete(claimed[start : start + self._tools.options.delete_batch_files])

    def _delete(self, batch: Sequence[Deletion]) -> Run[None]:
        yield from blocking(partial(self._tools.storage.delete, [deletion.path for deletion in batch]))
        for verdict, files in Counter(deletion.verdict for deletion in batch).items():
            size_bytes = sum(deletion.size_bytes for deletion in batch if deletion.verdict is verdict)
            self._tools.observer.files_deleted(verdict, files, size_bytes)
        yield from pause(self._tools.options.delete_pause_ms(len(batch)))

    def _check_registered(self, plan: SweepPlan) -> None:
        """A ``_metadata`` that the registry does not know is usual for a moment: it is written first."""
        oldest = min(plan.unregistered, key=lambda item: item.modified_ms, default=None)
        if oldest is None:
            return
        if self._tools.clock.wall_ms() - oldest.modified_ms >= self._tools.options.grace_age_ms:
            raise RegistryError(
                f"the registry remembers no checkpoint, but the storage holds {oldest.path}; if the registry has lost"
                " its data, restore it; else this ends with the next completed checkpoint"
            )

    # --- exchange logs -----------------------------------------------------------------------------------------------

    def _starts(self, facts: JobFacts) -> Sequence[ExchangeStarts]:
        return [self._manifests[record].starts for record in facts.in_the_logs]

    def _trim(self, facts: JobFacts, ends: Mapping[TopicPartition, int]) -> Run[None]:
        """``ends``: of topics that were void at the last look, from before the facts."""
        log, record, starts = self._tools.log, facts.record, self._starts(facts)
        void = void_topics(facts, {partition.topic for partition in ends}, starts)
        needed = {partition: end for partition, end in ends.items() if partition.topic in void}
        if starts:
            self._markers = yield from blocking(partial(calls.read_markers, log, record, self._markers))
            needed.update(trim_offsets(facts, starts, self._markers.markers))
        if needed == self._trimmed:
            return
        cuts = yield from blocking(partial(calls.cuts, log, needed))
        if not cuts:
            self._trimmed = needed
            return
        if self._tools.options.dry_run:
            shown = ", ".join(f"{tp.topic}/{tp.partition} to {offset}" for tp, (_, offset) in cuts.items())
            logger.info("Dry run: would cut %s", shown)
            self._trimmed = needed
            return
        frame_bytes = yield from sampled_bytes(log, cuts)
        offsets = yield from blocking(partial(calls.trim, self._tools.registry, log, record, cuts))
        self._trimmed = needed
        self._tools.observer.log_trimmed(offsets, round(offsets * frame_bytes))

    def _look_for_void_topics(self, facts: JobFacts) -> Run[None]:
        topics = yield from blocking(partial(calls.job_topics, self._tools.log, self.job))
        self._void = {topic: topics[topic] for topic in void_topics(facts, topics, self._starts(facts))}

    # --- the end of the job ------------------------------------------------------------------------------------------

    def _end(self, facts: JobFacts) -> Run[JobFacts | None]:
        """End what it has left open, let go of what its retention or a purge discards; the facts then."""
        registry, record = self._tools.registry, facts.record
        checkpoints = [known for known in facts.retained if known.kind == "checkpoint"]
        gone = checkpoints if self.purge is not None else discarded(record, checkpoints)
        if self._tools.options.dry_run:
            return msgspec.structs.replace(facts, retained=tuple(k for k in facts.retained if k not in gone))
        if self._fenced_ms != record.submitted_ms:
            for transactional_id in transactional_ids(record):
                yield from blocking(partial(calls.fence, registry, self._tools.log, record, transactional_id))
            self._fenced_ms = record.submitted_ms
        if gone:
            yield from blocking(partial(registry.remove_checkpoints, self.job, record.submitted_ms))
            return (yield from self._observe())
        return facts

    def _is_purge_due(self, facts: JobFacts) -> bool:
        now_ms, record = self._tools.clock.monotonic_ms(), facts.record
        if self.purge is not None and facts.is_needed_elsewhere:
            logger.warning("Job %s is not purged: another job was started from a checkpoint of it", self.job)
            self._end_purge(self.purge)
        if not is_over(record, facts.retained) or facts.is_needed_elsewhere:
            self._over = None
        elif self._over is None or self._over.submitted_ms != record.submitted_ms:
            self._over = _Over(record.submitted_ms, now_ms)
        if self.purge is not None:
            return _is_meant(self.purge, record)
        return self._over is not None and now_ms >= self._over.since_ms + self._tools.options.ended_job_ttl_ms

    def _purge(self, facts: JobFacts) -> Run[bool]:
        """One pass. The registry forgets the job when a pass, some time after the last deletion, finds nothing more.

        False: the registry does not know the job any more.
        """
        tools, record, request = self._tools, facts.record, self.purge
        if tools.options.dry_run:
            logger.info("Dry run: would purge job %s", self.job)
            self._end_purge(request)
            return True
        has_begun = yield from blocking(partial(tools.registry.begin_purge, self.job, record.submitted_ms))
        if not has_begun and not facts.retained:
            return True  # It was submitted again right now; the next run sees it.
        facts = yield from self._mark(facts)
        files = yield from self._sweep(facts, purge=True)
        files += yield from self._abort_uploads(facts, purge=True)
        if facts.retained:
            kept = ", ".join(str(known.checkpoint) for known in facts.retained)
            logger.warning(
                "Purged the checkpoints of job %s; its topics stay while savepoint %s is registered: dispose of it,"
                " then purge again",
                self.job,
                kept,
            )
            self._end_purge(request)
            return True
        topics = yield from blocking(partial(calls.delete_topics, tools.registry, tools.log, record))
        tools.observer.topics_deleted(topics)
        now_ms = tools.clock.monotonic_ms()
        if files or topics or self.held_since_ms is None:
            self.held_since_ms = now_ms
        elif now_ms >= self.held_since_ms + tools.options.purge_hold_ms:
            yield from blocking(partial(tools.registry.purge_job, self.job, record.submitted_ms))
            logger.info("Purged job %s", self.job)
            return False
        return True

    def _end_purge(self, request: PurgeJob | None) -> None:
        self.held_since_ms = None
        if self.purge is request:  # and was not asked for again meanwhile
            self.purge = None

    def _log_plan(self, deletions: Sequence[Deletion]) -> None:
        for deletion in deletions:
            logger.debug("Dry run: would delete %s (%s)", deletion.path, deletion.verdict.reason)
        for verdict, files in Counter(deletion.verdict for deletion in deletions).items():
            logger.info("Dry run: would delete %d files of job %s (%s)", files, self.job, verdict.reason)


def _is_meant(request: PurgeJob, record: JobRecord) -> bool:
    """Old messages are read again at every start: one that was sent for an earlier life of the name must do nothing."""
    return record.status.has_ended and record.submitted_ms == request.submitted_ms
