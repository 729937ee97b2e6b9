"""What the cleaner does and when, one situation at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import msgspec
import pytest
from tests.unit.cleaner.jobs import (
    COMMITS_LOG,
    JOB,
    KEYED_LOG,
    OUTPUT_LOG,
    TOPICS,
    commit_marker,
    exclusive,
    job_record,
    merged,
    metadata,
    shared,
    write_metadata,
)
from tests.unit.cleaner.world import OPTIONS, World

from moorage.cleaner.classify import Verdict
from moorage.cleaner_process import calls
from moorage.errors import (
    CorruptDataError,
    LogError,
    LogUnavailableError,
    RegistryError,
    RegistryUnavailableError,
    StorageError,
    UnknownSchemaError,
)
from moorage.ids import CheckpointId, Epoch, JobId, TopicPartition
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState, PurgeJob, TrimExchange
from moorage.messages.registry import JobStatus
from moorage.naming import CLEANUP_TOPIC, source_group
from moorage.ports import TopicSpec
from moorage.testing.memory_log import MemoryLog
from moorage.testing.memory_registry import MemoryRegistry

LATER_MS = OPTIONS.sweep_interval_ms + OPTIONS.grace_age_ms


@pytest.fixture
def world() -> World:
    world = World()
    world.submit()
    return world


def discard(world: World, checkpoint: int) -> None:
    world.send(DiscardCheckpoint(epoch=world.epoch, job=JOB, checkpoint=CheckpointId(checkpoint)))


def purge(world: World) -> None:
    world.send(PurgeJob(epoch=world.epoch, job=JOB, submitted_ms=world.record.submitted_ms))


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_subsumed_checkpoint_goes_soon_after_its_message_but_not_what_others_share(world: World) -> None:
    world.checkpoint([exclusive(1), shared(1, "kept"), shared(1, "superseded")])
    world.work()
    world.checkpoint([exclusive(2)], others=[shared(1, "kept")])
    discard(world, 1)
    world.work(OPTIONS.prompt_interval_ms // 2)
    assert metadata(1) in world.storage.paths()
    world.work(OPTIONS.prompt_interval_ms)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2), shared(1, "kept")])
    assert {verdict for verdict, _, _ in world.seen.deleted} == {Verdict.DELETE_SUBSUMED}
    assert sum(files for _, files, _ in world.seen.deleted) == 3
    assert sum(size for _, _, size in world.seen.deleted) > 10
    assert world.seen.backlogs[-1] == (0, 0, None)
    assert max(files for files, _, _ in world.seen.backlogs) == 3


def test_a_merged_file_goes_when_no_segment_of_it_is_needed(world: World) -> None:
    world.checkpoint([merged(1, shared=False), merged(1, shared=True)])
    world.checkpoint([merged(2, shared=False), merged(2, shared=True)], others=[merged(1, shared=True)])
    world.work(OPTIONS.sweep_interval_ms)
    assert world.storage.paths() == sorted(
        [metadata(2), merged(2, shared=False), merged(2, shared=True), merged(1, shared=True)]
    )
    world.checkpoint([merged(3, shared=True)], others=[merged(2, shared=True)])
    world.work(OPTIONS.sweep_interval_ms)
    assert world.storage.paths() == sorted([metadata(3), merged(3, shared=True), merged(2, shared=True)])


def test_without_a_single_message_everything_goes_with_the_next_sweep(world: World) -> None:
    world.work()
    for n in range(1, 4):
        world.checkpoint([exclusive(n), shared(n)])
    world.work(OPTIONS.sweep_interval_ms)
    assert world.storage.paths() == sorted([metadata(3), exclusive(3), shared(3)])


def test_an_aborted_checkpoint_goes_when_it_is_told_and_else_with_the_grace_age(world: World) -> None:
    world.checkpoint([exclusive(1)])
    told, untold = (world.registry.next_checkpoint_id(world.epoch, JOB) for _ in range(2))
    world.storage.write(exclusive(told), b"")
    world.storage.write(shared(untold), b"")
    world.checkpoint([exclusive(4)])
    world.work()
    discard(world, told)
    world.send(DiscardState(epoch=world.epoch, job=JOB, checkpoint=CheckpointId(untold), paths=(shared(untold),)))
    world.work(2 * OPTIONS.prompt_interval_ms)
    assert world.storage.paths() == sorted([metadata(4), exclusive(4), shared(untold)])
    world.work(LATER_MS)
    assert world.storage.paths() == sorted([metadata(4), exclusive(4)])


def test_a_checkpoint_in_progress_is_left_alone_however_long_it_takes(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.storage.write(shared(2), b"")
    world.storage.write(metadata(2), b"")
    world.work(10 * LATER_MS)
    assert {shared(2), metadata(2)} <= set(world.storage.paths())


def test_a_late_or_doubled_message_does_nothing_to_a_retained_checkpoint(world: World) -> None:
    world.checkpoint([exclusive(1)])
    for _ in range(2):
        discard(world, 1)
        world.work(LATER_MS)
    assert world.storage.paths() == [metadata(1), exclusive(1)]


def test_messages_about_a_job_that_nobody_knows_do_nothing(world: World) -> None:
    world.send(DiscardCheckpoint(epoch=world.epoch, job=JobId("gone"), checkpoint=CheckpointId(1)))
    world.storage.write("gone/chk-1/_metadata", b"")
    world.work(LATER_MS)
    assert world.storage.paths() == ["gone/chk-1/_metadata"]
    assert not world.seen.errors


@pytest.mark.parametrize("calls_before_crash", range(1, 25))
def test_a_crash_at_any_call_leaves_nothing_broken_and_nothing_behind(world: World, calls_before_crash: int) -> None:
    for n in range(1, 6):
        world.checkpoint([exclusive(n), shared(n)], others=[shared(n - 1)] if n > 1 else [], positions=[0, 0])
    world.make_calls(calls_before_crash)
    stored = set(world.storage.paths())
    assert {metadata(5), exclusive(5), shared(5), shared(4)} <= stored
    for n in range(1, 5):
        assert metadata(n) not in stored or {exclusive(n), shared(n)} <= stored
    world.process = world.new_process()
    world.work()
    assert world.storage.paths() == sorted([metadata(5), exclusive(5), shared(5), shared(4)])


def test_deletes_keep_to_the_rate(world: World) -> None:
    for n in range(1, 11):
        world.checkpoint([shared(n, name) for name in "abcdefghi"])
    started_ms = world.clock.monotonic_ms()
    world.work()
    assert len(world.storage.paths()) == 10
    assert world.clock.monotonic_ms() - started_ms >= 1_000 * 90 // OPTIONS.deletes_per_second


def test_a_dry_run_touches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World(msgspec.structs.replace(OPTIONS, dry_run=True))
    world.submit()
    for partition in KEYED_LOG:
        world.append(partition, 3)
    world.checkpoint([exclusive(1)], positions=[1, 1])
    world.checkpoint([exclusive(2)], positions=[2, 2])
    before = world.storage.paths()
    with caplog.at_level("INFO"):
        world.work(LATER_MS)
        world.end()
        purge(world)
        world.work(LATER_MS)
    assert world.storage.paths() == before
    assert world.log_start(KEYED_LOG[0]) == 0
    assert "would delete 2 files of job orders (subsumed)" in caplog.text
    assert f"{KEYED_LOG[0].topic}/0 to 2" in caplog.text
    assert "would purge job orders" in caplog.text
    assert world.seen.backlogs[-1][0] == 2


# --- what can't be read ----------------------------------------------------------------------------------------------


def test_nothing_of_a_job_goes_while_one_of_its_manifests_is_corrupt(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)], retain=2)
    world.checkpoint([exclusive(3)], retain=2)
    world.storage.corrupt(metadata(2))
    before = world.storage.paths()
    world.work(LATER_MS)
    assert world.storage.paths() == before
    assert {type(error) for error in world.seen.errors} == {CorruptDataError}
    assert "checkpoint 2 is retained, but its metadata can't be read" in str(world.seen.errors[0])
    assert world.seen.swept_ms == 0

    world.storage.corrupt(metadata(2))  # flips the same bits back
    world.work(OPTIONS.retry_max_ms)
    assert metadata(1) not in world.storage.paths()
    assert world.seen.swept_ms > 0


def test_a_manifest_that_breaks_later_is_noticed_by_the_next_full_sweep(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.work()
    assert not world.seen.errors
    world.storage.corrupt(metadata(1))
    world.work(OPTIONS.sweep_interval_ms)
    assert isinstance(world.seen.errors[0], CorruptDataError)


def test_positions_that_cannot_be_read_stop_everything_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.checkpoint([exclusive(1)], positions=[0, 0])
    world.checkpoint([exclusive(2)], positions=[0, 0])
    monkeypatch.setattr(calls, "decode_positions", _corrupt)
    world.work()
    assert metadata(1) in world.storage.paths()
    assert isinstance(world.seen.errors[0], CorruptDataError)


def _corrupt(_: bytes) -> None:
    raise CorruptDataError("channel positions: unknown version")


@pytest.mark.parametrize("calls_before", range(1, 8))
def test_a_checkpoint_that_is_subsumed_and_deleted_meanwhile_is_no_error(world: World, calls_before: int) -> None:
    world.checkpoint([exclusive(1)])
    world.make_calls(calls_before)
    world.checkpoint([exclusive(2)])
    world.storage.delete([metadata(1), exclusive(1)])  # as another cleaner did
    world.work(OPTIONS.sweep_interval_ms)
    assert not world.seen.errors
    assert world.storage.paths() == sorted([metadata(2), exclusive(2)])


def test_a_registry_that_remembers_nothing_while_the_storage_does_stops_the_deletion(world: World) -> None:
    for n in range(1, 4):
        world.checkpoint([exclusive(n)])
    before = world.storage.paths()
    world.registry.lose_data()
    lease = world.registry.acquire_lease("coordinator", 1_000_000_000)
    assert lease is not None
    world.registry.save_job(lease.epoch, job_record(attempt=9))
    world.work(LATER_MS)
    assert world.storage.paths() == before
    assert isinstance(world.seen.errors[-1], RegistryError)
    assert "orders/chk-" in str(world.seen.errors[-1])


def test_the_first_metadata_of_a_job_is_no_reason_to_complain(world: World) -> None:
    world.storage.write(metadata(1), b"")
    world.work(OPTIONS.sweep_interval_ms)
    assert not world.seen.errors


# --- order of observation --------------------------------------------------------------------------------------------


class Watched(MemoryRegistry):
    """Something happens right before the n-th reading call."""

    event: Callable[[], None] | None = None
    calls_before = 0

    def _call(self, operation: str, epoch: Epoch | None = None) -> AbstractContextManager[None]:
        if self.event is not None and self.calls_before == 0:
            event, self.event = self.event, None
            event()
        self.calls_before -= 1
        return super()._call(operation, epoch)


def complete_the_pending_one(world: World) -> list[str]:
    record = write_metadata(world.storage, 2, [shared(2), shared(1)], base=1)
    world.registry.add_checkpoint(world.epoch, JOB, world.record.attempt, record, 1)
    return [shared(1), shared(2)]


def trigger_the_next_one(world: World) -> list[str]:
    checkpoint = world.registry.next_checkpoint_id(world.epoch, JOB)
    path = exclusive(checkpoint, attempt=world.record.attempt)
    world.storage.write(path, b"")
    return [path]


def start_a_new_attempt(world: World) -> list[str]:
    world.start_attempt()
    return [shared(1), *trigger_the_next_one(world)]


def complete_and_start_a_new_attempt(world: World) -> list[str]:
    return [*complete_the_pending_one(world), *start_a_new_attempt(world)]


def start_a_new_attempt_and_complete(world: World) -> list[str]:
    world.start_attempt()
    attempt = world.record.attempt
    files = [exclusive(3, attempt=attempt), shared(3, attempt=attempt)]
    world.checkpoint(files, others=[shared(1)])
    return [shared(1), *files, *trigger_the_next_one(world)]


def submit_again(world: World) -> list[str]:
    world.clock.advance(1)
    world.submit()
    path = exclusive(3, attempt=world.record.attempt)
    world.checkpoint([path])
    return [path, *trigger_the_next_one(world)]


def end_and_submit_again(world: World) -> list[str]:
    world.end()
    return submit_again(world)


@pytest.mark.parametrize("calls_before", range(5))
@pytest.mark.parametrize(
    ("event", "status"),
    [
        (complete_the_pending_one, JobStatus.RUNNING),
        (start_a_new_attempt, JobStatus.RUNNING),
        (complete_and_start_a_new_attempt, JobStatus.RUNNING),
        (start_a_new_attempt_and_complete, JobStatus.RUNNING),
        (end_and_submit_again, JobStatus.RUNNING),
        (submit_again, JobStatus.CANCELED),
    ],
)
def test_whatever_happens_between_two_reads_what_counts_is_kept(
    event: Callable[[World], list[str]], status: JobStatus, calls_before: int
) -> None:
    """Without any grace, so that the argument stands alone."""
    world = World()
    registry = world.registry = Watched(world.clock)
    lease = registry.acquire_lease("coordinator", 1_000_000_000)
    assert lease is not None
    world.epoch = lease.epoch
    world.submit()
    world.checkpoint([shared(1)])
    registry.next_checkpoint_id(world.epoch, JOB)
    world.storage.write(shared(2), b"")
    world.end(status)
    needed: list[str] = []
    registry.event, registry.calls_before = lambda: needed.extend(event(world)), calls_before
    facts = calls.observe(registry, JOB, frozenset())
    assert facts is not None
    if not needed:  # then it happens right afterwards
        registry.event = None
        needed.extend(event(world))
    manifests = [calls.read_manifest(world.storage, record) for record in facts.retained]
    plan = calls.list_and_plan(world.storage, facts, manifests, now_ms=world.clock.wall_ms(), grace_age_ms=0)
    assert not {deletion.path for deletion in plan.deletions} & set(needed)


# --- logs ------------------------------------------------------------------------------------------------------------


def test_logs_are_cut_to_the_oldest_retained_position_and_to_the_sinks_markers(world: World) -> None:
    for partition in (*KEYED_LOG, *OUTPUT_LOG):
        world.append(partition, 10)
    world.checkpoint(positions=[3, 4], retain=2)
    world.checkpoint(positions=[5, 6], retain=2)
    world.commit(commit_marker(1, 0, 7))
    world.work()
    assert [world.log_start(partition) for partition in (*KEYED_LOG, *OUTPUT_LOG)] == [3, 4, 7, 0]
    assert world.seen.trimmed == 14

    world.checkpoint(positions=[8, 9], retain=2)
    world.commit(commit_marker(2, 0, 8))
    world.commit(commit_marker(2, 1, 9))
    world.send(TrimExchange(epoch=world.epoch, job=JOB))
    world.work(OPTIONS.prompt_interval_ms)
    assert [world.log_start(partition) for partition in (*KEYED_LOG, *OUTPUT_LOG)] == [5, 6, 8, 9]


def test_markers_are_read_once_and_then_what_is_new(world: World) -> None:
    record = world.registry.jobs()[0]
    world.commit(commit_marker(1, 0, 7))
    world.commit(commit_marker(1, 1, 9))
    known = calls.read_markers(world.log, record)
    world.log.delete_records({COMMITS_LOG[0]: 1})  # whoever reads from the beginning does not find it any more
    world.commit(commit_marker(2, 1, 11))
    again = calls.read_markers(world.log, record, known)
    assert {group: marker.checkpoint for (_, group), marker in again.markers.items()} == {0: 1, 1: 2}
    assert again.positions == {COMMITS_LOG[0]: 1, COMMITS_LOG[1]: 2}
    assert calls.read_markers(world.log, record, again) == again


@pytest.mark.parametrize("is_known", [False, True], ids=["another-life", "a-topic-that-is-shorter"])
def test_markers_are_read_anew_where_the_topic_is_not_the_one_it_was(world: World, is_known: bool) -> None:
    record = world.registry.jobs()[0]
    for checkpoint in (1, 2):
        world.commit(commit_marker(checkpoint, 0, 7))
    known = calls.read_markers(world.log, record)
    world.log.delete_topics([COMMITS_LOG[0].topic])
    world.log.create_topics(TOPICS)
    world.commit(commit_marker(8, 0, 3))
    if not is_known:
        record = msgspec.structs.replace(record, submitted_ms=record.submitted_ms + 1)
        world.commit(commit_marker(9, 0, 4))
        world.commit(commit_marker(9, 1, 5))
    fresh = calls.read_markers(world.log, record, known)
    newest = {group: marker.checkpoint for (_, group), marker in fresh.markers.items()}
    assert newest == ({0: 8} if is_known else {0: 9, 1: 9})


def test_nothing_is_cut_before_the_first_checkpoint_nor_for_a_savepoint(world: World) -> None:
    world.append(KEYED_LOG[0], 10)
    world.work(LATER_MS)
    assert world.log_start(KEYED_LOG[0]) == 0
    world.checkpoint(positions=[2, 0], kind="savepoint")
    world.work(LATER_MS)
    assert world.log_start(KEYED_LOG[0]) == 0
    world.checkpoint(positions=[5, 0])
    world.work(LATER_MS)
    assert world.log_start(KEYED_LOG[0]) == 5


def test_a_log_that_was_cut_is_not_asked_about_again(world: World) -> None:
    world.append(KEYED_LOG[0], 10)
    world.checkpoint(positions=[5, 0])
    world.work()
    world.log.faults.fail_next("offsets", LogError("asked again"))
    world.send(TrimExchange(epoch=world.epoch, job=JOB))
    world.work(OPTIONS.prompt_interval_ms)
    assert not world.seen.errors


class Tolerant(MemoryLog):
    """Kafka while a topic's metadata has not spread: what is not there needs no deletion."""

    def delete_records(self, before: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
        return {}


def test_a_log_that_was_not_cut_is_an_error_which_is_tried_again(world: World) -> None:
    world.append(KEYED_LOG[0], 10)
    with pytest.raises(LogError, match="before offset 5"):
        calls.trim(world.registry, Tolerant(world.cluster), world.record, {KEYED_LOG[0]: (0, 5)})


# --- when something fails --------------------------------------------------------------------------------------------


def test_a_registry_that_is_gone_is_asked_again_after_a_pause(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    world.registry.available = False
    world.work(OPTIONS.retry_max_ms)
    failed = len(world.seen.errors)
    assert 2 <= failed <= 5
    assert isinstance(world.seen.errors[0], RegistryUnavailableError)
    world.registry.available = True
    world.work(OPTIONS.retry_max_ms)
    assert metadata(1) not in world.storage.paths()


def test_a_storage_that_fails_is_tried_again_with_longer_and_longer_pauses(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    for _ in range(3):
        world.storage.faults.fail_next("delete", StorageError("disk on fire"))
    world.work(OPTIONS.retry_initial_ms * (1 + 2 + 4) - 10)
    assert [str(error) for error in world.seen.errors] == ["disk on fire"] * 3
    assert metadata(1) in world.storage.paths()
    world.work(50)
    assert metadata(1) not in world.storage.paths()


def test_a_delete_whose_answer_was_lost_is_done_again(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    world.storage.faults.fail_next("delete", StorageError("no answer"), after=True)
    world.work(OPTIONS.retry_initial_ms)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2)])


def test_one_job_that_fails_holds_up_no_other(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    world.storage.corrupt(metadata(2))
    graph = msgspec.structs.replace(world.record.graph, job=JobId("zebra"))
    record = msgspec.structs.replace(world.record, job=JobId("zebra"), graph=graph)
    world.registry.save_job(world.epoch, record)
    world.work(OPTIONS.sweep_interval_ms)
    assert world.seen.errors
    assert world.seen.cleaned > 0
    assert world.seen.swept_ms == 0


def test_a_bug_is_not_taken_for_an_outage(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(calls, "list_and_plan", broken)
    with pytest.raises(ZeroDivisionError):
        world.work()


# --- messages --------------------------------------------------------------------------------------------------------


def test_a_message_that_nobody_understands_is_counted_and_skipped(world: World) -> None:
    topic = TopicPartition(CLEANUP_TOPIC, 0)
    world.cluster.append(topic, b"nonsense")
    world.cluster.append(topic, b"\xc3\x01" + bytes(8))
    world.checkpoint([exclusive(1)])
    world.work()
    world.checkpoint([exclusive(2)])
    discard(world, 1)
    world.work(OPTIONS.prompt_interval_ms)
    assert [type(error) for error in world.seen.rejected] == [CorruptDataError, UnknownSchemaError]
    assert metadata(1) not in world.storage.paths()


def test_the_first_to_come_makes_the_cleanup_topic() -> None:
    world = World()
    world.log.create_topics([TopicSpec(topic.name, topic.partitions, {}) for topic in TOPICS[1:]])
    world.registry.save_job(world.epoch, job_record())
    world.work()
    assert world.log.topics()[CLEANUP_TOPIC] == 1
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    discard(world, 1)
    world.work(OPTIONS.prompt_interval_ms)
    assert metadata(1) not in world.storage.paths()
    assert not world.seen.errors


def test_cleaning_goes_on_without_the_cleanup_topic(world: World) -> None:
    world.log.faults.fail_next("create_topics", LogUnavailableError("nobody answers"))
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    world.work()
    assert metadata(1) not in world.storage.paths()
    assert "nobody answers" in str(world.seen.errors[0])

    world.work(OPTIONS.retry_max_ms)
    world.checkpoint([exclusive(3)])
    discard(world, 2)
    world.work(OPTIONS.prompt_interval_ms)
    assert metadata(2) not in world.storage.paths()


def test_a_reader_that_retention_has_overtaken_begins_again(world: World) -> None:
    world.work()
    world.log.faults.fail_next("fetch", LogUnavailableError("the offset is gone"))
    world.work(OPTIONS.retry_max_ms)
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    discard(world, 1)
    world.work(OPTIONS.prompt_interval_ms)
    assert metadata(1) not in world.storage.paths()


# --- the end of a job ------------------------------------------------------------------------------------------------


def test_checkpoints_of_an_ended_job_stay_as_long_as_the_registry_has_them(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.storage.write(exclusive(2), b"")
    world.registry.next_checkpoint_id(world.epoch, JOB)
    world.end(JobStatus.FAILED)
    world.work(LATER_MS)
    assert world.storage.paths() == sorted([metadata(1), exclusive(1)])
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(1))
    world.work(OPTIONS.sweep_interval_ms)
    assert world.storage.paths() == []


def test_a_purge_leaves_nothing_and_the_registry_forgets_the_job_last(world: World) -> None:
    world.log.create_topics([TopicSpec("moorage.orders2.commits", 1, {}), TopicSpec("moorage.orders.mine", 1, {})])
    world.cluster.groups[source_group(JOB, world.record.graph.vertices[0].operators[0].uid)] = {}
    world.checkpoint([exclusive(1), shared(1)])
    world.end()
    purge(world)
    world.work(OPTIONS.prompt_interval_ms)
    assert world.storage.paths() == []
    assert sorted(world.log.topics()) == [CLEANUP_TOPIC, "moorage.orders.mine", "moorage.orders2.commits"]
    assert world.cluster.groups == {}
    assert world.registry.checkpoints(JOB) == []
    assert world.seen.topics == 3
    assert [record.job for record in world.registry.jobs()] == [JOB]
    world.work(OPTIONS.purge_hold_ms)
    assert world.registry.jobs() == []


@pytest.mark.parametrize("calls_before_crash", range(1, 20))
def test_a_purge_that_was_interrupted_is_taken_up_by_the_next_cleaner(world: World, calls_before_crash: int) -> None:
    world.checkpoint([exclusive(1), shared(1)])
    world.end()
    purge(world)
    world.make_calls(calls_before_crash)
    world.process = world.new_process()
    world.work(2 * OPTIONS.purge_hold_ms + OPTIONS.prompt_interval_ms)
    assert world.registry.jobs() == []
    assert world.storage.paths() == []
    assert sorted(world.log.topics()) == [CLEANUP_TOPIC]


def test_an_old_purge_does_nothing_to_a_job_that_was_submitted_again(world: World) -> None:
    world.end()
    purge(world)
    world.work(2 * OPTIONS.purge_hold_ms)
    assert world.registry.jobs() == []
    world.submit()
    world.checkpoint([exclusive(1, attempt=2)])
    world.end()
    world.process = world.new_process()  # which reads the old message again
    world.work(LATER_MS)
    assert world.storage.paths() == sorted([metadata(1), exclusive(1, attempt=2)])
    assert OUTPUT_LOG[0].topic in world.log.topics()


def test_a_purge_of_a_running_job_is_ignored(world: World) -> None:
    world.checkpoint([exclusive(1)])
    purge(world)
    world.work(LATER_MS)
    assert world.storage.paths() == [metadata(1), exclusive(1)]


def test_savepoints_outlive_a_purge_until_they_are_disposed_of(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2, "all")], kind="savepoint")
    world.end()
    purge(world)
    world.work(LATER_MS)
    assert world.storage.paths() == sorted([metadata(2), exclusive(2, "all")])
    assert [record.job for record in world.registry.jobs()] == [JOB]
    world.registry.remove_checkpoint(world.epoch, JOB, CheckpointId(2))
    purge(world)
    world.work(2 * OPTIONS.purge_hold_ms)
    assert world.storage.paths() == []
    assert world.registry.jobs() == []


# --- when asked ------------------------------------------------------------------------------------------------------


def test_sweep_now_does_not_wait_for_the_interval(world: World) -> None:
    world.work()
    world.checkpoint([exclusive(1)])
    world.checkpoint([exclusive(2)])
    world.process.sweep_now()
    world.work()
    assert metadata(1) not in world.storage.paths()


def test_a_closed_cleaner_drops_what_comes_back(world: World) -> None:
    world.checkpoint([exclusive(1)])
    world.process.step(world.clock.monotonic_ms())
    assert world.executor.calls == 1
    world.process.close()
    world.executor.run_all()
    assert world.process.is_idle
