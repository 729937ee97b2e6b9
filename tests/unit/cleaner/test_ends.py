"""The end of a job, what it leaves in Kafka, what it was started from, and several cleaners."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.cleaner.jobs import (
    COMMITS_LOG,
    JOB,
    KEYED_LOG,
    OUTPUT_LOG,
    SINK,
    TOPICS,
    TOTALS,
    commit_marker,
    exclusive,
    metadata,
    shared,
    write_metadata,
)
from tests.unit.cleaner.world import OPTIONS, World

from moorage.cleaner.classify import Verdict
from moorage.cleaner.retention import CheckpointRetention
from moorage.errors import RegistryUnavailableError, StaleAttemptError, StorageError
from moorage.ids import CheckpointId, JobId, TopicPartition
from moorage.messages.cleanup import PurgeJob
from moorage.messages.registry import JobStatus, RestoreMode, RestoreSettings
from moorage.naming import (
    CLEANUP_TOPIC,
    commits_topic,
    folder_of,
    savepoint_folder,
    savepoint_state_path,
    transactional_id,
    with_checksum,
)
from moorage.ports import OffsetSpec, TopicSpec

RESULTS = TopicPartition("results", 0)
LEGACY = TopicPartition("moorage.orders.legacy--totals", 0)
SHOP = JobId("shop")
LATER_MS = OPTIONS.sweep_interval_ms + OPTIONS.grace_age_ms


@pytest.fixture
def world() -> World:
    world = World()
    world.submit()
    return world


def known(world: World) -> list[str]:
    return [record.job for record in world.registry.jobs()]


# --- retention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (CheckpointRetention.NEVER_RETAIN_AFTER_TERMINATION, set()),
        (CheckpointRetention.RETAIN_ON_FAILURE, {JobStatus.FAILED}),
        (CheckpointRetention.RETAIN_ON_CANCELLATION, {JobStatus.FAILED, JobStatus.CANCELED, JobStatus.SUSPENDED}),
    ],
)
@pytest.mark.parametrize("status", [status for status in JobStatus if status.has_ended])
def test_the_retention_says_whether_an_ended_job_keeps_its_checkpoints(
    retention: CheckpointRetention, kept: set[JobStatus], status: JobStatus
) -> None:
    world = World()
    world.submit(retention=retention)
    world.checkpoint([exclusive(1), shared(1)])
    world.checkpoint([exclusive(2, "all")], kind="savepoint")
    world.end(status)
    world.work(2 * OPTIONS.sweep_interval_ms)
    left = {metadata(2), exclusive(2, "all")}
    if status in kept:
        left |= {metadata(1), exclusive(1), shared(1)}
    assert set(world.storage.paths()) == left
    assert [record.checkpoint for record in world.registry.checkpoints(JOB)] == ([1, 2] if status in kept else [2])
    world.work(2 * OPTIONS.ended_job_ttl_ms)
    assert known(world) == [JOB]


def test_a_job_of_which_nothing_is_kept_is_shown_for_a_while_and_then_forgotten_without_any_message(
    world: World,
) -> None:
    world.checkpoint([exclusive(1)])
    world.end(JobStatus.FINISHED)
    world.work(OPTIONS.ended_job_ttl_ms // 2)
    assert world.storage.paths() == []
    assert known(world) == [JOB]
    world.work(OPTIONS.ended_job_ttl_ms)
    assert known(world) == []
    assert sorted(world.log.topics()) == [CLEANUP_TOPIC]


def test_a_job_that_is_submitted_again_in_time_is_not_forgotten(world: World) -> None:
    world.end(JobStatus.FINISHED)
    world.work(OPTIONS.ended_job_ttl_ms - 2 * OPTIONS.sweep_interval_ms)
    world.submit()
    world.work(OPTIONS.ended_job_ttl_ms)
    world.end(JobStatus.FINISHED)
    world.work(OPTIONS.ended_job_ttl_ms // 2)
    assert known(world) == [JOB]
    assert OUTPUT_LOG[0].topic in world.log.topics()


# --- Kafka -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtask", [0, 1, 2])
def test_transactions_that_an_ended_job_has_left_open_hide_nothing(subtask: int) -> None:
    world = World()
    world.log.create_topics([*TOPICS, TopicSpec(RESULTS.topic, 1, {})])
    world.submit()
    vertex = world.record.graph.vertices[-1].vertex
    record = msgspec.structs.replace(world.record, former_parallelism={vertex: (3,)})
    world.registry.save_job(world.epoch, record)
    writer = world.log.transactional_writer(transactional_id(JOB, SINK, 3, subtask), transaction_timeout_ms=10**9)
    writer.init()
    writer.begin()
    writer.append(*RESULTS, None, b"uncommitted")
    writer.poll()

    def is_hidden() -> bool:
        return world.log.offsets([RESULTS], OffsetSpec.LATEST) != world.log.offsets([RESULTS], OffsetSpec.END)

    world.work(OPTIONS.sweep_interval_ms)
    assert is_hidden()
    world.end()
    world.work(OPTIONS.sweep_interval_ms)
    assert not is_hidden()


def test_logs_of_an_ended_job_without_checkpoints_are_cut_to_their_end(world: World) -> None:
    for log in (*KEYED_LOG, *OUTPUT_LOG):
        world.append(log, 3)
    world.end()
    world.work(3 * OPTIONS.sweep_interval_ms)
    assert [world.log_start(log) for log in (*KEYED_LOG, *OUTPUT_LOG)] == [3] * 4


def test_logs_of_an_exchange_that_the_pipeline_has_no_more_are_cut_when_no_earlier_life_is_retained(
    world: World,
) -> None:
    world.log.create_topics([TopicSpec(LEGACY.topic, 1, {})])
    world.checkpoint([exclusive(1)], positions=[0, 0])
    world.end()
    world.submit()
    world.append(LEGACY, 3)
    world.work(3 * OPTIONS.sweep_interval_ms)
    assert world.log_start(LEGACY) == 0
    world.checkpoint([exclusive(2, attempt=2)], positions=[0, 0], retain=1)
    world.append(LEGACY, 1)
    world.work(3 * OPTIONS.sweep_interval_ms)
    assert world.log_start(LEGACY) == 4
    assert LEGACY.topic in world.log.topics()
    assert not world.seen.errors


def test_the_size_of_what_is_cut_is_estimated_from_some_frames(world: World) -> None:
    world.append(KEYED_LOG[0], 40)
    world.append(OUTPUT_LOG[0], 10)
    world.commit(commit_marker(1, 0, 5))
    world.checkpoint(positions=[30, 0])
    world.work()
    assert (world.seen.trimmed, world.seen.trimmed_bytes) == (35, 35 * len(b"frame"))
    assert world.log_start(COMMITS_LOG[0]) == 0


# --- what a job was started from -------------------------------------------------------------------------------------


def test_what_a_job_starts_from_stays_until_it_has_a_checkpoint_of_its_own(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.submit(restore=RestoreSettings(path=f"s3://bucket/x/{metadata(1)}", checksum=1))
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(1))
    world.work(2 * LATER_MS)
    assert world.storage.paths() == sorted([metadata(1), exclusive(1)])
    world.checkpoint([exclusive(2, attempt=2)])
    world.work(2 * LATER_MS)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2, attempt=2)])


@pytest.mark.parametrize("mode", RestoreMode)
def test_a_checkpoint_that_another_job_starts_from_stays_and_longer_if_it_was_claimed(
    world: World, mode: RestoreMode
) -> None:
    world.checkpoint([exclusive(1), shared(1)])
    world.submit(restore=RestoreSettings(path=metadata(1), checksum=1, mode=mode), job=SHOP)
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(1))
    world.checkpoint([exclusive(2)])
    world.work(2 * LATER_MS)
    assert {metadata(1), exclusive(1), shared(1)} <= set(world.storage.paths())

    shop = next(record for record in world.registry.jobs() if record.job == SHOP)
    for checkpoint, base in ((7, 0), (8, 7)):
        own = write_metadata(world.storage, checkpoint, [shared(1)], base=base)
        world.registry.add_checkpoint(world.epoch, SHOP, shop.attempt, own, 2)
    world.log.create_topics([TopicSpec(commits_topic(SHOP), 2, {})])
    world.work(2 * LATER_MS)
    left = {metadata(2), exclusive(2), metadata(7), metadata(8)}
    assert set(world.storage.paths()) == (left | {shared(1)} if mode is RestoreMode.CLAIM else left)
    assert not world.seen.errors


def test_what_was_claimed_stays_while_several_first_checkpoints_may_be_under_way(world: World) -> None:
    world.checkpoint([exclusive(1), shared(1)])
    world.submit(restore=RestoreSettings(path=metadata(1), checksum=1, mode=RestoreMode.CLAIM))
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(1))
    world.checkpoint([], retain=2)  # and another one that was triggered before it, and refers to shared(1), comes late
    world.work(2 * LATER_MS)
    assert {metadata(1), exclusive(1), shared(1)} <= set(world.storage.paths())
    world.checkpoint([], others=[shared(1)], retain=2)
    world.checkpoint([], others=[shared(1)], base=2, retain=2)
    world.work(2 * LATER_MS)
    assert world.storage.paths() == sorted([shared(1), metadata(3), metadata(4)])


@pytest.mark.parametrize("status", [JobStatus.CANCELED, JobStatus.FINISHED])
def test_what_an_ended_job_was_started_from_need_not_stay(world: World, status: JobStatus) -> None:
    world.checkpoint([exclusive(1)])
    world.submit(restore=RestoreSettings(path=metadata(1), checksum=1, mode=RestoreMode.CLAIM))
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(1))
    world.end(status)
    world.work(2 * LATER_MS)
    assert world.storage.paths() == []


def test_a_job_that_another_one_starts_from_is_not_purged_until_that_one_needs_it_no_more(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.submit(restore=RestoreSettings(path=metadata(1), checksum=1), job=SHOP)
    world.end()
    world.send(PurgeJob(epoch=world.epoch, job=JOB, submitted_ms=world.record.submitted_ms))
    world.work(2 * OPTIONS.ended_job_ttl_ms)
    assert world.storage.paths() == sorted([metadata(1), exclusive(1)])
    assert set(known(world)) == {JOB, SHOP}

    shop = next(record for record in world.registry.jobs() if record.job == SHOP)
    world.registry.save_job(world.epoch, msgspec.structs.replace(shop, status=JobStatus.FAILED))
    world.work(2 * OPTIONS.ended_job_ttl_ms)
    assert world.storage.paths() == []
    assert known(world) == []


def savepoint(world: World) -> tuple[str, list[str]]:
    """Outside of every job's sweep: its ``_metadata``, and all of its files. Somebody keeps others in its folder."""
    folder = savepoint_folder(None, JOB, CheckpointId(1), 5)
    name = with_checksum(savepoint_state_path(world.record.attempt, TOTALS, 0, "rows"), 7)
    paths = [f"{folder}/_metadata", f"{folder}/{name}"]
    for path in (*paths, f"{folder}/notes.txt", f"{folder}/below/{name}"):
        world.storage.write(path, b"12345")
    return paths[0], paths


def test_a_claimed_savepoint_goes_when_no_checkpoint_needs_it(world: World) -> None:
    path, files = savepoint(world)
    world.submit(restore=RestoreSettings(path=path, checksum=1, mode=RestoreMode.CLAIM))
    world.work(2 * LATER_MS)
    assert set(files) <= set(world.storage.paths())
    world.checkpoint([], others=[files[1]], retain=2)
    world.work(LATER_MS)
    assert set(files) <= set(world.storage.paths())  # Another one that was triggered at the same time may need them.
    world.checkpoint([], base=1, retain=2)
    world.work(LATER_MS)
    assert [file for file in files if file in world.storage.paths()] == [files[1]]
    world.checkpoint([], base=2)
    world.work(2 * LATER_MS)
    left = [left.removeprefix(f"{folder_of(path)}/") for left in world.storage.paths() if "savepoint" in left]
    assert [name.partition("/")[0] for name in left] == ["below", "notes.txt"]
    assert Verdict.DELETE_CLAIMED in {verdict for verdict, _, _ in world.seen.deleted}


@pytest.mark.parametrize("mode", [RestoreMode.NO_CLAIM, RestoreMode.CLAIM])
def test_a_savepoint_stays_that_was_not_claimed_or_that_another_job_may_start_from(
    world: World, mode: RestoreMode
) -> None:
    path, files = savepoint(world)
    world.submit(restore=RestoreSettings(path=path, checksum=1, mode=mode))
    world.submit(restore=RestoreSettings(path=path, checksum=1), job=SHOP)
    world.checkpoint([exclusive(1, attempt=2)])
    world.work(2 * LATER_MS)
    assert set(files) <= set(world.storage.paths())


def test_a_savepoint_elsewhere_needs_nothing_here(world: World) -> None:
    world.checkpoint([exclusive(1)])
    record = write_metadata(world.storage, 2, [], kind="savepoint")
    record = msgspec.structs.replace(record, metadata_path="s3://elsewhere/savepoint-1/_metadata")
    world.registry.add_checkpoint(world.epoch, JOB, world.record.attempt, record, 1)
    world.checkpoint([exclusive(3)])
    world.work(2 * LATER_MS)
    assert not world.seen.errors
    assert metadata(1) not in world.storage.paths()


# --- uploads ---------------------------------------------------------------------------------------------------------


def test_uploads_that_nobody_finishes_are_aborted(world: World) -> None:
    world.checkpoint([exclusive(1)])
    for path in (shared(1, "big"), shared(9, "big"), "orders/savepoints/x/rows", "orders2/shared/1-a-0-a1-x"):
        world.storage.begin_upload(path)
    world.work(OPTIONS.grace_age_ms // 2)
    assert len(world.storage.unfinished_uploads("orders/")) == 3
    world.work(LATER_MS)
    left = [upload.path for upload in world.storage.unfinished_uploads("orders/")]
    assert left == [shared(9, "big"), "orders/savepoints/x/rows"]
    assert (Verdict.DELETE_UNFINISHED, 1, 0) in world.seen.deleted
    world.work(3_600_000 + LATER_MS)
    assert [upload.path for upload in world.storage.unfinished_uploads("orders/")] == [shared(9, "big")]
    assert len(world.storage.unfinished_uploads("orders2/")) == 1


def test_uploads_that_can_not_be_listed_hold_up_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.append(KEYED_LOG[1], 5)
    world.checkpoint([exclusive(1)], positions=[0, 1])
    world.checkpoint([exclusive(2)], positions=[0, 3])
    world.storage.begin_upload(shared(1, "big"))
    for _ in range(20):
        world.storage.faults.fail_next("uploads", StorageError("not without boto3"))
    world.work(OPTIONS.grace_age_ms + OPTIONS.sweep_interval_ms)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2)])
    assert world.log_start(KEYED_LOG[1]) == 3
    assert 1 < len(world.seen.upload_errors) < 20
    assert not world.seen.errors
    warnings = [record.message for record in caplog.records if "Unfinished uploads" in record.message]
    assert warnings == ["Unfinished uploads of job orders stay, the rest of it is cleaned: not without boto3"]
    world.work(20 * OPTIONS.sweep_interval_ms)
    assert len(world.seen.upload_errors) == 20
    assert not world.storage.unfinished_uploads("orders/")


def test_a_job_is_purged_though_its_uploads_can_not_be_listed(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.end()
    for _ in range(100):
        world.storage.faults.fail_next("uploads", StorageError("not without boto3"))
    world.send(PurgeJob(epoch=world.epoch, job=JOB, submitted_ms=world.record.submitted_ms))
    world.work(OPTIONS.prompt_interval_ms + 2 * OPTIONS.purge_hold_ms)
    assert not world.storage.paths()
    assert not world.registry.jobs()


# --- several cleaners ------------------------------------------------------------------------------------------------


def test_a_job_is_left_to_the_cleaner_that_has_claimed_it_until_that_one_is_gone(world: World) -> None:
    world.process = world.new_process("a")
    world.work()
    other = World(OPTIONS)
    other.clock, other.registry, other.storage = world.clock, world.registry, world.storage
    other.cluster, other.log = world.cluster, world.log
    other.process = other.new_process("b")
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    other.work(OPTIONS.claim_ttl_ms // 2)
    assert metadata(1) in world.storage.paths()
    assert other.seen.swept_ms > 0  # What it has to look at itself is nothing.
    other.work(OPTIONS.claim_ttl_ms)
    assert metadata(1) not in world.storage.paths()
    assert not other.seen.errors


def test_a_claim_is_kept_by_working(world: World) -> None:
    world.process = world.new_process("a")
    for _ in range(4):
        world.work(OPTIONS.claim_ttl_ms // 2)
        assert not world.registry.claim(f"clean:{JOB}", "b", 1)


def test_a_registry_that_cannot_be_asked_for_the_claim_is_an_error(world: World) -> None:
    world.process = world.new_process("a")
    world.registry.faults.fail_next("claim", RegistryUnavailableError("no answer"))
    world.work()
    assert [str(error) for error in world.seen.errors] == ["no answer"]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_while_a_purge_runs_the_name_is_not_given_again(world: World) -> None:
    world.end()
    world.send(PurgeJob(epoch=world.epoch, job=JOB, submitted_ms=world.record.submitted_ms))
    world.work(OPTIONS.prompt_interval_ms)
    with pytest.raises(StaleAttemptError):
        world.submit()
    world.work(2 * OPTIONS.purge_hold_ms)
    world.submit()
    assert known(world) == [JOB]
