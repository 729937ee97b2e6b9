"""Which attempts make up the history that counts, and who wrote to which partition in them."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from tests.unit.barrier.worlds import A, B, exchange, segment

from moorage.barrier.lineage import next_lineage, producers_of
from moorage.graph.job_graph import ExchangeKind
from moorage.graph.lineage import lineage_of, running_attempts, segment_with
from moorage.ids import Attempt, CheckpointId, VertexId
from moorage.messages.registry import LineageSegment


@pytest.mark.parametrize(
    ("kind", "partition", "producers", "expected"),
    [
        (ExchangeKind.KEYED, 0, 3, [0, 1, 2]),
        (ExchangeKind.KEYED, 3, 1, [0]),
        (ExchangeKind.FORWARD, 0, 2, [0]),
        (ExchangeKind.FORWARD, 1, 2, [0]),
        (ExchangeKind.FORWARD, 2, 2, [1]),
        (ExchangeKind.FORWARD, 3, 4, [3]),
    ],
)
def test_the_producers_of_a_partition(kind: ExchangeKind, partition: int, producers: int, expected: list[int]) -> None:
    assert list(producers_of(exchange(kind), partition, segment(1, None, producers))) == expected


@pytest.mark.parametrize("parallelism", [{}, {A: 2}, {B: 1}, {A: 0, B: 1}])
def test_an_exchange_that_did_not_exist_had_no_producers(parallelism: dict[str, int]) -> None:
    assert list(producers_of(exchange(), 0, LineageSegment(Attempt(1), None, parallelism))) == []  # type: ignore[arg-type]


def after(
    lineage: tuple[LineageSegment, ...], restored: tuple[int, int] | None, attempt: int, producers: int, needed: int = 0
) -> tuple[LineageSegment, ...]:
    checkpoint = None if restored is None else (CheckpointId(restored[0]), Attempt(restored[1]))
    return next_lineage(lineage, checkpoint, Attempt(attempt), {A: producers, B: 1}, CheckpointId(needed))


def test_a_lineage_grows_by_the_attempts_that_completed_something() -> None:
    first = after((), None, 1, 2)
    assert first == (segment(1, None, 2),)
    second = after(first, (3, 1), 2, 3)
    assert second == (segment(1, 3, 2), segment(2, None, 3))
    third = after(second, (3, 1), 3, 1)
    assert third == (segment(1, 3, 2), segment(3, None, 1)), "attempt 2 completed nothing"
    fourth = after(third, (5, 3), 4, 1)
    assert fourth == (segment(1, 3, 2), segment(3, 5, 1), segment(4, None, 1))
    assert after(fourth, None, 5, 1) == (segment(5, None, 1),)


def test_going_back_to_an_older_checkpoint_cuts_the_lineage() -> None:
    lineage = (segment(1, 3, 2), segment(2, 6, 2), segment(3, None, 2))
    assert after(lineage, (5, 2), 4, 2) == (segment(1, 3, 2), segment(2, 5, 2), segment(4, None, 2))
    assert after(lineage, (2, 1), 4, 2) == (segment(1, 2, 2), segment(4, None, 2))


def test_what_every_sink_has_committed_is_dropped() -> None:
    lineage = (segment(1, 3, 2), segment(2, 6, 2), segment(3, None, 2))
    assert after(lineage, (8, 3), 4, 2, needed=2) == (*lineage[:2], segment(3, 8, 2), segment(4, None, 2))
    assert after(lineage, (8, 3), 4, 2, needed=3) == (segment(2, 6, 2), segment(3, 8, 2), segment(4, None, 2))
    assert after(lineage, (8, 3), 4, 2, needed=8) == (segment(4, None, 2),)
    assert after((segment(4, None, 2),), (8, 3), 5, 2) == (segment(5, None, 2),), "attempt 3 was dropped before"


# --- parts of a job that restart on their own -------------------------------------------------------------------------

X, Y = VertexId("x"), VertexId("y")
"""One part: the other one is A and B."""


def part(attempt: int, end: int | None, *vertices: VertexId) -> LineageSegment:
    return LineageSegment(Attempt(attempt), None if end is None else CheckpointId(end), dict.fromkeys(vertices, 1))


def restart(
    lineage: tuple[LineageSegment, ...], checkpoint: int, origin: int, attempt: int, goes_on: Collection[VertexId] = ()
) -> tuple[LineageSegment, ...]:
    """``origin``: the attempt of the job in which the checkpoint was completed."""
    restored = (CheckpointId(checkpoint), Attempt(origin))
    return next_lineage(lineage, restored, Attempt(attempt), dict.fromkeys((A, B, X, Y), 1), goes_on=goes_on)


def test_the_segment_of_what_goes_on_stays_open() -> None:
    first = (part(1, None, A, B, X, Y),)
    second = restart(first, 5, 1, 2, goes_on=(X, Y))
    assert second == (part(1, 5, A, B), part(1, None, X, Y), part(2, None, A, B))
    assert running_attempts(second) == {A: 2, B: 2, X: 1, Y: 1}
    assert lineage_of(second, X) == (part(1, None, X, Y),)
    third = restart(second, 7, 2, 3, goes_on=(A, B))
    assert third == (part(1, 5, A, B), part(1, 7, X, Y), part(2, None, A, B), part(3, None, X, Y))
    fourth = restart(third, 9, 3, 4)
    assert fourth == (
        part(1, 5, A, B),
        part(1, 7, X, Y),
        part(2, 9, A, B),
        part(3, 9, X, Y),
        part(4, None, A, B, X, Y),
    )


def test_a_part_that_completed_nothing_since_its_restart_leaves_no_segment() -> None:
    second = restart((part(1, None, A, B, X, Y),), 5, 1, 2, goes_on=(X, Y))
    assert restart(second, 5, 1, 3, goes_on=(X, Y)) == (part(1, 5, A, B), part(1, None, X, Y), part(3, None, A, B))
    assert restart(second, 5, 1, 3) == (part(1, 5, A, B, X, Y), part(3, None, A, B, X, Y))


def test_a_part_starts_from_nothing_while_the_other_goes_on() -> None:
    first = (part(1, None, A, B, X, Y),)
    lineage = next_lineage(first, None, Attempt(2), dict.fromkeys((A, B, X, Y), 1), goes_on=(X, Y))
    assert lineage == (part(1, None, X, Y), part(2, None, A, B))


def test_a_checkpoint_lies_in_the_segment_that_ran_when_it_was_completed() -> None:
    segments = (part(1, 5, A), part(2, 9, A), part(4, None, A))
    assert segment_with(segments, CheckpointId(4), Attempt(1)) is segments[0]
    assert segment_with(segments, CheckpointId(8), Attempt(3)) is segments[1], (
        "the job was at attempt 3, this vertex not"
    )
    assert segment_with(segments, CheckpointId(12), Attempt(7)) is segments[2]
    assert segment_with(segments[1:], CheckpointId(4), Attempt(1)) is None, "dropped before"
    assert segment_with(segments, CheckpointId(11), Attempt(3)) is None, "of an attempt that was rolled back"
