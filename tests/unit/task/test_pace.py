from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorage.task.pace import Pace


def settled(us_per_record: int, records_max: int = 10_000, step_ms: int = 50) -> tuple[Pace, list[int]]:
    """The pace with records that cost so much, and how long its steps took in ms."""
    pace = Pace(records_max, step_ms)
    steps = []
    for _ in range(40):
        records = pace.records
        steps.append(records * us_per_record // 1_000)
        pace.took(records, steps[-1])
    return pace, steps


@given(us_per_record=st.integers(0, 100_000))
def test_steps_become_as_long_as_they_may_be(us_per_record: int) -> None:
    pace, steps = settled(us_per_record)
    assert max(steps) <= max(100, 16 * us_per_record // 1_000)
    longest = max(steps[-10:])
    assert longest <= 100 or pace.records == 1
    assert pace.records == 10_000 or longest * 4 >= 50, "no slower than need be"


def test_a_record_that_takes_for_ever_comes_alone() -> None:
    pace, _ = settled(10_000_000)
    assert pace.records == 1


def test_a_step_that_found_little_tells_nothing() -> None:
    pace, _ = settled(0)
    pace.took(3, 0)
    assert pace.records == 10_000
    pace.took(0, 0)
    assert pace.records == 10_000


def test_it_slows_down_at_once_and_speeds_up_by_and_by() -> None:
    pace, _ = settled(0)
    pace.took(10_000, 5_000)
    assert pace.records == 100
    pace.took(100, 1)
    assert pace.records == 200


@given(records_max=st.integers(1, 20), steps=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10_000))))
def test_it_stays_within_its_bounds(records_max: int, steps: list[tuple[int, int]]) -> None:
    pace = Pace(records_max, 50)
    for records, elapsed_ms in steps:
        pace.took(records, elapsed_ms)
        assert 1 <= pace.records <= records_max
