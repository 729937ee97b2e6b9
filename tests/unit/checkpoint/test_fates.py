from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorage.checkpoint.fates import FATES_SENT_MIN, Fates
from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.commands import CheckpointFate, JobFates
from moorage.ports import COMPLETED_IDS_KEPT

JOB = JobId("orders")


def as_a_worker_reads(message: JobFates, checkpoint: int) -> CheckpointFate:
    """The rule in the docstring of JobFates."""
    if checkpoint > message.last_id or checkpoint in message.pending:
        return CheckpointFate.UNKNOWN
    if checkpoint in message.completed:
        return CheckpointFate.COMPLETED
    if (message.completed and checkpoint > message.completed[0]) or message.complete_from <= checkpoint:
        return CheckpointFate.ABORTED
    return CheckpointFate.UNKNOWN


def fates(completed: list[int] | None = None, last_id: int = 0, base: int = 0) -> Fates:
    return Fates(JOB, CheckpointId(base), [CheckpointId(n) for n in completed or ()], CheckpointId(last_id))


def test_from_pending_to_completed_or_aborted() -> None:
    known = fates()
    for number in (1, 2):
        known.triggered(CheckpointId(number))
        assert known.fate(CheckpointId(number)) is CheckpointFate.UNKNOWN
    known.completed(CheckpointId(1))
    known.aborted(CheckpointId(2))
    known.validate()
    assert known.fate(CheckpointId(1)) is CheckpointFate.COMPLETED
    assert known.fate(CheckpointId(2)) is CheckpointFate.ABORTED
    assert known.fate(CheckpointId(3)) is CheckpointFate.UNKNOWN


def test_a_new_leader_aborts_what_its_predecessor_left_pending() -> None:
    known = fates([3, 5], last_id=7)
    assert [known.fate(CheckpointId(n)) for n in (4, 6, 7)] == [CheckpointFate.ABORTED] * 3
    assert known.fate(CheckpointId(8)) is CheckpointFate.UNKNOWN


def test_of_an_earlier_life_of_the_name_nothing_is_said() -> None:
    known = fates([3, 5], last_id=7, base=5)
    message = known.message(Attempt(1), None)
    assert message.completed == ()
    assert message.complete_from == 6
    assert known.fate(CheckpointId(5)) is CheckpointFate.UNKNOWN
    assert known.fate(CheckpointId(6)) is CheckpointFate.ABORTED


def test_a_full_list_may_have_lost_older_ids() -> None:
    known = fates(list(range(11, 11 + COMPLETED_IDS_KEPT)), last_id=5_000)
    assert known.fate(CheckpointId(10)) is CheckpointFate.UNKNOWN
    assert known.fate(CheckpointId(11)) is CheckpointFate.COMPLETED
    known.triggered(CheckpointId(5_001))
    known.completed(CheckpointId(5_001))
    known.validate()
    assert known.fate(CheckpointId(11)) is CheckpointFate.UNKNOWN
    assert known.fate(CheckpointId(12)) is CheckpointFate.COMPLETED


def test_the_message_reaches_back_to_the_slowest_sink() -> None:
    known = fates(list(range(1, 501)), last_id=500)
    assert known.message(Attempt(1), CheckpointId(300)).completed[0] == 300
    assert len(known.message(Attempt(1), CheckpointId(499)).completed) == FATES_SENT_MIN
    assert known.message(Attempt(1), None).completed[0] == 1


@given(
    outcomes=st.lists(st.sampled_from(["completed", "aborted", "pending", "never triggered"]), max_size=150),
    base=st.integers(0, 5),
    committed=st.none() | st.integers(1, 150),
)
def test_a_worker_never_reads_anything_false(outcomes: list[str], base: int, committed: int | None) -> None:
    known = fates(base=base, last_id=base)
    for number, outcome in enumerate(outcomes, start=base + 1):
        checkpoint = CheckpointId(number)
        if outcome == "never triggered":
            continue
        known.triggered(checkpoint)
        if outcome == "completed":
            known.completed(checkpoint)
        elif outcome == "aborted":
            known.aborted(checkpoint)
        known.validate()
    floor = None if committed is None else CheckpointId(committed)
    message = known.message(Attempt(3), floor)
    triggered = [n for n, outcome in enumerate(outcomes, start=base + 1) if outcome != "never triggered"]
    assert message.last_id == max(triggered, default=base)
    for number, outcome in enumerate(outcomes, start=base + 1):
        read = as_a_worker_reads(message, number)
        if outcome == "pending" or number > message.last_id:
            assert read is CheckpointFate.UNKNOWN
        elif outcome == "completed":
            assert read in (CheckpointFate.COMPLETED, CheckpointFate.UNKNOWN)
        else:
            assert read in (CheckpointFate.ABORTED, CheckpointFate.UNKNOWN)
        if floor is None or number >= floor:
            assert read is known.fate(CheckpointId(number))
