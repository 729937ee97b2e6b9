"""What the cleaner asks of the ports. Every function here blocks; each may be repeated, and stopped anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import xxhash

from moorage.cleaner.classify import JobFacts, SweepPlan, plan_sweep
from moorage.cleaner.trim import ExchangeStarts, Markers, exchange_starts
from moorage.errors import CorruptDataError, LogError
from moorage.graph.job_graph import JobGraph, OperatorKind
from moorage.ids import CheckpointId, Epoch, JobId, OperatorUid, TopicPartition
from moorage.messages.registry import CheckpointRecord, JobRecord
from moorage.naming import CLEANUP_TOPIC, commits_topic, is_job_topic, job_prefix, source_group
from moorage.ports import CheckpointStorage, Log, OffsetSpec, Registry
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import decode_marker, decode_positions
from moorage.state.handles import ByteStreamHandle, InputHandle
from moorage.state.operator_state import CheckpointMetadata
from moorage.state.positions import CommitMarker, InputPositions
from moorage.topics import control_topics


def observe(registry: Registry, job: JobId, discarded: frozenset[CheckpointId]) -> JobFacts | None:
    """The facts of a job, in the order that the argument in ``moorage.cleaner`` needs; None: there is no such job."""
    last_checkpoint = registry.last_checkpoint_id(job)
    record = _find(registry, job)
    if record is None:
        return None
    retained = tuple(registry.checkpoints(job))
    completed = frozenset(registry.completed_ids(job))
    return JobFacts(
        last_checkpoint=last_checkpoint, record=record, discarded=discarded, retained=retained, completed=completed
    )


# --- manifests -------------------------------------------------------------------------------------------------------


class Manifest(msgspec.Struct, frozen=True):
    """What a completed checkpoint needs besides its ``_metadata``."""

    paths: frozenset[str]
    starts: ExchangeStarts


def read_manifest(storage: CheckpointStorage, record: CheckpointRecord) -> Manifest:
    """Raises StorageError, or CorruptDataError when the file is not what was registered."""
    data = storage.read(record.metadata_path)
    if len(data) != record.metadata_bytes or xxhash.xxh3_64_intdigest(data) != record.metadata_checksum:
        raise CorruptDataError(f"{record.metadata_path} is not the file that checkpoint {record.checkpoint} registered")
    metadata = decode_metadata(data)
    return Manifest(frozenset(metadata.paths()), exchange_starts(_position_vectors(metadata)))


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
    """Classify every file of the job's prefix; ``manifests`` are those of ``facts.retained``, all of them."""
    referenced = {path for manifest in manifests for path in manifest.paths}
    listing = storage.list(job_prefix(facts.record.job))
    return plan_sweep(facts, referenced, listing, now_ms=now_ms, grace_age_ms=grace_age_ms, purge=purge)


# --- messages --------------------------------------------------------------------------------------------------------


def cleanup_starts(log: Log) -> Mapping[TopicPartition, int]:
    """Where the cleanup topic begins; it is made if it is missing."""
    topics = [topic for topic in control_topics() if topic.name == CLEANUP_TOPIC]
    log.create_topics(topics)
    partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
    return log.offsets(partitions, OffsetSpec.EARLIEST)


# --- exchange logs ---------------------------------------------------------------------------------------------------


def read_markers(log: Log, job: JobId, graph: JobGraph) -> Markers:
    """The newest visible commit marker of every exactly-once sink and key group."""
    if not any(vertex.is_committer for vertex in graph.vertices):
        return {}
    topic = commits_topic(job)
    partitions = [TopicPartition(topic, partition) for partition in range(graph.max_parallelism)]
    markers: dict[tuple[OperatorUid, int], CommitMarker] = {}
    for message in log.read_to_end(partitions, read_committed=True):
        if message.value:
            marker = decode_marker(message.value)
            markers[marker.sink, marker.key_group] = marker
    return markers


def trim(registry: Registry, log: Log, record: JobRecord, needed: Mapping[TopicPartition, int]) -> int:
    """Delete what lies before the needed offsets; how many offsets went. LogError when a log was not cut."""
    starts = log.offsets(needed, OffsetSpec.EARLIEST)
    before = {partition: offset for partition, offset in needed.items() if offset > starts[partition]}
    if not before or not _is_same_life(registry, record):
        return 0
    cut = log.delete_records(before)
    for partition, offset in before.items():
        if cut.get(partition, -1) < offset:
            raise LogError(
                f"Kafka did not delete what lies before offset {offset} of {partition.topic}/{partition.partition}"
            )
    return sum(cut[partition] - starts[partition] for partition in before)


# --- purge -----------------------------------------------------------------------------------------------------------


def present_epoch(registry: Registry, requested: Epoch) -> Epoch:
    """The epoch to write to the registry with: the present leader's, at least that of the request."""
    lease = registry.lease()
    return requested if lease is None else max(requested, lease.epoch)


def remove_checkpoints(registry: Registry, epoch: Epoch, facts: JobFacts) -> None:
    """Take the checkpoints of an ended job out of the registry, savepoints left in."""
    for record in facts.retained:
        if record.kind == "checkpoint":
            registry.remove_checkpoint(epoch, facts.record.job, record.checkpoint)


def delete_topics(registry: Registry, log: Log, record: JobRecord) -> int:
    """Delete the topics of an ended job and the groups of its sources; how many topics there were."""
    topics = sorted(topic for topic in log.topics() if is_job_topic(record.job, topic))
    if not _is_same_life(registry, record):
        return 0
    if topics:
        log.delete_topics(topics)
    groups = [
        source_group(record.job, operator.uid)
        for vertex in record.graph.vertices
        for operator in vertex.operators
        if operator.kind is OperatorKind.SOURCE
    ]
    if groups:
        log.delete_groups(groups)
    return len(topics)


def forget_job(registry: Registry, epoch: Epoch, record: JobRecord) -> None:
    """The last act of a purge."""
    if _is_same_life(registry, record):
        registry.purge_job(epoch, record.job)


# ---------------------------------------------------------------------------------------------------------------------


def _is_same_life(registry: Registry, record: JobRecord) -> bool:
    """Topics and the registry's keys come back with the next job of that name, so this is asked right before each call
    that deletes them."""
    present = _find(registry, record.job)
    return present is not None and present.submitted_ms == record.submitted_ms


def _find(registry: Registry, job: JobId) -> JobRecord | None:
    return next((record for record in registry.jobs() if record.job == job), None)
