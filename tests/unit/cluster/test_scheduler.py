from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from moorage.cluster.scheduler import SlotPool, assign_slots
from moorage.cluster.workers import Workers
from moorage.ids import Epoch, JobId, WorkerId
from moorage.messages.events import WorkerHeartbeat


def assign(needed: int, free: dict[str, int], previous: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    return assign_slots(needed, {WorkerId(w): n for w, n in free.items()}, tuple(WorkerId(w) for w in previous))


def test_slots_are_spread_evenly() -> None:
    assert assign(4, {"w1/a": 4, "w2/a": 4}) == ("w1/a", "w2/a", "w1/a", "w2/a")
    assert assign(3, {"w1/a": 1, "w2/a": 4}) == ("w2/a", "w1/a", "w2/a")


def test_not_enough_is_nothing() -> None:
    assert assign(3, {"w1/a": 1, "w2/a": 1}) is None
    assert assign(1, {}) is None


def test_a_slot_goes_back_to_where_it_was() -> None:
    assert assign(2, {"w1/a": 2, "w2/a": 2}, ("w2/a", "w1/a")) == ("w2/a", "w1/a")


def test_also_to_a_replacement_of_the_same_name() -> None:
    assert assign(2, {"w1/b": 2, "w2/a": 2}, ("w2/a", "w1/a")) == ("w2/a", "w1/b")


@given(
    needed=st.integers(1, 12),
    free=st.dictionaries(st.sampled_from([f"w{n}/a" for n in range(5)]), st.integers(0, 5)),
    previous=st.lists(st.sampled_from([f"w{n}/a" for n in range(6)]), max_size=12),
)
def test_it_never_takes_what_is_not_free_and_never_spreads_worse_than_it_must(
    needed: int, free: dict[str, int], previous: list[str]
) -> None:
    slots = assign(needed, free, tuple(previous))
    if slots is None:
        assert sum(free.values()) < needed
        return
    assert len(slots) == needed
    given_to = Counter(slots)
    assert all(count <= free[worker] for worker, count in given_to.items())
    most = max(given_to.values())
    assert all(given_to[worker] >= min(slots_free, most - 1) for worker, slots_free in free.items())


def test_the_pool_knows_who_holds_what() -> None:
    workers = Workers(1_000)
    w1, w2 = WorkerId("w1/a"), WorkerId("w2/a")
    for worker in (w1, w2):
        workers.heartbeat(WorkerHeartbeat(worker=worker, epoch=Epoch(1), slots=2, subtasks=(), sent_ms=0), 0)
    pool = SlotPool(workers, 100)
    one, two = JobId("one"), JobId("two")
    assert pool.offer(3, (), 500) == (w1, w2, w1)
    pool.hold(one, (w1, w2, w1))
    pool.validate()
    assert pool.free() == {w1: 0, w2: 1}
    assert pool.offer(2, (), 500) is None
    pool.hold(two, (w2,))
    pool.release(one)
    assert pool.free() == {w1: 2, w2: 1}
    assert (pool.holds(one), pool.holds(two), pool.knows(w1), pool.knows(WorkerId("w3/a"))) == (
        False,
        True,
        True,
        False,
    )


def test_a_worker_whose_capacity_shrank_below_what_it_runs_has_none() -> None:
    workers = Workers(1_000)
    worker = WorkerId("w1/a")
    workers.heartbeat(WorkerHeartbeat(worker=worker, epoch=Epoch(1), slots=1, subtasks=(), sent_ms=0), 0)
    pool = SlotPool(workers, 100)
    pool.hold(JobId("one"), (worker, worker))
    assert pool.free() == {worker: 0}


def joined(*workers: tuple[str, int]) -> SlotPool:
    """A pool whose workers, with 4 slots each, joined at these times."""
    registered = Workers(10_000)
    for name, at_ms in workers:
        registered.heartbeat(
            WorkerHeartbeat(worker=WorkerId(name), epoch=Epoch(1), slots=4, subtasks=(), sent_ms=0), at_ms
        )
    return SlotPool(registered, 100)


def test_while_workers_are_joining_a_job_is_not_crowded_on_the_first() -> None:
    assert joined(("w1/a", 0)).offer(2, (), 99) is None
    assert joined(("w1/a", 0)).offer(2, (), 100) == ("w1/a", "w1/a")
    assert joined(("w1/a", 0), ("w2/a", 90)).offer(2, (), 91) == ("w1/a", "w2/a")
    assert joined(("w1/a", 0)).offer(1, (), 1) == ("w1/a",)


def test_a_restart_waits_for_no_more_workers_than_it_had() -> None:
    before = (WorkerId("w1/a"), WorkerId("w2/a"), WorkerId("w1/a"), WorkerId("w2/a"))
    assert joined(("w1/b", 0)).offer(4, before, 50) is None
    assert joined(("w1/b", 0), ("w2/b", 40)).offer(4, before, 50) == ("w1/b", "w2/b", "w1/b", "w2/b")
    # The other one is dead and nobody joins: there is nothing to wait for.
    assert joined(("w1/a", 0)).offer(4, before, 5_000) == ("w1/a",) * 4
