"""Operator coordinators take part in checkpoints, speak with their subtasks, and start anew with each attempt."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from tests.unit.checkpoint.lone import BY_HAND, Lone
from tests.unit.cluster.graphs import JOB, SOURCE, orders_graph, subtasks

from moorage.checkpoint.notices import CheckpointFailed
from moorage.checkpoint.operator_coordinators import OperatorContext
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import Broadcast, ListPartitions, ReadOperatorStates, WriteMetadata
from moorage.graph.execution import Execution
from moorage.graph.job_graph import JobGraph, OperatorCoordinatorSpec
from moorage.ids import Attempt, CheckpointId, OperatorUid, VertexId
from moorage.messages.commands import OperatorCommand, TriggerCheckpoint
from moorage.messages.events import OperatorEvent, SubtaskState

KIND = "notebook"


class Notebook:
    """Writes down what it hears."""

    def __init__(self, context: OperatorContext) -> None:
        self.context = context
        self.heard: list[object] = []
        self.state = b"fresh"
        self.answers_at_once = True
        self.later: list[Callable[[bytes], None]] = []
        self.error: Exception | None = None

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        self.heard.append(("reset", checkpoint, state))
        self.state = state or b"fresh"

    def tick(self, now_ms: int) -> None:
        if self.error is not None:
            raise self.error

    def subtask_ready(self, subtask: int) -> None:
        self.heard.append(("ready", subtask))

    def subtask_failed(self, subtask: int, cause: str) -> None:
        self.heard.append(("failed", subtask))

    def handle_event(self, subtask: int, payload: bytes) -> None:
        self.heard.append(("event", subtask, payload))
        self.state = payload

    def checkpoint(self, checkpoint: CheckpointId, done: Callable[[bytes], None]) -> None:
        if self.error is not None:
            raise self.error
        self.context.send(None, b"before the trigger")
        if self.answers_at_once:
            done(self.state)
        else:
            self.later.append(done)

    def completed(self, checkpoint: CheckpointId) -> None:
        self.heard.append(("completed", checkpoint))

    def aborted(self, checkpoint: CheckpointId) -> None:
        self.heard.append(("aborted", checkpoint))

    def close(self) -> None:
        self.heard.append("close")


def graph() -> JobGraph:
    plain = orders_graph(2, checkpoint=msgspec.structs.replace(BY_HAND, interval_during_backlog_ms=500))
    source = plain.vertices[0]
    spec = OperatorCoordinatorSpec(kind=KIND, config=b"how")
    node = msgspec.structs.replace(source.operators[0], coordinator=spec)
    return msgspec.structs.replace(
        plain, vertices=(msgspec.structs.replace(source, operators=(node,)), *plain.vertices[1:])
    )


class World(Lone):
    def __init__(self) -> None:
        made: list[Notebook] = []

        def make(context: OperatorContext) -> Notebook:
            made.append(Notebook(context))
            return made[-1]

        super().__init__(graph(), kinds={KIND: make})
        (self.notebook,) = made

    def say(self, payload: bytes, *, subtask: int = 0, attempt: int = 1, operator: str = "orders") -> bool:
        heard = self.coordinator.operator_event(
            OperatorEvent(
                worker=self.execution.slots[0],
                job=JOB,
                attempt=Attempt(attempt),
                vertex=VertexId("orders"),
                subtask=subtask,
                operator=OperatorUid(operator),
                payload=payload,
            )
        )
        self.carry_out()
        return heard


@pytest.fixture
def world() -> World:
    world = World()
    world.start()
    return world


def test_it_begins_with_the_attempt_and_hears_of_its_own_subtasks(world: World) -> None:
    assert world.notebook.context.config == b"how"
    assert world.notebook.heard == [("reset", None, None), ("ready", 0), ("ready", 1)]
    world.becomes(subtasks(world.graph, SOURCE)[1], SubtaskState.FAILED)
    assert world.notebook.heard[-1] == ("failed", 1)


def test_events_reach_the_coordinator_of_the_operator_of_this_attempt(world: World) -> None:
    assert world.say(b"hello", subtask=1)
    assert world.notebook.heard[-1] == ("event", 1, b"hello")
    assert not world.say(b"stale", attempt=7)
    assert not world.say(b"lost", operator="nobody")
    assert world.notebook.heard[-1] == ("event", 1, b"hello")


def test_what_it_sends_goes_to_one_subtask_or_to_all(world: World) -> None:
    world.notebook.context.send(1, b"to one")
    world.notebook.context.send(None, b"to all")
    world.carry_out()
    one, everyone = world.commands(OperatorCommand)
    assert (one.vertex, one.operator, one.subtask, one.payload) == ("orders", "orders", 1, b"to one")
    assert (everyone.attempt, everyone.subtask) == (1, None)


def test_its_state_is_part_of_the_checkpoint_and_its_last_words_come_before_the_trigger(world: World) -> None:
    world.say(b"state")
    world.request()
    sent = [a.command for a in world.actions if isinstance(a, Broadcast)]
    assert [type(command) for command in sent[-2:]] == [OperatorCommand, TriggerCheckpoint]
    world.acknowledge_all()
    (write,) = world.operations(WriteMetadata)
    source = write.metadata.operators[0]
    assert source.coordinator is not None
    assert source.coordinator.data == b"state"
    assert world.notebook.heard[-1] == ("completed", 1)


def test_a_checkpoint_waits_for_a_coordinator_that_answers_later(world: World) -> None:
    world.notebook.answers_at_once = False
    world.request()
    world.acknowledge_all()
    assert world.retained == {}
    world.notebook.later[0](b"at last")
    world.carry_out()
    assert sorted(world.retained) == [1]
    world.notebook.later[0](b"twice")  # has no effect


def test_a_coordinator_that_never_answers_lets_the_checkpoint_expire_by_name(world: World) -> None:
    world.notebook.answers_at_once = False
    world.request()
    world.acknowledge_all()
    world.tick(BY_HAND.timeout_ms)
    (outcome,) = world.outcomes
    assert isinstance(outcome, CheckpointFailed)
    assert outcome.reason is Reason.EXPIRED
    assert "coordinators of operators did not acknowledge: orders" in outcome.message
    assert world.notebook.heard[-1] == ("aborted", 1)
    world.notebook.later[0](b"too late")
    world.carry_out()
    assert world.retained == {}


def test_a_coordinator_that_fails_to_answer_aborts_the_checkpoint_with_its_own_reason(world: World) -> None:
    world.notebook.error = RuntimeError("no idea")
    world.request()
    (outcome,) = world.outcomes
    assert isinstance(outcome, CheckpointFailed)
    assert outcome.reason is Reason.OPERATOR_COORDINATOR_FAILED
    assert "orders" in outcome.message
    assert "no idea" in outcome.message
    assert world.triggered() == []


def test_any_other_failure_of_it_fails_the_attempt_and_nothing_else(world: World) -> None:
    world.notebook.error = RuntimeError("no idea")
    world.tick()
    assert world.failures == ["the coordinator of operator orders failed: RuntimeError('no idea')"]


def test_each_attempt_begins_with_the_state_of_the_checkpoint_it_starts_from(world: World) -> None:
    world.say(b"state")
    world.request()
    world.acknowledge_all()
    world.say(b"after the checkpoint")
    world.coordinator.suspend(Reason.JOB_FAILOVER)
    assert world.notebook.heard[-1] == "close"
    assert not world.say(b"between attempts")
    execution = Execution(world.graph, Attempt(2), world.execution.slots)
    record = msgspec.structs.replace(world.record, attempt=Attempt(2), restored_checkpoint=CheckpointId(1))
    world.execution = execution
    world.coordinator.start(execution, record)
    world.carry_out()
    call = world.open(ReadOperatorStates)
    assert call.operation == ReadOperatorStates(path="orders/chk-1/_metadata", checksum=1)
    world.request()
    assert world.triggered() == [1]  # not before it has its state
    world.say(b"early", attempt=2)
    world.answer(call, {world.graph.vertices[0].operators[0].operator_id: b"state"})
    assert world.notebook.heard[-2:] == [("reset", 1, b"state"), ("event", 0, b"early")]


def test_nothing_comes_back_to_an_attempt_that_has_ended(world: World) -> None:
    answers: list[object] = []
    world.notebook.context.call(ListPartitions(topics=("a",)), answers.append, answers.append)
    world.carry_out()
    call = world.open(ListPartitions)
    world.coordinator.suspend(Reason.JOB_FAILOVER)
    world.answer(call, {"a": 1})
    assert answers == []


def test_a_backlog_changes_the_interval(world: World) -> None:
    world.tick(10_000)
    assert world.triggered() == []
    world.notebook.context.backlog(True)
    world.tick(499)
    assert world.triggered() == []
    world.tick(1)
    assert world.triggered() == [1]
    world.acknowledge_all()
    world.notebook.context.backlog(False)
    world.tick(10_000)
    assert world.triggered() == [1]


def test_a_kind_that_is_not_known_fails_the_job_by_name() -> None:
    lone = Lone(graph())
    lone.start()
    lone.tick(10_000)
    assert lone.failures == [f"no coordinator is known for operators of kind {KIND}"]
    assert lone.triggered() == []
