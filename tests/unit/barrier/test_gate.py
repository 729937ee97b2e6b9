"""The input gate, transition by transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.unit.barrier.worlds import TOPIC, channel_positions, exchange, segment, tp

from moorage.barrier.gate import ChannelPosition, Held, InputGate, Verdict
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import Attempt, CheckpointId
from moorage.messages.registry import LineageSegment


class Gate:
    """A gate on one or more partitions; offsets count up by themselves."""

    def __init__(
        self,
        lineage: Sequence[LineageSegment] = (segment(1, None, 2),),
        partitions: int = 1,
        kind: ExchangeKind = ExchangeKind.KEYED,
        starts: Mapping[int, int] | None = None,
        **options: Any,
    ) -> None:
        first = {tp(i): (starts or {}).get(i, 0) for i in range(partitions)}
        self.gate = InputGate({TOPIC: (exchange(kind, partitions), range(partitions))}, lineage, first, **options)
        self.next_offset = {i: first[tp(i)] for i in range(partitions)}

    def offer(
        self, producer: int, barrier: int | None = None, *, partition: int = 0, attempt: int = 1, end: bool = False
    ) -> Verdict:
        offset = self.next_offset[partition]
        self.next_offset[partition] += 1
        return self.offer_at(offset, producer, barrier, partition=partition, attempt=attempt, end=end)

    def offer_at(
        self,
        offset: int,
        producer: int,
        barrier: int | None = None,
        *,
        partition: int = 0,
        attempt: int = 1,
        end: bool = False,
    ) -> Verdict:
        verdict = self.gate.offer(
            tp(partition),
            offset,
            Attempt(attempt),
            producer,
            10,
            f"frame {partition}/{offset}",
            barrier=None if barrier is None else CheckpointId(barrier),
            end_of_partition=end,
        )
        self.gate.validate()
        return verdict

    def abort(self, checkpoint: int) -> bool:
        return self.gate.abort(CheckpointId(checkpoint))

    def released(self) -> list[int]:
        """Offsets of the frames that come back; nothing is to be sought."""
        frames, seeks = self.gate.release()
        self.gate.validate()
        assert not seeks
        return [held.offset for held in frames]

    def positions(self, attempt: int | None = None) -> list[int]:
        return [p.offset for p in self.gate.positions(None if attempt is None else Attempt(attempt))]


def test_frames_are_processed_and_move_the_position_of_their_channel() -> None:
    gate = Gate()
    assert [gate.offer(0), gate.offer(1), gate.offer(0)] == [Verdict.PROCESS] * 3
    assert gate.gate.positions() == [ChannelPosition(tp(0), 0, 3), ChannelPosition(tp(0), 1, 2)]


@pytest.mark.parametrize(("producer", "attempt"), [(2, 1), (0, 2), (0, 0)])
def test_what_no_channel_of_the_lineage_sent_is_void(producer: int, attempt: int) -> None:
    gate = Gate()
    assert gate.offer(producer, attempt=attempt) is Verdict.VOID
    assert gate.offer(producer, 1, attempt=attempt) is Verdict.VOID
    assert gate.gate.aligning is None
    assert gate.positions() == [0, 0]


def test_what_was_processed_is_seen() -> None:
    gate = Gate()
    gate.offer(0)
    assert gate.offer_at(0, 0) is Verdict.SEEN
    assert gate.offer_at(1, 0) is Verdict.PROCESS


def test_a_barrier_blocks_its_channel_until_it_has_come_from_all() -> None:
    gate = Gate()
    assert gate.offer(0, 1) is Verdict.BARRIER
    assert gate.gate.aligning == 1
    assert gate.offer(0) is Verdict.HELD
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(0, 2) is Verdict.HELD
    assert gate.gate.held_bytes == 20
    assert gate.offer(1, 1) is Verdict.ALIGNED
    assert (gate.gate.aligned, gate.gate.aligning) == (1, None)
    assert gate.positions() == [1, 5]
    assert gate.released() == [1, 3]
    assert gate.gate.held_bytes == 0
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer_at(3, 0, 2) is Verdict.BARRIER


def test_held_frames_come_back_as_they_were_offered() -> None:
    gate = Gate()
    gate.offer(0, 1)
    gate.offer(0)
    gate.offer(1, 1)
    assert gate.gate.release().frames == [Held(tp(0), 1, 10, "frame 0/1")]


def test_a_single_channel_is_aligned_at_once() -> None:
    gate = Gate([segment(1, None, 1)])
    assert gate.offer(0, 1) is Verdict.ALIGNED
    assert gate.released() == []
    assert gate.offer(0, 2) is Verdict.ALIGNED


def test_channels_of_all_partitions_are_waited_for() -> None:
    gate = Gate(partitions=2)
    verdicts = [gate.offer(producer, 1, partition=partition) for partition in (0, 1) for producer in (0, 1)]
    assert verdicts == [Verdict.BARRIER] * 3 + [Verdict.ALIGNED]


def test_of_a_forward_exchange_only_the_owners_of_partitions_are_waited_for() -> None:
    gate = Gate(partitions=2, kind=ExchangeKind.FORWARD)
    assert gate.offer(1, partition=0) is Verdict.VOID
    assert [gate.offer(0, 1, partition=0), gate.offer(1, 1, partition=1)] == [Verdict.BARRIER, Verdict.ALIGNED]


def test_a_later_barrier_on_an_open_channel_abandons_the_alignment() -> None:
    gate = Gate(partitions=1)
    gate.offer(0, 1)
    gate.offer(0)
    assert gate.offer(1, 2) is Verdict.ABANDONED
    assert (gate.gate.abandoned, gate.gate.aligning) == (1, 2)
    assert gate.released() == [1]
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer(1) is Verdict.HELD
    assert gate.offer(0, 2) is Verdict.ALIGNED
    assert gate.released() == [3]


def test_a_barrier_that_comes_too_late_is_passed_over() -> None:
    gate = Gate()
    gate.offer(0, 2)
    assert gate.offer(1, 1) is Verdict.BARRIER
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(1, 2) is Verdict.ALIGNED
    gate.released()
    assert [gate.offer(1, 1), gate.offer(1, 2)] == [Verdict.BARRIER] * 2
    assert gate.gate.aligning is None
    assert gate.offer(1) is Verdict.PROCESS


def test_an_aborted_checkpoint_is_not_continued() -> None:
    gate = Gate()
    gate.offer(0, 1)
    gate.offer(0)
    assert gate.abort(1)
    assert gate.released() == [1]
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer(1, 1) is Verdict.BARRIER
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.gate.aligning is None
    assert not gate.abort(1)


def test_an_aborted_checkpoint_is_not_started() -> None:
    gate = Gate()
    assert not gate.abort(2)
    assert gate.offer(0, 1) is Verdict.BARRIER
    assert gate.offer(1, 2) is Verdict.BARRIER
    assert gate.gate.aligning == 1, "an aborted checkpoint abandons nothing"
    assert gate.offer(1, 3) is Verdict.ABANDONED
    gate.released()
    assert [gate.offer(0, 2), gate.offer(0, 3)] == [Verdict.BARRIER, Verdict.ALIGNED]
    assert gate.gate._aborted == set()


def test_beyond_the_bound_the_log_is_the_spill_file() -> None:
    gate = Gate(partitions=2, held_bytes_max=25)
    assert gate.offer(0, 1, partition=0) is Verdict.BARRIER
    assert gate.offer(0, 1, partition=1) is Verdict.BARRIER
    assert gate.offer(0, partition=1) is Verdict.HELD  # 1/1
    assert gate.offer(0) is Verdict.HELD  # 0/1
    assert gate.offer(1) is Verdict.PROCESS  # 0/2
    assert gate.gate.held_bytes == 20
    assert gate.offer(0) is Verdict.HELD  # 0/3: partition 0 is spilled
    assert gate.gate.held_bytes == 10
    assert gate.offer(0) is Verdict.HELD
    assert gate.gate.held_bytes == 10, "what is spilled already is not held"
    assert gate.offer(1, 1) is Verdict.BARRIER  # 0/5
    assert gate.offer(1, 1, partition=1) is Verdict.ALIGNED
    frames, seeks = gate.gate.release()
    assert [(held.partition.partition, held.offset) for held in frames] == [(1, 1)]
    assert seeks == {tp(0): 1}
    again = [gate.offer_at(offset, producer) for offset, producer in ((1, 0), (2, 1), (3, 0), (4, 0))]
    assert again == [Verdict.PROCESS, Verdict.SEEN, Verdict.PROCESS, Verdict.PROCESS]
    assert gate.offer_at(5, 1, 1) is Verdict.SEEN
    assert gate.gate.release() == ([], {})


def test_end_of_partition_takes_a_channel_out() -> None:
    gate = Gate([segment(1, None, 3)])
    assert gate.offer(0, end=True) is Verdict.BARRIER
    assert gate.offer(0) is Verdict.VOID
    assert gate.offer(1, 1) is Verdict.BARRIER
    assert gate.offer(2, end=True) is Verdict.ALIGNED, "nobody else is waited for"
    gate.released()
    assert gate.offer(1, 2) is Verdict.ALIGNED
    gate.released()
    assert gate.offer(1, end=True) is Verdict.ENDED


# --- history ---------------------------------------------------------------------------------------------------------

LINEAGE = (segment(1, 3, 2), segment(3, 5, 1), segment(4, None, 2))


def test_after_an_aligned_restore_older_attempts_are_void() -> None:
    gate = Gate(LINEAGE)
    assert [gate.offer(0, attempt=a) for a in (1, 2, 3)] == [Verdict.VOID] * 3
    assert [gate.offer(p, attempt=4) for p in (0, 1)] == [Verdict.PROCESS] * 2


def test_a_replay_reads_each_attempt_up_to_its_end_and_aligns_the_last() -> None:
    gate = Gate(LINEAGE, first_live={tp(0): 0}, replay_until=CheckpointId(5))
    assert gate.gate.attempt == 3
    assert [gate.offer(p) for p in (0, 1)] == [Verdict.PROCESS] * 2
    assert [gate.offer(0, 2), gate.offer(0, 3)] == [Verdict.BARRIER] * 2
    assert gate.offer(0) is Verdict.VOID, "behind the end of its segment"
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(1, 3) is Verdict.BARRIER
    assert gate.offer(0, attempt=2) is Verdict.VOID, "an attempt that completed nothing"
    assert [gate.offer(0, attempt=3), gate.offer(0, 4, attempt=3)] == [Verdict.PROCESS, Verdict.BARRIER]
    assert gate.offer(0, attempt=4) is Verdict.HELD, "it is not its turn"
    assert gate.offer(0, 5, attempt=3) is Verdict.ALIGNED
    assert gate.positions() == [12]
    assert gate.positions(4) == [0, 0]
    assert gate.released() == [10]
    assert (gate.gate.attempt, gate.gate.replay_until) == (4, None)
    assert gate.offer_at(10, 0, attempt=4) is Verdict.PROCESS
    assert gate.offer(0, attempt=3) is Verdict.VOID
    assert [gate.offer(p, 6, attempt=4) for p in (0, 1)] == [Verdict.BARRIER, Verdict.ALIGNED]


def test_a_partition_that_needs_no_replay_waits_for_those_that_do() -> None:
    gate = Gate(
        LINEAGE,
        partitions=2,
        starts={0: 10, 1: 20},
        positions=channel_positions(0, 1, {0: 12, 1: 10}),
        first_live={tp(0): 0, tp(1): 2},
        replay_until=CheckpointId(5),
    )
    assert gate.offer(0, attempt=4, partition=1) is Verdict.HELD
    assert gate.offer(0, 5, attempt=3, partition=1) is Verdict.VOID, "its marker is at checkpoint 5 already"
    assert gate.offer(0) is Verdict.SEEN
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(0) is Verdict.PROCESS
    assert [gate.offer(0, 3), gate.offer(1, 3)] == [Verdict.BARRIER] * 2
    assert gate.offer(0, 5, attempt=3) is Verdict.ALIGNED
    assert [p.partition for p in gate.gate.positions()] == [tp(0)]
    assert gate.released() == [20]


def test_what_waits_may_be_spilled_too() -> None:
    gate = Gate(LINEAGE, first_live={tp(0): 1}, replay_until=CheckpointId(5), held_bytes_max=5)
    assert gate.offer(0, attempt=4) is Verdict.HELD
    assert gate.offer(0, 5, attempt=3) is Verdict.ALIGNED
    assert gate.gate.release() == ([], {tp(0): 0})
    assert [gate.offer_at(0, 0, attempt=4), gate.offer_at(1, 0, 5, attempt=3)] == [Verdict.PROCESS, Verdict.VOID]


def test_positions_of_channels_that_are_over_are_of_no_interest() -> None:
    gate = Gate(LINEAGE, positions=channel_positions(0, 1, {0: 7}))
    assert gate.positions() == [0, 0]
