"""How long a subtask may align, and what it says about it."""

from __future__ import annotations

from moorage.ids import CheckpointId
from moorage.messages.barriers import Alignment, Barrier, SnapshotOptions
from moorage.task.alignment import AlignmentTimes


def barrier(checkpoint: int, alignment: Alignment = Alignment.TIMEOUT) -> Barrier:
    options = SnapshotOptions(alignment=alignment, aligned_timeout_ms=50)
    return Barrier(checkpoint=CheckpointId(checkpoint), triggered_ms=1_000, options=options)


def test_the_time_to_align_begins_with_the_trigger() -> None:
    times = AlignmentTimes()
    times.heard(CheckpointId(1), 100)
    times.arrived(CheckpointId(1), 120, 0)
    assert times.overdue([barrier(1)], 149) == []
    assert times.overdue([barrier(1)], 150) == [1]


def test_without_a_trigger_it_begins_with_the_first_barrier() -> None:
    times = AlignmentTimes()
    times.arrived(CheckpointId(1), 120, 0)
    times.arrived(CheckpointId(1), 150, 0)
    times.heard(CheckpointId(1), 160)
    assert times.overdue([barrier(1)], 169) == []
    assert times.overdue([barrier(1)], 170) == [1]


def test_only_a_timeout_ends_an_alignment() -> None:
    times = AlignmentTimes()
    times.arrived(CheckpointId(1), 0, 0)
    assert times.overdue([barrier(1, Alignment.ALIGNED), barrier(2)], 10_000) == []


def test_metrics_speak_of_the_time_between_the_first_barrier_and_the_snapshot() -> None:
    times = AlignmentTimes()
    times.heard(CheckpointId(1), 100)
    times.arrived(CheckpointId(1), 120, 500)
    times.arrived(CheckpointId(1), 130, 700)
    metrics = times.settle(barrier(1), 150, 1_080, 800, unaligned=False)
    assert (metrics.alignment_ms, metrics.start_delay_ms, metrics.processed_bytes) == (30, 50, 300)
    assert times.overdue([barrier(1)], 10_000) == [], "it is forgotten"


def test_a_snapshot_at_the_trigger_has_no_alignment() -> None:
    times = AlignmentTimes()
    times.heard(CheckpointId(1), 100)
    metrics = times.settle(barrier(1, Alignment.UNALIGNED), 100, 1_007, 800, unaligned=True)
    assert (metrics.alignment_ms, metrics.start_delay_ms, metrics.processed_bytes) == (0, 7, 0)
    assert metrics.unaligned
