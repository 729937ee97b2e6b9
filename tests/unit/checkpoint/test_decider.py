from __future__ import annotations

import pytest

from moorage.checkpoint.decider import (
    MAX_SAVEPOINTS,
    MAX_WAITING_REQUESTS,
    PERIODIC,
    CheckpointRequest,
    CheckpointRequestDecider,
)
from moorage.graph.job_graph import CheckpointConfig
from moorage.messages.barriers import SnapshotKind


def decider(**config: int) -> CheckpointRequestDecider:
    decides = CheckpointRequestDecider(CheckpointConfig(**{"interval_ms": 1_000, **config}))  # type: ignore[arg-type]
    decides.start(0)
    return decides


def choose(
    decides: CheckpointRequestDecider, now_ms: int, in_progress: int = 0, triggering: bool = False, savepoints: int = 0
) -> CheckpointRequest | None:
    decides.validate()
    return decides.choose(now_ms, in_progress=in_progress, savepoints=savepoints, is_triggering=triggering)


def test_the_first_is_due_after_one_interval() -> None:
    decides = decider()
    assert choose(decides, 999) is None
    assert choose(decides, 1_000) == PERIODIC
    assert choose(decides, 1_001) is None


def test_they_keep_their_beat_although_one_comes_late() -> None:
    decides = decider()
    assert choose(decides, 1_300) == PERIODIC
    assert choose(decides, 1_999) is None
    assert choose(decides, 2_000) == PERIODIC


def test_what_was_missed_is_not_caught_up() -> None:
    decides = decider()
    assert choose(decides, 5_500) == PERIODIC
    assert choose(decides, 5_501) is None
    assert choose(decides, 6_500) == PERIODIC


def test_interval_0_means_by_hand_only() -> None:
    decides = decider(interval_ms=0)
    assert choose(decides, 1_000_000) is None
    decides.request(CheckpointRequest(client=7))
    assert choose(decides, 1_000_000) == CheckpointRequest(client=7)


def test_requests_by_hand_go_ahead_of_periodic_ones_in_their_order() -> None:
    decides = decider()
    decides.request(CheckpointRequest(client=1))
    decides.request(CheckpointRequest(client=2))
    assert [choose(decides, 1_000) for _ in range(4)] == [
        CheckpointRequest(client=1),
        CheckpointRequest(client=2),
        PERIODIC,
        None,
    ]


def test_never_more_than_max_concurrent() -> None:
    decides = decider(max_concurrent=2)
    decides.request(CheckpointRequest(client=1))
    assert choose(decides, 1_000, in_progress=2) is None
    assert choose(decides, 1_000, in_progress=1) == CheckpointRequest(client=1)


def test_one_trigger_at_a_time() -> None:
    decides = decider(max_concurrent=5)
    decides.request(CheckpointRequest(client=1))
    assert choose(decides, 1_000, triggering=True) is None


def test_the_pause_lies_between_a_completion_and_the_next_periodic_one() -> None:
    decides = decider(min_pause_ms=700)
    assert choose(decides, 1_000) == PERIODIC
    decides.completed(1_900)
    assert choose(decides, 2_000) is None
    assert choose(decides, 2_599) is None
    assert choose(decides, 2_600) == PERIODIC


def test_requests_by_hand_do_not_wait_for_the_pause() -> None:
    decides = decider(min_pause_ms=5_000)
    decides.completed(10)
    decides.request(CheckpointRequest(client=1))
    assert choose(decides, 11) == CheckpointRequest(client=1)


def test_too_many_requests_are_refused() -> None:
    decides = decider()
    assert all(decides.request(CheckpointRequest(client=n)) for n in range(MAX_WAITING_REQUESTS))
    assert not decides.request(CheckpointRequest(client=-1))


def test_a_stop_ends_everything_and_hands_back_who_waits() -> None:
    decides = decider()
    decides.request(CheckpointRequest(client=1))
    assert decides.stop() == [CheckpointRequest(client=1)]
    assert choose(decides, 100_000) is None
    decides.start(100_000)
    assert choose(decides, 101_000) == PERIODIC


SAVEPOINT = CheckpointRequest(kind=SnapshotKind.SAVEPOINT)


def test_savepoints_go_ahead_of_everything_and_wait_for_nothing() -> None:
    decides = decider(min_pause_ms=10_000)
    decides.completed(900)
    decides.request(CheckpointRequest(client=1))
    decides.request(SAVEPOINT)
    assert choose(decides, 1_000, triggering=True) is None
    assert choose(decides, 1_000, in_progress=7) == SAVEPOINT
    assert choose(decides, 1_000, in_progress=7) is None
    assert choose(decides, 1_000) == CheckpointRequest(client=1)


def test_while_the_job_is_stopped_only_savepoints_are_taken() -> None:
    decides = decider()
    decides.request(CheckpointRequest(client=1))
    decides.stopping(True)
    assert choose(decides, 5_000) is None
    decides.request(SAVEPOINT)
    assert choose(decides, 5_000) == SAVEPOINT
    decides.stopping(False)
    assert [choose(decides, 5_000) for _ in range(3)] == [CheckpointRequest(client=1), PERIODIC, None]


def test_during_a_backlog_the_other_interval_counts_from_its_beginning_on() -> None:
    decides = decider(interval_during_backlog_ms=5_000)
    decides.backlog(100, True)
    assert choose(decides, 1_000) == PERIODIC  # it was due before already
    assert choose(decides, 5_999) is None
    assert choose(decides, 6_000) == PERIODIC
    decides.backlog(7_000, False)
    assert choose(decides, 7_999) is None
    assert choose(decides, 8_000) == PERIODIC
    assert choose(decides, 9_000) == PERIODIC


def test_a_backlog_may_stop_periodic_ones_or_change_nothing() -> None:
    stopped = decider(interval_during_backlog_ms=0)
    stopped.backlog(100, True)
    assert choose(stopped, 100_000) is None
    stopped.stop()
    stopped.backlog(200, False)
    assert choose(stopped, 100_000) is None
    stopped.start(100_000)
    assert choose(stopped, 100_999) is None
    assert choose(stopped, 101_000) == PERIODIC
    unchanged = decider()
    unchanged.backlog(100, True)
    assert choose(unchanged, 1_000) == PERIODIC


def test_a_backlog_that_is_told_of_between_two_attempts_triggers_nothing() -> None:
    decides = decider(interval_during_backlog_ms=500)
    decides.stop()
    decides.backlog(100, True)
    assert choose(decides, 100_000) is None


def test_the_final_checkpoint_is_due_at_once_whatever_the_pause() -> None:
    decides = decider(min_pause_ms=10_000)
    decides.completed(90)
    decides.input_ended(100)
    assert choose(decides, 100) == PERIODIC
    assert choose(decides, 1_099) is None
    assert choose(decides, 1_100) == PERIODIC


@pytest.mark.parametrize("during_backlog_ms", [0, 5_000])
def test_a_backlog_does_not_put_off_the_final_checkpoint(during_backlog_ms: int) -> None:
    decides = decider(interval_during_backlog_ms=during_backlog_ms)
    decides.backlog(50, True)
    decides.input_ended(100)
    decides.backlog(100, True)
    assert [choose(decides, now_ms) for now_ms in (100, 1_099, 1_100)] == [PERIODIC, None, PERIODIC]
    decides.stop()
    decides.start(2_000)
    decides.backlog(2_000, True)
    assert choose(decides, 3_000) == (None if during_backlog_ms == 0 else PERIODIC)


def test_savepoints_wait_while_too_many_are_in_progress() -> None:
    decides = decider()
    decides.request(SAVEPOINT)
    decides.request(CheckpointRequest(client=1))
    assert choose(decides, 10, in_progress=MAX_SAVEPOINTS, savepoints=MAX_SAVEPOINTS) is None
    assert choose(decides, 10, in_progress=MAX_SAVEPOINTS, savepoints=MAX_SAVEPOINTS - 1) == SAVEPOINT


def test_the_first_one_may_come_later() -> None:
    decides = decider()
    decides.start(0, delay_ms=300)
    assert choose(decides, 1_299) is None
    assert choose(decides, 1_300) == PERIODIC
    assert choose(decides, 2_300) == PERIODIC
