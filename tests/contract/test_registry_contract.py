"""What every ``ports.Registry`` promises, on the twin and on a real Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from moorage.adapters.redis_registry import RedisRegistry
from moorage.errors import BaseSubsumedError, FencedError, StaleAttemptError
from moorage.graph.job_graph import CheckpointConfig, JobGraph, JobVertex, OperatorKind, OperatorNode, RestartConfig
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorId, OperatorUid, VertexId, WorkerId
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, Lease, LineageSegment
from moorage.ports import COMPLETED_IDS_KEPT, Registry
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_registry import MemoryRegistry

JOB = JobId("orders")
OTHER_JOB = JobId("other")
NONE = CheckpointId(0)
SUBMITTED_MS = 1_700_000_000_123
Wait = Callable[[int], None]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.kafka)])
def registry_and_wait(request: pytest.FixtureRequest) -> Iterator[tuple[Registry, Wait]]:
    if request.param == "memory":
        clock = ManualClock()
        yield MemoryRegistry(clock), clock.advance
    else:
        registry = RedisRegistry(request.getfixturevalue("redis"), namespace=f"contract-{uuid.uuid4().hex}")
        registry.check()
        yield registry, lambda ms: time.sleep(ms / 1000)
        registry.close()


@pytest.fixture
def registry(registry_and_wait: tuple[Registry, Wait]) -> Registry:
    return registry_and_wait[0]


@pytest.fixture
def wait(registry_and_wait: tuple[Registry, Wait]) -> Wait:
    return registry_and_wait[1]


@pytest.fixture
def epoch(registry: Registry) -> Epoch:
    """Of a leader."""
    lease = registry.acquire_lease("leader", 60_000)
    assert lease is not None
    return lease.epoch


def job(
    attempt: int,
    name: JobId = JOB,
    status: JobStatus = JobStatus.RUNNING,
    submitted_ms: int = SUBMITTED_MS,
) -> JobRecord:
    operator = OperatorNode(
        uid=OperatorUid("orders"),
        operator_id=OperatorId("0" * 32),
        name="Größe",
        kind=OperatorKind.SOURCE,
        upstream=None,
    )
    vertex = JobVertex(vertex=VertexId("orders"), name="orders", operators=(operator,), parallelism=2)
    graph = JobGraph(
        job=name,
        pipeline_ref="orders.py:pipeline",
        max_parallelism=32,
        vertices=(vertex,),
        exchanges=(),
        checkpoint=CheckpointConfig(),
        restart=RestartConfig(),
        fingerprint="f",
    )
    return JobRecord(
        job=name,
        graph=graph,
        status=status,
        attempt=Attempt(attempt),
        submitted_ms=submitted_ms,
        base_checkpoint_id=NONE,
        slots=(WorkerId("w-1/ab"), WorkerId("w-2/cd")),
        lineage=(LineageSegment(Attempt(attempt), None, {VertexId("orders"): 2}),),
    )


def record(number: int, *, kind: str = "checkpoint", base: int = 0, attempt: int = 1) -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=CheckpointId(number),
        attempt=Attempt(attempt),
        kind=kind,  # type: ignore[arg-type]
        metadata_path=f"orders/chk-{number}/_metadata",
        metadata_bytes=1_000,
        metadata_checksum=2**64 - number,
        base=CheckpointId(base),
        triggered_ms=1,
        completed_ms=2,
        state_bytes=3,
    )


def add(registry: Registry, epoch: Epoch, *numbers: int, retain: int = 100) -> None:
    for number in numbers:
        registry.add_checkpoint(epoch, JOB, Attempt(1), record(number), retain)


def purge(registry: Registry) -> None:
    assert registry.remove_checkpoints(JOB, SUBMITTED_MS)
    assert registry.begin_purge(JOB, SUBMITTED_MS)
    registry.purge_job(JOB, SUBMITTED_MS)


def retained(registry: Registry) -> list[int]:
    return [known.checkpoint for known in registry.checkpoints(JOB)]


class TestLease:
    def test_one_holder_at_a_time(self, registry: Registry) -> None:
        assert registry.lease() is None
        assert registry.acquire_lease("a", 60_000) == Lease(holder="a", epoch=Epoch(1), ttl_ms=60_000)
        assert registry.acquire_lease("b", 60_000) is None
        lease = registry.lease()
        assert lease is not None
        assert (lease.holder, lease.epoch) == ("a", 1)
        assert 0 < lease.ttl_ms <= 60_000

    def test_it_expires_and_the_next_epoch_is_higher(self, registry: Registry, wait: Wait) -> None:
        assert registry.acquire_lease("a", 100) is not None
        wait(150)
        assert registry.lease() is None
        assert not registry.renew_lease("a", Epoch(1), 60_000)
        taken = registry.acquire_lease("b", 60_000)
        assert taken is not None
        assert taken.epoch == 2

    def test_renewing_prolongs_it(self, registry: Registry, wait: Wait) -> None:
        registry.acquire_lease("a", 200)
        for _ in range(4):
            wait(100)
            assert registry.renew_lease("a", Epoch(1), 200)
        assert registry.acquire_lease("b", 60_000) is None

    def test_who_lost_it_can_not_renew_it(self, registry: Registry, wait: Wait) -> None:
        registry.acquire_lease("a", 50)
        wait(100)
        registry.acquire_lease("b", 60_000)
        assert not registry.renew_lease("a", Epoch(1), 60_000)
        assert not registry.renew_lease("b", Epoch(1), 60_000)
        registry.release_lease("a", Epoch(1))
        assert registry.renew_lease("b", Epoch(2), 60_000)

    def test_a_released_lease_is_free(self, registry: Registry) -> None:
        registry.acquire_lease("a", 60_000)
        registry.release_lease("a", Epoch(1))
        registry.release_lease("a", Epoch(1))
        assert registry.lease() is None
        taken = registry.acquire_lease("b", 60_000)
        assert taken is not None
        assert taken.epoch == 2

    def test_the_holder_that_asks_again_fences_its_former_self(self, registry: Registry) -> None:
        registry.acquire_lease("a", 60_000)
        again = registry.acquire_lease("a", 60_000)
        assert again is not None
        assert again.epoch == 2
        with pytest.raises(FencedError):
            registry.save_job(Epoch(1), job(0))

    def test_epochs_go_on_from_the_time_of_day(self, registry: Registry) -> None:
        now = Epoch(1_999_999_999_999)
        taken = registry.acquire_lease("a", 60_000, above=now)
        assert taken is not None
        assert taken.epoch == now + 1
        known = registry.lease()
        assert known is not None
        assert (known.holder, known.epoch) == ("a", taken.epoch)
        assert registry.renew_lease("a", taken.epoch, 60_000)
        registry.save_job(taken.epoch, job(1))
        assert registry.next_checkpoint_id(taken.epoch, JOB) == 1
        with pytest.raises(FencedError, match=str(now + 1)):
            registry.save_job(now, job(2))

    def test_the_epoch_is_above_what_was_seen_elsewhere(self, registry: Registry) -> None:
        lease = registry.acquire_lease("a", 60_000, above=Epoch(41))
        assert lease is not None
        assert lease.epoch == 42


class TestFencing:
    @pytest.mark.parametrize(
        "change",
        [
            lambda r: r.save_job(Epoch(1), job(2)),
            lambda r: r.start_attempt(Epoch(1), job(2), CheckpointId(1)),
            lambda r: r.next_checkpoint_id(Epoch(1), JOB),
            lambda r: r.add_checkpoint(Epoch(1), JOB, Attempt(1), record(2), 1),
            lambda r: r.remove_checkpoint(Epoch(1), JOB, CheckpointId(1)),
        ],
        ids=["save_job", "start_attempt", "next_checkpoint_id", "add_checkpoint", "remove_checkpoint"],
    )
    def test_an_old_epoch_changes_nothing(self, registry: Registry, change: Callable[[Registry], object]) -> None:
        registry.acquire_lease("a", 60_000)
        registry.save_job(Epoch(1), job(1))
        add(registry, Epoch(1), 1)
        registry.release_lease("a", Epoch(1))
        registry.acquire_lease("b", 60_000)
        with pytest.raises(FencedError):
            change(registry)
        assert list(registry.jobs()) == [job(1)]
        assert retained(registry) == [1]
        assert registry.last_checkpoint_id(JOB) == 1
        assert list(registry.completed_ids(JOB)) == [1]

    def test_an_epoch_that_the_registry_has_forgotten_must_be_taken_anew(self, registry: Registry) -> None:
        with pytest.raises(FencedError):  # it has lost its data: ids would be given twice
            registry.next_checkpoint_id(Epoch(7), JOB)
        lease = registry.acquire_lease("a", 60_000, above=Epoch(7))
        assert lease is not None
        assert lease.epoch == 8
        assert registry.next_checkpoint_id(lease.epoch, JOB) == 1


class TestJobs:
    def test_a_record_comes_back_as_it_was(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(0))
        registry.save_job(epoch, job(3, OTHER_JOB))
        assert sorted(registry.jobs(), key=lambda r: r.job) == [job(0), job(3, OTHER_JOB)]
        registry.save_job(epoch, job(0, status=JobStatus.FAILED))
        assert job(0, status=JobStatus.FAILED) in registry.jobs()

    def test_saving_does_not_change_the_attempt(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1))
        for attempt in (0, 2):
            with pytest.raises(StaleAttemptError):
                registry.save_job(epoch, job(attempt))
        assert list(registry.jobs()) == [job(1)]

    def test_attempts_follow_one_another(self, registry: Registry, epoch: Epoch) -> None:
        assert registry.last_attempt(JOB) == 0
        registry.save_job(epoch, job(0))
        registry.start_attempt(epoch, job(1), NONE)
        registry.start_attempt(epoch, job(3), NONE)
        for attempt in (1, 2):
            with pytest.raises(StaleAttemptError):
                registry.start_attempt(epoch, job(attempt), NONE)
        assert list(registry.jobs()) == [job(3)]
        assert registry.last_attempt(JOB) == 3

    def test_starting_an_attempt_may_be_repeated(self, registry: Registry, epoch: Epoch) -> None:
        registry.start_attempt(epoch, job(1), NONE)
        registry.start_attempt(epoch, job(1), NONE)
        with pytest.raises(StaleAttemptError):
            registry.start_attempt(epoch, job(1, status=JobStatus.FAILED), NONE)
        assert list(registry.jobs()) == [job(1)]

    def test_an_attempt_starts_from_the_newest_checkpoint_only(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1))
        add(registry, epoch, 9, 10)
        for latest in (0, 9, 11):
            with pytest.raises(StaleAttemptError):
                registry.start_attempt(epoch, job(2), CheckpointId(latest))
        registry.start_attempt(epoch, job(2), CheckpointId(10))
        with pytest.raises(StaleAttemptError):
            registry.add_checkpoint(epoch, JOB, Attempt(1), record(11), 3)
        assert retained(registry) == [9, 10]

    def test_a_purged_name_goes_on_counting(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(0))
        registry.save_job(epoch, job(0, OTHER_JOB))
        registry.start_attempt(epoch, job(4), NONE)
        assert registry.next_checkpoint_id(epoch, JOB) == 1
        registry.add_checkpoint(epoch, JOB, Attempt(4), record(1, attempt=4), 3)
        registry.save_job(epoch, job(4, status=JobStatus.CANCELED))
        purge(registry)
        registry.purge_job(JOB, SUBMITTED_MS)
        assert list(registry.jobs()) == [job(0, OTHER_JOB)]
        assert retained(registry) == []
        assert list(registry.completed_ids(JOB)) == []
        assert registry.last_attempt(JOB) == 4
        assert registry.next_checkpoint_id(epoch, JOB) == 2
        registry.save_job(epoch, job(0))
        registry.save_job(epoch, job(0, status=JobStatus.RESTARTING))
        with pytest.raises(StaleAttemptError):
            registry.start_attempt(epoch, job(4), NONE)
        registry.start_attempt(epoch, job(5), NONE)
        assert registry.last_attempt(JOB) == 5


class TestCheckpoints:
    @pytest.fixture(autouse=True)
    def running(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1))

    def test_ids_are_given_once(self, registry: Registry, epoch: Epoch) -> None:
        assert registry.last_checkpoint_id(JOB) == 0
        assert [registry.next_checkpoint_id(epoch, JOB) for _ in range(3)] == [1, 2, 3]
        assert registry.last_checkpoint_id(JOB) == 3
        assert registry.next_checkpoint_id(epoch, OTHER_JOB) == 1

    def test_an_added_id_counts_as_given(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, 57)
        assert registry.next_checkpoint_id(epoch, JOB) == 58

    def test_the_oldest_beyond_the_retention_are_subsumed(self, registry: Registry, epoch: Epoch) -> None:
        for number in (8, 9, 10):
            assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(number), 3)) == []
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(11), 3)) == [record(8)]
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(12), 1)) == [
            record(9),
            record(10),
            record(11),
        ]
        assert list(registry.checkpoints(JOB)) == [record(12)]
        assert list(registry.completed_ids(JOB)) == [8, 9, 10, 11, 12]
        assert list(registry.checkpoints(OTHER_JOB)) == []

    def test_the_base_of_a_pending_one_is_kept(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, 1, 2, 3)
        subsumed = registry.add_checkpoint(epoch, JOB, Attempt(1), record(4), 1, CheckpointId(2))
        assert list(subsumed) == [record(1)]
        assert retained(registry) == [2, 3, 4]

    def test_one_whose_base_is_gone_is_refused(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, 1, 2, retain=1)
        with pytest.raises(BaseSubsumedError):
            registry.add_checkpoint(epoch, JOB, Attempt(1), record(3, base=1), 1)
        assert retained(registry) == [2]
        assert list(registry.completed_ids(JOB)) == [1, 2]
        built = record(4, base=2)
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), built, 1)) == [record(2)]
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), built, 1)) == []

    def test_one_below_a_completed_one_is_refused(self, registry: Registry, epoch: Epoch) -> None:
        """The cleaner may have taken its files for those of a checkpoint that was given up."""
        add(registry, epoch, 1, 3, retain=2)
        with pytest.raises(BaseSubsumedError):
            registry.add_checkpoint(epoch, JOB, Attempt(1), record(2, base=1), 2)
        assert retained(registry) == [1, 3]
        assert list(registry.completed_ids(JOB)) == [1, 3]

    def test_adding_again_changes_nothing(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, 1, 2, 3, retain=2)
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(3), 2)) == []
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(1), 2)) == []
        assert retained(registry) == [2, 3]

    def test_another_attempt_can_not_add(self, registry: Registry, epoch: Epoch) -> None:
        for attempt in (0, 2):
            with pytest.raises(StaleAttemptError):
                registry.add_checkpoint(epoch, JOB, Attempt(attempt), record(1), 3)
        with pytest.raises(StaleAttemptError):
            registry.add_checkpoint(epoch, OTHER_JOB, Attempt(1), record(1), 3)
        assert retained(registry) == []

    def test_savepoints_are_neither_counted_nor_subsumed(self, registry: Registry, epoch: Epoch) -> None:
        savepoint = record(1, kind="savepoint")
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), savepoint, 1)) == []
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(2), 1)) == []
        assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), record(3), 1)) == [record(2)]
        assert list(registry.checkpoints(JOB)) == [savepoint, record(3)]

    def test_a_savepoint_is_part_of_the_history_only_if_the_job_is_stopped_with_it(
        self, registry: Registry, epoch: Epoch
    ) -> None:
        registry.add_checkpoint(epoch, JOB, Attempt(1), record(1, kind="savepoint"), 3)
        add(registry, epoch, 2)
        stop = msgspec.structs.replace(record(3, kind="savepoint"), ends_as=JobStatus.CANCELED)
        registry.add_checkpoint(epoch, JOB, Attempt(1), stop, 3)
        assert list(registry.completed_ids(JOB)) == [2, 3]
        assert retained(registry) == [1, 2, 3]

    def test_a_savepoint_that_is_added_again_changes_nothing(self, registry: Registry, epoch: Epoch) -> None:
        savepoint = record(1, kind="savepoint")
        for _ in range(2):
            assert list(registry.add_checkpoint(epoch, JOB, Attempt(1), savepoint, 1)) == []
        assert list(registry.checkpoints(JOB)) == [savepoint]

    def test_a_removed_one_stays_completed(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, 1, 2)
        registry.remove_checkpoint(epoch, JOB, CheckpointId(2))
        registry.remove_checkpoint(epoch, JOB, CheckpointId(2))
        assert retained(registry) == [1]
        assert list(registry.completed_ids(JOB)) == [1, 2]

    def test_the_newest_completed_ids_are_remembered(self, registry: Registry, epoch: Epoch) -> None:
        add(registry, epoch, *range(1, COMPLETED_IDS_KEPT + 11), retain=2)
        assert list(registry.completed_ids(JOB)) == list(range(11, COMPLETED_IDS_KEPT + 11))
        assert retained(registry) == [COMPLETED_IDS_KEPT + 9, COMPLETED_IDS_KEPT + 10]

    def test_concurrent_adds_are_one_after_the_other(self, registry: Registry, epoch: Epoch) -> None:
        def add_one(number: int) -> tuple[bool, list[CheckpointId]]:
            try:
                subsumed = registry.add_checkpoint(epoch, JOB, Attempt(1), record(number), 3)
            except BaseSubsumedError:  # a higher one came first
                return False, []
            return True, [known.checkpoint for known in subsumed]

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(add_one, range(1, 61)))
        added = [number for number, (was_added, _) in enumerate(answers, start=1) if was_added]
        subsumed = [number for _, numbers in answers for number in numbers]
        assert sorted(subsumed + retained(registry)) == added == list(registry.completed_ids(JOB))
        assert retained(registry) == added[-3:]
        assert added[-1] == 60


class TestCleaner:
    """What the cleaner may change: ended jobs only, and only the submission that it names."""

    def test_a_claim_is_one_holder_s_until_it_expires(self, registry: Registry, wait: Wait) -> None:
        assert registry.claim("orders", "a", 150)
        assert registry.claim("orders", "a", 150)
        assert not registry.claim("orders", "b", 150)
        assert registry.claim("other", "b", 150)
        wait(200)
        assert registry.claim("orders", "b", 60_000)
        assert not registry.claim("orders", "a", 60_000)

    @pytest.mark.parametrize("status", [status for status in JobStatus if not status.has_ended])
    def test_a_job_that_has_not_ended_keeps_everything(
        self, registry: Registry, epoch: Epoch, status: JobStatus
    ) -> None:
        registry.save_job(epoch, job(1))
        add(registry, epoch, 1)
        registry.save_job(epoch, job(1, status=status))
        assert not registry.remove_checkpoints(JOB, SUBMITTED_MS)
        assert not registry.begin_purge(JOB, SUBMITTED_MS)
        registry.purge_job(JOB, SUBMITTED_MS)
        assert list(registry.jobs()) == [job(1, status=status)]
        assert retained(registry) == [1]

    @pytest.mark.parametrize("status", [status for status in JobStatus if status.has_ended])
    def test_checkpoints_of_an_ended_job_go_and_savepoints_stay(
        self, registry: Registry, epoch: Epoch, status: JobStatus
    ) -> None:
        registry.save_job(epoch, job(1))
        registry.add_checkpoint(epoch, JOB, Attempt(1), record(1, kind="savepoint"), 3)
        add(registry, epoch, 2, 3)
        registry.save_job(epoch, job(1, status=status))
        assert not registry.remove_checkpoints(JOB, SUBMITTED_MS + 1)
        assert not registry.remove_checkpoints(OTHER_JOB, SUBMITTED_MS)
        assert retained(registry) == [1, 2, 3]
        for _ in range(2):
            assert registry.remove_checkpoints(JOB, SUBMITTED_MS)
        assert retained(registry) == [1]
        assert list(registry.completed_ids(JOB)) == [2, 3]

    def test_a_purge_begins_when_nothing_is_left_to_restore(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1))
        registry.add_checkpoint(epoch, JOB, Attempt(1), record(1, kind="savepoint"), 3)
        registry.save_job(epoch, job(1, status=JobStatus.CANCELED))
        assert not registry.begin_purge(JOB, SUBMITTED_MS)
        registry.remove_checkpoint(epoch, JOB, CheckpointId(1))
        assert not registry.begin_purge(JOB, SUBMITTED_MS + 1)
        registry.purge_job(JOB, SUBMITTED_MS)
        assert [known.job for known in registry.jobs()] == [JOB]
        for _ in range(2):
            assert registry.begin_purge(JOB, SUBMITTED_MS)
        registry.purge_job(JOB, SUBMITTED_MS)
        assert list(registry.jobs()) == []

    def test_a_name_that_is_being_purged_is_not_given_again(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1, status=JobStatus.CANCELED))
        assert registry.begin_purge(JOB, SUBMITTED_MS)
        again = job(1, status=JobStatus.CREATED, submitted_ms=SUBMITTED_MS + 1)
        with pytest.raises(StaleAttemptError, match="purged"):
            registry.save_job(epoch, again)
        registry.save_job(epoch, job(1, status=JobStatus.CANCELED))  # a call whose outcome was unknown
        registry.save_job(epoch, job(1, OTHER_JOB))
        registry.purge_job(JOB, SUBMITTED_MS)
        registry.save_job(epoch, again)
        assert again in registry.jobs()

    def test_a_late_call_does_nothing_to_the_next_job_of_that_name(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1, status=JobStatus.CANCELED))
        again = job(1, status=JobStatus.CANCELED, submitted_ms=SUBMITTED_MS + 1)
        registry.save_job(epoch, again)
        assert not registry.begin_purge(JOB, SUBMITTED_MS)
        assert registry.begin_purge(JOB, SUBMITTED_MS + 1)
        registry.purge_job(JOB, SUBMITTED_MS)
        assert list(registry.jobs()) == [again]


class TestRebuild:
    """A registry that has lost a job gets it back."""

    def test_it_holds_what_it_is_given(self, registry: Registry, epoch: Epoch) -> None:
        registry.rebuild_job(
            epoch, job(4), [record(7), record(9)], [CheckpointId(n) for n in (5, 7, 9)], CheckpointId(20)
        )
        assert list(registry.jobs()) == [job(4)]
        assert list(registry.checkpoints(JOB)) == [record(7), record(9)]
        assert list(registry.completed_ids(JOB)) == [5, 7, 9]
        assert registry.last_attempt(JOB) == 4
        assert registry.next_checkpoint_id(epoch, JOB) == 21

    def test_it_may_be_repeated(self, registry: Registry, epoch: Epoch) -> None:
        for _ in range(2):
            registry.rebuild_job(epoch, job(4), [record(7)], [CheckpointId(7)], CheckpointId(7))
        registry.add_checkpoint(epoch, JOB, Attempt(4), record(8), 3)
        registry.rebuild_job(epoch, job(4), [record(7)], [CheckpointId(7)], CheckpointId(7))
        assert list(registry.checkpoints(JOB)) == [record(7), record(8)]

    def test_a_job_that_is_known_is_left_alone(self, registry: Registry, epoch: Epoch) -> None:
        registry.save_job(epoch, job(1))
        with pytest.raises(StaleAttemptError):
            registry.rebuild_job(epoch, job(4), [record(7)], [CheckpointId(7)], CheckpointId(7))
        assert list(registry.checkpoints(JOB)) == []

    def test_numbers_never_fall(self, registry: Registry, epoch: Epoch) -> None:
        for _ in range(30):
            registry.next_checkpoint_id(epoch, JOB)
        registry.rebuild_job(epoch, job(4), [], [], CheckpointId(20))
        assert registry.next_checkpoint_id(epoch, JOB) == 31

    def test_a_former_leader_may_not(self, registry: Registry, epoch: Epoch) -> None:
        with pytest.raises(FencedError):
            registry.rebuild_job(Epoch(epoch - 1), job(4), [], [], CheckpointId(0))
