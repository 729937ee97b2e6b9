"""For people: what would go (`moorage clean --dry-run`), and doing it now (`moorage clean --now`, `moorage purge`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from moorage.cleaner.classify import Deletion, JobFacts, SweepPlan
from moorage.cleaner.leftovers import source_groups, transactional_ids, void_topics
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.retention import discarded, is_over
from moorage.cleaner.trim import trim_offsets
from moorage.cleaner_process import calls
from moorage.cleaner_process.process import CleanerProcess
from moorage.errors import StorageError
from moorage.ids import CheckpointId, JobId, TopicPartition
from moorage.messages.cleanup import PurgeJob
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.ports import CheckpointStorage, Clock, Log, Registry, UnfinishedUpload


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleaner would do to a job now."""

    record: JobRecord
    plan: SweepPlan
    checkpoints: tuple[CheckpointId, ...]
    """Those of an ended job that the registry would forget, with their files."""
    savepoints: tuple[CheckpointRecord, ...]
    """They stay."""
    uploads: tuple[UnfinishedUpload, ...]
    """To abort; their size is not known."""
    uploads_error: str | None
    """Why the unfinished uploads can't be listed."""
    claimed: tuple[Deletion, ...]
    """Files of a savepoint that the job has claimed."""
    cuts: Mapping[TopicPartition, tuple[int, int]]
    """Partitions whose log would be cut: where it starts, and where it would start."""
    is_needed_elsewhere: bool
    """Another job was started from a checkpoint of this one, so it can't be purged."""
    is_over: bool
    """The job has ended and nothing of it is kept, so it is purged when it has been shown for a while."""
    topics: tuple[str, ...] = ()
    """That a purge would delete, as the other two."""
    groups: tuple[str, ...] = ()
    transactional_ids: tuple[str, ...] = ()
    """Open transactions under them would be aborted."""


def preview(
    registry: Registry, storage: CheckpointStorage, log: Log, clock: Clock, options: CleanerOptions, job: JobId
) -> Preview | None:
    """*Blocking.* None: the registry does not know the job. CorruptDataError or StorageError when a manifest can't
    be read: then nothing would go."""
    facts = calls.observe(registry, job, frozenset())
    if facts is None:
        return None
    return _preview(facts, discarded(facts.record, facts.retained), registry, storage, log, clock, options)


def preview_purge(
    registry: Registry, storage: CheckpointStorage, log: Log, clock: Clock, options: CleanerOptions, job: JobId
) -> Preview | None:
    """*Blocking.* What a purge would delete, if the job has ended. None: the registry does not know it."""
    facts = calls.observe(registry, job, frozenset())
    if facts is None:
        return None
    gone = [record for record in facts.retained if record.kind == "checkpoint"]
    shown = _preview(facts, gone, registry, storage, log, clock, options, purge=True)
    if shown.savepoints:
        return shown  # As long as one is registered, nothing else goes.
    return msgspec.structs.replace(
        shown,
        topics=tuple(sorted(calls.job_topics(log, job))),
        groups=tuple(source_groups(facts.record)),
        transactional_ids=tuple(transactional_ids(facts.record)),
    )


def _preview(
    facts: JobFacts,
    gone: Sequence[CheckpointRecord],
    registry: Registry,
    storage: CheckpointStorage,
    log: Log,
    clock: Clock,
    options: CleanerOptions,
    *,
    purge: bool = False,
) -> Preview:
    record = facts.record
    over = is_over(record, facts.retained)
    facts = msgspec.structs.replace(facts, retained=tuple(kept for kept in facts.retained if kept not in gone))
    manifests = {kept: calls.read_manifest(storage, kept) for kept in (*facts.retained, *facts.claimants)}
    restored = [calls.read_restored(storage, path) for path in facts.restored]
    plan = calls.list_and_plan(
        storage,
        facts,
        (*manifests.values(), *restored),
        now_ms=clock.wall_ms(),
        grace_age_ms=options.grace_age_ms,
        purge=purge,
    )
    uploads: Sequence[UnfinishedUpload] = ()
    uploads_error = None
    try:
        uploads = calls.list_abandoned(
            storage, facts, now_ms=clock.wall_ms(), grace_age_ms=options.grace_age_ms, purge=purge
        )
    except StorageError as error:
        uploads_error = str(error)
    starts = [manifests[kept].starts for kept in facts.in_the_logs]
    topics = calls.job_topics(log, record.job)
    needed = dict(calls.ends(log, {topic: topics[topic] for topic in void_topics(facts, topics, starts)}))
    if starts:
        needed.update(trim_offsets(facts, starts, calls.read_markers(log, record).markers))
    return Preview(
        record=record,
        plan=plan,
        uploads=tuple(uploads),
        uploads_error=uploads_error,
        checkpoints=tuple(kept.checkpoint for kept in gone),
        savepoints=tuple(kept for kept in facts.retained if kept.kind == "savepoint"),
        claimed=tuple(calls.list_claimed(registry, storage, facts, (*manifests.values(), *restored))),
        cuts=calls.cuts(log, needed),
        is_needed_elsewhere=facts.is_needed_elsewhere,
        is_over=over,
    )


def clean_once(process: CleanerProcess, clock: Clock, wait: Callable[[], object]) -> None:
    """Let a new process clean every job once, from scratch. ``wait`` serves the executor's results, or waits."""
    while process.step(clock.monotonic_ms()) or not process.is_idle:
        wait()


def purge(
    process: CleanerProcess,
    clock: Clock,
    wait: Callable[[], object],
    request: PurgeJob,
    tell: Callable[[int | None], object],
) -> None:
    """Let a new process, of this job only, purge it; returns when the registry has forgotten the job, or when only its
    savepoints are left. ``tell``: how many ms it will only wait from now on; None while it deletes."""
    process.purge(request)
    while process.is_purging(request.job):
        process.step(clock.monotonic_ms())
        tell(process.purge_held_ms(request.job, clock.monotonic_ms()))
        wait()
