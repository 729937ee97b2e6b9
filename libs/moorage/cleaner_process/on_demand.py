"""For people: what would go (`moorage clean --dry-run`, `moorage purge`), and cleaning once (`moorage clean --now`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from moorage.cleaner.classify import SweepPlan
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.trim import trim_offsets
from moorage.cleaner_process import calls
from moorage.cleaner_process.process import CleanerProcess
from moorage.ids import JobId, TopicPartition
from moorage.naming import is_job_topic
from moorage.ports import CheckpointStorage, Clock, Log, OffsetSpec, Registry


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a cleaner would do to a job now."""

    job: JobId
    plan: SweepPlan
    cuts: Mapping[TopicPartition, tuple[int, int]]
    """Partitions whose log would be cut: where it starts, and where it would start."""
    topics: tuple[str, ...] = ()
    """Topics that a purge would delete."""


def preview(
    registry: Registry, storage: CheckpointStorage, log: Log, clock: Clock, options: CleanerOptions, job: JobId
) -> Preview | None:
    """*Blocking.* None: the registry does not know the job. CorruptDataError or StorageError when a manifest can't
    be read: then nothing would go."""
    facts = calls.observe(registry, job, frozenset())
    if facts is None:
        return None
    manifests = {record: calls.read_manifest(storage, record) for record in facts.retained}
    plan = calls.list_and_plan(
        storage, facts, manifests.values(), now_ms=clock.wall_ms(), grace_age_ms=options.grace_age_ms
    )
    cuts: dict[TopicPartition, tuple[int, int]] = {}
    if starts := [manifest.starts for record, manifest in manifests.items() if record.kind == "checkpoint"]:
        markers = calls.read_markers(log, job, facts.record.graph)
        needed = trim_offsets(facts, starts, markers)
        present = log.offsets(needed, OffsetSpec.EARLIEST)
        cuts = {tp: (present[tp], offset) for tp, offset in needed.items() if offset > present[tp]}
    return Preview(job=job, plan=plan, cuts=cuts)


def preview_purge(registry: Registry, storage: CheckpointStorage, log: Log, clock: Clock, job: JobId) -> Preview | None:
    """*Blocking.* What a purge would delete, if the job has ended. None: the registry does not know it."""
    facts = calls.observe(registry, job, frozenset())
    if facts is None:
        return None
    savepoints = tuple(record for record in facts.retained if record.kind == "savepoint")
    manifests = [calls.read_manifest(storage, record) for record in savepoints]
    facts = msgspec.structs.replace(facts, retained=savepoints)
    plan = calls.list_and_plan(storage, facts, manifests, now_ms=clock.wall_ms(), grace_age_ms=0, purge=True)
    topics = tuple(sorted(topic for topic in log.topics() if is_job_topic(job, topic)))
    return Preview(job=job, plan=plan, cuts={}, topics=topics)


def clean_once(process: CleanerProcess, clock: Clock, wait: Callable[[], object]) -> None:
    """Let a new process clean every job once, from scratch. ``wait`` serves the executor's results, or waits."""
    while process.step(clock.monotonic_ms()) or not process.is_idle:
        wait()
