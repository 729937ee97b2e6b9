"""Master hooks in the coordinator: asked before the subtasks, in time or not at all, told where a job starts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.checkpoint.lone import BY_HAND, Lone
from tests.unit.cluster.graphs import JOB, orders_graph

from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.hook_restore import RETRY_MS, HookRestore, HooksState
from moorage.checkpoint.notices import CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.stats import CoordinatorStats
from moorage.coordinator_process.hooks import HookRunner
from moorage.effects import (
    Call,
    CallError,
    CallFailure,
    CloseHooks,
    Effects,
    FoundSavepoint,
    ReadSavepoint,
    RestoreHooks,
    TriggerHooks,
    WriteMetadata,
)
from moorage.errors import HookError, StateError
from moorage.ids import Attempt, CheckpointId, Epoch, JobId
from moorage.messages.barriers import SnapshotKind
from moorage.messages.commands import TriggerCheckpoint
from moorage.messages.registry import RestoreSettings
from moorage.state.operator_state import ORIGIN_STATE, CheckpointMetadata, MasterState

STATE = MasterState(name="table", version=3, data=b"17")
TIMEOUT_MS = 500
FIVE = CheckpointId(5)
ONE = Attempt(1)


@pytest.fixture
def lone() -> Lone:
    lone = Lone(hook_timeout_ms=TIMEOUT_MS)
    lone.start()
    return lone


def test_hooks_are_asked_with_id_and_time_before_any_subtask(lone: Lone) -> None:
    lone.tick(7)
    lone.request()
    call = lone.open(TriggerHooks)
    assert call.operation == TriggerHooks(
        epoch=Epoch(1), job=JOB, attempt=ONE, checkpoint=CheckpointId(1), triggered_ms=7
    )
    assert lone.commands(TriggerCheckpoint) == []
    lone.tick(30)
    lone.answer(call, (STATE,))
    assert lone.triggered() == [1]
    (stats,) = lone.coordinator.stats.snapshot().history
    assert stats.hooks == CoordinatorStats(acknowledged_ms=7 + 30, duration_ms=30, state_bytes=2)
    lone.acknowledge_all()
    (write,) = lone.operations(WriteMetadata)
    assert write.metadata.master_states == (STATE,)


def test_a_hook_that_fails_aborts_the_checkpoint_with_its_own_reason(lone: Lone) -> None:
    lone.request()
    lone.answer(lone.open(TriggerHooks), error=CallError(CallFailure.UNAVAILABLE, "master hook table: locked"))
    assert lone.outcomes == [CheckpointFailed(CheckpointId(1), Reason.HOOK_FAILED, "master hook table: locked")]
    lone.request()
    lone.answer(lone.open(TriggerHooks), ())
    lone.acknowledge_all()
    assert sorted(lone.retained) == [2]


def test_while_a_hook_hangs_no_checkpoint_is_taken_and_who_wants_one_is_told(lone: Lone) -> None:
    lone.request()
    call = lone.open(TriggerHooks)
    lone.tick(TIMEOUT_MS - 1)
    assert lone.aborted() == []
    lone.tick(1)
    assert [notice.reason for notice in lone.aborted()] == [Reason.HOOK_TIMEOUT]
    lone.request()
    lone.request(CheckpointRequest(kind=SnapshotKind.SAVEPOINT))
    assert [o.reason for o in lone.outcomes if isinstance(o, CheckpointFailed)] == [Reason.HOOK_TIMEOUT] * 3
    assert len(lone.operations(TriggerHooks)) == 1
    lone.answer(call, (STATE,))
    assert lone.triggered() == []  # the answer came too late for the first
    lone.request()
    lone.answer(lone.open(TriggerHooks), ())
    assert lone.triggered() == [2]


def test_a_hook_that_outlasts_the_checkpoint_itself_is_blamed_and_not_the_subtasks() -> None:
    config = msgspec.structs.replace(BY_HAND, timeout_ms=TIMEOUT_MS // 2)
    lone = Lone(orders_graph(checkpoint=config), hook_timeout_ms=TIMEOUT_MS)
    lone.start()
    for number in (1, 2, 3):
        lone.request()
        lone.tick(TIMEOUT_MS // 2)
        assert lone.outcomes[-1] == CheckpointFailed(CheckpointId(number), Reason.HOOK_TIMEOUT, "")
        lone.answer(lone.open(TriggerHooks), (STATE,))
    assert lone.failures == []


def test_a_request_waits_for_hooks_that_are_in_time(lone: Lone) -> None:
    lone.request()
    lone.request()
    assert len(lone.operations(TriggerHooks)) == 1
    lone.answer(lone.open(TriggerHooks), ())
    lone.acknowledge_all()
    lone.tick()
    lone.answer(lone.open(TriggerHooks), ())
    assert lone.triggered() == [1, 2]


def test_periodic_checkpoints_that_a_hanging_hook_keeps_from_being_taken_are_counted() -> None:
    config = msgspec.structs.replace(BY_HAND, interval_ms=1_000)
    lone = Lone(orders_graph(2, checkpoint=config), hook_timeout_ms=TIMEOUT_MS)
    lone.start()
    for _ in range(4):
        lone.tick(1_000)
    assert [notice.reason for notice in lone.aborted()] == [Reason.HOOK_TIMEOUT] * 4
    assert lone.coordinator.stats.snapshot().counts.failed == 4
    assert lone.failures == []


def test_failing_hooks_never_fail_the_job_which_could_not_help_it(lone: Lone) -> None:
    for _ in range(3):
        lone.request()
        lone.answer(lone.open(TriggerHooks), error=CallError(CallFailure.UNAVAILABLE, "locked"))
    assert lone.failures == []


def test_an_attempt_that_ends_meanwhile_forgets_the_hooks(lone: Lone) -> None:
    lone.request()
    call = lone.open(TriggerHooks)
    lone.coordinator.suspend(Reason.JOB_FAILOVER)
    lone.carry_out()
    lone.answer(call, (STATE,))
    assert lone.triggered() == []
    assert [notice.reason for notice in lone.aborted()] == [Reason.JOB_FAILOVER]


# --- restore ---------------------------------------------------------------------------------------------------------


class Restoring:
    def __init__(self, *, has_hooks: bool) -> None:
        self.effects = Effects()
        self.effects.epoch = Epoch(1)
        self.changes = 0
        self.restore = HookRestore(self.effects, JOB, has_hooks=has_hooks, changed=self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def decide(self) -> HooksState:
        return self.restore.decide(ONE, FIVE, (STATE,), None)

    def calls(self) -> list[Call]:
        return [action for action in self.effects.drain() if isinstance(action, Call)]


def test_a_job_starts_when_its_hooks_are_restored_and_a_failing_one_is_tried_again() -> None:
    world = Restoring(has_hooks=True)
    assert world.decide() is HooksState.WAITING
    (call,) = world.calls()
    assert call.operation == restore(STATE)
    world.effects.finish_call(call.call, None, CallError(CallFailure.UNAVAILABLE, "locked"))
    assert world.restore.is_waiting
    assert world.decide() is HooksState.WAITING
    assert world.calls() == []
    world.effects.now_ms += RETRY_MS
    assert world.decide() is HooksState.WAITING
    (again,) = world.calls()
    world.effects.finish_call(again.call, None, None)
    assert world.changes == 1
    assert world.decide() is HooksState.READY


def test_a_failed_restore_is_not_tried_again_once_another_start_is_wanted() -> None:
    world = Restoring(has_hooks=True)
    world.decide()
    (call,) = world.calls()
    world.restore.reset()
    world.effects.finish_call(call.call, None, CallError(CallFailure.UNAVAILABLE, "locked"))
    world.effects.now_ms += 10 * RETRY_MS
    world.effects.repeat_calls()
    assert world.calls() == []
    world.restore.decide(Attempt(2), CheckpointId(7), (), None)
    (call,) = world.calls()
    assert isinstance(call.operation, RestoreHooks)
    assert (call.operation.attempt, call.operation.checkpoint) == (2, 7)


def test_a_state_whose_hook_is_missing_keeps_the_job_from_starting() -> None:
    world = Restoring(has_hooks=True)
    world.decide()
    (call,) = world.calls()
    world.effects.finish_call(call.call, None, CallError(CallFailure.REFUSED, "no master hook for table"))
    assert world.decide() is HooksState.REFUSED
    assert world.restore.problem == "no master hook for table"


@pytest.mark.parametrize(("allow", "expected"), [(False, HooksState.REFUSED), (True, HooksState.READY)])
def test_without_any_hooks_states_are_refused_or_dropped(allow: bool, expected: HooksState) -> None:
    world = Restoring(has_hooks=False)
    settings = RestoreSettings(path="p", checksum=1, allow_non_restored=allow)
    assert world.restore.decide(ONE, FIVE, (STATE,), settings) is expected
    assert world.calls() == []
    assert Restoring(has_hooks=False).restore.decide(ONE, FIVE, (), None) is HooksState.READY
    assert Restoring(has_hooks=False).restore.decide(ONE, None, (), None) is HooksState.READY


def test_the_states_of_a_foreign_savepoint_are_read_first() -> None:
    world = Restoring(has_hooks=True)
    settings = RestoreSettings(path="mine/_metadata", checksum=1)
    assert world.restore.decide(ONE, None, (), settings) is HooksState.WAITING
    (read,) = world.calls()
    assert read.operation == ReadSavepoint(path="mine/_metadata")
    origin = MasterState(name=ORIGIN_STATE, version=1, data=b"")
    metadata = CheckpointMetadata(checkpoint=FIVE, operators=(), master_states=(STATE, origin))
    world.effects.finish_call(read.call, FoundSavepoint(path="p", checksum=1, metadata=metadata), None)
    (call,) = world.calls()
    assert call.operation == restore(STATE)


def test_answers_to_an_earlier_start_do_not_count() -> None:
    world = Restoring(has_hooks=True)
    world.decide()
    (call,) = world.calls()
    world.restore.reset()
    world.effects.finish_call(call.call, None, None)
    assert world.changes == 0
    assert world.decide() is HooksState.WAITING


# --- the hooks themselves --------------------------------------------------------------------------------------------


class Numbers:
    version = 2

    def serialize(self, state: int) -> bytes:
        return str(state).encode()

    def deserialize(self, version: int, data: bytes) -> int:
        return int(data) * version


class Hook:
    serializer = Numbers()

    def __init__(self, identifier: str) -> None:
        self.identifier = identifier
        self.answer: Any = 4
        self.calls: list[Any] = []
        self.close_error: Exception | None = None

    def trigger(self, checkpoint: CheckpointId, timestamp_ms: int) -> int | None:
        self.calls.append((checkpoint, timestamp_ms))
        if isinstance(self.answer, Exception):
            raise self.answer
        result: int | None = self.answer
        return result

    def restore(self, checkpoint: CheckpointId, state: int | None) -> None:
        self.calls.append((checkpoint, state))
        if isinstance(self.answer, Exception):
            raise self.answer

    def reset(self) -> None:
        self.calls.append("reset")

    def close(self) -> None:
        self.calls.append("close")
        if self.close_error is not None:
            raise self.close_error


def trigger(job: str = JOB) -> TriggerHooks:
    return TriggerHooks(epoch=Epoch(1), job=JobId(job), attempt=ONE, checkpoint=FIVE, triggered_ms=9)


def restore(*states: MasterState, checkpoint: CheckpointId | None = FIVE, allow: bool = False) -> RestoreHooks:
    return RestoreHooks(
        epoch=Epoch(1), job=JOB, attempt=ONE, checkpoint=checkpoint, states=states, allow_non_restored=allow
    )


def close() -> CloseHooks:
    return CloseHooks(epoch=Epoch(1), job=JOB, attempt=ONE)


def test_each_hook_is_asked_and_stored_with_its_version_unless_it_has_nothing_to_say() -> None:
    first, second = Hook("first"), Hook("second")
    second.answer = None
    runner = HookRunner([lambda _: first, lambda _: None, lambda _: second])
    assert runner.run(trigger()) == (MasterState(name="first", version=2, data=b"4"),)
    assert first.calls == second.calls == [(5, 9)]
    runner.run(close())
    assert first.calls[-1] == second.calls[-1] == "close"
    runner.run(close())
    assert first.calls.count("close") == 1


def test_each_job_has_hooks_of_its_own() -> None:
    made: list[JobId] = []

    def make(job: JobId) -> Hook:
        made.append(job)
        return Hook("one")

    runner = HookRunner([make])
    for job in ("orders", "users", "orders"):
        runner.run(trigger(job))
    assert made == ["orders", "users"]


def test_hooks_get_back_what_they_stored_and_know_when_they_stored_nothing() -> None:
    first, second = Hook("first"), Hook("second")
    runner = HookRunner([lambda _: first, lambda _: second])
    runner.run(restore(MasterState(name="first", version=3, data=b"4")))
    assert (first.calls, second.calls) == ([(5, 12)], [(5, None)])
    runner.run(restore(checkpoint=None))
    assert (first.calls[-1], second.calls[-1]) == ("reset", "reset")


def test_what_goes_wrong_names_the_hook() -> None:
    hook = Hook("table")
    runner = HookRunner([lambda _: hook])
    hook.answer = OSError("disk full")
    with pytest.raises(HookError, match=r"table.*disk full"):
        runner.run(trigger())
    with pytest.raises(HookError, match=r"table.*disk full"):
        runner.run(restore())
    with pytest.raises(StateError, match="other"):
        runner.run(restore(MasterState(name="other", version=1, data=b"")))
    hook.answer = 4
    runner.run(restore(MasterState(name="other", version=1, data=b""), allow=True))

    def broken(_: JobId) -> Hook:
        raise RuntimeError("no database")

    with pytest.raises(HookError, match="no database"):
        HookRunner([broken]).run(trigger())


class _Odd(Numbers):
    """A serializer of which one thing is wrong."""

    def __init__(self, data: Any = b"4", version: Any = 2) -> None:
        self.data = data
        self.version = version

    def serialize(self, state: int) -> bytes:
        return self.data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("serializer", "problem"),
    [(_Odd(data="text"), "no bytes but str"), (_Odd(version="1"), "32 bits"), (_Odd(version=2**31), "32 bits")],
)
def test_a_serializer_that_returns_what_can_not_be_stored_is_a_hook_that_failed(serializer: _Odd, problem: str) -> None:
    hook = Hook("table")
    hook.serializer = serializer
    with pytest.raises(HookError, match=f"table.*{problem}"):
        HookRunner([lambda _: hook]).run(trigger())


class _Nameless(Hook):
    @property
    def identifier(self) -> str:
        raise TypeError("no name yet")

    @identifier.setter
    def identifier(self, name: str) -> None: ...


def _broken(_: JobId) -> Hook:
    raise RuntimeError("no database")


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        (lambda _: Hook("first"), "two hooks have the identifier 'first'"),
        (lambda _: Hook(ORIGIN_STATE), "'moorage.origin' can't be"),
        (lambda _: Hook(""), "'' can't be"),
        (lambda _: _Nameless("x"), "no name yet"),
        (_broken, "no database"),
    ],
)
def test_hooks_that_can_not_all_be_made_are_closed_and_made_again_next_time(last: Any, problem: str) -> None:
    first = Hook("first")
    runner = HookRunner([lambda _: first, last])
    for count in (1, 2):
        with pytest.raises(HookError, match=problem):
            runner.run(trigger())
        assert first.calls == ["close"] * count


def test_every_hook_is_closed_though_one_of_them_fails() -> None:
    first, second = Hook("first"), Hook("second")
    first.close_error = OSError("gone")
    runner = HookRunner([lambda _: first, lambda _: second])
    runner.run(trigger())
    with pytest.raises(HookError, match="gone"):
        runner.run(close())
    assert second.calls[-1] == "close"
