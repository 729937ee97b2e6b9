from __future__ import annotations

from typing import Literal

from moorage.checkpoint.completed import CompletedCheckpoints
from moorage.ids import Attempt, CheckpointId
from moorage.messages.registry import CheckpointRecord

NONE = CheckpointId(0)


def record(number: int, kind: Literal["checkpoint", "savepoint"] = "checkpoint") -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=CheckpointId(number),
        attempt=Attempt(1),
        kind=kind,
        metadata_path=f"orders/chk-{number}/_metadata",
        metadata_bytes=1,
        metadata_checksum=2,
        triggered_ms=3,
        completed_ms=4,
        state_bytes=5,
    )


def ids(records: object) -> list[int]:
    return [r.checkpoint for r in records]  # type: ignore[attr-defined]


def test_the_newest_is_the_latest() -> None:
    completed = CompletedCheckpoints([record(3), record(1)], NONE)
    assert completed.latest == record(3)
    completed.add(record(4), [])
    assert completed.latest == record(4)
    assert ids(completed.retained()) == [1, 3, 4]
    completed.validate()


def test_what_the_registry_subsumed_is_gone() -> None:
    completed = CompletedCheckpoints([record(1), record(2)], NONE)
    assert completed.add(record(3), [record(1)]) == [record(1)]
    assert ids(completed.retained()) == [2, 3]
    assert CheckpointId(1) not in completed


def test_what_a_repeated_answer_left_out_is_gone_with_the_next() -> None:
    completed = CompletedCheckpoints([record(1), record(2)], NONE)
    completed.add(record(3), [])
    assert ids(completed.add(record(4), [record(2)])) == [1, 2]
    assert ids(completed.retained()) == [3, 4]


def test_savepoints_are_not_subsumed() -> None:
    completed = CompletedCheckpoints([record(1, "savepoint"), record(2)], NONE)
    assert ids(completed.add(record(3), [record(2)])) == [2]
    assert ids(completed.retained()) == [1, 3]


def test_checkpoints_of_an_earlier_life_are_not_restored_but_are_there() -> None:
    completed = CompletedCheckpoints([record(1), record(2)], CheckpointId(2))
    assert completed.latest is None
    assert completed.restorable() is None
    assert completed.newest_id == 2
    completed.add(record(5), [record(1)])
    assert completed.latest == record(5)


def test_unreadable_ones_are_passed_over() -> None:
    completed = CompletedCheckpoints([record(1), record(2), record(3)], NONE)
    assert completed.restorable([CheckpointId(3)]) == record(2)
    assert completed.restorable([CheckpointId(3), CheckpointId(2), CheckpointId(1)]) is None


def test_empty() -> None:
    completed = CompletedCheckpoints([], NONE)
    assert (completed.latest, completed.newest_id) == (None, 0)


def test_what_a_repeated_answer_left_out_is_known_by_how_many_are_retained() -> None:
    completed = CompletedCheckpoints([record(1), record(2, "savepoint"), record(3)], NONE)
    assert ids(completed.add(record(4), [], retain=2)) == [1]
    assert ids(completed.add(record(5), [], retain=2, keep_from=CheckpointId(3))) == []
    assert ids(completed.add(record(6), [], retain=2, keep_from=CheckpointId(4))) == [3]
    assert ids(completed.retained()) == [2, 4, 5, 6]
