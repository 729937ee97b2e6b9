"""Which attempts make up the history that counts, and who wrote to which partition in them."""

from __future__ import annotations

import pytest
from tests.unit.barrier.worlds import A, B, exchange, segment

from moorage.barrier.lineage import next_lineage, producers_of
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import Attempt, CheckpointId
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
