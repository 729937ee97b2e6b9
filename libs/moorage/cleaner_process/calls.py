"""What the cleaner asks of the ports. Every function here blocks; each may be repeated, and stopped anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import xxhash

from moorage.cleaner.classify import Deletion, JobFacts, SweepPlan, Verdict, abandoned_uploads, plan_sweep
from moorage.cleaner.leftovers import source_groups
from moorage.cleaner.trim import ExchangeStarts, Markers, exchange_starts
from moorage.errors import CorruptDataError, LogError, ObjectMissingError, OffsetOutOfRangeError
from moorage.ids import CheckpointId, JobId, TopicPartition
from moorage.messages.registry import CheckpointRecord, JobRecord, RestoreMode
from moorage.naming import (
    CLEANUP_TOPIC,
    commits_topic,
    folder_of,
    is_job_topic,
    is_savepoint_file,
    is_url,
    job_prefix,
    parse_storage_path,
)
from moorage.ports import CheckpointStorage, Log, OffsetSpec, Registry, UnfinishedUpload
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import decode_commit, decode_positions
from moorage.state.handles import ByteStreamHandle, InputHandle
from moorage.state.operator_state import CheckpointMetadata
from moorage.state.positions import CommitMarker, InputPositions
from moorage.topics import control_topics

_FENCING_TIMEOUT_MS = 60_000
"""Kafka wants a time limit of a transaction from whoever uses an id, even to end one."""


def observe(registry: Registry, job: JobId, discarded: frozenset[CheckpointId]) -> JobFacts | None:
    """The facts of a job, in the order that the argument in ``moorage.cleaner`` needs; None: there is no such job."""
    last_checkpoint = registry.last_checkpoint_id(job)
    jobs = {record.job: record for record in registry.jobs()}
    record = jobs.get(job)
    if record is None:
        return None
    retained = tuple(registry.checkpoints(job))
    completed = frozenset(registry.completed_ids(job))
    restored: set[str] = set()
    claimants: list[CheckpointRecord] = []
    for other in jobs.values():
        if (path := _restored_from(other, job)) is not None:
            its_own = _own_checkpoints(other, retained if other is record else registry.checkpoints(other.job))
            if not other.status.has_ended and not _has_moved_on(other, its_own):
                restored.add(path)
            if _claims(other) and other is not record:
                claimants += its_own
    return JobFacts(
        last_checkpoint=last_checkpoint,
        record=record,
        discarded=discarded,
        retained=retained,
        completed=completed,
        restored=frozenset(restored),
        claimants=tuple(claimants),
    )


def _own_checkpoints(record: JobRecord, retained: Iterable[CheckpointRecord]) -> Sequence[CheckpointRecord]:
    """Of this life of the job."""
    base = record.base_checkpoint_id
    return [known for known in retained if known.kind == "checkpoint" and known.checkpoint > base]


def _has_moved_on(record: JobRecord, its_own: Iterable[CheckpointRecord]) -> bool:
    """From where it was submitted to start: no checkpoint that is added from now on refers to that one, unless by its
    base, and no attempt starts from it. If it was claimed, the job's first checkpoints may refer to it, several of them
    at once: all those are decided when one that builds on another of the job's own is complete."""
    if _claims(record):
        return any(known.base > record.base_checkpoint_id for known in its_own)
    return bool(its_own)


def _restored_from(record: JobRecord, job: JobId) -> str | None:
    """The ``_metadata`` of ``job`` that this job was submitted to start from, if it may start again."""
    path = None if record.restore is None else _checkpoint_path(record.restore.path)
    parts = None if path is None else parse_storage_path(path)
    return path if parts is not None and parts.job == job else None


def _checkpoint_path(path: str) -> str | None:
    """The path in this storage if a job's checkpoint is named, perhaps by a URL as savepoints are; else None."""
    end = "/".join(path.split("/")[-3:])
    parts = parse_storage_path(end)
    return end if parts is not None and parts.is_metadata else None


def _claims(record: JobRecord) -> bool:
    return record.restore is not None and record.restore.mode is RestoreMode.CLAIM


# --- manifests -------------------------------------------------------------------------------------------------------


class Manifest(msgspec.Struct, frozen=True):
    """What a completed checkpoint needs."""

    paths: frozenset[str]
    """Its ``_metadata`` included."""
    starts: ExchangeStarts


def read_manifest(storage: CheckpointStorage, record: CheckpointRecord) -> Manifest:
    """Raises StorageError, or CorruptDataError when the file is not what was registered. A savepoint that lies outside
    of the storage needs nothing of what is in it."""
    if is_url(record.metadata_path):
        return Manifest(frozenset(), {})
    data = storage.read(record.metadata_path)
    if len(data) != record.metadata_bytes or xxhash.xxh3_64_intdigest(data) != record.metadata_checksum:
        raise CorruptDataError(f"{record.metadata_path} is not the file that checkpoint {record.checkpoint} registered")
    return _manifest(record.metadata_path, data)


def read_restored(storage: CheckpointStorage, path: str) -> Manifest:
    """Of a checkpoint that a job was submitted to start from. If it is not there, it needs nothing."""
    try:
        return _manifest(path, storage.read(path))
    except ObjectMissingError:
        return Manifest(frozenset(), {})


def _manifest(path: str, data: bytes) -> Manifest:
    metadata = decode_metadata(data, folder_of(path))
    return Manifest(frozenset((path, *metadata.paths())), exchange_starts(_position_vectors(metadata)))


def _position_vectors(metadata: CheckpointMetadata) -> Iterable[InputPositions]:
    for operator in metadata.operators:
        for subtask in operator.subtasks.values():
            for handle in subtask.input_channel:
                yield _decode_positions(handle)


def _decode_positions(handle: InputHandle) -> InputPositions:
    if not isinstance(handle.stream, ByteStreamHandle):
        raise CorruptDataError("channel positions lie outside of the metadata: this is not a checkpoint of Moorage")
    return decode_positions(handle.stream.data)


def list_and_plan(
    storage: CheckpointStorage,
    facts: JobFacts,
    manifests: Iterable[Manifest],
    *,
    now_ms: int,
    grace_age_ms: int,
    purge: bool = False,
) -> SweepPlan:
    """Classify every file of the job's prefix; ``manifests``: all that the facts name."""
    referenced = {path for manifest in manifests for path in manifest.paths}
    return plan_sweep(
        facts,
        referenced,
        storage.list(job_prefix(facts.record.job)),
        now_ms=now_ms,
        grace_age_ms=grace_age_ms,
        purge=purge,
    )


def list_abandoned(
    storage: CheckpointStorage, facts: JobFacts, *, now_ms: int, grace_age_ms: int, purge: bool = False
) -> Sequence[UnfinishedUpload]:
    """The unfinished uploads of the job that nobody goes on with. A StorageError tells nothing about the files: some
    storages only list uploads to who has a client or a permission that nothing else needs."""
    uploads = storage.unfinished_uploads(job_prefix(facts.record.job))
    return abandoned_uploads(facts, uploads, now_ms=now_ms, grace_age_ms=grace_age_ms, purge=purge)


def list_claimed(
    registry: Registry, storage: CheckpointStorage, facts: JobFacts, manifests: Iterable[Manifest]
) -> Sequence[Deletion]:
    """The files of the savepoint that the job has claimed, as far as no checkpoint needs them, ``_metadata`` first.

    None of them as long as the job may start from it again, or somebody else has a right to it. A claimed checkpoint is
    the business of the job whose prefix it lies in.
    """
    record, restore = facts.record, facts.record.restore
    if restore is None or restore.mode is not RestoreMode.CLAIM or _checkpoint_path(restore.path) is not None:
        return ()
    if not _has_moved_on(record, _own_checkpoints(record, facts.retained)):
        return ()
    for other in registry.jobs():
        known = registry.checkpoints(other.job)
        if any(checkpoint.metadata_path == restore.path for checkpoint in known):
            return ()
        starts_there = other.restore is not None and other.restore.path == restore.path
        if starts_there and not _has_moved_on(other, _own_checkpoints(other, known)):
            return ()
    referenced = {path for manifest in manifests for path in manifest.paths}
    folder = folder_of(restore.path)
    return [
        Deletion(found.path, found.size_bytes, found.modified_ms, Verdict.DELETE_CLAIMED)
        for found in sorted(storage.list(f"{folder}/"), key=lambda found: found.path != restore.path)
        if found.path not in referenced and is_savepoint_file(found.path, folder)
    ]


# --- messages --------------------------------------------------------------------------------------------------------


def cleanup_starts(log: Log) -> Mapping[TopicPartition, int]:
    """Where the cleanup topic begins; it is made if it is missing."""
    topics = [topic for topic in control_topics() if topic.name == CLEANUP_TOPIC]
    log.create_topics(topics)
    partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
    return log.offsets(partitions, OffsetSpec.EARLIEST)


# --- exchange logs ---------------------------------------------------------------------------------------------------


class KnownMarkers(NamedTuple):
    """What was read of a job's commits topic."""

    submitted_ms: int
    """Of which life of the job."""
    markers: Markers
    positions: Mapping[TopicPartition, int]
    """Behind the last message that was seen."""


def read_markers(log: Log, record: JobRecord, known: KnownMarkers | None = None) -> KnownMarkers:
    """The newest visible commit marker of every exactly-once sink and key group; only what is new since ``known`` is
    read. Its offsets are not believed in another life of the job, which may have a topic of its own."""
    if known is None or known.submitted_ms != record.submitted_ms:
        known = KnownMarkers(record.submitted_ms, {}, {})
    if not any(vertex.is_committer for vertex in record.graph.vertices):
        return known
    topic = commits_topic(record.job)
    partitions = [TopicPartition(topic, partition) for partition in range(record.graph.max_parallelism)]
    try:
        messages = log.read_to_end(partitions, read_committed=True, start=known.positions)
    except OffsetOutOfRangeError:
        known = KnownMarkers(record.submitted_ms, {}, {})
        messages = log.read_to_end(partitions, read_committed=True)
    markers, positions = dict(known.markers), dict(known.positions)
    for message in messages:
        positions[TopicPartition(message.topic, message.partition)] = message.offset + 1
        if message.value:
            commit = decode_commit(message.value)
            if isinstance(commit, CommitMarker):
                markers[commit.sink, commit.key_group] = commit
    return KnownMarkers(record.submitted_ms, markers, positions)


def job_topics(log: Log, job: JobId) -> Mapping[str, int]:
    """The topics of a job, whichever of its graphs they come from, and how many partitions they have."""
    return {topic: partitions for topic, partitions in log.topics().items() if is_job_topic(job, topic)}


def ends(log: Log, topics: Mapping[str, int]) -> Mapping[TopicPartition, int]:
    """Behind everything that these topics hold now."""
    partitions = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
    return log.offsets(partitions, OffsetSpec.END)


def cuts(log: Log, needed: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, tuple[int, int]]:
    """Which partitions hold what is not needed: where each starts, and where it would start."""
    starts = log.offsets(needed, OffsetSpec.EARLIEST)
    return {
        partition: (starts[partition], offset) for partition, offset in needed.items() if offset > starts[partition]
    }


def trim(registry: Registry, log: Log, record: JobRecord, wanted: Mapping[TopicPartition, tuple[int, int]]) -> int:
    """Make the ``cuts``; how many offsets went. LogError when a log was not cut."""
    if not _is_same_life(registry, record):
        return 0
    cut = log.delete_records({partition: offset for partition, (_, offset) in wanted.items()})
    for partition, (_, offset) in wanted.items():
        if cut.get(partition, -1) < offset:
            raise LogError(
                f"Kafka did not delete what lies before offset {offset} of {partition.topic}/{partition.partition}"
            )
    return sum(cut[partition] - start for partition, (start, _) in wanted.items())


# --- the end of a job ------------------------------------------------------------------------------------------------


def fence(registry: Registry, log: Log, record: JobRecord, transactional_id: str) -> None:
    """Abort what an ended job has left open under this id: it would hide every later record from read-committed
    readers. Should the name have begun its next life right now, a sink is stopped and its job starts again."""
    if _is_same_life(registry, record):
        writer = log.transactional_writer(transactional_id, transaction_timeout_ms=_FENCING_TIMEOUT_MS)
        try:
            writer.init()
        finally:
            writer.close()


def delete_topics(registry: Registry, log: Log, record: JobRecord) -> int:
    """Delete the topics of an ended job and the groups of its sources; how many topics there were."""
    topics = sorted(job_topics(log, record.job))
    if not _is_same_life(registry, record):
        return 0
    if topics:
        log.delete_topics(topics)
    groups = source_groups(record)
    if groups:
        log.delete_groups(groups)
    return len(topics)


# ---------------------------------------------------------------------------------------------------------------------


def _is_same_life(registry: Registry, record: JobRecord) -> bool:
    """Topics and transactional ids come back with the next job of that name, so this is asked right before each call
    that ends them."""
    return any(present.job == record.job and present.submitted_ms == record.submitted_ms for present in registry.jobs())
