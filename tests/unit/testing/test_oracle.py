from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moorage.testing.oracle import Oracle, OracleReport, Verdict


def _told(*keys: str) -> Oracle:
    """An oracle that expects one input per key named, with value ``key + number``."""
    oracle = Oracle()
    for key in keys:
        number = oracle.highest_inputs().get(key, 0) + 1
        assert oracle.expect(key, f"{key}{number}") == number
    return oracle


def test_every_output_once_and_in_order_is_exactly_once() -> None:
    oracle = _told("a", "b", "a")

    verdicts = [oracle.observe("a", 1, "a1"), oracle.observe("a", 2, "a2"), oracle.observe("b", 1, "b1")]

    assert verdicts == [Verdict.EXPECTED] * 3
    assert oracle.report() == OracleReport(inputs=3, outputs=3, lost=0, duplicated=0, out_of_order=0, corrupt=0)
    assert oracle.report().exactly_once


def test_an_input_without_output_is_lost() -> None:
    oracle = _told("a", "a")

    oracle.observe("a", 2, "a2")

    assert oracle.report().lost == 1
    assert not oracle.report().exactly_once


def test_a_second_answer_is_a_duplicate_whatever_it_says() -> None:
    oracle = _told("a")

    assert oracle.observe("a", 1, "a1") is Verdict.EXPECTED
    assert oracle.observe("a", 1, "wrong") is Verdict.DUPLICATED
    assert oracle.report().outputs == 2


def test_an_answer_after_a_later_one_of_its_key_is_out_of_order() -> None:
    oracle = _told("a", "a", "b")

    assert oracle.observe("a", 2, "a2") is Verdict.EXPECTED
    assert oracle.observe("b", 1, "b1") is Verdict.EXPECTED
    assert oracle.observe("a", 1, "a1") is Verdict.OUT_OF_ORDER
    assert oracle.report().lost == 0


def test_a_wrong_value_an_unknown_key_and_an_impossible_number_are_corrupt() -> None:
    oracle = _told("a")

    outputs = [("z", 1, "z1"), ("a", 0, "a0"), ("a", 2, "a2"), ("a", 1, "b1")]

    assert [oracle.observe(*output) for output in outputs] == [Verdict.CORRUPT] * 4
    assert oracle.report() == OracleReport(inputs=1, outputs=4, lost=0, duplicated=0, out_of_order=0, corrupt=4)


@given(
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), min_size=1),
    dropped=st.sets(st.integers(0, 14)),
    doubled=st.sets(st.integers(0, 14)),
)
def test_counts_what_was_dropped_and_doubled(counts: dict[str, int], dropped: set[int], doubled: set[int]) -> None:
    oracle = Oracle()
    outputs = [(key, oracle.expect(key, (key, n)), (key, n)) for key, count in counts.items() for n in range(count)]
    lost = {i for i in dropped if i < len(outputs)}
    twice = {i for i in doubled if i < len(outputs)} - lost

    for i, output in enumerate(outputs):
        for _ in range(0 if i in lost else 2 if i in twice else 1):
            oracle.observe(*output)

    assert oracle.report() == OracleReport(
        inputs=len(outputs),
        outputs=len(outputs) - len(lost) + len(twice),
        lost=len(lost),
        duplicated=len(twice),
        out_of_order=0,
        corrupt=0,
    )
