"""The input gate, transition by transition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.unit.barrier.worlds import TOPIC, channel_positions, exchange, segment, tp

from moorage.barrier.channels import ChannelPosition, Held, InFlight
from moorage.barrier.gate import InputGate, Verdict
from moorage.barrier.pending import Declined
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import Attempt, CheckpointId
from moorage.messages.barriers import Alignment, Barrier, SnapshotKind, SnapshotOptions
from moorage.messages.events import DeclineReason
from moorage.messages.registry import LineageSegment


def barrier_of(checkpoint: int, alignment: Alignment = Alignment.ALIGNED) -> Barrier:
    return Barrier(checkpoint=CheckpointId(checkpoint), triggered_ms=0, options=SnapshotOptions(alignment=alignment))


class Gate:
    """A gate on one or more partitions; offsets count up by themselves."""

    def __init__(
        self,
        lineage: Sequence[LineageSegment] = (segment(1, None, 2),),
        partitions: int = 1,
        kind: ExchangeKind = ExchangeKind.KEYED,
        starts: Mapping[int, int] | None = None,
        alignment: Alignment = Alignment.ALIGNED,
        **options: Any,
    ) -> None:
        self.alignment = alignment
        first = {tp(i): (starts or {}).get(i, 0) for i in range(partitions)}
        self.gate = InputGate({TOPIC: (exchange(kind, partitions), range(partitions))}, lineage, first, **options)
        self.next_offset = {i: first[tp(i)] for i in range(partitions)}

    def offer(
        self,
        producer: int,
        barrier: int | None = None,
        *,
        partition: int = 0,
        attempt: int = 1,
        end: bool = False,
        end_of_data: bool = False,
    ) -> Verdict:
        offset = self.next_offset[partition]
        self.next_offset[partition] += 1
        return self.offer_at(
            offset, producer, barrier, partition=partition, attempt=attempt, end=end, end_of_data=end_of_data
        )

    def offer_at(
        self,
        offset: int,
        producer: int,
        barrier: int | None = None,
        *,
        partition: int = 0,
        attempt: int = 1,
        end: bool = False,
        end_of_data: bool = False,
    ) -> Verdict:
        verdict = self.gate.offer(
            tp(partition),
            offset,
            Attempt(attempt),
            producer,
            10,
            f"frame {partition}/{offset}",
            barrier=None if barrier is None else barrier_of(barrier, self.alignment),
            end_of_data=end_of_data,
            end_of_partition=end,
        )
        self.gate.validate()
        return verdict

    def abort(self, checkpoint: int) -> Verdict:
        verdict = self.gate.abort(CheckpointId(checkpoint))
        self.gate.validate()
        return verdict

    def announce(self, checkpoint: int, alignment: Alignment | None = None) -> Verdict:
        verdict = self.gate.announce(barrier_of(checkpoint, alignment or self.alignment))
        self.gate.validate()
        return verdict

    def overtake(self, checkpoint: int) -> Verdict:
        verdict = self.gate.overtake(CheckpointId(checkpoint))
        self.gate.validate()
        return verdict

    def in_flight(self) -> list[tuple[int, int, int, int, int]]:
        """Partition, attempt, producer, offset, until: the channel state of the checkpoint that is due."""
        return [(c.partition.partition, *c[1:]) for c in self.gate.snapshot()]

    def declined(self) -> list[int]:
        return [declined.checkpoint for declined in self.gate.declined]

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
    assert gate.offer(0, 1) is Verdict.NOTED
    assert gate.gate.aligning == 1
    assert gate.offer(0) is Verdict.HELD
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(0, 2) is Verdict.HELD
    assert gate.gate.held_bytes == 20
    assert gate.offer(1, 1) is Verdict.SNAPSHOT
    assert gate.gate.due == 1
    assert gate.gate.aligning is None
    assert gate.positions() == [1, 5]
    assert gate.released() == [1, 3]
    assert gate.gate.held_bytes == 0
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer_at(3, 0, 2) is Verdict.NOTED


def test_held_frames_come_back_as_they_were_offered() -> None:
    gate = Gate()
    gate.offer(0, 1)
    gate.offer(0)
    gate.offer(1, 1)
    assert gate.gate.release().frames == [Held(tp(0), 1, 10, "frame 0/1")]


def test_a_single_channel_is_aligned_at_once() -> None:
    gate = Gate([segment(1, None, 1)])
    assert gate.offer(0, 1) is Verdict.SNAPSHOT
    assert gate.released() == []
    assert gate.offer(0, 2) is Verdict.SNAPSHOT


def test_channels_of_all_partitions_are_waited_for() -> None:
    gate = Gate(partitions=2)
    verdicts = [gate.offer(producer, 1, partition=partition) for partition in (0, 1) for producer in (0, 1)]
    assert verdicts == [Verdict.NOTED] * 3 + [Verdict.SNAPSHOT]


def test_of_a_forward_exchange_only_the_owners_of_partitions_are_waited_for() -> None:
    gate = Gate(partitions=2, kind=ExchangeKind.FORWARD)
    assert gate.offer(1, partition=0) is Verdict.VOID
    assert [gate.offer(0, 1, partition=0), gate.offer(1, 1, partition=1)] == [Verdict.NOTED, Verdict.SNAPSHOT]


def test_a_later_barrier_on_an_open_channel_abandons_the_alignment() -> None:
    gate = Gate(partitions=1)
    gate.offer(0, 1)
    gate.offer(0)
    assert gate.offer(1, 2) is Verdict.RELEASE
    assert (gate.declined(), gate.gate.aligning) == ([1], 2)
    assert gate.released() == [1]
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer(1) is Verdict.HELD
    assert gate.offer(0, 2) is Verdict.SNAPSHOT
    assert gate.released() == [3]


def test_a_barrier_that_comes_too_late_is_passed_over() -> None:
    gate = Gate()
    gate.offer(0, 2)
    assert gate.offer(1, 1) is Verdict.NOTED
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(1, 2) is Verdict.SNAPSHOT
    gate.released()
    assert [gate.offer(1, 1), gate.offer(1, 2)] == [Verdict.NOTED] * 2
    assert gate.gate.aligning is None
    assert gate.offer(1) is Verdict.PROCESS


def test_an_aborted_checkpoint_is_not_continued() -> None:
    gate = Gate()
    gate.offer(0, 1)
    gate.offer(0)
    assert gate.abort(1) is Verdict.RELEASE
    assert gate.released() == [1]
    assert gate.offer_at(1, 0) is Verdict.PROCESS
    assert gate.offer(1, 1) is Verdict.NOTED
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.gate.aligning is None
    assert gate.abort(1) is Verdict.NOTED


def test_an_aborted_checkpoint_is_not_started() -> None:
    gate = Gate()
    assert gate.abort(2) is Verdict.NOTED
    assert gate.offer(0, 1) is Verdict.NOTED
    assert gate.offer(1, 2) is Verdict.RELEASE
    assert gate.declined() == [1], "it has been passed over"
    gate.released()
    assert gate.offer(1, 3) is Verdict.NOTED
    assert [gate.offer(0, 2), gate.offer(0, 3)] == [Verdict.NOTED, Verdict.SNAPSHOT]


def test_beyond_the_bound_the_log_is_the_spill_file() -> None:
    gate = Gate(partitions=2, held_bytes_max=25)
    assert gate.offer(0, 1, partition=0) is Verdict.NOTED
    assert gate.offer(0, 1, partition=1) is Verdict.NOTED
    assert gate.offer(0, partition=1) is Verdict.HELD  # 1/1
    assert gate.offer(0) is Verdict.HELD  # 0/1
    assert gate.offer(1) is Verdict.PROCESS  # 0/2
    assert gate.gate.held_bytes == 20
    assert gate.offer(0) is Verdict.HELD  # 0/3: partition 0 is spilled
    assert gate.gate.held_bytes == 10
    assert gate.offer(0) is Verdict.HELD
    assert gate.gate.held_bytes == 10, "what is spilled already is not held"
    assert gate.offer(1, 1) is Verdict.NOTED  # 0/5
    assert gate.offer(1, 1, partition=1) is Verdict.SNAPSHOT
    frames, seeks = gate.gate.release()
    assert [(held.partition.partition, held.offset) for held in frames] == [(1, 1)]
    assert seeks == {tp(0): 1}
    again = [gate.offer_at(offset, producer) for offset, producer in ((1, 0), (2, 1), (3, 0), (4, 0))]
    assert again == [Verdict.PROCESS, Verdict.SEEN, Verdict.PROCESS, Verdict.PROCESS]
    assert gate.offer_at(5, 1, 1) is Verdict.SEEN
    assert gate.gate.release() == ([], {})


def test_end_of_partition_takes_a_channel_out() -> None:
    gate = Gate([segment(1, None, 3)])
    assert gate.offer(0, end=True) is Verdict.NOTED
    assert gate.offer(0) is Verdict.VOID
    assert gate.offer(1, 1) is Verdict.NOTED
    assert gate.offer(2, end=True) is Verdict.SNAPSHOT, "nobody else is waited for"
    gate.released()
    assert gate.offer(1, 2) is Verdict.SNAPSHOT
    gate.released()
    assert not gate.gate.has_ended
    assert gate.offer(1, end=True) is Verdict.NOTED
    assert gate.gate.has_ended


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
    assert [gate.offer(0, 2), gate.offer(0, 3)] == [Verdict.NOTED] * 2
    assert gate.offer(0) is Verdict.VOID, "behind the end of its segment"
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.offer(1, 3) is Verdict.NOTED
    assert gate.offer(0, attempt=2) is Verdict.VOID, "an attempt that completed nothing"
    assert [gate.offer(0, attempt=3), gate.offer(0, 4, attempt=3)] == [Verdict.PROCESS, Verdict.NOTED]
    assert gate.offer(0, attempt=4) is Verdict.HELD, "it is not its turn"
    assert gate.offer(0, 5, attempt=3) is Verdict.SNAPSHOT
    assert gate.positions() == [12]
    assert gate.positions(4) == [0, 0]
    assert gate.released() == [10]
    assert (gate.gate.attempt, gate.gate.replay_until) == (4, None)
    assert gate.offer_at(10, 0, attempt=4) is Verdict.PROCESS
    assert gate.offer(0, attempt=3) is Verdict.VOID
    assert [gate.offer(p, 6, attempt=4) for p in (0, 1)] == [Verdict.NOTED, Verdict.SNAPSHOT]


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
    assert [gate.offer(0, 3), gate.offer(1, 3)] == [Verdict.NOTED] * 2
    assert gate.offer(0, 5, attempt=3) is Verdict.SNAPSHOT
    assert [p.partition for p in gate.gate.positions()] == [tp(0)]
    assert gate.released() == [20]


def test_what_waits_may_be_spilled_too() -> None:
    gate = Gate(LINEAGE, first_live={tp(0): 1}, replay_until=CheckpointId(5), held_bytes_max=5)
    assert gate.offer(0, attempt=4) is Verdict.HELD
    assert gate.offer(0, 5, attempt=3) is Verdict.SNAPSHOT
    assert gate.gate.release() == ([], {tp(0): 0})
    assert [gate.offer_at(0, 0, attempt=4), gate.offer_at(1, 0, 5, attempt=3)] == [Verdict.PROCESS, Verdict.VOID]


def test_positions_of_channels_that_are_over_are_of_no_interest() -> None:
    gate = Gate(LINEAGE, positions=channel_positions(0, 1, {0: 7}))
    assert gate.positions() == [0, 0]


# --- without alignment -----------------------------------------------------------------------------------------------

UNALIGNED, TIMEOUT, AT_LEAST_ONCE = Alignment.UNALIGNED, Alignment.TIMEOUT, Alignment.AT_LEAST_ONCE


def test_an_unaligned_snapshot_is_due_at_the_trigger() -> None:
    gate = Gate(alignment=UNALIGNED)
    assert [gate.offer(0), gate.offer(1)] == [Verdict.PROCESS] * 2
    assert gate.announce(1) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 1, 1), (0, 1, 1, 2, 1)]
    assert gate.released() == []
    assert [gate.offer(0, 1), gate.offer(0), gate.offer(1, 1)] == [Verdict.NOTED, Verdict.PROCESS, Verdict.NOTED]
    assert gate.gate.due is None


def test_an_unaligned_snapshot_is_due_at_the_first_barrier() -> None:
    gate = Gate(alignment=UNALIGNED)
    assert gate.offer(1, 1) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 0, 1), (0, 1, 1, 1, 0)], "the second channel has nothing in flight"
    gate.released()
    assert gate.announce(1) is Verdict.NOTED, "it was taken"


def test_several_unaligned_checkpoints_may_be_in_flight() -> None:
    gate = Gate(alignment=UNALIGNED)
    for checkpoint in (1, 2, 3):
        assert gate.announce(checkpoint) is Verdict.SNAPSHOT
        gate.released()
    assert [gate.offer(0, n) for n in (1, 2, 3)] == [Verdict.NOTED] * 3
    assert gate.announce(4) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 3, 4), (0, 1, 1, 0, 4)]


def test_when_its_time_is_over_an_alignment_waits_no_longer() -> None:
    gate = Gate(alignment=TIMEOUT)
    assert gate.announce(1) is Verdict.NOTED
    assert gate.offer(0, 1) is Verdict.NOTED
    assert gate.offer(0) is Verdict.HELD
    assert gate.offer(1) is Verdict.PROCESS
    assert gate.overtake(1) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 1, 0), (0, 1, 1, 3, 1)], "what is held lies behind the barrier"
    assert gate.released() == [1]
    assert [gate.offer(0), gate.offer(1, 1), gate.offer(1)] == [Verdict.PROCESS, Verdict.NOTED, Verdict.PROCESS]
    assert gate.overtake(1) is Verdict.NOTED


def test_an_alignment_that_ends_in_time_leaves_nothing_in_flight() -> None:
    gate = Gate(alignment=TIMEOUT)
    assert [gate.offer(0, 1), gate.offer(1, 1)] == [Verdict.NOTED, Verdict.SNAPSHOT]
    assert [until for *_, until in gate.in_flight()] == [0, 0]


def test_at_least_once_holds_nothing_back() -> None:
    gate = Gate(alignment=AT_LEAST_ONCE)
    verdicts = [gate.offer(0, 1), gate.offer(0), gate.offer(0, 2), gate.offer(0), gate.offer(1)]
    assert verdicts == [Verdict.NOTED, Verdict.PROCESS, Verdict.NOTED, Verdict.PROCESS, Verdict.PROCESS]
    assert gate.offer(1, 1) is Verdict.SNAPSHOT
    assert gate.gate.due == 1
    assert [until for *_, until in gate.in_flight()] == [0, 0]
    gate.released()
    assert gate.offer(1, 2) is Verdict.SNAPSHOT


def test_at_least_once_the_end_of_data_waits_for_the_checkpoint_that_it_lies_behind() -> None:
    """Else the snapshot would say that nothing comes any more, and a restore lose what lies behind the barrier."""
    gate = Gate(alignment=AT_LEAST_ONCE)
    gate.offer(0, 1)
    assert gate.offer(0) is Verdict.PROCESS
    assert gate.offer(0, end_of_data=True) is Verdict.HELD
    assert gate.offer(1, end_of_data=True) is Verdict.NOTED
    assert gate.offer(1, 1) is Verdict.SNAPSHOT
    assert not gate.gate.has_data_ended
    assert gate.released() == [2]
    assert gate.offer_at(2, 0, end_of_data=True) is Verdict.NOTED
    assert gate.gate.has_data_ended


def test_snapshots_are_taken_in_the_order_of_their_checkpoints() -> None:
    """A savepoint aligns in a job whose checkpoints don't: they wait for it, so that barriers are sent on in order."""
    gate = Gate(alignment=UNALIGNED)
    assert gate.announce(1, Alignment.ALIGNED) is Verdict.NOTED
    assert gate.announce(2) is Verdict.NOTED
    gate.alignment = Alignment.ALIGNED
    assert [gate.offer(0, 1), gate.offer(1, 1)] == [Verdict.NOTED, Verdict.SNAPSHOT]
    assert gate.gate.due == 1
    gate.released()
    assert gate.gate.due == 2
    assert gate.in_flight() == [(0, 1, 0, 1, 2), (0, 1, 1, 2, 2)]
    gate.released()
    assert gate.gate.due is None


def test_an_aborted_savepoint_lets_the_checkpoint_behind_it_go_on() -> None:
    gate = Gate(alignment=UNALIGNED)
    gate.announce(1, Alignment.ALIGNED)
    gate.announce(2)
    assert gate.abort(1) is Verdict.SNAPSHOT
    assert gate.gate.due == 2


def test_a_checkpoint_that_a_channel_passed_over_is_declined() -> None:
    gate = Gate()
    gate.announce(1)
    assert gate.offer(0, 2) is Verdict.NOTED
    assert gate.gate.declined == [Declined(CheckpointId(1), DeclineReason.ALIGNMENT_ABANDONED, "barrier 2 came first")]
    assert gate.announce(1) is Verdict.NOTED
    assert gate.offer(1, 1) is Verdict.NOTED
    assert gate.declined() == [1], "said once"
    assert gate.offer(1, 2) is Verdict.SNAPSHOT


def test_a_trigger_that_comes_after_newer_barriers_is_declined() -> None:
    gate = Gate()
    gate.offer(0, 2)
    assert gate.announce(1) is Verdict.NOTED
    assert gate.declined() == [1]


def test_an_alignment_that_holds_too_much_is_declined() -> None:
    gate = Gate(alignment_limit_bytes=15)
    gate.offer(0, 1)
    assert gate.offer(0) is Verdict.HELD
    assert not gate.gate.must_release
    assert gate.offer(0) is Verdict.HELD
    assert gate.gate.must_release
    assert gate.gate.declined[0].reason is DeclineReason.ALIGNMENT_LIMIT
    assert gate.released() == [1, 2]
    assert [gate.offer_at(1, 0), gate.offer_at(2, 0), gate.offer(1, 1)] == [*[Verdict.PROCESS] * 2, Verdict.NOTED]


def test_the_limit_counts_what_was_spilled_too() -> None:
    gate = Gate(alignment_limit_bytes=25, held_bytes_max=0)
    gate.offer(0, 1)
    assert [gate.offer(0), gate.offer(0)] == [Verdict.HELD] * 2
    assert not gate.gate.must_release
    gate.offer(0)
    assert gate.gate.must_release
    assert gate.gate.release() == ([], {tp(0): 1})


def test_barriers_don_t_count_against_the_limit() -> None:
    gate = Gate(alignment_limit_bytes=15)
    gate.offer(0, 1)
    assert [gate.offer(0, 2), gate.offer(0, 3)] == [Verdict.HELD] * 2
    assert gate.declined() == []
    assert [gate.offer(0), gate.offer(0)] == [Verdict.HELD] * 2
    assert gate.declined() == [1]


def test_a_barrier_may_be_of_no_interest() -> None:
    gate = Gate(alignment_of=lambda options: None if options.kind is SnapshotKind.SAVEPOINT else Alignment.ALIGNED)
    savepoint = Barrier(
        checkpoint=CheckpointId(1), triggered_ms=0, options=SnapshotOptions(kind=SnapshotKind.SAVEPOINT)
    )
    assert gate.gate.offer(tp(0), 0, Attempt(1), 0, 10, None, barrier=savepoint) is Verdict.NOTED
    assert gate.gate.pending == []


# --- in flight -------------------------------------------------------------------------------------------------------


def in_flight(*channels: tuple[int, int, int, int]) -> list[InFlight]:
    return [
        InFlight(tp(0), Attempt(a), producer, offset, CheckpointId(until)) for a, producer, offset, until in channels
    ]


def test_what_was_in_flight_is_processed_up_to_its_barrier() -> None:
    gate = Gate(LINEAGE, in_flight=in_flight((3, 0, 2, 5)), starts={0: 1})
    assert gate.offer(1, attempt=3) is Verdict.VOID, "a channel that was not open"
    assert gate.offer(0, attempt=3) is Verdict.PROCESS
    assert gate.offer(0, 4, attempt=3) is Verdict.NOTED, "a barrier on the way"
    assert gate.offer(0, attempt=3) is Verdict.PROCESS
    assert gate.offer(0, 5, attempt=3) is Verdict.NOTED
    assert gate.offer(0, attempt=3) is Verdict.VOID, "behind its end"
    assert gate.offer(0, attempt=4) is Verdict.PROCESS


def test_what_was_processed_before_is_not_in_flight() -> None:
    gate = Gate(LINEAGE, in_flight=in_flight((3, 0, 2, 5)), starts={0: 1})
    assert [gate.offer(0, attempt=3), gate.offer(0, attempt=3)] == [Verdict.SEEN, Verdict.PROCESS]


def test_a_checkpoint_knows_what_is_in_flight_of_older_attempts() -> None:
    gate = Gate(LINEAGE, in_flight=in_flight((1, 1, 0, 3), (3, 0, 0, 5)), alignment=UNALIGNED)
    gate.offer(1, attempt=1)
    assert gate.announce(7) is Verdict.SNAPSHOT
    assert sorted(gate.in_flight()) == [(0, 1, 1, 1, 3), (0, 3, 0, 0, 5), (0, 4, 0, 0, 7), (0, 4, 1, 0, 7)]
    gate.released()
    gate.offer(1, 3, attempt=1)
    gate.offer(0, 5, attempt=3)
    assert gate.announce(8) is Verdict.SNAPSHOT
    assert sorted(gate.in_flight()) == [(0, 4, 0, 0, 8), (0, 4, 1, 0, 8)]


def test_end_of_partition_ends_what_is_in_flight_too() -> None:
    gate = Gate(LINEAGE, in_flight=in_flight((3, 0, 0, 5)))
    assert gate.offer(0, end=True, attempt=3) is Verdict.NOTED
    assert gate.offer(0, attempt=3) is Verdict.VOID
    assert [gate.offer(p, 7, attempt=4) for p in (0, 1)] == [Verdict.NOTED, Verdict.SNAPSHOT]


# --- ends ------------------------------------------------------------------------------------------------------------


def test_data_has_ended_when_every_channel_says_so() -> None:
    gate = Gate()
    assert gate.offer(0, end_of_data=True) is Verdict.NOTED
    assert not gate.gate.has_data_ended
    assert gate.offer(1, end_of_data=True) is Verdict.NOTED
    assert gate.gate.has_data_ended
    assert not gate.gate.has_ended
    assert [gate.offer(0, 1), gate.offer(1, 1)] == [Verdict.NOTED, Verdict.SNAPSHOT], "barriers go on"
    gate.released()
    assert [gate.offer(0, end=True), gate.offer(1, end=True)] == [Verdict.NOTED] * 2
    assert gate.gate.has_ended


def test_data_has_not_ended_while_some_is_in_flight() -> None:
    gate = Gate([segment(1, 3, 1), segment(2, None, 1)], in_flight=in_flight((1, 0, 0, 3)))
    gate.offer(0, end_of_data=True, attempt=2)
    gate.offer(0, end_of_data=True, attempt=1)
    assert not gate.gate.has_data_ended
    gate.offer(0, 3, attempt=1)
    assert gate.gate.has_data_ended


def test_without_live_channels_a_trigger_is_enough() -> None:
    gate = Gate([segment(1, None, 1)])
    gate.offer(0, end=True)
    assert gate.announce(1) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 1, 0)], "how far the log was read"


def test_a_checkpoint_waits_for_the_last_channel_that_leaves() -> None:
    gate = Gate()
    assert gate.announce(1) is Verdict.NOTED
    assert gate.offer(0, 1) is Verdict.NOTED
    assert gate.offer(1, end=True) is Verdict.SNAPSHOT
    assert gate.in_flight() == [(0, 1, 0, 1, 0)], "a finished channel is left out"


def test_a_channel_that_leaves_behind_its_barrier_is_not_waited_for_twice() -> None:
    gate = Gate(alignment=AT_LEAST_ONCE)
    assert gate.offer(0, 1) is Verdict.NOTED
    assert gate.offer(0, end=True) is Verdict.NOTED
    assert gate.offer(1, 1) is Verdict.SNAPSHOT


def test_a_replay_may_end_with_finished_producers() -> None:
    gate = Gate(LINEAGE, first_live={tp(0): 1}, replay_until=CheckpointId(5))
    assert gate.offer(0, attempt=4) is Verdict.HELD
    assert gate.offer(0, end=True, attempt=3) is Verdict.SNAPSHOT
    assert gate.gate.due == 5
    assert gate.released() == [0]


def test_a_producer_that_had_finished_before_the_marker_is_not_waited_for() -> None:
    positions = [(Attempt(3), ChannelPosition(tp(0), 0, 4, has_finished=True))]
    gate = Gate(LINEAGE, first_live={tp(0): 1}, replay_until=CheckpointId(5), positions=positions)
    assert gate.gate.due == 5
