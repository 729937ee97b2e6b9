from __future__ import annotations

import pytest

from moorage.checkpoint.failure_manager import CheckpointFailureManager
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.ids import CheckpointId


@pytest.mark.parametrize("tolerable", [0, 1, 3])
def test_more_failures_in_a_row_than_tolerable_fail_the_job(tolerable: int) -> None:
    manager = CheckpointFailureManager(tolerable)
    for number in range(1, tolerable + 1):
        assert not manager.failed(CheckpointId(number), Reason.EXPIRED)
        manager.validate()
    assert manager.failed(CheckpointId(tolerable + 1), Reason.EXPIRED)
    manager.validate()


def test_a_completed_one_starts_the_count_anew() -> None:
    manager = CheckpointFailureManager(1)
    manager.failed(CheckpointId(1), Reason.EXPIRED)
    manager.completed(CheckpointId(2))
    assert not manager.failed(CheckpointId(3), Reason.EXPIRED)
    assert manager.failed(CheckpointId(4), Reason.EXPIRED)


def test_an_older_one_that_fails_after_a_newer_completed_does_not_count() -> None:
    manager = CheckpointFailureManager(0)
    manager.completed(CheckpointId(5))
    assert not manager.failed(CheckpointId(4), Reason.EXPIRED)
    assert manager.failed(CheckpointId(6), Reason.EXPIRED)


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.counts_as_failure])
def test_reasons_that_do_not_count_never_fail_the_job(reason: Reason) -> None:
    manager = CheckpointFailureManager(0)
    assert not manager.failed(CheckpointId(1), reason)
    assert not manager.failed(None, reason)


def test_after_the_job_failed_the_count_starts_anew() -> None:
    manager = CheckpointFailureManager(1)
    assert [manager.failed(CheckpointId(n), Reason.EXPIRED) for n in range(1, 5)] == [False, True, False, True]
