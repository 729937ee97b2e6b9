"""Operator coordinators take part in checkpoints, speak with their subtasks, and start anew with each attempt."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from tests.unit.checkpoint.lone import BY_HAND, Lone
from tests.unit.cluster.graphs import JOB, SOURCE, TOTALS, orders_graph, subtasks

from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.notices import CheckpointCompleted, CheckpointFailed, OperatorCoordinatorNotClosed
from moorage.checkpoint.operator_coordinators import OperatorContext
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import (
    Broadcast,
    CallError,
    CallFailure,
    ListPartitions,
    ReadOperatorStates,
    Report,
    TriggerHooks,
    WriteMetadata,
)
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
        self.fails_in: set[str] = set()
        """Names of methods."""

    def _may_fail(self, method: str) -> None:
        if method in self.fails_in:
            raise RuntimeError(f"{method} failed")

    def reset(self, checkpoint: CheckpointId | None, state: bytes | None) -> None:
        self.heard.append(("reset", checkpoint, state))
        self._may_fail("reset")
        self.state = state or b"fresh"

    def tick(self, now_ms: int) -> None:
        if self.error is not None:
            raise self.error

    def subtask_ready(self, subtask: int) -> None:
        self.heard.append(("ready", subtask))
        self._may_fail("subtask_ready")

    def subtask_failed(self, subtask: int, cause: str) -> None:
        self.heard.append(("failed", subtask))

    def handle_event(self, subtask: int, payload: bytes) -> None:
        self.heard.append(("event", subtask, payload))
        self._may_fail("handle_event")
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
        self._may_fail("completed")

    def aborted(self, checkpoint: CheckpointId) -> None:
        self.heard.append(("aborted", checkpoint))
        self._may_fail("aborted")

    def close(self) -> None:
        self.heard.append("close")
        self._may_fail("close")


def with_coordinators(plain: JobGraph, count: int = 1) -> JobGraph:
    """The same job, where the first ``count`` vertices have one."""
    spec = OperatorCoordinatorSpec(kind=KIND, config=b"how")
    changed = tuple(
        msgspec.structs.replace(
            vertex,
            operators=(msgspec.structs.replace(vertex.operators[0], coordinator=spec), *vertex.operators[1:]),
        )
        for vertex in plain.vertices[:count]
    )
    return msgspec.structs.replace(plain, vertices=(*changed, *plain.vertices[count:]))


def graph(count: int = 1) -> JobGraph:
    config = msgspec.structs.replace(BY_HAND, interval_during_backlog_ms=500, max_concurrent=3)
    return with_coordinators(orders_graph(2, checkpoint=config), count)


class World(Lone):
    """``count`` coordinators; ``notebook`` is the first."""

    def __init__(self, count: int = 1) -> None:
        made: list[Notebook] = []

        def make(context: OperatorContext) -> Notebook:
            made.append(Notebook(context))
            return made[-1]

        super().__init__(graph(count), kinds={KIND: make})
        self.notebooks = made
        self.notebook = made[0]

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


def test_a_backlog_ends_with_the_source_that_had_it(world: World) -> None:
    both = subtasks(world.graph, SOURCE)
    world.notebook.context.backlog(True)
    world.becomes(both[0], SubtaskState.RUNNING, data_ended=True)
    world.tick(500)
    assert world.triggered() == [1]
    world.acknowledge_all()
    world.becomes(both[1], SubtaskState.RUNNING, data_ended=True)
    world.tick()
    world.notebook.context.backlog(True)  # said by whoever did not know yet
    world.tick(10_000)
    assert world.triggered() == [1]


def test_a_checkpoint_whose_subtasks_all_finish_while_hooks_are_asked_is_completed() -> None:
    lone = Lone(hook_timeout_ms=500)
    lone.start()
    lone.request()
    for subtask in subtasks(lone.graph, SOURCE, TOTALS):
        lone.becomes(subtask, SubtaskState.FINISHED)
    lone.answer(lone.open(TriggerHooks), ())
    assert sorted(lone.retained) == [1]
    notices = [a.notice for a in lone.actions if isinstance(a, Report)]
    (stats,) = [notice.stats for notice in notices if isinstance(notice, CheckpointCompleted)]
    assert (stats.subtasks, stats.acknowledged) == (4, 4)


def test_a_kind_that_is_not_known_fails_the_job_by_name() -> None:
    lone = Lone(graph())
    lone.start()
    lone.tick(10_000)
    assert lone.failures == [f"no operator coordinator of kind {KIND} is configured here"]
    assert lone.triggered() == []


def test_one_that_can_not_be_made_fails_the_job_by_name() -> None:
    def broken(context: OperatorContext) -> Notebook:
        raise ValueError(f"what is {context.config!r}?")

    lone = Lone(graph(), kinds={KIND: broken})
    lone.start()
    lone.tick(10_000)
    assert lone.failures == ["the coordinator of operator orders can't be made: ValueError(\"what is b'how'?\")"]
    assert lone.triggered() == []


# --- code of others fails --------------------------------------------------------------------------------------------


@pytest.fixture
def two() -> World:
    """Two coordinators; what fails ends the attempt at once."""
    world = World(2)
    world.ends_when_failed = True
    return world


def test_an_error_in_reset_ends_the_attempt_before_anybody_else_hears_of_it(two: World) -> None:
    two.notebook.fails_in = {"reset"}
    two.start()
    assert two.failures == ["the coordinator of operator orders failed: RuntimeError('reset failed')"]
    assert two.notebook.heard == [("reset", None, None), "close"]
    assert two.notebooks[1].heard == ["close"]
    two.tick(1_000)
    assert len(two.failures) == 1


@pytest.mark.parametrize("method", ["subtask_ready", "handle_event", "completed", "aborted"])
def test_an_error_ends_the_attempt_and_nothing_more_is_said_in_it(two: World, method: str) -> None:
    two.notebook.fails_in = {method}
    two.start()
    two.say(b"hello")
    two.request()
    if method == "aborted":
        two.decline(subtasks(two.graph, SOURCE)[0])
    else:
        two.acknowledge_all()
    assert two.failures == [f"the coordinator of operator orders failed: RuntimeError('{method} failed')"]
    assert two.notebook.heard[-1] == "close"
    assert two.notebooks[1].heard[-1] == "close"
    assert (method, 1) not in two.notebooks[1].heard


def test_an_error_at_the_end_of_an_attempt_is_reported_and_fails_nothing(two: World) -> None:
    two.notebook.fails_in = {"close"}
    two.start()
    two.coordinator.suspend(Reason.JOB_STOPPED)
    two.carry_out()
    assert two.failures == []
    assert two.notebooks[1].heard[-1] == "close"
    (notice,) = [a.notice for a in two.actions if isinstance(a, Report)]
    assert notice == OperatorCoordinatorNotClosed(
        job=JOB, operator=OperatorUid("orders"), detail="RuntimeError('close failed')"
    )


def test_an_error_behind_a_call_fails_the_attempt(world: World) -> None:
    def broken(_: object) -> None:
        raise KeyError("a")

    for result, error in (({}, None), (None, CallError(CallFailure.UNAVAILABLE, "no broker"))):
        world.notebook.context.call(ListPartitions(topics=("a",)), broken, broken)
        world.carry_out()
        world.answer(world.open(ListPartitions), result, error)
    assert world.failures == ["the coordinator of operator orders failed: KeyError('a')"] * 2


def test_a_state_that_is_no_bytes_aborts_the_checkpoint_now_or_later(world: World) -> None:
    world.notebook.state = "text"  # type: ignore[assignment]
    world.request()
    world.notebook.answers_at_once = False
    world.request()
    world.notebook.later[0]({})  # type: ignore[arg-type]
    world.carry_out()
    first, second = world.outcomes
    for outcome, state in ((first, "'text'"), (second, "{}")):
        assert isinstance(outcome, CheckpointFailed)
        assert outcome.reason is Reason.OPERATOR_COORDINATOR_FAILED
        assert outcome.detail == f"operator orders: its state is bytes, not {state}"
    assert len(world.failures) == 1  # they count, and one is tolerated


def test_what_is_no_message_and_what_is_no_operation_is_refused_where_it_was_said(world: World) -> None:
    context = world.notebook.context
    with pytest.raises(TypeError, match="can be sent"):
        context.send(None, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="can be sent"):
        context.send("0", b"text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no operation"):
        context.call("list", print, print)  # type: ignore[arg-type]


def test_more_events_than_are_kept_fail_the_attempt_rather_than_get_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorage.checkpoint.operator_holders.EVENTS_KEPT", 1)
    world.request()
    world.acknowledge_all()
    world.coordinator.suspend(Reason.JOB_FAILOVER)
    record = msgspec.structs.replace(world.record, restored_checkpoint=CheckpointId(1))
    world.coordinator.start(world.execution, record)
    world.say(b"one")
    assert world.failures == []
    world.say(b"two")
    assert world.failures == ["more than 1 events came before operator coordinators had their state"]


def test_an_attempt_that_ends_while_older_checkpoints_are_subsumed_ends_with_all_of_them() -> None:
    world = World()
    world.ends_when_failed = True
    world.start()
    for _ in range(3):
        world.request(CheckpointRequest())
        world.tick()
    assert world.triggered() == [1, 2, 3]
    world.notebook.fails_in = {"aborted"}
    world.acknowledge_all(3)
    assert sorted(world.retained) == [3]
    assert [notice.checkpoint for notice in world.aborted()] == [2, 1]
    assert len(world.failures) == 1


def test_what_a_coordinator_took_is_in_the_statistics_and_what_it_says_twice_is_counted() -> None:
    world = World(count=2)
    world.start()
    world.notebook.answers_at_once = False
    world.request()
    world.tick(40)
    (done,) = world.notebook.later
    done(b"a state")
    done(b"again")
    (stats,) = world.coordinator.stats.snapshot().history
    first, second = stats.coordinators.values()
    assert (first.duration_ms, first.state_bytes, first.acknowledged_ms) == (40, 7, world.effects.wall_ms)
    assert (second.duration_ms, second.state_bytes) == (0, len(b"fresh"))
    assert (stats.acknowledgements.success, stats.acknowledgements.duplicate) == (2, 1)
    world.acknowledge_all()
    done(b"late")
    (stats,) = world.coordinator.stats.snapshot().history
    assert (stats.acknowledgements.success, stats.acknowledgements.duplicate) == (6, 2)
