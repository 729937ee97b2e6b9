from __future__ import annotations

import msgspec
import pytest

from moorage.cluster.workers import REPLACED_REMEMBERED, Workers
from moorage.ids import Epoch, WorkerId
from moorage.messages.events import WorkerHeartbeat

TIMEOUT_MS = 1_000


@pytest.fixture
def workers() -> Workers:
    return Workers(TIMEOUT_MS)


def beat(worker: str, sent_ms: int = 0, *, leaving: bool = False, slots: int = 2) -> WorkerHeartbeat:
    return WorkerHeartbeat(
        worker=WorkerId(worker), epoch=Epoch(1), slots=slots, subtasks=(), sent_ms=sent_ms, leaving=leaving
    )


def known(workers: Workers) -> list[str]:
    workers.validate()
    return [worker.worker for worker in workers.all()]


def test_a_heartbeat_registers(workers: Workers) -> None:
    result = workers.heartbeat(beat("w1/a"), 0)
    assert (result.accepted, result.joined, result.is_newest) == (True, True, True)
    assert not workers.heartbeat(beat("w1/a", 1), 10).joined
    assert known(workers) == ["w1/a"]
    assert WorkerId("w1/a") in workers


def test_silence_loses_a_worker(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    workers.heartbeat(beat("w2/a"), 500)
    assert workers.expire(999) == []
    (lost,) = workers.expire(1_000)
    assert lost.worker == "w1/a"
    assert lost.reason == "no heartbeat for 1000 ms"
    assert known(workers) == ["w2/a"]


def test_who_was_lost_wrongly_may_come_back(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    workers.expire(1_000)
    assert workers.heartbeat(beat("w1/a", 1), 1_100).joined


def test_a_busy_worker_lives_and_its_word_on_subtasks_is_the_last_that_it_gave(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a", 1), 0)
    busy = msgspec.structs.replace(beat("w1/a", 2), busy_ms=900)
    result = workers.heartbeat(busy, 900)
    assert (result.accepted, result.joined, result.is_newest) == (True, False, False)
    assert workers.expire(1_899) == []
    (worker,) = workers.all()
    assert worker.heartbeat.sent_ms == 1
    assert len(workers.expire(1_900)) == 1


def test_a_new_leader_may_hear_of_a_worker_first_when_it_is_busy(workers: Workers) -> None:
    result = workers.heartbeat(msgspec.structs.replace(beat("w1/a", 2), busy_ms=900), 0)
    assert (result.accepted, result.joined, result.is_newest) == (True, True, False)
    assert not workers.heartbeat(beat("w1/a", 3), 100).joined


def test_after_a_grace_everybody_has_a_full_timeout_again(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    workers.grace(900)
    assert workers.expire(1_899) == []
    assert len(workers.expire(1_900)) == 1


def test_another_incarnation_replaces_the_old_one(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    result = workers.heartbeat(beat("w1/b"), 10)
    assert result.joined
    assert [(lost.worker, lost.reason) for lost in result.lost] == [("w1/a", "it was replaced by w1/b")]
    assert known(workers) == ["w1/b"]


def test_the_last_words_of_a_dead_incarnation_do_not_replace_its_successor(workers: Workers) -> None:
    """A new leader hears the successor first: what the dead one had sent was under way for long."""
    workers.heartbeat(beat("w1/b", 500), 0)
    late = workers.heartbeat(beat("w1/a", 400), 10)
    assert (late.accepted, late.lost) == (False, ())
    assert known(workers) == ["w1/b"]
    workers.expire(TIMEOUT_MS)
    assert workers.heartbeat(beat("w1/a", 450), TIMEOUT_MS).joined, "its clock may be wrong, but nobody else is there"


def test_a_replaced_incarnation_is_never_heard_again(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    workers.heartbeat(beat("w1/b"), 10)
    assert not workers.heartbeat(beat("w1/a", 99), 20).accepted
    assert known(workers) == ["w1/b"]


def test_who_leaves_is_gone_at_once_and_for_ever(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a"), 0)
    (lost,) = workers.heartbeat(beat("w1/a", 1, leaving=True), 10).lost
    assert lost == ("w1/a", "it is leaving", 0)
    assert not workers.heartbeat(beat("w1/a", 2), 20).accepted
    assert known(workers) == []
    assert workers.heartbeat(beat("w2/a", leaving=True), 20).lost == []


def test_an_old_heartbeat_is_a_sign_of_life_but_no_news(workers: Workers) -> None:
    workers.heartbeat(beat("w1/a", 50), 0)
    again = workers.heartbeat(beat("w1/a", 50, slots=9), 900)
    assert (again.accepted, again.is_newest) == (True, False)
    assert workers.expire(1_500) == []
    assert [worker.slots for worker in workers.all()] == [2]
    assert workers.heartbeat(beat("w1/a", 51, slots=4), 950).is_newest
    assert [worker.slots for worker in workers.all()] == [4]


def test_the_memory_of_dead_incarnations_is_bounded(workers: Workers) -> None:
    for number in range(REPLACED_REMEMBERED + 10):
        workers.heartbeat(beat(f"w1/{number}"), 0)
    workers.validate()
    assert not workers.heartbeat(beat(f"w1/{REPLACED_REMEMBERED}"), 0).accepted
