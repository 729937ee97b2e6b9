"""The coordinator of a Kafka source finds partitions and tells them."""

from __future__ import annotations

from typing import Any

import pytest

import moorage as mo
from moorage.checkpoint.operator_coordinators import OperatorContext
from moorage.connectors.kafka_source_coordinator import (
    FIRST_RETRY_MS,
    KafkaSourceCoordinator,
    decode_partitions,
    encode_backlog,
    encode_partitions,
)
from moorage.effects import Call, CallError, CallFailure, Effects, ListPartitions
from moorage.graph.job_graph import OperatorKind, OperatorNode
from moorage.ids import CheckpointId, OperatorId, OperatorUid

INTERVAL_MS = 5_000


class World:
    def __init__(self, **source: Any) -> None:
        options = {"discovery_interval_ms": INTERVAL_MS, **source}
        node = OperatorNode(
            uid=OperatorUid("orders"),
            operator_id=OperatorId("0" * 32),
            name="orders",
            kind=OperatorKind.SOURCE,
            upstream=None,
            coordinator=mo.KafkaSource(["orders", "returns"], **options).coordinator(),
        )
        self.effects = Effects()
        self.told: list[dict[str, int]] = []
        self.backlogs: list[bool] = []
        context = OperatorContext(
            self.effects,
            node,
            lambda _, payload: self.told.append(decode_partitions(payload)),
            self.backlogs.append,
            print,
        )
        self.coordinator = KafkaSourceCoordinator(context)
        self.coordinator.reset(None, None)

    def tick(self, now_ms: int) -> Call | None:
        """The question that it asks then, if any."""
        self.coordinator.tick(now_ms)
        calls = [action for action in self.effects.drain() if isinstance(action, Call)]
        return calls[0] if calls else None

    def finds(self, now_ms: int, **counts: int) -> None:
        call = self.tick(now_ms)
        assert call is not None
        assert call.operation == ListPartitions(topics=("orders", "returns"))
        self.effects.finish_call(call.call, counts, None)

    def state(self) -> bytes:
        states: list[bytes] = []
        self.coordinator.checkpoint(CheckpointId(1), states.append)
        return states[0]


def test_it_looks_at_once_and_then_at_intervals_and_tells_what_is_new() -> None:
    world = World()
    world.finds(0, orders=3, returns=1)
    assert world.told == [{"orders": 3, "returns": 1}]
    assert world.tick(FIRST_RETRY_MS - 1) is None
    world.finds(INTERVAL_MS, orders=3, returns=1)
    assert len(world.told) == 1
    world.finds(3 * INTERVAL_MS, orders=4, returns=1)
    assert world.told[1:] == [{"orders": 4, "returns": 1}]


def test_one_question_at_a_time_and_no_answer_means_another_one() -> None:
    world = World()
    call = world.tick(0)
    assert call is not None
    assert world.tick(10 * INTERVAL_MS) is None
    world.effects.finish_call(call.call, None, CallError(CallFailure.UNAVAILABLE, "Kafka does not answer"))
    world.finds(10 * INTERVAL_MS, orders=3, returns=1)
    assert world.told == [{"orders": 3, "returns": 1}]


def test_what_is_known_never_gets_fewer() -> None:
    world = World()
    world.finds(0, orders=4, returns=1)
    world.finds(INTERVAL_MS, orders=3)
    assert world.told == [{"orders": 4, "returns": 1}]
    assert decode_partitions(world.state()) == {"orders": 4, "returns": 1}


def test_a_new_leader_goes_on_from_the_checkpoint_and_tells_again() -> None:
    world = World()
    world.coordinator.reset(CheckpointId(7), encode_partitions({"orders": 4}))
    assert decode_partitions(world.state()) == {"orders": 4}
    world.finds(0, orders=4, returns=1)
    assert world.told == [{"orders": 4, "returns": 1}]


@pytest.mark.parametrize("until", ["latest", {("orders", 0): 5}])
def test_a_bounded_source_has_the_partitions_that_it_began_with(until: Any) -> None:
    assert World(until=until).tick(0) is None


def test_a_backlog_lasts_until_no_subtask_has_one() -> None:
    world = World()
    for subtask, has_backlog in ((0, True), (1, True), (1, True), (0, False), (1, False), (1, False)):
        world.coordinator.handle_event(subtask, encode_backlog(has_backlog))
    assert world.backlogs == [True, False]
