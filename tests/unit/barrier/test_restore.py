"""Positions that predecessors stored become the starts of their successors."""

from __future__ import annotations

import pytest
from tests.unit.barrier.worlds import TOPIC, B, exchange, tp

from moorage.barrier.channels import InFlight
from moorage.barrier.restore import check_nothing_in_flight, exchange_positions, restored_inputs
from moorage.errors import StateError
from moorage.graph.job_graph import ExchangeKind
from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid
from moorage.state.handles import ByteStreamHandle, DistributionMode, OperatorStreamHandle, StateMetaInfo
from moorage.state.operator_ids import operator_id
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.state.positions import ExchangePositions, InputPositions
from moorage.state.redistribution import assign_elements


def channel(partition: int, offset: int, until: int = 0, *, attempt: int = 3, producer: int = 0) -> InFlight:
    return InFlight(tp(partition), Attempt(attempt), producer, offset, CheckpointId(until))


def stored(*channels: InFlight, other: ExchangePositions | None = None) -> InputPositions:
    part = exchange_positions(exchange().exchange, TOPIC, channels)
    return InputPositions((part,) if other is None else (other, part))


def test_a_partition_is_read_from_the_lowest_position_of_its_channels() -> None:
    predecessors = {0: stored(channel(0, 7, producer=0), channel(0, 5, producer=1)), 1: stored(channel(2, 9))}
    restored = restored_inputs({TOPIC: (exchange(), range(4))}, predecessors, 0)
    assert restored.starts == {tp(0): 5, tp(2): 9}
    assert restored.in_flight == []


def test_partitions_go_to_whoever_owns_them_now() -> None:
    """From three subtasks to two: channels follow their partition, open ones with their end."""
    predecessors = {n: stored(channel(n, 10 + n, 6, attempt=1), channel(n, 20 + n, 8)) for n in range(3)}
    halves = [restored_inputs({TOPIC: (exchange(), owned)}, predecessors, 0) for owned in (range(2), range(2, 4))]
    assert [half.starts for half in halves] == [{tp(0): 10, tp(1): 11}, {tp(2): 12}]
    assert halves[1].in_flight == [channel(2, 12, 6, attempt=1), channel(2, 22, 8)]


def test_a_broadcast_partition_goes_on_where_one_predecessor_was() -> None:
    broadcast = exchange(ExchangeKind.BROADCAST, partitions=1)
    predecessors = {0: stored(channel(0, 4, 8)), 2: stored(channel(0, 9))}
    starts = [restored_inputs({TOPIC: (broadcast, range(1))}, predecessors, n) for n in range(3)]
    assert [restored.starts for restored in starts] == [{tp(0): 4}, {tp(0): 9}, {tp(0): 9}]
    assert [len(restored.in_flight) for restored in starts] == [1, 0, 0]


def test_positions_of_other_exchanges_are_theirs() -> None:
    other = ExchangePositions(ExchangeId("c--d"), (0,), (Attempt(3),), (0,), (1,), (CheckpointId(0),))
    restored = restored_inputs({TOPIC: (exchange(), range(4))}, {0: stored(channel(0, 7), other=other)}, 0)
    assert restored.starts == {tp(0): 7}


def test_without_predecessors_nothing_is_known() -> None:
    assert restored_inputs({TOPIC: (exchange(ExchangeKind.BROADCAST, 1), range(1))}, {}, 1) == ({}, [])


def test_what_is_in_flight_belongs_to_the_life_that_took_the_checkpoint() -> None:
    check_nothing_in_flight(B, [stored(channel(0, 7)), stored(channel(1, 9))])
    with pytest.raises(StateError, match="vertex 'b': the checkpoint did not align"):
        check_nothing_in_flight(B, [stored(channel(0, 7)), stored(channel(1, 9, 4))])


def test_a_broadcast_stream_is_read_from_the_place_of_the_state_that_is_restored() -> None:
    """Subtasks 0 and 3 of 4 had finished: they have neither state nor positions."""
    broadcast = exchange(ExchangeKind.BROADCAST, partitions=1)
    unfinished = (1, 2)
    mode, uid = DistributionMode.BROADCAST, OperatorUid("rules")
    state = OperatorState(
        operator=operator_id(uid),
        uid=uid,
        name=uid,
        parallelism=4,
        max_parallelism=8,
        subtasks={
            n: OperatorSubtaskState(
                managed_operator=(
                    OperatorStreamHandle({"rules": StateMetaInfo((0,), mode)}, ByteStreamHandle(f"{n}", b"x")),
                )
            )
            if n in unfinished
            else OperatorSubtaskState(finished=True)
            for n in range(4)
        },
    )
    metadata = CheckpointMetadata(checkpoint=CheckpointId(1), operators=(state,))
    predecessors = {n: stored(channel(0, n)) for n in unfinished}
    for parallelism in range(1, 7):
        for subtask in range(parallelism):
            elements = assign_elements(metadata, operator_id(uid), uid, parallelism, subtask) or {}
            (stream,) = [element.stream for element in elements["rules"]]
            restored = restored_inputs({TOPIC: (broadcast, range(1))}, predecessors, subtask)
            assert isinstance(stream, ByteStreamHandle)
            assert restored.starts == {tp(0): int(stream.name)}
