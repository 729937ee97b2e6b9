"""How far exchange logs may be cut."""

from __future__ import annotations

from tests.unit.cleaner.jobs import KEYED, KEYED_LOG, OUTPUT, OUTPUT_LOG, SINK, commit_marker, job_record

from moorage.cleaner.classify import JobFacts
from moorage.cleaner.trim import exchange_starts, trim_offsets
from moorage.ids import CheckpointId
from moorage.messages.registry import JobRecord
from moorage.state.positions import CommitMarker, ExchangePositions, InputPositions


def facts(record: JobRecord | None = None) -> JobFacts:
    return JobFacts(
        last_checkpoint=CheckpointId(9),
        record=record or job_record(),
        discarded=frozenset(),
        retained=(),
        completed=frozenset(),
    )


def markers(*present: CommitMarker) -> dict[tuple[object, int], CommitMarker]:
    return {(SINK, marker.key_group): marker for marker in present}


def test_the_lowest_position_over_producers_and_subtasks_counts() -> None:
    first = InputPositions((ExchangePositions(KEYED, (0, 0, 1), (1, 1, 1), (0, 1, 0), (7, 5, 9), (0,) * 3),))
    second = InputPositions(
        (
            ExchangePositions(KEYED, (1, 2), (1, 1), (0, 0), (8, 1), (4, 0)),
            ExchangePositions(OUTPUT, (0,), (1,), (0,), (3,), (0,)),
        )
    )
    assert exchange_starts([first, second]) == {KEYED: {0: 5, 1: 8, 2: 1}, OUTPUT: {0: 3}}


def test_the_lowest_over_all_retained_checkpoints_is_needed() -> None:
    retained = [{KEYED: {0: 10, 1: 40}}, {KEYED: {0: 20, 1: 30}}]
    assert trim_offsets(facts(), retained, {}) == {KEYED_LOG[0]: 10, KEYED_LOG[1]: 30}


def test_nothing_is_cut_without_a_checkpoint() -> None:
    assert trim_offsets(facts(), [], {}) == {}


def test_a_partition_that_one_checkpoint_does_not_speak_of_is_not_cut() -> None:
    retained = [{KEYED: {0: 10, 1: 40}}, {KEYED: {1: 30}}, {KEYED: {0: 10, 1: 50}}]
    assert trim_offsets(facts(), retained, {}) == {KEYED_LOG[1]: 30}


def test_a_sinks_exchange_is_needed_from_its_marker_on() -> None:
    both = markers(commit_marker(3, 0, 100), commit_marker(4, 1, 200))
    assert trim_offsets(facts(), [], both) == {OUTPUT_LOG[0]: 100, OUTPUT_LOG[1]: 200}


def test_a_marker_of_an_earlier_life_does_not_count() -> None:
    later = facts(job_record(base=3))
    both = markers(commit_marker(3, 0, 100), commit_marker(4, 1, 200))
    assert trim_offsets(later, [], both) == {OUTPUT_LOG[1]: 200}
