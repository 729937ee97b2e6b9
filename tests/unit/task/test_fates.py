"""What a worker concludes about a checkpoint's outcome."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.commands import CheckpointFate, JobFates
from moorage.task.fates import Fates

UNKNOWN, COMPLETED, ABORTED = CheckpointFate


def heard(
    fates: Fates, *, last: int, pending: Iterable[int] = (), completed: Iterable[int] = (), complete_from: int = 1
) -> None:
    fates.heard(
        JobFates(
            job=JobId("orders"),
            attempt=Attempt(1),
            last_id=CheckpointId(last),
            pending=tuple(map(CheckpointId, pending)),
            completed=tuple(map(CheckpointId, completed)),
            complete_from=CheckpointId(complete_from),
        )
    )


def all_of(fates: Fates, last: int) -> list[CheckpointFate]:
    return [fates.fate(CheckpointId(n)) for n in range(1, last + 1)]


def test_nothing_is_known_at_first() -> None:
    assert all_of(Fates(), 2) == [UNKNOWN, UNKNOWN]


def test_notifications_are_final() -> None:
    fates = Fates()
    fates.completed(CheckpointId(1))
    fates.aborted(CheckpointId(1))
    fates.aborted(CheckpointId(2))
    fates.completed(CheckpointId(2))
    heard(fates, last=2, completed=[2])
    assert all_of(fates, 3) == [COMPLETED, ABORTED, UNKNOWN]


def test_a_heartbeat_tells_all_fates() -> None:
    fates = Fates()
    heard(fates, last=5, pending=[4], completed=[2, 5])
    assert all_of(fates, 6) == [ABORTED, COMPLETED, ABORTED, UNKNOWN, COMPLETED, UNKNOWN]


def test_a_list_that_is_cut_off_aborts_nothing_before_it() -> None:
    fates = Fates()
    heard(fates, last=9, completed=[7], complete_from=6)
    assert all_of(fates, 9) == [*[UNKNOWN] * 5, ABORTED, COMPLETED, ABORTED, ABORTED]


def test_an_old_heartbeat_takes_nothing_back() -> None:
    fates = Fates()
    heard(fates, last=3, completed=[2])
    assert all_of(fates, 3) == [ABORTED, COMPLETED, ABORTED]
    heard(fates, last=1, pending=[1])
    assert all_of(fates, 3) == [ABORTED, COMPLETED, ABORTED]


@pytest.mark.parametrize("count", [5_000])
def test_what_is_long_ago_is_forgotten(count: int) -> None:
    fates = Fates()
    for n in range(1, count):
        fates.completed(CheckpointId(n))
    assert fates.fate(CheckpointId(1)) is UNKNOWN
    assert fates.fate(CheckpointId(count - 1)) is COMPLETED


def test_the_newest_completed_checkpoint_is_known_from_notices_and_heartbeats() -> None:
    fates = Fates()
    assert fates.newest_completed == 0
    fates.completed(CheckpointId(4))
    fates.completed(CheckpointId(3))
    fates.aborted(CheckpointId(5))
    assert fates.newest_completed == 4
    fates.heard(
        JobFates(
            job=JobId("orders"),
            attempt=Attempt(1),
            last_id=CheckpointId(9),
            pending=(CheckpointId(9),),
            completed=(CheckpointId(4), CheckpointId(7)),
            complete_from=CheckpointId(4),
        )
    )
    assert fates.newest_completed == 7
