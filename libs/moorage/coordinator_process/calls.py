"""The operations that block, each as one call of the executor, and what their errors mean to the core."""

from __future__ import annotations

from typing import Any

from moorage.coordinator_process.rebuild import rebuild_job
from moorage.coordinator_process.storage_calls import STORAGE_OPERATIONS, run_storage_call
from moorage.effects import (
    AcquireLease,
    AddCheckpoint,
    CallError,
    CallFailure,
    CreateTopics,
    FollowEvents,
    JobHistory,
    ListPartitions,
    NextCheckpointId,
    Operation,
    ReadJob,
    ReadJobNames,
    ReadRegistry,
    RebuildJob,
    ReleaseLease,
    RemoveCheckpoint,
    RenewLease,
    SaveJob,
    StartAttempt,
)
from moorage.errors import (
    BaseSubsumedError,
    CorruptDataError,
    FencedError,
    HookError,
    LogUnavailableError,
    MoorageError,
    ObjectExistsError,
    ObjectMissingError,
    RegistryUnavailableError,
    StaleAttemptError,
    StorageError,
)
from moorage.ids import Epoch, JobId, TopicPartition
from moorage.messages.registry import JobRecord, Lease
from moorage.naming import EVENTS_TOPIC
from moorage.ports import CheckpointStorage, Log, OffsetSpec, Registry
from moorage.topics import control_topics

EVENTS = TopicPartition(EVENTS_TOPIC, 0)


def run_call(operation: Operation[Any], *, registry: Registry, storage: CheckpointStorage, log: Log) -> Any:
    """*Blocking.* Carry out an operation; FollowEvents returns the end of the events topic."""
    if isinstance(operation, STORAGE_OPERATIONS):
        return run_storage_call(operation, storage)
    match operation:
        case AcquireLease(holder=holder, ttl_ms=ttl_ms, above=above):
            return _acquire_lease(registry, holder, ttl_ms, above)
        case RenewLease(holder=holder, epoch=epoch, ttl_ms=ttl_ms):
            return registry.renew_lease(holder, epoch, ttl_ms)
        case ReleaseLease(holder=holder, epoch=epoch):
            registry.release_lease(holder, epoch)
        case ReadRegistry():
            return tuple(_history(registry, record.job, record) for record in registry.jobs())
        case ReadJobNames():
            return frozenset(record.job for record in registry.jobs())
        case RebuildJob():
            return rebuild_job(registry, storage, operation)
        case ReadJob(job=job):
            return _history(registry, job, next((r for r in registry.jobs() if r.job == job), None))
        case SaveJob(epoch=epoch, record=record):
            registry.save_job(epoch, record)
        case StartAttempt(epoch=epoch, record=record, latest=latest):
            registry.start_attempt(epoch, record, latest)
        case NextCheckpointId(epoch=epoch, job=job):
            return registry.next_checkpoint_id(epoch, job)
        case AddCheckpoint():
            return registry.add_checkpoint(
                operation.epoch,
                operation.job,
                operation.attempt,
                operation.record,
                operation.retain,
                operation.keep_from,
            )
        case RemoveCheckpoint(epoch=epoch, job=job, checkpoint=number):
            registry.remove_checkpoint(epoch, job, number)
        case ListPartitions(topics=topics):
            present = log.topics()
            return {topic: present[topic] for topic in topics if topic in present}
        case CreateTopics():
            _create_topics(log, operation)
        case FollowEvents():
            log.create_topics(control_topics())
            return log.offsets([EVENTS], OffsetSpec.LATEST)[EVENTS]
        case _:
            raise TypeError(f"no such operation: {operation}")
    return None


def call_error(error: MoorageError) -> CallError:
    """What an error of a call means to the core."""
    match error:
        case FencedError():
            failure = CallFailure.FENCED
        case StaleAttemptError():
            failure = CallFailure.STALE
        case BaseSubsumedError():
            failure = CallFailure.BASE_SUBSUMED
        case CorruptDataError() | ObjectMissingError():
            failure = CallFailure.CORRUPT
        case ObjectExistsError():
            failure = CallFailure.REFUSED
        case RegistryUnavailableError() | LogUnavailableError() | StorageError() | HookError():
            failure = CallFailure.UNAVAILABLE
        case _:
            failure = CallFailure.REFUSED
    return CallError(failure, str(error))


def _acquire_lease(registry: Registry, holder: str, ttl_ms: int, above: Epoch) -> Lease | None:
    lease = registry.acquire_lease(holder, ttl_ms, above=above)
    if lease is not None:
        return lease
    other = registry.lease()
    return None if other is None or other.holder == holder else other


def _history(registry: Registry, job: JobId, record: JobRecord | None) -> JobHistory:
    return JobHistory(
        record=record,
        checkpoints=tuple(registry.checkpoints(job)),
        completed_ids=tuple(registry.completed_ids(job)),
        last_checkpoint_id=registry.last_checkpoint_id(job),
        last_attempt=registry.last_attempt(job),
    )


def _create_topics(log: Log, operation: CreateTopics) -> None:
    if operation.fresh:
        present = log.topics()
        partitions = [
            TopicPartition(spec.name, number) for spec in operation.specs for number in range(present.get(spec.name, 0))
        ]
        used = sorted({tp.topic for tp, end in log.offsets(partitions, OffsetSpec.END).items() if end > 0})
        if used:
            raise MoorageError(
                f"the registry knows no job of this name, but its topics are there and hold data ({', '.join(used)}):"
                " if the registry has lost its data, `moorage registry rebuild` brings the job back; else delete these"
                " topics first"
            )
    log.create_topics(operation.specs)
