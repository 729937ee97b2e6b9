from __future__ import annotations

import pytest

from moorage.checkpoint.reasons import (
    CheckpointFailureReason,
    describe,
    reason_of_decline,
    reason_of_registration,
)
from moorage.effects import CallFailure
from moorage.messages.events import DeclineReason


def test_every_reason_has_words_of_its_own() -> None:
    words = [describe(reason) for reason in CheckpointFailureReason]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize("declined", DeclineReason)
def test_every_decline_has_a_reason(declined: DeclineReason) -> None:
    assert reason_of_decline(declined).name.startswith("DECLINED")


@pytest.mark.parametrize("failure", CallFailure)
def test_every_refusal_of_the_registry_has_a_reason(failure: CallFailure) -> None:
    assert isinstance(reason_of_registration(failure), CheckpointFailureReason)


def test_what_a_restart_can_not_cure_does_not_count() -> None:
    uncounted = {reason for reason in CheckpointFailureReason if not reason.counts_as_failure}
    assert uncounted >= {
        CheckpointFailureReason.NOT_ALL_REQUIRED_TASKS_RUNNING,
        CheckpointFailureReason.ID_NOT_AVAILABLE,
        CheckpointFailureReason.SUBSUMED,
        CheckpointFailureReason.JOB_FAILOVER,
        CheckpointFailureReason.JOB_STOPPED,
        CheckpointFailureReason.METADATA_NOT_WRITTEN,
        CheckpointFailureReason.NOT_REGISTERED,
        CheckpointFailureReason.HOOK_FAILED,
        CheckpointFailureReason.HOOK_TIMEOUT,
    }
    assert CheckpointFailureReason.OPERATOR_COORDINATOR_FAILED.counts_as_failure
    assert CheckpointFailureReason.EXPIRED.counts_as_failure
    assert CheckpointFailureReason.DECLINED_STORAGE.counts_as_failure
